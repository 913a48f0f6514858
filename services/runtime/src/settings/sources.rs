//! Where values come from: flags before environment before file. What nobody knows is a mistake.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::declared::{Declared, keys};
use super::error::{ConfigError, unknown};
use super::flags::{self, Command};
use super::origin::{Origin, RawValue};
use super::{Program, Stop, suggest};

/// Everything that was written, by key (`redis_url`, and `redis_url_file` where a value may stand in a file of its own).
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// The first has precedence.
    layers: Vec<BTreeMap<String, RawValue>>,
    pub(super) mistakes: Vec<ConfigError>,
    /// Variables that are settings of another of our programs.
    pub(super) of_others: Vec<String>,
    /// Everything was read: what is not here was not given.
    pub(super) complete: bool,
}

impl Sources {
    pub(super) fn gather(
        program: Program,
        declared: &[Declared],
        arguments: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(Self, Command), Stop> {
        let mut mistakes = Vec::new();
        let (command, flags) = flags::parse(program, declared, arguments, &mut mistakes)?;
        let mut environment = Environment::read(declared, environment, &mut mistakes);
        let named = command.config.clone().map(|path| (path, "flag --config"));
        let named = named.or_else(|| {
            environment
                .config
                .take()
                .map(|path| (path, "environment IM_CONFIG"))
        });
        let mut complete = mistakes
            .iter()
            .all(|mistake| mistake.field != flags::COMMAND_LINE);
        let file = named
            .map(|(path, by)| read_file(&path, by, declared, &mut mistakes))
            .unwrap_or_else(|| Some(BTreeMap::new()));
        complete &= file.is_some();
        let layers = vec![flags, environment.values, file.unwrap_or_default()];
        Ok((
            Self {
                layers,
                mistakes,
                of_others: environment.of_others,
                complete,
            },
            command,
        ))
    }

    /// The value of a setting from the first layer that has it.
    pub(super) fn find(&self, declared: &Declared) -> Result<Option<RawValue>, ConfigError> {
        let file_key = format!("{}_file", declared.key);
        for layer in &self.layers {
            let named = if declared.secrecy.has_file() {
                layer.get(&file_key)
            } else {
                None
            };
            match (layer.get(declared.key), named) {
                (Some(_), Some(named)) => {
                    let text = format!("both it and {} are given: leave one out", declared.key);
                    return Err(ConfigError {
                        field: file_key,
                        source: named.origin.to_string(),
                        text,
                    });
                }
                (Some(given), None) => return Ok(Some(given.clone())),
                (None, Some(named)) => return own_file(&file_key, named).map(Some),
                (None, None) => {}
            }
        }
        Ok(None)
    }
}

fn own_file(key: &str, named: &RawValue) -> Result<RawValue, ConfigError> {
    let path = PathBuf::from(&named.text);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let origin = Origin::OwnFile {
                path,
                named_by: Box::new(named.origin.clone()),
            };
            Ok(RawValue {
                text: text.trim_end_matches(['\r', '\n']).to_owned(),
                origin,
            })
        }
        Err(error) => {
            let text = format!("{} cannot be read: {error}", path.display());
            Err(ConfigError {
                field: key.to_owned(),
                source: named.origin.to_string(),
                text,
            })
        }
    }
}

struct Environment {
    values: BTreeMap<String, RawValue>,
    of_others: Vec<String>,
    config: Option<PathBuf>,
}

