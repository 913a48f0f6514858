//! How each fault is made and mended.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{CALM, Fault, Site};
use crate::audited::TakenBack;
use crate::cluster::{Cluster, Connect};
use crate::crowd::Crowd;
use crate::forwarder::Traffic;
use crate::people::People;
use crate::process::until;
use crate::standalone::Standalone;

const DRAIN: Duration = Duration::from_secs(90);
/// How long redis stands still, or is out of reach of some.
const OUTAGE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(30);
const WITHOUT_LOGIC: Duration = Duration::from_secs(30);
const WITHOUT_LOGIC_FULL: Duration = Duration::from_secs(300);
/// Within this everybody hears again what is said, without waiting for heads to be compared.
const FOLLOWED: Duration = Duration::from_secs(10);

/// Breaks something and mends it. Returns what it took back.
pub(super) async fn strike(
    site: &mut Site,
    crowd: &Crowd,
    people: &People,
    fault: Fault,
    full: bool,
) -> Result<TakenBack> {
    match site {
        Site::Cluster(cluster) if fault == Fault::RedisWipe => wipe_redis(cluster, crowd, people).await,
        Site::Cluster(cluster) => {
            strike_cluster(cluster, crowd, fault, full).await?;
            Ok(TakenBack::default())
        }
        Site::Standalone(standalone) if fault == Fault::Restore => restore(standalone, crowd, people).await,
        Site::Standalone(_) => bail!("{fault:?} is not played on standalone"),
    }
}

async fn strike_cluster(cluster: &mut Cluster, crowd: &Crowd, fault: Fault, full: bool) -> Result<()> {
    match fault {
        Fault::None => Ok(()),
        Fault::ConnectDrain => drain_connect(cluster).await,
        Fault::ConnectKill => {
            let mut victim = cluster.connects.remove(0);
            victim.process.kill()?;
            tokio::time::sleep(CALM).await;
            replace_connect(cluster, &victim).await
        }
        Fault::ConnectPause => {
            let victim = &cluster.connects.first().context("no connect runs")?.process;
            victim.signal(libc::SIGSTOP)?;
            tokio::time::sleep(PAUSE).await;
            victim.signal(libc::SIGCONT)?;
            cluster.ready().await
        }
        Fault::LogicDrain => {
            let mut victim = cluster.logics.remove(0);
            victim.process.signal(libc::SIGTERM)?;
            let status = victim.process.wait(DRAIN).await?;
            ensure!(status.success(), "logic ended with {status}:\n{}", victim.process.tail(20));
            cluster.add_logic()?;
            cluster.ready().await
        }
        Fault::LogicKill => {
            cluster.logics.remove(0).process.kill()?;
            tokio::time::sleep(CALM).await;
            cluster.add_logic()?;
            cluster.ready().await
        }
        Fault::LogicGone => {
            let gone = cluster.logics.len();
            cluster.logics.drain(..).try_for_each(|mut logic| logic.process.kill())?;
            tokio::time::sleep(if full { WITHOUT_LOGIC_FULL } else { WITHOUT_LOGIC }).await;
            for _ in 0..gone {
                cluster.add_logic()?;
            }
            cluster.ready().await
        }
        Fault::Failover => {
            cluster.redis.fail_over().await?;
            mend_redis(cluster).await
        }
        Fault::FailoverCutOff => fail_over_cut_off(cluster, crowd).await,
        Fault::RedisFreeze => {
            cluster.redis.freeze()?;
            tokio::time::sleep(OUTAGE).await;
            cluster.redis.thaw().await
        }
        Fault::HandOver => {
            cluster.redis.hand_over().await?;
            let heads = crowd.heard();
            let followed = until("everybody hears what is said after the failover", FOLLOWED, async || {
                (crowd.ahead_of(&heads) == crowd.len()).then_some(())
            });
            followed.await
        }
        Fault::BusCut => cut(cluster, Traffic::Bus).await,
        Fault::CommandsCut => cut(cluster, Traffic::Commands).await,
        Fault::EtcdLoss => {
            cluster.etcd.kill()?;
            cluster.logics.remove(0).process.kill()?;
            tokio::time::sleep(CALM).await;
            let folder = cluster.folder().to_owned();
            cluster.etcd.restart(&folder).await?;
            cluster.add_logic()?;
            cluster.ready().await
        }
        Fault::RedisWipe | Fault::Restore => bail!("{fault:?} takes back what is stored"),
    }
}

async fn cut(cluster: &Cluster, traffic: Traffic) -> Result<()> {
    cluster.redis.address()?.cut(traffic)?;
    tokio::time::sleep(OUTAGE).await;
    cluster.redis.address()?.mend();
    Ok(())
}

/// Everything that was acknowledged before is gone, and so are the people's rooms.
async fn wipe_redis(cluster: &mut Cluster, crowd: &Crowd, people: &People) -> Result<TakenBack> {
    let folder = cluster.folder().to_owned();
    let _quiet = people.quiet().await;
    cluster.redis.wipe(&folder).await?;
    let taken_back = TakenBack { sends: 0..crowd.ended_sends(), whole_logs: true };
    people.forget_rooms().await?;
    Ok(taken_back)
}

/// What was acknowledged between the copy and its return is gone.
async fn restore(standalone: &mut Standalone, crowd: &Crowd, people: &People) -> Result<TakenBack> {
    let quiet = people.quiet().await;
    standalone.stop().await?;
    standalone.back_up()?;
    people.remember_rooms();
    let from = crowd.ended_sends();
    standalone.start_again().await?;
    drop(quiet);
    // Long enough that clients have heard of what will be taken back.
    let heads = crowd.heard();
    let heard = until("everybody hears what will be taken back", DRAIN, async || {
        (crowd.ahead_of(&heads) == crowd.len()).then_some(())
    });
    heard.await?;
    let quiet = people.quiet().await;
    standalone.stop().await?;
    standalone.restore()?;
    let taken_back = TakenBack { sends: from..crowd.ended_sends(), whole_logs: false };
    people.recall_rooms();
    standalone.start_again().await?;
    drop(quiet);
    // The log is to outgrow what clients have from before, so that what is missing can't be told by its length.
    tokio::time::sleep(2 * CALM).await;
    Ok(taken_back)
}

async fn drain_connect(cluster: &mut Cluster) -> Result<()> {
    let mut victim = cluster.connects.remove(0);
    victim.process.signal(libc::SIGTERM)?;
    let status = victim.process.wait(DRAIN).await?;
    ensure!(status.success(), "connect ended with {status}:\n{}", victim.process.tail(20));
    replace_connect(cluster, &victim).await
}

async fn replace_connect(cluster: &mut Cluster, lost: &Connect) -> Result<()> {
    cluster.add_connect_at(&lost.tcp, &lost.ws)?;
    cluster.ready().await
}

async fn mend_redis(cluster: &mut Cluster) -> Result<()> {
    let folder = cluster.folder().to_owned();
    cluster.redis.replace_lost(&folder).await
}

/// The replicas are cut off until clients have heard what only the master holds; then the master dies.
async fn fail_over_cut_off(cluster: &mut Cluster, crowd: &Crowd) -> Result<()> {
    cluster.redis.cut_replicas_off().await?;
    let heads = crowd.heard();
    let patience = Duration::from_secs(12);
    // What the replicas never confirm is not published; it reaches clients when heads are compared.
    let seen = until("clients hear what is not confirmed", patience, async || {
        (crowd.ahead_of(&heads) >= crowd.len() / 10).then_some(())
    });
    seen.await?;
    cluster.redis.fail_over().await?;
    mend_redis(cluster).await
}
