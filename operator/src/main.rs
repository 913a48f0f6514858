//! `im-operator run`, `im-operator crd`, `im-operator version`.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use im_operator::init::join::{Join, May};
use im_operator::settings::{DRAIN, PROGRAM, Settings};
use im_runtime::version;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "Runs ImClusters on Kubernetes: builds, upgrades and heals them.

Usage: im-operator run [--SETTING VALUE]...   works until it is told to end; run --help lists the settings
       im-operator crd                        prints the definition of the resource, as YAML
       im-operator version                    prints which release this is
       im-operator seed --file FILE --text TEXT
                                              writes a file unless it exists, and takes users out of one: how redis' pods begin
       im-operator join --data FOLDER --peer URL --members URL,URL [--tls FOLDER]
                                              waits until etcd may start: how etcd's pods begin";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let command = arguments.next();
    let rest: Vec<OsString> = arguments.collect();
    match (
        command.as_ref().and_then(|command| command.to_str()),
        rest.as_slice(),
    ) {
        (Some("run"), _) => {
            im_runtime::run_with(PROGRAM, DRAIN, rest, Settings::read, im_operator::run::run)
        }
        (Some("crd"), []) => print_crd(),
        (Some("seed"), rest) => match seed_arguments(rest) {
            Some((file, text)) => seed(Path::new(file), text),
            None => usage(),
        },
        (Some("join"), rest) => match join_arguments(rest) {
            Some(join) => wait_to_join(&join),
            None => usage(),
        },
        (Some("version" | "--version" | "-V"), []) => {
            print(&format!("{} {}\n", PROGRAM.name, version::line()))
        }
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
    let said = match im_operator::init::seed::seed(file, text) {
        Ok(true) => format!("{} is written\n", file.display()),
        Ok(false) => format!("{} exists and is left as it is\n", file.display()),
        Err(error) => {
            let _ = writeln!(
                std::io::stderr(),
                "im-operator seed: {} can't be written: {error}",
                file.display()
            );
            return ExitCode::FAILURE;
        }
    };
    print(&said)
}

fn join_arguments(rest: &[OsString]) -> Option<Join> {
    let mut join = Join {
        data: PathBuf::new(),
        peer: String::new(),
        members: Vec::new(),
        tls: None,
    };
    for pair in rest.chunks(2) {
        let [flag, value] = pair else { return None };
        match flag.to_str()? {
            "--data" => join.data = value.into(),
            "--peer" => join.peer = value.to_str()?.to_owned(),
            "--members" => join.members = value.to_str()?.split(',').map(str::to_owned).collect(),
            "--tls" => join.tls = Some(value.into()),
            _ => return None,
        }
    }
    (!join.data.as_os_str().is_empty() && !join.peer.is_empty() && !join.members.is_empty())
        .then_some(join)
}

fn wait_to_join(join: &Join) -> ExitCode {
    let tell = |why: &str| {
        let _ = writeln!(std::io::stderr(), "the volume is empty: {why}");
    };
    let wait = async {
        let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            may = im_operator::init::join::join(join, tell) => may.map(Some),
            _ = end.recv() => Ok(None),
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime.and_then(|runtime| runtime.block_on(wait)) {
        Ok(Some(May::Data)) => print("the volume has its data: etcd may start\n"),
        Ok(Some(May::TakenIn)) => print("the members have taken it in: etcd may start\n"),
        Ok(None) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "im-operator join: {error}");
            ExitCode::FAILURE
        }
    }
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
