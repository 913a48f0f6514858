//! How many appends a second are on disk; printed for people, with a floor far below it that says "commits are shared".

use std::io::Write;
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use im_logic::store::Store;
use im_logic::store::embedded::EmbeddedStore;

use crate::stage::{message, open};

/// Keeps `flying` appends in flight until `count` are stored. Returns the appends per second and the slowest hundredth.
async fn rate(store: &EmbeddedStore, count: usize, flying: usize, rooms: usize) -> (f64, Duration) {
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
async fn commits_are_shared() {
    let count = std::env::var("APPENDS").ok().and_then(|count| count.parse().ok()).unwrap_or(2000);
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for (rooms, flying) in [(500, 1024), (500, 256), (1, 256), (500, 16)] {
        let (rate, slowest) = rate(&store, count, flying, rooms).await;
        let _ = writeln!(std::io::stderr(), "{rooms} rooms, {flying} in flight: {rate:.0} appends/s, p99 {slowest:?}");
        assert!(rate > 100.0, "{rate:.0} appends/s");
    }
}
