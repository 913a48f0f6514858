//! A dependency fails: requests are refused quickly as retryable, no client is disconnected, and everything recovers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use im_e2e::clients::json::JsonClient;
use im_e2e::servers::cluster::{Cluster, Plan};
use im_e2e::token::token;
use im_e2e::wait::until;

const ROOM: &str = "lobby";
/// A send that cannot be stored is refused within this: the call timeout and a little more.
const REFUSE_TIMEOUT: Duration = Duration::from_secs(7);
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects; like any client, it retries while it is told "later".
async fn connect(cluster: &Cluster) -> Result<JsonClient> {
    let token = token("alice", "", &[ROOM])?;
    until("a connection is accepted", RECOVERY_TIMEOUT, async || {
        JsonClient::open(&cluster.connects[0].ws, &token).await.ok()
    })
    .await
}

/// A send must be refused in time as retryable: the code.
async fn refused(client: &mut JsonClient, client_id: &str) -> Result<String> {
    let begun = Instant::now();
    let answer = client.send(ROOM, client_id).await?;
    assert_eq!(answer["op"], "error", "{answer}");
    assert_eq!(answer["retryable"], true, "{answer}");
    assert!(
        begun.elapsed() < REFUSE_TIMEOUT,
        "answered after {:?}",
        begun.elapsed()
    );
    answer["code"].as_str().map(str::to_owned).context("a code")
}

/// A send is retried on the same connection until it is stored: the seq.
async fn stored(client: &mut JsonClient, client_id: &str) -> Result<u64> {
    until("the send is stored", RECOVERY_TIMEOUT, async || {
        let answer = client.send(ROOM, client_id).await.ok()?;
        answer["seq"].as_u64()
    })
    .await
}

#[tokio::test]
async fn a_frozen_redis_answers_unavailable_and_the_retry_is_stored_once() -> Result<()> {
    let cluster = Cluster::start(Plan::default()).await?;
    let mut client = connect(&cluster).await?;
    assert_eq!(stored(&mut client, "before").await?, 1);
    cluster.redis.freeze()?;
    let code = refused(&mut client, "during").await?;
    cluster.redis.thaw().await?;
    assert_eq!(code, "unavailable");
    let seq = stored(&mut client, "during").await?;
    assert_eq!(stored(&mut client, "during").await?, seq);
    assert_eq!(stored(&mut client, "after").await?, seq + 1);
    Ok(())
}

#[tokio::test]
async fn a_redis_without_memory_or_replicas_refuses_and_recovers() -> Result<()> {
    let cluster = Cluster::start(Plan::default()).await?;
    let mut client = connect(&cluster).await?;
    let mut seq = stored(&mut client, "before").await?;
    for (key, broken, sound, code) in [
        ("maxmemory", "1", "0", "store_full"),
        ("min-replicas-to-write", "3", "0", "store_full"),
    ] {
        cluster.redis.configure_master(key, broken).await?;
        assert_eq!(refused(&mut client, key).await?, code, "{key}");
        cluster.redis.configure_master(key, sound).await?;
        seq += 1;
        assert_eq!(stored(&mut client, key).await?, seq, "{key}");
    }
    Ok(())
}

#[tokio::test]
async fn without_logic_sends_fail_fast_clients_stay_and_all_is_well_when_it_is_back() -> Result<()>
{
    let mut cluster = Cluster::start(Plan::default()).await?;
    let mut client = connect(&cluster).await?;
    stored(&mut client, "before").await?;
    cluster.logics.clear();
    assert_eq!(refused(&mut client, "during").await?, "unavailable");
    for connect in &cluster.connects {
        let (status, _) = im_e2e::http::get(&connect.admin, "/readyz").await?;
        assert_eq!(status, 200, "readiness does not depend on logic");
    }
    cluster.add_logic()?;
    assert_eq!(stored(&mut client, "during").await?, 2);
    Ok(())
}

#[tokio::test]
async fn without_etcd_everything_known_goes_on_and_newcomers_are_found_when_it_is_back()
-> Result<()> {
    let mut cluster = Cluster::start(Plan::default()).await?;
    let mut client = connect(&cluster).await?;
    stored(&mut client, "before").await?;
    cluster.etcd.kill()?;
    stored(&mut client, "during").await?;
    // A connect that starts now finds no logic; it keeps running and becomes ready once etcd is back.
    cluster.add_connect()?;
    let folder = cluster.folder().to_owned();
    cluster.etcd.restart(&folder).await?;
    cluster.ready().await?;
    let newcomer = cluster.connects.last().context("just added")?;
    let mut late = JsonClient::open(&newcomer.ws, &token("bob", "", &[ROOM])?).await?;
    assert_eq!(stored(&mut late, "after").await?, 3);
    Ok(())
}

#[tokio::test]
async fn a_cluster_started_before_redis_and_etcd_serves_once_they_are_there() -> Result<()> {
    let mut cluster = Cluster::start(Plan {
        connect: 0,
        logic: 0,
        ..Plan::default()
    })
    .await?;
    cluster.redis.kill()?;
    cluster.etcd.kill()?;
    cluster.add_logic()?;
    cluster.add_connect()?;
    let folder = cluster.folder().to_owned();
    let logic = cluster.logics[0].admin.clone();
    until(
        "logic runs without etcd and redis",
        RECOVERY_TIMEOUT,
        async || im_e2e::http::get(&logic, "/healthz").await.ok(),
    )
    .await?;
    cluster.etcd.restart(&folder).await?;
    cluster.ready().await?;
    let early = JsonClient::open(&cluster.connects[0].ws, &token("alice", "", &[ROOM])?).await;
    let error = early
        .err()
        .context("a client was accepted without the store")?
        .to_string();
    assert!(
        error.contains(r#""code":"unavailable""#) && error.contains(r#""retryable":true"#),
        "{error}"
    );
    cluster.redis.restart(&folder).await?;
    assert_eq!(stored(&mut connect(&cluster).await?, "first").await?, 1);
    Ok(())
}
