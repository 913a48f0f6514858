//! How many appends a second go through; printed for people, with a floor far below it that says "batches work".

use std::io::Write;
use std::time::Duration;

use im_logic::store::redis::Options;
use im_logic::store::suite::pace;

use crate::servers::Server;
use crate::stage::{options, store};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_go_through_in_batches() {
    let master = Server::start(&[]).await;
    let _replica = Server::start_replica(&master).await;
    let count = std::env::var("APPENDS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(4000);
    for wait_replicas in [0, 1] {
        let store = store(Options {
            wait_replicas,
            wait_timeout: Duration::from_secs(5),
            ..options(master.url())
        })
        .await;
        for (rooms, flying) in [(500, 512), (1, 512), (500, 16)] {
            let (rate, slowest) = pace(&store, count, flying, rooms).await;
            let _ = writeln!(
                std::io::stderr(),
                "wait {wait_replicas}, {rooms} rooms, {flying} in flight: {rate:.0} appends/s, p99 {slowest:?}"
            );
            assert!(rate > 100.0, "{rate:.0} appends/s");
        }
    }
}
