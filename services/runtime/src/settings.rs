//! Settings: each program's one `read` function names every setting, with its form, default and help, and maps them to
//! `Options`. The same function is run to declare them (for `--help` and the documentation) and to read them.
//!
//! A setting `redis_url` is the flag `--redis-url`, the variable `IM_REDIS_URL` and the key `redis_url` of the TOML file that
//! `--config` or `IM_CONFIG` names; the first of these that has it counts. Errors are collected and reported together.

mod builder;
mod declared;
mod error;
mod flags;
mod form;
mod origin;
mod reader;
mod render;
mod sources;
mod suggest;

use std::ffi::OsString;

pub use crate::Secret;
pub use builder::SettingBuilder;
pub use error::{ConfigError, ConfigErrors};
pub use form::{SECRET_BYTES, mask_secrets, show_bytes, show_duration};
pub use origin::Origin;
pub use reader::Reader;
pub use render::markdown;

use sources::Sources;

/// What a program calls itself.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The binary's name.
    pub name: &'static str,
    /// One sentence for `--help`.
    pub about: &'static str,
}

/// Why a program does not start with these settings.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// Help, version or the configuration in force was asked for: to standard output, then exit code 0.
    Print(String),
    /// To standard error, then exit code 2.
    Mistakes(ConfigErrors),
}

/// Reads all settings of a program.
///
/// `arguments` are those behind the program's name; `environment` is the whole environment, of which only `IM_…` and
/// the few other declared names are looked at.
///
/// # Errors
/// [`Stop`] where there is something to print instead of starting.
pub fn load<T>(
    program: Program,
    read: impl Fn(&mut Reader<'_>) -> T,
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<T, Stop> {
    let nothing = Sources::default();
    let mut declaring = Reader::new(&nothing);
    read(&mut declaring);
    let declared = declaring.declared;

    let (sources, command) = Sources::gather(program, &declared, arguments, environment)?;
    let mut reader = Reader::new(&sources);
    let value = read(&mut reader);
    let mut mistakes = sources.mistakes.clone();
    mistakes.append(&mut reader.mistakes);
    if !mistakes.is_empty() {
        return Err(Stop::Mistakes(ConfigErrors {
            program: program.name,
            mistakes,
        }));
    }
    if command.print_config {
        return Err(Stop::Print(render::effective(program, &reader.declared)));
    }
    Ok(value)
}
