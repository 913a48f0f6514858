//! Secrets: never shown, and compared without telling how far a guess was right.

use std::fmt;

/// A text that is never shown.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, where it is used.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether a caller shows this secret.
    pub fn is(&self, shown: &[u8]) -> bool {
        same(shown, self.0.as_bytes())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.is(other.0.as_bytes())
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Whether the credential that a caller shows is the wanted one; takes a time that does not depend on where the two differ.
pub fn same(shown: &[u8], wanted: &[u8]) -> bool {
    shown.len() == wanted.len()
        && shown
            .iter()
            .zip(wanted)
            .fold(0, |differ, (a, b)| differ | (a ^ b))
            == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_compared_and_not_shown() {
        let secret = Secret::new("correct horse");
        assert!(secret.is(b"correct horse") && secret == Secret::new("correct horse"));
        for wrong in ["", "correct hors", "correct horsf", "correct horse "] {
            assert!(!secret.is(wrong.as_bytes()), "{wrong}");
        }
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "*** Some(***)");
    }
}
