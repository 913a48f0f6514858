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

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use im_runtime::Defaults;
use im_runtime::settings::Program;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: Program = Program {
    name: "im-standalone",
    about: "ImCluster in one process: TCP, WebSocket, HTTP API, a durable store in a directory, and a page to try it.",
};

/// There is no other node that clients could go to, so they have little time; and nobody else need ask about health.
const DEFAULTS: Defaults = Defaults {
    drain: Duration::from_secs(3),
    admin_listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9100),
};

fn main() -> ExitCode {
    im_runtime::run(PROGRAM, DEFAULTS, settings::Settings::read, start::run)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use im_runtime::documentation;

    use super::*;

    #[test]
    fn the_documentation_names_every_setting() {
        let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
        let wanted = documentation::settings(PROGRAM, DEFAULTS, settings::Settings::read);
        documentation::check(&document, PROGRAM.name, &wanted).unwrap();
    }
}
