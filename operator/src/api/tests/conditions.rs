//! The page of conditions is what the types say. `REGENERATE=1 cargo test -p im-operator` rewrites it.

use std::path::Path;

use crate::api::{ConditionType, Reason};

fn page() -> String {
    let row = |name: &str, meaning: &str| format!("| `{name}` | {meaning} |\n");
    let mut page = "# Conditions of an ImCluster\n\n\
        `kubectl describe imc NAME` shows them, each with a message that says what to do.\n\
        `Unknown` is said where something can't be reached. Made from the operator's types and checked against them.\n\n\
        | type | true means |\n|---|---|\n"
        .to_owned();
    ConditionType::ALL
        .iter()
        .for_each(|kind| page.push_str(&row(kind.name(), kind.meaning())));
    page.push_str("\n| reason | what it says |\n|---|---|\n");
    Reason::ALL
        .iter()
        .for_each(|reason| page.push_str(&row(reason.name(), reason.meaning())));
    page
}

#[test]
fn every_type_and_reason_is_documented() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conditions.md");
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::write(&committed, page()).expect("write the page");
    }
    let stands = std::fs::read_to_string(&committed).unwrap_or_default();
    assert!(
        stands == page(),
        "{} is stale: run REGENERATE=1 cargo test -p im-operator",
        committed.display()
    );
}
