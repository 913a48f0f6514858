//! What is seen of the others.

use std::time::Duration;

use etcd_client::Client;
use im_discovery::{Kind, Node, Watch};

use crate::etcd::Etcd;
use crate::eventually;

async fn put(client: &mut Client, id: &str) {
    let node = serde_json::to_string(&Node::new(id, "127.0.0.1:3119", "0.1.0")).unwrap();
    client
        .put(format!("/imcluster/logic/{id}"), node, None)
        .await
        .unwrap();
}

async fn sees(watch: &Watch, ids: &[&str]) {
    let seen = watch.until(|nodes| nodes.keys().map(String::as_str).eq(ids.iter().copied()));
    if tokio::time::timeout(Duration::from_secs(20), seen)
        .await
        .is_err()
    {
        panic!("sees {:?}, not {ids:?}", watch.nodes().keys());
    }
}

#[tokio::test]
async fn entries_come_and_go_and_nonsense_is_left_out() {
    let etcd = Etcd::started().await;
    let mut client = etcd.client().await;
    put(&mut client, "a").await;
    client
        .put("/imcluster/logic/nonsense", "{", None)
        .await
        .unwrap();
    client
        .put("/imcluster/connect/other-kind", "{}", None)
        .await
        .unwrap();
    let watch = Watch::start(etcd.options(), Kind::Logic);
    sees(&watch, &["a"]).await;
    assert!(watch.has_seen());
    put(&mut client, "b").await;
    sees(&watch, &["a", "b"]).await;
    client.delete("/imcluster/logic/a", None).await.unwrap();
    sees(&watch, &["b"]).await;
}

#[tokio::test]
async fn the_last_known_ones_stay_while_etcd_is_away_and_changes_are_seen_afterwards() {
    let mut etcd = Etcd::started().await;
    let mut client = etcd.client().await;
    put(&mut client, "a").await;
    let watch = Watch::start(etcd.options(), Kind::Logic);
    sees(&watch, &["a"]).await;
    etcd.kill();
    tokio::time::sleep(Duration::from_millis(500)).await;
    sees(&watch, &["a"]).await;
    etcd.start().await;
    let mut client = etcd.client().await;
    put(&mut client, "b").await;
    sees(&watch, &["a", "b"]).await;
}

#[tokio::test]
async fn what_vanished_while_nobody_looked_stays_for_two_leases_only() {
    let mut etcd = Etcd::started().await;
    let mut client = etcd.client().await;
    put(&mut client, "a").await;
    put(&mut client, "b").await;
    let watch = Watch::start(etcd.options(), Kind::Logic);
    sees(&watch, &["a", "b"]).await;
    etcd.kill();
    etcd.wipe();
    etcd.start().await;
    let mut client = etcd.client().await;
    put(&mut client, "b").await;
    put(&mut client, "c").await;
    sees(&watch, &["a", "b", "c"]).await;
    sees(&watch, &["b", "c"]).await;
}

#[tokio::test]
async fn a_compaction_loses_no_change() {
    let mut etcd = Etcd::started().await;
    let mut client = etcd.client().await;
    put(&mut client, "a").await;
    let watch = Watch::start(etcd.options(), Kind::Logic);
    sees(&watch, &["a"]).await;
    // While etcd is away for the watcher, history is written and compacted: its revision is no more.
    etcd.kill();
    etcd.start().await;
    let mut client = etcd.client().await;
    for id in ["b", "c"] {
        put(&mut client, id).await;
    }
    client.delete("/imcluster/logic/b", None).await.unwrap();
    let revision = client
        .get("x", None)
        .await
        .unwrap()
        .header()
        .unwrap()
        .revision();
    client.compact(revision, None).await.unwrap();
    sees(&watch, &["a", "c"]).await;
    put(&mut client, "d").await;
    sees(&watch, &["a", "c", "d"]).await;
}

#[tokio::test]
async fn a_watch_without_etcd_has_seen_nothing() {
    let mut etcd = Etcd::prepared();
    let watch = Watch::start(etcd.options(), Kind::Logic);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!watch.has_seen());
    etcd.start().await;
    eventually("etcd has answered", async || watch.has_seen()).await;
    assert!(watch.nodes().is_empty());
}
