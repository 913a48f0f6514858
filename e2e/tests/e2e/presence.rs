//! Presence is what the nodes hold: whatever was lost meanwhile, two leases later it is right again.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use im_e2e::clients::json::JsonClient;
use im_e2e::servers::cluster::{Cluster, Plan};
use im_e2e::token::token;
use im_e2e::wait::until;

const LEASE: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(30);
const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];

fn plan() -> Plan {
    Plan {
        connect_env: vec![("IM_PRESENCE_LEASE", format!("{}s", LEASE.as_secs()))],
        ..Plan::default()
    }
}

/// How many connections each user has by the API, without users who have none.
async fn presence(http: &str) -> Result<BTreeMap<String, usize>> {
    let path = format!("/v1/presence?users={}", USERS.join(","));
    let token = token("someone", "", &[])?;
    let (status, body) =
        im_e2e::http::call(hyper::Method::GET, http, &path, Some(&token), Bytes::new()).await?;
    anyhow::ensure!(status == 200, "{status}: {body}");
    let answer: serde_json::Value = serde_json::from_str(&body)?;
    let users = answer["users"]
        .as_array()
        .context("users")?
        .iter()
        .map(|user| {
            let connections = user["connections"].as_array().map_or(0, Vec::len);
            (
                user["user"].as_str().unwrap_or_default().to_owned(),
                connections,
            )
        });
    Ok(users.filter(|(_, connections)| *connections > 0).collect())
}

/// Within two leases from now these users must have one connection each, the others none.
async fn becomes_right(cluster: &Cluster, after: &str, expected: &[&str]) -> Result<()> {
    let wanted: BTreeMap<String, usize> = expected
        .iter()
        .map(|user| ((*user).to_owned(), 1))
        .collect();
    let http = &cluster.logics.last().context("no logic")?.http;
    let mut last = None;
    let holds = until("", LEASE * 2, async || {
        last = presence(http).await.ok();
        (last.as_ref() == Some(&wanted)).then_some(())
    });
    holds
        .await
        .with_context(|| format!("two leases after {after}: {last:?} instead of {wanted:?}"))
}

async fn open(cluster: &Cluster, connect: usize, user: &str) -> Result<JsonClient> {
    let token = token(user, "", &[])?;
    until("a connection is accepted", TIMEOUT, async || {
        JsonClient::open(&cluster.connects[connect].ws, &token)
            .await
            .ok()
    })
    .await
}

#[tokio::test]
async fn presence_is_true_again_two_leases_after_redis_was_frozen_emptied_or_lost_its_tail()
-> Result<()> {
    let mut cluster = Cluster::start(plan()).await?;
    let _alice = open(&cluster, 0, "alice").await?;
    let bob = open(&cluster, 1, "bob").await?;
    becomes_right(&cluster, "the beginning", &["alice", "bob"]).await?;

    // First, as Sentinels that were paused do nothing for half a minute.
    cluster.redis.cut_replicas_off().await?;
    let _dave = open(&cluster, 1, "dave").await?;
    cluster.redis.fail_over().await?;
    until("the new master is found", TIMEOUT, async || {
        presence(&cluster.logics[0].http).await.ok()
    })
    .await?;
    becomes_right(
        &cluster,
        "a failover lost the tail",
        &["alice", "bob", "dave"],
    )
    .await?;

    cluster.redis.freeze()?;
    drop(bob);
    for _ in 0..3 {
        let refused = JsonClient::open(&cluster.connects[1].ws, &token("carol", "", &[])?).await;
        anyhow::ensure!(
            refused.is_err(),
            "a client was accepted while redis is frozen"
        );
    }
    cluster.redis.thaw().await?;
    until("redis is found again", TIMEOUT, async || {
        presence(&cluster.logics[0].http).await.ok()
    })
    .await?;
    becomes_right(&cluster, "redis was frozen", &["alice", "dave"]).await?;

    let port = cluster.redis.master_port().await.context("no master")?;
    let redis = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?;
    let mut commands = redis.get_multiplexed_async_connection().await?;
    redis::cmd("FLUSHALL").exec_async(&mut commands).await?;
    becomes_right(&cluster, "redis lost everything", &["alice", "dave"]).await
}

#[tokio::test]
async fn presence_is_true_again_two_leases_after_all_of_logic_or_a_node_was_gone() -> Result<()> {
    let mut cluster = Cluster::start(plan()).await?;
    let _alice = open(&cluster, 0, "alice").await?;
    let bob = open(&cluster, 0, "bob").await?;
    let _carol = open(&cluster, 1, "carol").await?;
    becomes_right(&cluster, "the beginning", &["alice", "bob", "carol"]).await?;

    cluster.logics.clear();
    drop(bob);
    let gone = "im_connect_connections{dialect=\"native_json\"} 1";
    until(
        "the node notices that the client is gone",
        TIMEOUT,
        async || {
            let (_, metrics) = im_e2e::http::get(&cluster.connects[0].admin, "/metrics")
                .await
                .ok()?;
            metrics.contains(gone).then_some(())
        },
    )
    .await?;
    cluster.add_logic()?;
    cluster.ready().await?;
    becomes_right(&cluster, "all of logic was gone", &["alice", "carol"]).await?;

    cluster.connects[1].process.kill()?;
    becomes_right(&cluster, "a node was killed", &["alice"]).await
}