impl Environment {
    fn read(
        declared: &[Declared],
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        mistakes: &mut Vec<ConfigError>,
    ) -> Self {
        let known: BTreeMap<String, String> = keys(declared)
            .map(|(key, one)| {
                (
                    if key == one.key {
                        one.environment.clone()
                    } else {
                        format!("{}_FILE", one.environment)
                    },
                    key,
                )
            })
            .collect();
        let mut read = Self {
            values: BTreeMap::new(),
            of_others: Vec::new(),
            config: None,
        };
        for (name, value) in environment {
            let Ok(name) = name.into_string() else {
                continue;
            };
            if name == "IM_CONFIG" {
                read.config = Some(PathBuf::from(value));
                continue;
            }
            let origin = Origin::Environment(name.clone());
            match (known.get(&name), value.into_string()) {
                (Some(key), Ok(text)) => {
                    read.values.insert(key.clone(), RawValue { text, origin });
                }
                (Some(key), Err(_)) => {
                    let text = "is not UTF-8: write it in UTF-8".to_owned();
                    mistakes.push(ConfigError {
                        field: key.clone(),
                        source: origin.to_string(),
                        text,
                    });
                }
                (None, _) if is_of_another(&name) => read.of_others.push(name),
                (None, value) if is_ours(&name, value.as_deref().unwrap_or_default()) => {
                    let names = known.keys().map(String::as_str).chain(["IM_CONFIG"]);
                    mistakes.push(unknown(
                        &name,
                        "environment",
                        suggest::nearest(&name, names),
                        "unset it",
                    ));
                }
                (None, _) => {}
            }
        }
        read
    }
}

/// Every setting of every program, as their tests keep it. A file of variables that several programs share is no mistake.
const ALL_SETTINGS: &str = include_str!("../../../../docs/configuration.md");

fn is_of_another(name: &str) -> bool {
    name.starts_with("IM_") && ALL_SETTINGS.contains(&format!("`{name}`"))
}

/// What `imctl` reads: a person may have set them for the shell in which a server is started too.
const OF_IMCTL: [&str; 4] = ["IM_ADDRESS", "IM_HTTP", "IM_TOKEN", "IM_TOKEN_FILE"];

fn is_ours(name: &str, value: &str) -> bool {
    name.starts_with("IM_") && !OF_IMCTL.contains(&name) && !service_link(name, value)
}

/// Kubernetes gives every pod variables for every Service of its namespace; that of a Service `im-connect` begin with `IM_`.
fn service_link(name: &str, value: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_PORT_")
        || (name.ends_with("_PORT") && value.contains("://"))
}

/// `None` where the file could not be understood at all.
fn read_file(
    path: &Path,
    named_by: &str,
    declared: &[Declared],
    mistakes: &mut Vec<ConfigError>,
) -> Option<BTreeMap<String, RawValue>> {
    let mut broken = |text: String| {
        mistakes.push(ConfigError {
            field: "config".to_owned(),
            source: named_by.to_owned(),
            text,
        });
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            broken(format!("{} cannot be read: {error}", path.display()));
            return None;
        }
    };
    match text.parse::<toml::Table>() {
        Ok(table) => Some(read_table(path, table, declared, mistakes)),
        Err(error) => {
            broken(format!(
                "{} is not TOML: {}",
                path.display(),
                error.to_string().trim_end()
            ));
            None
        }
    }
}

fn read_table(
    path: &Path,
    table: toml::Table,
    declared: &[Declared],
    mistakes: &mut Vec<ConfigError>,
) -> BTreeMap<String, RawValue> {
    let known: Vec<String> = keys(declared).map(|(key, _)| key).collect();
    let source = Origin::File(path.to_owned());
    let mut values = BTreeMap::new();
    for (name, value) in table {
        if !known.contains(&name) {
            let nearest = suggest::nearest(&name, known.iter().map(String::as_str));
            mistakes.push(unknown(&name, &source.to_string(), nearest, "take it out"));
            continue;
        }
        match written(value) {
            Some(text) => {
                values.insert(
                    name,
                    RawValue {
                        text,
                        origin: source.clone(),
                    },
                );
            }
            None => {
                let text =
                    "write a string, a number, true or false, or an array of strings".to_owned();
                mistakes.push(ConfigError {
                    field: name,
                    source: source.to_string(),
                    text,
                });
            }
        }
    }
    values
}

/// A TOML value as it would be written in a variable.
fn written(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => {
            Some(value.to_string())
        }
        toml::Value::Array(items) => Some(
            items
                .into_iter()
                .map(written)
                .collect::<Option<Vec<_>>>()?
                .join(","),
        ),
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}
