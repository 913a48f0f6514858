//! One setting being asked for: its form, what it may be, and what holds where it is not given.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::declared::{Declared, DefaultValue, Secrecy};
use super::error::ConfigError;
use super::form;
use super::origin::{Origin, RawValue};
use super::reader::Reader;
use crate::Secret;

type Parse<T> = Box<dyn Fn(&str) -> Result<T, String>>;
type Show<T> = Box<dyn Fn(&T) -> String>;

/// A setting that has been named and not yet read.
#[must_use = "end with `or`, `optional` or `required`"]
pub struct SettingBuilder<'r, 's, T> {
    reader: &'r mut Reader<'s>,
    declared: Declared,
    parse: Parse<T>,
    show: Show<T>,
}

impl<'s> Reader<'s> {
    /// A setting of any form. `form` says in a few words what to write; `parse` answers a wrong value with what to write.
    pub fn parsed<'r, T>(
        &'r mut self,
        key: &'static str,
        form: impl Into<String>,
        parse: impl Fn(&str) -> Result<T, String> + 'static,
        show: impl Fn(&T) -> String + 'static,
        help: &'static str,
    ) -> SettingBuilder<'r, 's, T> {
        let declared = Declared {
            key,
            environment: format!("IM_{}", key.to_ascii_uppercase()),
            group: self.group,
            form: form.into(),
            help,
            default: DefaultValue::Nothing,
            secrecy: Secrecy::Public,
            switch: false,
            effective: None,
        };
        SettingBuilder {
            reader: self,
            declared,
            parse: Box::new(parse),
            show: Box::new(show),
        }
    }

    /// Any text but an empty one.
    pub fn text<'r>(
        &'r mut self,
        key: &'static str,
        help: &'static str,
    ) -> SettingBuilder<'r, 's, String> {
        self.parsed(key, "text", |text| Ok(text.to_owned()), String::clone, help)
    }

    /// A text that is never shown, and may stand in a file named by `<key>_file`.
    pub fn secret<'r>(
        &'r mut self,
        key: &'static str,
        help: &'static str,
    ) -> SettingBuilder<'r, 's, Secret> {
        let mut ask = self.parsed(
            key,
            "secret text",
            |text| Ok(Secret::new(text)),
            |_| "***".to_owned(),
            help,
        );
        ask.declared.secrecy = Secrecy::Secret;
        ask
    }

    /// A [secret](Self::secret) that signs or lets in: [`SECRET_BYTES`](super::SECRET_BYTES) or more.
    pub fn strong_secret<'r>(
        &'r mut self,
        key: &'static str,
        help: &'static str,
    ) -> SettingBuilder<'r, 's, Secret> {
        self.secret(key, help).check(form::long_enough)
    }

    /// An IP address and port to listen on.
    pub fn address<'r>(
        &'r mut self,
        key: &'static str,
        help: &'static str,
    ) -> SettingBuilder<'r, 's, SocketAddr> {
        self.parsed(
            key,
            "address:port",
            form::socket_address,
            SocketAddr::to_string,
            help,
        )
    }

    /// A host (name or address) and port that somebody dials.
    pub fn authority<'r>(
        &'r mut self,
        key: &'static str,
        help: &'static str,
    ) -> SettingBuilder<'r, 's, String> {
        self.parsed(key, "host:port", form::authority, String::clone, help)
    }

    /// A time span: `500ms`, `10s`, `1m30s`.
    pub fn duration<'r>(
        &'r mut self,
        key: &'static str,
        help: &'static str,
    ) -> SettingBuilder<'r, 's, Duration> {
        self.parsed(key, "duration", form::duration, form::show_duration, help)
    }

    /// A size: `4096`, `64KiB`, `1MB`.
    pub fn bytes<'r, N>(
        &'r mut self,
        key: &'static str,
        help: &'static str,
    ) -> SettingBuilder<'r, 's, N>
    where
        N: TryFrom<u64> + TryInto<u64> + Copy + 'static,
    {
        let parse = |text: &str| {
            N::try_from(form::bytes(text)?)
                .map_err(|_| "that is too many bytes: write fewer".to_owned())
        };
        self.parsed(
            key,
            "bytes",
            parse,
            |n| form::show_bytes((*n).try_into().unwrap_or(u64::MAX)),
            help,
        )
    }

    /// A whole number; `_` may stand between digits.
    pub fn integer<'r, N>(
        &'r mut self,
        key: &'static str,
        help: &'static str,
    ) -> SettingBuilder<'r, 's, N>
    where
        N: FromStr + Display + 'static,
    {
        let parse = |text: &str| {
            text.replace('_', "")
                .parse()
                .map_err(|_| "write a whole number".to_owned())
        };
        self.parsed(key, "whole number", parse, N::to_string, help)
    }

    /// A number, with or without a fraction.
    pub fn number<'r>(
        &'r mut self,
        key: &'static str,
        help: &'static str,
    ) -> SettingBuilder<'r, 's, f64> {
        let parse = |text: &str| match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            _ => Err("write a number".to_owned()),
        };
        self.parsed(key, "number", parse, f64::to_string, help)
    }

    /// Yes or no. The flag alone means yes.
    pub fn boolean<'r>(
        &'r mut self,
        key: &'static str,
        help: &'static str,
    ) -> SettingBuilder<'r, 's, bool> {
        let mut ask = self.parsed(key, "true or false", form::boolean, bool::to_string, help);
        ask.declared.switch = true;
        ask
    }

    /// A file or directory.
    pub fn path<'r>(
        &'r mut self,
        key: &'static str,
        help: &'static str,
    ) -> SettingBuilder<'r, 's, PathBuf> {
        self.parsed(
            key,
            "path",
            |text| Ok(PathBuf::from(text)),
            |path| path.display().to_string(),
            help,
        )
    }

    /// A URL with one of these schemes. Its password is not shown.
    pub fn url<'r>(
        &'r mut self,
        key: &'static str,
        schemes: &'static [&'static str],
        help: &'static str,
    ) -> SettingBuilder<'r, 's, String> {
        let ask = self.parsed(
            key,
            "URL",
            |text| form::url(text, schemes),
            |url| form::mask_secrets(url),
            help,
        );
        ask.form(format!("URL: {}://", schemes.join("://, ")))
    }

    /// Several values of one form, separated by commas; an array of strings in the file.
    pub fn list<'r, T: 'static>(
        &'r mut self,
        key: &'static str,
        form: &'static str,
        parse: impl Fn(&str) -> Result<T, String> + 'static,
        show: impl Fn(&T) -> String + 'static,
        help: &'static str,
    ) -> SettingBuilder<'r, 's, Vec<T>> {
        let parse_all = move |text: &str| {
            let items = text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            items
                .map(|item| parse(item).map_err(|what| format!("{item:?}: {what}")))
                .collect()
        };
        let show_all = move |items: &Vec<T>| items.iter().map(&show).collect::<Vec<_>>().join(",");
        self.parsed(key, format!("list of {form}"), parse_all, show_all, help)
    }

    /// One of a few words.
    pub fn choice<'r, T: Copy + PartialEq + 'static>(
        &'r mut self,
        key: &'static str,
        words: &'static [(&'static str, T)],
        help: &'static str,
    ) -> SettingBuilder<'r, 's, T> {
        let names = || {
            words
                .iter()
                .map(|(word, _)| *word)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let parse = move |text: &str| match words.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(*value),
            None => Err(format!("write one of {}", names())),
        };
        let show = |value: &T| {
            words
                .iter()
                .find(|(_, other)| other == value)
                .map_or("?", |(word, _)| *word)
                .to_owned()
        };
        self.parsed(key, format!("one of {}", names()), parse, show, help)
    }
}

