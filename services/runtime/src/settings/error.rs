//! What is wrong with a configuration, said so that it can be put right in one go.

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The setting, as the TOML file would name it; or the unknown name itself.
    pub field: String,
    /// Where it stands, for people.
    pub source: String,
    /// What is wrong and what to write.
    pub text: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.field, self.source, self.text)
    }
}

/// A name that is no setting, and the known one that is nearest to it.
pub(super) fn unknown(
    name: &str,
    source: &str,
    nearest: Option<&str>,
    otherwise: &str,
) -> ConfigError {
    let text = match nearest {
        Some(known) => format!("there is no such setting: did you mean {known}?"),
        None => format!("there is no such setting: {otherwise}"),
    };
    ConfigError {
        field: name.to_owned(),
        source: source.to_owned(),
        text,
    }
}

/// Everything that is wrong with a program's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    pub(super) program: &'static str,
    pub(super) mistakes: Vec<ConfigError>,
}

impl ConfigErrors {
    /// One by one, in the order of flags, environment, file, values.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.mistakes.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = match self.mistakes.len() {
            1 => "1 mistake".to_owned(),
            more => format!("{more} mistakes"),
        };
        writeln!(f, "{}: {count} in the configuration", self.program)?;
        for mistake in &self.mistakes {
            writeln!(f, "  - {mistake}")?;
        }
        write!(f, "`{} --help` lists all settings", self.program)
    }
}

impl std::error::Error for ConfigErrors {}
