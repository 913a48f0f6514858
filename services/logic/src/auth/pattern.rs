//! Which open rooms a token covers: globs in which `*` stands for any run of characters, also none.

/// Whether `pattern` covers `name` from its first to its last character. Time is linear in both for each `*`, and there
/// is nothing to recurse into, so no pattern is dangerous.
pub fn covers(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(mut name) = name.strip_prefix(start) else {
        return false;
    };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return name.ends_with(part);
        }
        match name.find(part) {
            Some(at) => name = &name[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn patterns_cover_what_they_say() {
        let table = [
            ("live://1000", "live://1000", true),
            ("live://1000", "live://10000", false),
            ("live://*", "live://1000", true),
            ("live://*", "live://", true),
            ("live://*", "video://1000", false),
            ("*", "anything", true),
            ("*://1", "live://1", true),
            ("*://1", "live://12", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "a1c2b", false),
            ("a**c", "abc", true),
            ("ab*ba", "aba", false),
            ("*a*", "bab", true),
            ("*a*", "bbb", false),
            ("", "", true),
            ("", "a", false),
            ("räume/*", "räume/ä", true),
            ("*ä", "ä", true),
        ];
        for (pattern, name, covered) in table {
            assert_eq!(covers(pattern, name), covered, "{pattern} over {name}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_ends_soon() {
        assert!(!covers(&"*a".repeat(100), &"a".repeat(99)));
        assert!(covers(&"*a".repeat(100), &"a".repeat(100)));
    }
}
