//! A part fails: what waits is told quickly that it may try again, nobody is thrown out, and afterwards everything works.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use im_e2e::cluster::{Cluster, Plan};
use im_e2e::console::Console;
use im_e2e::process::until;
use im_e2e::token::token;

const ROOM: &str = "lobby";
/// A send that cannot be stored is answered within this: the call timeout and a little.
const FAST: Duration = Duration::from_secs(7);
const HEALS: Duration = Duration::from_secs(30);

/// A connection that is let in; as any client does, it comes again where it is told "later".
async fn console(cluster: &Cluster) -> Result<Console> {
    let token = token("alice", "", &[ROOM])?;
    until("a connection is let in", HEALS, async || Console::open(&cluster.connects[0].ws, &token).await.ok()).await
}

/// A send is refused in time, with a code that says "later".
async fn refused(console: &mut Console, client_id: &str) -> Result<String> {
    let begun = Instant::now();
    let answer = console.send(ROOM, client_id).await?;
    assert_eq!(answer["op"], "error", "{answer}");
    assert_eq!(answer["retryable"], true, "{answer}");
    assert!(begun.elapsed() < FAST, "answered after {:?}", begun.elapsed());
    answer["code"].as_str().map(str::to_owned).context("a code")
}

/// The same send is stored, once the part is back, on the same connection.
async fn stored(console: &mut Console, client_id: &str) -> Result<u64> {
    until("the send is stored", HEALS, async || {
        let answer = console.send(ROOM, client_id).await.ok()?;
        answer["seq"].as_u64()
    })
    .await
}

#[tokio::test]
async fn a_frozen_redis_answers_unavailable_and_the_retry_is_stored_once() -> Result<()> {
    let cluster = Cluster::start(Plan::default()).await?;
    let mut console = console(&cluster).await?;
    assert_eq!(stored(&mut console, "before").await?, 1);
    cluster.redis.freeze()?;
    let code = refused(&mut console, "during").await?;
    cluster.redis.thaw().await?;
    assert_eq!(code, "unavailable");
    let seq = stored(&mut console, "during").await?;
    assert_eq!(stored(&mut console, "during").await?, seq);
    assert_eq!(stored(&mut console, "after").await?, seq + 1);
    Ok(())
}

#[tokio::test]
async fn a_redis_without_memory_or_replicas_refuses_and_recovers() -> Result<()> {
    let cluster = Cluster::start(Plan::default()).await?;
    let mut console = console(&cluster).await?;
    let mut seq = stored(&mut console, "before").await?;
    for (key, broken, sound, code) in
        [("maxmemory", "1", "0", "store_full"), ("min-replicas-to-write", "3", "0", "store_full")]
    {
        cluster.redis.configure_master(key, broken).await?;
        assert_eq!(refused(&mut console, key).await?, code, "{key}");
        cluster.redis.configure_master(key, sound).await?;
        seq += 1;
        assert_eq!(stored(&mut console, key).await?, seq, "{key}");
    }
    Ok(())
}

#[tokio::test]
async fn without_logic_sends_fail_fast_clients_stay_and_all_is_well_when_it_is_back() -> Result<()> {
    let mut cluster = Cluster::start(Plan::default()).await?;
    let mut console = console(&cluster).await?;
    stored(&mut console, "before").await?;
    cluster.logics.clear();
    assert_eq!(refused(&mut console, "during").await?, "unavailable");
    for connect in &cluster.connects {
        let (status, _) = im_e2e::http::get(&connect.admin, "/readyz").await?;
        assert_eq!(status, 200, "a fault of all logic is no fault of this node");
    }
    cluster.add_logic()?;
    assert_eq!(stored(&mut console, "during").await?, 2);
    Ok(())
}

#[tokio::test]
async fn without_etcd_everything_known_goes_on_and_newcomers_are_found_when_it_is_back() -> Result<()> {
    let mut cluster = Cluster::start(Plan::default()).await?;
    let mut console = console(&cluster).await?;
    stored(&mut console, "before").await?;
    cluster.etcd.kill()?;
    stored(&mut console, "during").await?;
    // A connect that starts now finds nobody; it stays up and is ready once etcd is back.
    cluster.add_connect()?;
    let folder = cluster.folder().to_owned();
    cluster.etcd.restart(&folder).await?;
    cluster.ready().await?;
    let newcomer = cluster.connects.last().context("just added")?;
    let mut late = Console::open(&newcomer.ws, &token("bob", "", &[ROOM])?).await?;
    assert_eq!(stored(&mut late, "after").await?, 3);
    Ok(())
}

#[tokio::test]
async fn a_cluster_started_before_redis_and_etcd_serves_once_they_are_there() -> Result<()> {
    let mut cluster = Cluster::start(Plan { connect: 0, logic: 0, ..Plan::default() }).await?;
    cluster.redis.kill()?;
    cluster.etcd.kill()?;
    cluster.add_logic()?;
    cluster.add_connect()?;
    let folder = cluster.folder().to_owned();
    let logic = cluster.logics[0].admin.clone();
    until("logic stands and waits", HEALS, async || im_e2e::http::get(&logic, "/healthz").await.ok()).await?;
    cluster.etcd.restart(&folder).await?;
    cluster.ready().await?;
    let early = Console::open(&cluster.connects[0].ws, &token("alice", "", &[ROOM])?).await;
    let said = early.err().context("nobody can be let in without the store")?.to_string();
    assert!(said.contains(r#""code":"unavailable""#) && said.contains(r#""retryable":true"#), "{said}");
    cluster.redis.restart(&folder).await?;
    assert_eq!(stored(&mut console(&cluster).await?, "first").await?, 1);
    Ok(())
}