impl<T: 'static> SettingBuilder<'_, '_, T> {
    /// Says otherwise what to write.
    pub fn form(mut self, form: impl Into<String>) -> Self {
        self.declared.form = form.into();
        self
    }

    /// Read from this variable instead of `IM_<KEY>`: a name that is not ours alone.
    pub fn environment(mut self, name: &str) -> Self {
        name.clone_into(&mut self.declared.environment);
        self
    }

    /// The value may hold a password: only that is hidden, and it may stand in a file named by `<key>_file`.
    pub fn with_credentials(mut self) -> Self {
        self.declared.secrecy = Secrecy::Credentials;
        let show = self.show;
        self.show = Box::new(move |value| form::mask_secrets(&show(value)));
        self
    }

    /// A further condition; it answers with what to write.
    pub fn check(mut self, check: impl Fn(&T) -> Result<(), String> + 'static) -> Self {
        let parse = self.parse;
        self.parse =
            Box::new(move |text| parse(text).and_then(|value| check(&value).map(|()| value)));
        self
    }

    /// The value where it is given, and this otherwise.
    pub fn or(self, default: T) -> T {
        let shown = (self.show)(&default);
        self.or_computed(default, shown)
    }

    /// The value where it is given, and otherwise this, which depends on the machine: help and documentation show how it
    /// comes about.
    pub fn or_computed(mut self, default: T, described: impl Into<String>) -> T {
        self.declared.default = DefaultValue::Value(described.into());
        self.declared.effective = Some(((self.show)(&default), Origin::Default));
        self.read().unwrap_or(default)
    }

    /// The value where it is given.
    pub fn optional(mut self) -> Option<T> {
        self.declared.default = DefaultValue::Nothing;
        self.read()
    }

    /// The value, which must be given. `stand_in` takes its place while further mistakes are looked for.
    pub fn required(mut self, stand_in: T) -> T {
        self.declared.default = DefaultValue::Required;
        self.read().unwrap_or(stand_in)
    }

    fn read(mut self) -> Option<T> {
        let given = self.reader.sources.find(&self.declared);
        let value = match given {
            Ok(Some(given)) => self.parse_given(given),
            Ok(None) => {
                self.absent();
                None
            }
            Err(mistake) => {
                self.reader.mistakes.push(mistake);
                None
            }
        };
        self.reader.declared.push(self.declared);
        value
    }

    fn parse_given(&mut self, given: RawValue) -> Option<T> {
        let outcome = if given.text.is_empty() && !self.declared.form.starts_with("list") {
            Err("it is empty: give a value or leave it out".to_owned())
        } else {
            (self.parse)(&given.text)
        };
        let shown = match self.declared.secrecy {
            // Also where no password belongs: one that was written there all the same is not shown.
            Secrecy::Public => outcome
                .as_ref()
                .map_or_else(|_| form::mask_secrets(&given.text), &self.show),
            Secrecy::Credentials => form::mask_secrets(&given.text),
            Secrecy::Secret => "***".to_owned(),
        };
        let value = outcome.map_err(|what| {
            let text = if self.declared.secrecy == Secrecy::Secret {
                what
            } else {
                format!("{shown:?}: {what}")
            };
            let field = self.declared.key.to_owned();
            let source = given.origin.to_string();
            self.reader.mistakes.push(ConfigError {
                field,
                source,
                text,
            });
        });
        self.declared.effective = Some((shown, given.origin));
        value.ok()
    }

    fn absent(&mut self) {
        match &self.declared.default {
            DefaultValue::Value(_) | DefaultValue::Nothing => {}
            DefaultValue::Required if self.reader.sources.complete => {
                let key = self.declared.key;
                let environment = &self.declared.environment;
                let form = &self.declared.form;
                let text = format!(
                    "is needed: set {environment} or --{} to {form}",
                    self.declared.flag()
                );
                let field = key.to_owned();
                let source = "not given".to_owned();
                self.reader.mistakes.push(ConfigError {
                    field,
                    source,
                    text,
                });
            }
            DefaultValue::Required => {}
        }
    }
}

impl<T: PartialOrd + 'static> SettingBuilder<'_, '_, T> {
    /// Only values from one to the other, both included.
    pub fn within(mut self, range: RangeInclusive<T>) -> Self {
        let low = (self.show)(range.start());
        let high = (self.show)(range.end());
        self.declared.form = format!("{}, {low} to {high}", self.declared.form);
        self.check(move |value| match range.contains(value) {
            true => Ok(()),
            false => Err(format!("write something from {low} to {high}")),
        })
    }
}
