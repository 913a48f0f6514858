//! `docs/metrics.md` lists every metric that the sources declare.

use std::collections::BTreeMap;
use std::path::Path;

use im_runtime::documentation;

/// A string literal of a source file: its text and where it begins and ends.
struct Literal {
    text: String,
    begin: usize,
    end: usize,
}

/// The string literals of Rust source; line comments are skipped, `\` at the end of a line joins lines.
fn literals(source: &str) -> Vec<Literal> {
    let (bytes, mut found, mut at) = (source.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at += source[at..].find('\n').unwrap_or(source.len() - at)
            }
            b'\'' if bytes.get(at + 1) == Some(&b'"') => at += 3,
            b'"' => {
                let begin = at;
                at += 1;
                while bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
                let lines = source[begin + 1..at - 1].split("\\\n").map(str::trim_start);
                found.push(Literal {
                    text: lines.collect(),
                    begin,
                    end: at,
                });
            }
            _ => at += 1,
        }
    }
    found
}

fn is_metric(text: &str) -> bool {
    let parts = text.split('_').count();
    text.starts_with("im_") && parts > 2 && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// Whether what stands before is a call that declares: `register_int_gauge!(`, `counter(`, `IntGauge(`.
fn is_declaration(before: &str) -> bool {
    let Some(call) = before.trim_end().strip_suffix('(') else {
        return false;
    };
    let call = call.trim_end_matches('!');
    let name = call
        .rsplit(|c: char| !(c.is_alphanumeric() || c == '_'))
        .next()
        .unwrap_or_default();
    let name = name.to_ascii_lowercase();
    ["counter", "gauge", "histogram"]
        .iter()
        .any(|kind| name.contains(kind))
}

/// Name → (kind, help) of what a source file declares.
fn declared(path: &Path, source: &str) -> BTreeMap<String, (&'static str, String)> {
    let literals = literals(source);
    let metrics = literals.iter().enumerate();
    let metrics = metrics.filter(|(_, l)| is_metric(&l.text) && is_declaration(&source[..l.begin]));
    let described = metrics.map(|(number, name)| {
        // The help is the next argument, or a variable's value just before.
        let argument = source[name.end..]
            .trim_start()
            .trim_start_matches(',')
            .trim_start();
        let after = literals
            .get(number + 1)
            .filter(|_| argument.starts_with('"'));
        let help = after.or_else(|| {
            literals[..number]
                .iter()
                .rfind(|other| other.text.contains(' ') && other.text.ends_with('.'))
        });
        let help = help.unwrap_or_else(|| panic!("{}: no help for {}", path.display(), name.text));
        let before = source[..name.begin].to_ascii_lowercase();
        let kinds = ["counter", "gauge", "histogram"].into_iter();
        let kind = kinds.max_by_key(|kind| before.rfind(kind)).unwrap();
        (name.text.clone(), (kind, help.text.clone()))
    });
    described.collect()
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) {
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            walk(&path, visit);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            visit(&path);
        }
    }
}

#[test]
fn every_metric_is_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut all = BTreeMap::new();
    let services = std::fs::read_dir(root.join("services"))
        .unwrap()
        .map(|service| service.unwrap().path());
    for program in services.chain([root.join("operator")]) {
        let sources = program.join("src");
        if sources.is_dir() {
            walk(&sources, &mut |path| {
                all.append(&mut declared(path, &std::fs::read_to_string(path).unwrap()))
            });
        }
    }
    let mut table = "| metric | kind | what it says |\n|---|---|---|\n".to_owned();
    for (name, (kind, help)) in &all {
        assert!(
            help.ends_with('.'),
            "{name}: the help is no sentence: {help}"
        );
        table.push_str(&format!("| `{name}` | {kind} | {help} |\n"));
    }
    documentation::check(&root.join("docs/metrics.md"), "metrics", &table).unwrap();
}

#[test]
fn declarations_are_found_in_every_form() {
    let source = r#"
        // "im_in_comment"
        static A: X = register_int_gauge!("im_a_b", "Says \
            something.").expect("x");
        static B: X = { let help = "Another thing."; register_histogram!(histogram_opts!("im_c_d", help)) };
        metrics! { C: IntCounterVec("im_g_h", "A third.", &["kind"]); }
        find("im_e_f"); "im_", "im_short", "IM_UPPER_CASE"
    "#;
    let found = declared(Path::new("source"), source);
    let expected = [
        ("im_a_b", ("gauge", "Says something.")),
        ("im_c_d", ("histogram", "Another thing.")),
        ("im_g_h", ("counter", "A third.")),
    ];
    let expected = expected.map(|(name, (kind, help))| (name.to_owned(), (kind, help.to_owned())));
    assert_eq!(found, BTreeMap::from(expected));
}

im_runtime::metrics! {
    SEEN: IntCounterVec("im_test_seen_total", "What a test has seen.", &["what"]);
    SECONDS: Histogram("im_test_seconds", "How long it took.", vec![0.1, 1.0]);
}

#[test]
fn declared_metrics_show_once_they_are_registered() {
    register();
    SEEN.with_label_values(&["it"]).inc();
    SECONDS.observe(0.5);
    let text = im_runtime::metrics::text();
    assert!(
        text.contains("im_test_seen_total{what=\"it\"} 1\n"),
        "{text}"
    );
    assert!(
        text.contains("im_test_seconds_bucket{le=\"1\"} 1\n"),
        "{text}"
    );
}
