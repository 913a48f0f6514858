//! The command line: one flag per setting, and `--config`, `--print-config`, `--help`, `--version`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction};

use super::declared::{Declared, DefaultValue, keys};
use super::error::{ConfigError, unknown};
use super::origin::{Origin, RawValue};
use super::{Program, Stop, suggest};
use crate::version;

/// The field of mistakes that leave the command line unread.
pub(super) const COMMAND_LINE: &str = "command line";

/// What the command line asks for besides settings.
#[derive(Debug, Default)]
pub(super) struct Command {
    pub(super) config: Option<PathBuf>,
    pub(super) print_config: bool,
}

pub(super) fn parse(
    program: Program,
    declared: &[Declared],
    arguments: impl IntoIterator<Item = OsString>,
    mistakes: &mut Vec<ConfigError>,
) -> Result<(Command, BTreeMap<String, RawValue>), Stop> {
    let mut arguments: Vec<OsString> = std::iter::once(program.name.into())
        .chain(arguments)
        .collect();
    loop {
        let error = match command(program, declared).try_get_matches_from(&arguments) {
            Ok(matches) => return Ok(read(declared, &matches)),
            Err(error) => error,
        };
        if matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        ) {
            return Err(Stop::Print(error.to_string().trim_end().to_owned()));
        }
        // clap stops at the first unknown flag: take it away and look for the next.
        match unknown_flag(&error).and_then(|flag| Some((take_away(&mut arguments, &flag)?, flag)))
        {
            Some(((), flag)) => {
                let flags: Vec<String> = keys(declared)
                    .map(|(key, _)| format!("--{}", key.replace('_', "-")))
                    .collect();
                let known = flags
                    .iter()
                    .map(String::as_str)
                    .chain(["--config", "--print-config"]);
                mistakes.push(unknown(
                    &flag,
                    "flag",
                    suggest::nearest(&flag, known),
                    "take it out",
                ));
            }
            None => {
                let text = error.to_string();
                let text = text
                    .trim_start_matches("error: ")
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                mistakes.push(ConfigError {
                    field: COMMAND_LINE.to_owned(),
                    source: "flags".to_owned(),
                    text,
                });
                return Ok((Command::default(), BTreeMap::new()));
            }
        }
    }
}

fn unknown_flag(error: &clap::Error) -> Option<String> {
    match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(flag))) => Some(flag.clone()),
        _ => None,
    }
}

fn take_away(arguments: &mut Vec<OsString>, flag: &str) -> Option<()> {
    let found = arguments.iter().skip(1).position(|argument| {
        let argument = argument.to_string_lossy();
        argument == flag
            || argument
                .split_once('=')
                .is_some_and(|(name, _)| name == flag)
    })? + 1;
    let alone = arguments
        .get(found)
        .is_some_and(|argument| !argument.to_string_lossy().contains('='));
    arguments.remove(found);
    // Its value goes with it.
    let has_value = arguments
        .get(found)
        .is_some_and(|next| !next.to_string_lossy().starts_with('-'));
    if alone && has_value && flag.starts_with('-') {
        arguments.remove(found);
    }
    Some(())
}

fn command(program: Program, declared: &[Declared]) -> clap::Command {
    let mut command = clap::Command::new(program.name)
        .about(program.about)
        .version(version::line())
        .disable_help_flag(true)
        .disable_version_flag(true)
        .max_term_width(120)
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("path")
                .help("TOML file with settings [IM_CONFIG]"),
        )
        .arg(
            Arg::new("print-config")
                .long("print-config")
                .action(ArgAction::SetTrue)
                .help(
                    "Print every setting in force and where it comes from, secrets hidden, and end",
                ),
        )
        .arg(
            Arg::new("help")
                .long("help")
                .short('h')
                .action(ArgAction::Help)
                .help("Print this and end"),
        )
        .arg(
            Arg::new("version")
                .long("version")
                .short('V')
                .action(ArgAction::Version)
                .help("Print the version and end"),
        );
    for (key, one) in keys(declared) {
        command = command.arg(flag(key, one));
    }
    command
}

fn flag(key: String, declared: &Declared) -> Arg {
    let own_file = key != declared.key;
    let default = match (&declared.default, own_file) {
        (_, true) | (DefaultValue::Nothing, _) => String::new(),
        (DefaultValue::Required, _) => ", needed".to_owned(),
        (DefaultValue::Value(shown), _) => format!(", default {shown:?}"),
    };
    let suffix = if own_file { "_FILE" } else { "" };
    let help = if own_file {
        format!("A file that holds {}", declared.key)
    } else {
        declared.help.to_owned()
    };
    let arg = Arg::new(key.clone())
        .long(key.replace('_', "-"))
        .value_name(if own_file {
            "path".to_owned()
        } else {
            declared.form.clone()
        })
        .value_parser(ValueParser::os_string())
        .action(ArgAction::Set)
        .help(format!(
            "{help} [{}{suffix}{default}]",
            declared.environment
        ))
        .help_heading(declared.group);
    if declared.switch {
        return arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true");
    }
    arg
}

fn read(
    declared: &[Declared],
    matches: &clap::ArgMatches,
) -> (Command, BTreeMap<String, RawValue>) {
    let given = keys(declared).filter_map(|(key, _)| {
        let text = matches
            .get_one::<OsString>(&key)?
            .to_string_lossy()
            .into_owned();
        let origin = Origin::Flag(format!("--{}", key.replace('_', "-")));
        Some((key, RawValue { text, origin }))
    });
    let config = matches.get_one::<String>("config").map(PathBuf::from);
    (
        Command {
            config,
            print_config: matches.get_flag("print-config"),
        },
        given.collect(),
    )
}
