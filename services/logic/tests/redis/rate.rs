//! How many appends a second go through; printed for people, with a floor far below it that says "batches work".

use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use im_logic::store::Store;
use im_logic::store::redis::{Options, RedisStore};

use crate::servers::Server;
use crate::stage::{message, options, store};

/// Keeps `flying` appends in flight until `count` are stored. Returns the appends per second and the slowest hundredth.
async fn rate(store: &RedisStore, count: usize, flying: usize, rooms: usize) -> (f64, Duration) {
    let (mut begun, mut took) = (0, Vec::with_capacity(count));
    let run = uuid::Uuid::now_v7();
    let start = Instant::now();
    let mut flight = FuturesUnordered::new();
    while took.len() < count {
        while begun < count && flight.len() < flying {
            let append = message(&format!("room{}", begun % rooms), &format!("{run}-{begun}"));
            begun += 1;
            flight.push(async {
                let at = Instant::now();
                store.append(append).await.map(|_| at.elapsed())
            });
        }
        took.push(flight.next().await.expect("something flies").expect("stored"));
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    took.sort_unstable();
    (rate, took[count * 99 / 100])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_go_through_in_batches() {
    let master = Server::start(&[]).await;
    let _replica = Server::start_replica(&master).await;
    let count = std::env::var("APPENDS").ok().and_then(|count| count.parse().ok()).unwrap_or(4000);
    for wait_replicas in [0, 1] {
        let store =
            store(Options { wait_replicas, wait_timeout: Duration::from_secs(5), ..options(master.url()) }).await;
        for (rooms, flying) in [(500, 512), (1, 512), (500, 16)] {
            let (rate, slowest) = rate(&store, count, flying, rooms).await;
            use std::io::Write;
            let _ = writeln!(
                std::io::stderr(),
                "wait {wait_replicas}, {rooms} rooms, {flying} in flight: {rate:.0} appends/s, p99 {slowest:?}"
            );
            assert!(rate > 100.0, "{rate:.0} appends/s");
        }
    }
}
