//! The choice among endpoints. The pool follows a real etcd; the endpoints need not answer for that.

use std::collections::HashMap;
use std::time::Duration;

use etcd_client::Client;
use im_discovery::{Kind, Node, Pool, PoolOptions, Watch};

use crate::etcd::Etcd;
use crate::eventually;

async fn put(client: &mut Client, node: &Node) {
    let value = serde_json::to_string(node).unwrap();
    client
        .put(format!("/imcluster/logic/{}", node.id), value, None)
        .await
        .unwrap();
}

fn node(id: &str) -> Node {
    Node::new(id, "127.0.0.1:1", "0.1.0")
}

/// A pool over these nodes, whose links are the nodes' ids.
async fn pool(etcd: &Etcd, nodes: &[Node]) -> Pool<String> {
    let mut client = etcd.client().await;
    for node in nodes {
        put(&mut client, node).await;
    }
    let options = PoolOptions {
        ejection_min: Duration::from_millis(200),
        ..PoolOptions::default()
    };
    let pool = Pool::start(
        options,
        Watch::start(etcd.options(), Kind::Logic),
        |node, _channel| node.id.clone(),
    );
    eventually("all are there", async || {
        pool.endpoints().len() == nodes.len()
    })
    .await;
    pool
}

fn choices(pool: &Pool<String>, times: usize) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for _ in 0..times {
        *counts
            .entry(pool.choose(|_| true).unwrap().link().clone())
            .or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn calls_spread_and_the_busier_of_two_is_avoided() {
    let etcd = Etcd::started().await;
    let pool = pool(&etcd, &[node("a"), node("b"), node("c")]).await;
    let idle = choices(&pool, 3000);
    assert!(
        idle.values().all(|count| (800..1200).contains(count)),
        "{idle:?}"
    );
    let a = pool.get("a").unwrap();
    let in_flight: Vec<_> = (0..10).map(|_| a.track()).collect();
    assert_eq!(
        choices(&pool, 1000).get("a"),
        None,
        "it is never the better of two"
    );
    drop(in_flight);
    assert_eq!(a.in_flight(), 0);
    assert!(choices(&pool, 1000).contains_key("a"));
}

#[tokio::test]
async fn one_that_drains_is_chosen_only_where_there_is_no_other() {
    let etcd = Etcd::started().await;
    let pool = pool(
        &etcd,
        &[
            node("a"),
            Node {
                draining: true,
                ..node("b")
            },
        ],
    )
    .await;
    assert_eq!(choices(&pool, 100).keys().collect::<Vec<_>>(), ["a"]);
    let mut client = etcd.client().await;
    put(
        &mut client,
        &Node {
            draining: true,
            ..node("a")
        },
    )
    .await;
    eventually("a drains", async || pool.get("a").unwrap().node().draining).await;
    assert_eq!(choices(&pool, 100).len(), 2);
}

#[tokio::test]
async fn one_that_fails_is_set_aside_and_tried_again_later() {
    let etcd = Etcd::started().await;
    let pool = pool(&etcd, &[node("a"), node("b")]).await;
    let a = pool.get("a").unwrap();
    a.failed();
    assert_eq!(choices(&pool, 100).keys().collect::<Vec<_>>(), ["b"]);
    eventually("it is tried again", async || {
        choices(&pool, 100).contains_key("a")
    })
    .await;
    a.failed();
    a.answered();
    assert!(!a.is_ejected());
    pool.get("b").unwrap().failed();
    a.failed();
    assert!(
        pool.choose(|_| true).is_some(),
        "where all failed, one is tried all the same"
    );
    assert!(pool.choose(|endpoint| endpoint.link() == "none").is_none());
}

#[tokio::test]
async fn the_last_ones_stay_when_etcd_lists_nobody_and_a_moved_one_gets_a_new_link() {
    let etcd = Etcd::started().await;
    let pool = pool(&etcd, &[node("a"), node("b")]).await;
    let (a, b) = (pool.get("a").unwrap(), pool.get("b").unwrap());
    let mut client = etcd.client().await;
    put(
        &mut client,
        &Node {
            address: "127.0.0.1:2".to_owned(),
            ..node("a")
        },
    )
    .await;
    eventually("a's old link is not listed", async || !a.is_listed()).await;
    assert!(b.is_listed());
    client.delete("/imcluster/logic/a", None).await.unwrap();
    eventually("a is gone", async || pool.endpoints().len() == 1).await;
    client.delete("/imcluster/logic/b", None).await.unwrap();
    put(&mut client, &node("c")).await;
    eventually("c has taken b's place", async || {
        pool.get("c").is_some() && pool.endpoints().len() == 1
    })
    .await;
    client.delete("/imcluster/logic/c", None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(pool.get("c").is_some());
}
