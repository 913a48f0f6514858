//! connect, logic, an embedded store and the page in one process: no redis, no etcd, nothing to install.
//!
//! A message's path is that of a cluster (see ARCHITECTURE.md) with calls where that has gRPC ([`local`]) and a queue
//! where that has redis' pub/sub ([`bus`]).

mod addresses;
mod bus;
mod data;
mod local;
mod page;
mod secret;
mod settings;
mod start;

use std::process::ExitCode;
use std::time::Duration;

use im_runtime::settings::Program;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: Program = Program {
    name: "im-standalone",
    about: "ImCluster in one process: TCP, WebSocket, HTTP API, a durable store in a directory, and a page to try it.",
};

/// For the clients to go: there is no other node that they could go to, so it is short.
const DRAIN: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    im_runtime::run(PROGRAM, DRAIN, settings::Settings::read, start::run)
}
