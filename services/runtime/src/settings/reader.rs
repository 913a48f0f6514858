//! The reader that a program's `read` function is given: it asks for setting after setting.

use super::declared::Declared;
use super::error::ConfigError;
use super::origin::Origin;
use super::sources::Sources;

/// Hands out settings. Ask with one of the forms ([`Reader::address`], [`Reader::duration`], …), then say what holds where
/// it is not given: [`or`](super::SettingBuilder::or), [`optional`](super::SettingBuilder::optional) or
/// [`required`](super::SettingBuilder::required).
#[derive(Debug)]
pub struct Reader<'s> {
    pub(super) sources: &'s Sources,
    pub(super) group: &'static str,
    pub(super) declared: Vec<Declared>,
    pub(super) mistakes: Vec<ConfigError>,
}

impl<'s> Reader<'s> {
    pub(super) fn new(sources: &'s Sources) -> Self {
        Self {
            sources,
            group: "Settings",
            declared: Vec::new(),
            mistakes: Vec::new(),
        }
    }

    /// The settings that follow belong under this title in help and documentation.
    pub fn group(&mut self, title: &'static str) {
        self.group = title;
    }

    /// A mistake that only shows when settings are seen together. `key` names the setting to change.
    pub fn mistake(&mut self, key: &str, text: impl Into<String>) {
        let source = match self
            .declared
            .iter()
            .find(|declared| declared.key == key)
            .and_then(|d| d.effective.as_ref())
        {
            Some((_, origin)) => origin.to_string(),
            None => "not given".to_owned(),
        };
        self.mistakes.push(ConfigError {
            field: key.to_owned(),
            source,
            text: text.into(),
        });
    }

    /// Whether everything was read: false while settings are only declared, or a source could not be understood. What is
    /// not given is then no mistake.
    pub fn is_complete(&self) -> bool {
        self.sources.complete
    }

    /// Variables that are set and that only others of our programs know: they are passed over.
    pub fn of_others(&self) -> &[String] {
        &self.sources.of_others
    }

    /// Whether a setting that was asked for before is given anywhere (a default is not).
    pub fn given(&self, key: &str) -> bool {
        let declared = self.declared.iter().find(|declared| declared.key == key);
        declared
            .and_then(|d| d.effective.as_ref())
            .is_some_and(|(_, origin)| *origin != Origin::Default)
    }
}
