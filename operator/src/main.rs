//! `im-operator run`, `im-operator crd`, `im-operator version`.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use im_operator::settings::{DRAIN, PROGRAM, Settings};
use im_runtime::version;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "Runs ImClusters on Kubernetes: builds, upgrades and heals them.

Usage: im-operator run [--SETTING VALUE]...   works until it is told to end; run --help lists the settings
       im-operator crd                        prints the definition of the resource, as YAML
       im-operator version                    prints which release this is
       im-operator seed --file FILE --text TEXT
                                              writes a file unless it exists: how redis' pods begin";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let command = arguments.next();
    let rest: Vec<OsString> = arguments.collect();
    match (command.as_ref().and_then(|command| command.to_str()), rest.as_slice()) {
        (Some("run"), _) => im_runtime::run_with(PROGRAM, DRAIN, rest, Settings::read, im_operator::run::run),
        (Some("crd"), []) => print_crd(),
        (Some("seed"), rest) => match seed_arguments(rest) {
            Some((file, text)) => seed(Path::new(file), text),
            None => usage(),
        },
        (Some("version" | "--version" | "-V"), []) => print(&format!("{} {}\n", PROGRAM.name, version::line())),
        (Some("help" | "--help" | "-h"), []) => print(&format!("{USAGE}\n")),
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{USAGE}");
    ExitCode::from(2)
}

fn seed_arguments(rest: &[OsString]) -> Option<(&OsString, &str)> {
    match rest {
        [file_flag, file, text_flag, text] if file_flag == "--file" && text_flag == "--text" => {
            Some((file, text.to_str()?))
        }
        _ => None,
    }
}

fn seed(file: &Path, text: &str) -> ExitCode {
    let said = match im_operator::seed::seed(file, text) {
        Ok(true) => format!("{} is written\n", file.display()),
        Ok(false) => format!("{} exists and is left as it is\n", file.display()),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "im-operator seed: {} can't be written: {error}", file.display());
            return ExitCode::FAILURE;
        }
    };
    print(&said)
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn print_crd() -> ExitCode {
    match serde_saphyr::to_string(&im_operator::api::crd()) {
        Ok(text) => print(&text),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "im-operator crd: {error}");
            ExitCode::FAILURE
        }
    }
}
