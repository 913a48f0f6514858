//! A node over real sockets, with the test's own logic, store and bus behind it.

mod bans;
mod bounds;
mod delivery;
mod drain;
mod endings;
mod limits;
mod paces;
mod presence;
mod raw;
mod rights;
mod sessions;
mod world;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use im_connect::{Handle, Options, Parts, Service};
use im_runtime::admin::Liveness;
use im_runtime::{Shutdown, Tasks};
use raw::SOON;
use world::World;

fn options() -> Options {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Options {
        tcp_listen: any,
        ws_listen: any,
        shards: 2,
        // Found by other means than waiting for it, unless a test says so.
        head_compare: Duration::from_secs(3600),
        rooms_compare: Duration::from_secs(3600),
        drain_accept: Duration::from_millis(100),
        bytes_per_second: 1 << 30,
        user_bytes_per_second: 1 << 30,
        requests_per_second: 100_000,
        user_requests_per_second: 100_000,
        ip_requests_per_second: 100_000,
        user_read_bytes_per_second: 1 << 30,
        user_rooms_per_second: 1_000_000,
        ..Options::default()
    }
}

/// A node of this world.
fn node(world: &World, options: Options) -> Handle {
    let link = world.link();
    let parts = Parts {
        logic: Arc::clone(&link) as _,
        bus: link,
        logic_losses: None,
    };
    let tasks = Tasks::new(Shutdown::new(SOON));
    Service::bind(options, parts)
        .unwrap()
        .spawn(&tasks, &Liveness::default())
        .unwrap()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(SOON, wait)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}
