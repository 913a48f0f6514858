//! An entry stands while its process lives, whatever etcd does.

use std::time::Duration;

use im_discovery::{Kind, Node, Registration, Watch};

use crate::etcd::Etcd;
use crate::eventually;

const KEY: &str = "/imcluster/connect/node-1.a";

fn node() -> Node {
    Node::new("node-1.a", "127.0.0.1:3109", "0.1.0")
}

async fn entry(etcd: &Etcd) -> Option<Node> {
    let mut client = etcd.client().await;
    let found = tokio::time::timeout(Duration::from_secs(2), client.get(KEY, None))
        .await
        .ok()?
        .ok()?;
    found
        .kvs()
        .first()
        .map(|kv| serde_json::from_slice(kv.value()).unwrap())
}

async fn standing(registration: &Registration) {
    tokio::time::timeout(Duration::from_secs(20), registration.standing())
        .await
        .expect("registered");
}

#[tokio::test]
async fn an_entry_is_put_changed_kept_alive_and_taken_away() {
    let etcd = Etcd::started().await;
    let node = node();
    let registration = Registration::start(etcd.options(), Kind::Connect, node.clone());
    standing(&registration).await;
    assert_eq!(entry(&etcd).await, Some(node));
    registration.update(|node| {
        node.draining = true;
        node.load = 7;
    });
    eventually("the change is seen", async || {
        entry(&etcd)
            .await
            .is_some_and(|node| node.draining && node.load == 7)
    })
    .await;
    // Longer than the lease: it lives only because it is kept alive.
    tokio::time::sleep(etcd.options().lease * 2).await;
    assert!(entry(&etcd).await.is_some());
    registration.revoke().await;
    assert_eq!(entry(&etcd).await, None);
}

#[tokio::test]
async fn a_process_that_vanishes_is_gone_within_a_lease() {
    let etcd = Etcd::started().await;
    let registration = Registration::start(etcd.options(), Kind::Connect, node());
    standing(&registration).await;
    drop(registration);
    eventually("the lease runs out", async || entry(&etcd).await.is_none()).await;
}

#[tokio::test]
async fn a_lost_lease_and_a_deleted_entry_are_put_again() {
    let etcd = Etcd::started().await;
    let registration = Registration::start(etcd.options(), Kind::Connect, node());
    standing(&registration).await;
    let mut client = etcd.client().await;
    for lease in client.leases().await.unwrap().leases() {
        client.lease_revoke(lease.id()).await.unwrap();
    }
    assert_eq!(entry(&etcd).await, None);
    eventually("registered under another lease", async || {
        entry(&etcd).await.is_some()
    })
    .await;
    client.delete(KEY, None).await.unwrap();
    eventually("put again", async || entry(&etcd).await.is_some()).await;
    drop(registration);
}

#[tokio::test]
async fn an_etcd_that_starts_late_dies_or_loses_everything_gets_the_entry_again() {
    let mut etcd = Etcd::prepared();
    let registration = Registration::start(etcd.options(), Kind::Connect, node());
    let watch = Watch::start(etcd.options(), Kind::Connect);
    assert!(!registration.registered());
    etcd.start().await;
    standing(&registration).await;
    tokio::time::timeout(
        Duration::from_secs(20),
        watch.until(|nodes| nodes.contains_key("node-1.a")),
    )
    .await
    .unwrap();

    etcd.kill();
    eventually("the loss is noticed", async || !registration.registered()).await;
    registration.update(|node| node.load = 3);
    etcd.start().await;
    standing(&registration).await;
    assert_eq!(entry(&etcd).await.map(|node| node.load), Some(3));

    etcd.kill();
    etcd.wipe();
    etcd.start().await;
    eventually("put into the empty etcd", async || {
        entry(&etcd).await.is_some()
    })
    .await;
    assert!(
        watch.nodes().contains_key("node-1.a"),
        "an etcd without data does not make a living node disappear"
    );
}

#[tokio::test]
async fn revoking_does_not_wait_for_an_etcd_that_is_away() {
    let mut etcd = Etcd::started().await;
    let registration = Registration::start(etcd.options(), Kind::Connect, node());
    standing(&registration).await;
    etcd.kill();
    tokio::time::timeout(Duration::from_secs(5), registration.revoke())
        .await
        .expect("returns all the same");
}
