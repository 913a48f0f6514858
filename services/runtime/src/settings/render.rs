//! Settings for people: the ones in force (`--print-config`), and all of them as documentation.

use std::fmt::Write as _;

use super::Program;
use super::declared::{Declared, DefaultValue, Secrecy};
use super::reader::Reader;
use super::sources::Sources;
use crate::version;

/// Every setting in force, with its origin, as a TOML file with comments.
pub(super) fn effective(program: Program, declared: &[Declared]) -> String {
    let mut text = format!("# {} {}\n", program.name, version::line());
    let mut group = "";
    for one in declared {
        if one.group != group {
            group = one.group;
            let _ = writeln!(text, "\n# {group}");
        }
        let _ = match &one.effective {
            Some((shown, origin)) => {
                writeln!(text, "{} = {}  # {origin}", one.key, quoted(one, shown))
            }
            None => writeln!(text, "# {} is not set", one.key),
        };
    }
    text.trim_end().to_owned()
}

fn quoted(declared: &Declared, shown: &str) -> String {
    let bare = declared.form == "true or false"
        || declared.form.starts_with("whole number")
        || declared.form.starts_with("number");
    if bare {
        shown.to_owned()
    } else {
        toml::Value::String(shown.to_owned()).to_string()
    }
}

/// All settings of a program as a section of Markdown: one table per group.
pub fn markdown<T>(program: Program, read: impl Fn(&mut Reader<'_>) -> T) -> String {
    let nothing = Sources::default();
    let mut reader = Reader::new(&nothing);
    read(&mut reader);
    let mut text = format!("## {}\n\n{}\n", program.name, program.about);
    let mut group = "";
    for one in &reader.declared {
        if one.group != group {
            group = one.group;
            let _ = write!(
                text,
                "\n### {group}\n\n| setting | variable | form | default | what |\n|---|---|---|---|---|\n"
            );
        }
        let default = match &one.default {
            DefaultValue::Value(shown) if shown.is_empty() => "none".to_owned(),
            DefaultValue::Value(shown) => format!("`{shown}`"),
            DefaultValue::Nothing => "–".to_owned(),
            DefaultValue::Required => "**needed**".to_owned(),
        };
        let secrecy = match one.secrecy {
            Secrecy::Public => String::new(),
            Secrecy::Credentials | Secrecy::Secret => {
                format!(
                    " May stand in a file: `{0}_file`, `{1}_FILE`.",
                    one.key, one.environment
                )
            }
        };
        let what = format!("{}{secrecy}", one.help).replace('|', "\\|");
        let _ = writeln!(
            text,
            "| `{}` | `{}` | {} | {default} | {what} |",
            one.key,
            one.environment,
            one.form.replace('|', "\\|")
        );
    }
    text
}
