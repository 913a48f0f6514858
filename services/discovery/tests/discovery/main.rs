//! Discovery against a real etcd that is started, killed and wiped by the tests, and the choice among real endpoints.

mod etcd;
mod pool;
mod registration;
mod watch;

use std::time::Duration;

/// Waits for a condition, for at most 20 s.
async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}
