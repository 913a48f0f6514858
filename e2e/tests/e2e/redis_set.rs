//! The harness itself: a failover really takes back what was cut off. Otherwise the fault `failover-cut-off` proves nothing.

use anyhow::Result;
use im_e2e::servers::redis::{MasterDiscovery, RedisSet};

#[tokio::test]
async fn a_failover_with_replicas_cut_off_takes_the_tail_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut redis = RedisSet::start(folder.path(), MasterDiscovery::Sentinels).await?;
    let query = async |port: u16, words: &[&str]| -> Result<Option<String>> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        Ok(redis::cmd(words[0])
            .arg(&words[1..])
            .query_async(&mut connection)
            .await?)
    };
    let old = redis.master_port().await.expect("a master");
    query(old, &["SET", "kept", "1"]).await?;
    query(old, &["WAIT", "2", "2000"]).await?;
    redis.cut_replicas_off().await?;
    query(old, &["SET", "lost", "1"]).await?;
    let new = redis.fail_over().await?;
    assert_ne!(new, old);
    assert_eq!(query(new, &["GET", "kept"]).await?.as_deref(), Some("1"));
    assert_eq!(query(new, &["GET", "lost"]).await?, None);
    redis.replace_lost(folder.path()).await
}
