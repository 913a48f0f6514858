//! What is known of a setting before it is read.

use super::origin::Origin;

/// What is known of a setting.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    pub(super) key: &'static str,
    pub(super) environment: String,
    pub(super) group: &'static str,
    /// What to write, for people: "duration", "true or false".
    pub(super) form: String,
    pub(super) help: &'static str,
    pub(super) default: DefaultValue,
    pub(super) secrecy: Secrecy,
    pub(super) switch: bool,
    /// As it is shown (secrets hidden), and where it comes from.
    pub(super) effective: Option<(String, Origin)>,
}

/// What holds where a setting is not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DefaultValue {
    Value(String),
    Nothing,
    Required,
}

/// What of a value may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrecy {
    Public,
    /// All but the password in a URL.
    Credentials,
    Secret,
}

impl Secrecy {
    /// Whether the value may stand in a file of its own, named by `…_file`.
    pub(super) fn has_file(self) -> bool {
        self != Self::Public
    }
}

impl Declared {
    pub(super) fn flag(&self) -> String {
        self.key.replace('_', "-")
    }
}

/// The keys that may be written: those of the settings, and `…_file` of those whose value may stand in a file.
pub(super) fn keys(declared: &[Declared]) -> impl Iterator<Item = (String, &Declared)> {
    declared.iter().flat_map(|one| {
        let file = one
            .secrecy
            .has_file()
            .then(|| (format!("{}_file", one.key), one));
        std::iter::once((one.key.to_owned(), one)).chain(file)
    })
}
