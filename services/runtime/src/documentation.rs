//! Documents that are generated from the code: a test compares the section with what the code says, and writes it where
//! `REGENERATE` is set.

use std::path::Path;

use crate::settings::{Program, Reader};
use crate::{Defaults, Options};

/// Whether the section `name` of a document is `wanted`: everything between the lines `<!-- begin NAME -->` and
/// `<!-- end NAME -->`. With the variable `REGENERATE` set it is written, and put at the end where it is not there yet.
///
/// # Errors
/// What to do, for the test's message.
pub fn check(document: &Path, name: &str, wanted: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(document).unwrap_or_default();
    let begin = format!("<!-- begin {name} -->\n");
    let end = format!("<!-- end {name} -->\n");
    let found = text.split_once(&begin).and_then(|(before, rest)| {
        let (section, after) = rest.split_once(&end)?;
        Some((before.to_owned(), section, after.to_owned()))
    });
    if found
        .as_ref()
        .is_some_and(|(_, section, _)| *section == wanted)
    {
        return Ok(());
    }
    if std::env::var_os("REGENERATE").is_none() {
        return Err(format!(
            "{}: the section {name} is not what the code says: run with REGENERATE=1",
            document.display()
        ));
    }
    let (before, after) = match found {
        Some((before, _, after)) => (before, after),
        None => (format!("{}\n\n", text.trim_end()), String::new()),
    };
    std::fs::write(document, format!("{before}{begin}{wanted}{end}{after}"))
        .map_err(|error| error.to_string())
}

/// All settings of a program, those that every program has included.
pub fn settings<T>(
    program: Program,
    defaults: impl Into<Defaults>,
    read: impl Fn(&mut Reader<'_>) -> T,
) -> String {
    let defaults = defaults.into();
    let read_all = |from: &mut Reader<'_>| {
        read(from);
        Options::read(from, defaults);
    };
    crate::settings::markdown(program, read_all)
}
