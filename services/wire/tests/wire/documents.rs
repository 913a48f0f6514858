//! The tables of `docs/protocol.md` are those of the code. `REGENERATE=1 cargo test -p im-wire` rewrites them.

use std::fmt::Write as _;
use std::path::Path;

use im_wire::code::{CloseCode, ErrorCode};
use im_wire::native::binary::OPERATIONS;

fn check(section: &str, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol.md");
    let document = std::fs::read_to_string(&path).expect("docs/protocol.md");
    let (begin, end) = (
        format!("<!-- begin {section} -->\n"),
        format!("<!-- end {section} -->"),
    );
    let from = document
        .find(&begin)
        .unwrap_or_else(|| panic!("{begin} in docs/protocol.md"))
        + begin.len();
    let to = document[from..]
        .find(&end)
        .unwrap_or_else(|| panic!("{end} in docs/protocol.md"))
        + from;
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::write(
            &path,
            format!("{}{table}{}", &document[..from], &document[to..]),
        )
        .expect("write docs/protocol.md");
    } else {
        assert!(
            &document[from..to] == table,
            "section {section} of docs/protocol.md is stale: REGENERATE=1"
        );
    }
}

#[test]
fn tables_of_the_protocol_are_those_of_the_code() {
    let yes = |flag| if flag { "yes" } else { "no" };
    let mut errors = String::from("| number | code | may be retried |\n|---|---|---|\n");
    for code in ErrorCode::ALL {
        let _infallible = writeln!(
            errors,
            "| {} | `{}` | {} |",
            code.number(),
            code.name(),
            yes(code.retryable())
        );
    }
    let mut closes = String::from("| number | code | connect again |\n|---|---|---|\n");
    for code in CloseCode::ALL {
        let _infallible = writeln!(
            closes,
            "| {} | `{}` | {} |",
            code.number(),
            code.name(),
            yes(code.reconnect())
        );
    }
    let mut operations = String::from("| number | operation | sent by |\n|---|---|---|\n");
    for (number, name) in OPERATIONS {
        let by = if *number < 130 { "client" } else { "server" };
        let _infallible = writeln!(
            operations,
            "| {number} | `{}` | {by} |",
            name.to_lowercase()
        );
    }
    // One after the other: each rewrites the file.
    check("errors", &errors);
    check("closes", &closes);
    check("operations", &operations);
}
