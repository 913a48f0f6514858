//! A value as it was written, and where.

use std::fmt;
use std::path::PathBuf;

/// Where a value in force comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave it.
    Default,
    /// A flag of the command line, with its dashes.
    Flag(String),
    /// A variable.
    Environment(String),
    /// The TOML file.
    File(PathBuf),
    /// A file of its own, named by another setting.
    OwnFile {
        /// Which file.
        path: PathBuf,
        /// What names it.
        named_by: Box<Origin>,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::OwnFile { path, named_by } => {
                write!(f, "file {}, named by {named_by}", path.display())
            }
        }
    }
}

/// A value as it was written.
#[derive(Debug, Clone)]
pub(super) struct RawValue {
    pub(super) text: String,
    pub(super) origin: Origin,
}
