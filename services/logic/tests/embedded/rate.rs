//! How many appends a second are on disk; printed for people, with a floor far below it that says "commits are shared".

use std::io::Write;

use im_logic::store::suite::pace;

use crate::stage::open;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_are_shared() {
    let count = std::env::var("APPENDS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(2000);
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for (rooms, flying) in [(500, 1024), (500, 256), (1, 256), (500, 16)] {
        let (rate, slowest) = pace(&store, count, flying, rooms).await;
        let _ = writeln!(
            std::io::stderr(),
            "{rooms} rooms, {flying} in flight: {rate:.0} appends/s, p99 {slowest:?}"
        );
        assert!(rate > 100.0, "{rate:.0} appends/s");
    }
}
