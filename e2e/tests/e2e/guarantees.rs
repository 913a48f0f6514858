//! Every test that docs/guarantees.md names exists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names of all test functions below a folder.
fn tests(folder: &Path, into: &mut BTreeSet<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            tests(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path)?;
            let lines: Vec<&str> = text.lines().collect();
            for (number, line) in lines.iter().enumerate() {
                let Some(name) = line
                    .split("fn ")
                    .nth(1)
                    .and_then(|rest| rest.split('(').next())
                else {
                    continue;
                };
                let marks = lines[number.saturating_sub(3)..number].iter();
                if marks
                    .map(|mark| mark.trim())
                    .any(|mark| mark.starts_with("#[t"))
                {
                    into.insert(name.to_owned());
                }
            }
        }
    }
    Ok(())
}

#[test]
fn every_promise_and_every_failure_names_tests_that_exist() -> Result<()> {
    let mut known = BTreeSet::new();
    for folder in ["services", "e2e"] {
        tests(&root().join(folder), &mut known)?;
    }
    let document = std::fs::read_to_string(root().join("docs/guarantees.md"))?;
    let tables = document.split("\n\n").filter(|part| {
        part.lines()
            .next()
            .is_some_and(|head| head.ends_with("| test |"))
    });
    let mut rows = 0;
    for row in tables.flat_map(|table| table.lines().skip(2)) {
        let named = row
            .trim_end_matches(" |")
            .rsplit("| ")
            .next()
            .context("a last column")?;
        let names: Vec<&str> = named
            .split(", ")
            .map(|name| name.trim_matches('`'))
            .collect();
        for name in names {
            ensure!(
                known.contains(name),
                "no test is called {name:?}, in: {row}"
            );
        }
        rows += 1;
    }
    ensure!(rows > 30, "only {rows} rows were found");
    Ok(())
}
