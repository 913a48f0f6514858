//! `imctl bench`: becomes im-bench, the program beside this one.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::process::Command;

use im_cli::failure::{Exit, Failure};

/// Does not return where im-bench runs: it takes this process over.
pub(crate) fn run(args: &[OsString]) -> Result<(), Failure> {
    let program = std::env::current_exe()?.with_file_name("im-bench");
    let error = Command::new(&program).arg0("imctl bench").args(args).exec();
    let failure = Failure::new(
        Exit::Failed,
        format!("cannot run {}: {error}", program.display()),
    );
    Err(match error.kind() {
        ErrorKind::NotFound => {
            failure.hint("it belongs beside imctl: cargo build --release -p im-bench")
        }
        _ => failure,
    })
}
