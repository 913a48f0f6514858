//! Injects each fault and mends it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::fault::Fault;
use crate::checked_run::TakenBack;
use crate::proxies::redis::Traffic;
use crate::servers::cluster::{Cluster, Connect};
use crate::servers::standalone::Standalone;
use crate::wait::until;
use crate::workload::membership::MembershipWorkload;
use crate::workload::messages::MessageWorkload;

/// How long the workloads run undisturbed before and after a fault, and what was killed stays away.
pub(super) const STEADY: Duration = Duration::from_secs(4);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(90);
/// How long redis is frozen or cut off.
const OUTAGE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_secs(30);
const WITHOUT_LOGIC: Duration = Duration::from_secs(30);
const WITHOUT_LOGIC_FULL: Duration = Duration::from_secs(300);
/// Every client receives messages again within this, without waiting for heads to be compared.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(10);

/// What faults are injected into.
pub(super) enum Servers {
    Cluster(Box<Cluster>),
    Standalone(Box<Standalone>),
}

/// Injects a fault and mends it. Returns what it took back.
pub(super) async fn inject(
    servers: &mut Servers,
    messages: &MessageWorkload,
    membership: &MembershipWorkload,
    fault: Fault,
    full: bool,
) -> Result<TakenBack> {
    match servers {
        Servers::Cluster(cluster) if fault == Fault::RedisWipe => {
            wipe_redis(cluster, messages, membership).await
        }
        Servers::Cluster(cluster) => {
            inject_into_cluster(cluster, messages, fault, full).await?;
            Ok(TakenBack::default())
        }
        Servers::Standalone(standalone) if fault == Fault::Restore => {
            restore(standalone, messages, membership).await
        }
        Servers::Standalone(_) => bail!("{fault:?} cannot be injected into standalone"),
    }
}

async fn inject_into_cluster(
    cluster: &mut Cluster,
    messages: &MessageWorkload,
    fault: Fault,
    full: bool,
) -> Result<()> {
    match fault {
        Fault::None => Ok(()),
        Fault::ConnectDrain => drain_connect(cluster).await,
        Fault::ConnectKill => {
            let mut victim = cluster.connects.remove(0);
            victim.process.kill()?;
            tokio::time::sleep(STEADY).await;
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
            let status = victim.process.wait(DRAIN_TIMEOUT).await?;
            ensure!(
                status.success(),
                "logic exited with {status}:\n{}",
                victim.process.tail(20)
            );
            cluster.add_logic()?;
            cluster.ready().await
        }
        Fault::LogicKill => {
            cluster.logics.remove(0).process.kill()?;
            tokio::time::sleep(STEADY).await;
            cluster.add_logic()?;
            cluster.ready().await
        }
        Fault::LogicGone => {
            let count = cluster.logics.len();
            cluster
                .logics
                .drain(..)
                .try_for_each(|mut logic| logic.process.kill())?;
            tokio::time::sleep(if full {
                WITHOUT_LOGIC_FULL
            } else {
                WITHOUT_LOGIC
            })
            .await;
            for _ in 0..count {
                cluster.add_logic()?;
            }
            cluster.ready().await
        }
        Fault::Failover => {
            cluster.redis.fail_over().await?;
            mend_redis(cluster).await
        }
        Fault::FailoverCutOff => fail_over_cut_off(cluster, messages).await,
        Fault::RedisFreeze => {
            cluster.redis.freeze()?;
            tokio::time::sleep(OUTAGE).await;
            cluster.redis.thaw().await
        }
        Fault::HandOver => {
            cluster.redis.switch_over().await?;
            all_receive(
                messages,
                "all clients receive messages after the failover",
                FOLLOW_TIMEOUT,
            )
            .await
        }
        Fault::BusCut => cut(cluster, Traffic::Subscriptions).await,
        Fault::CommandsCut => cut(cluster, Traffic::Commands).await,
        Fault::EtcdLoss => {
            cluster.etcd.kill()?;
            cluster.logics.remove(0).process.kill()?;
            tokio::time::sleep(STEADY).await;
            let folder = cluster.folder().to_owned();
            cluster.etcd.restart(&folder).await?;
            cluster.add_logic()?;
            cluster.ready().await
        }
        Fault::RedisWipe | Fault::Restore => bail!("{fault:?} takes back acknowledged messages"),
    }
}

async fn cut(cluster: &Cluster, traffic: Traffic) -> Result<()> {
    cluster.redis.proxy()?.cut(traffic)?;
    tokio::time::sleep(OUTAGE).await;
    cluster.redis.proxy()?.mend();
    Ok(())
}

/// Takes back everything that was acknowledged, including all rooms.
async fn wipe_redis(
    cluster: &mut Cluster,
    messages: &MessageWorkload,
    membership: &MembershipWorkload,
) -> Result<TakenBack> {
    let folder = cluster.folder().to_owned();
    let _paused = membership.pause().await;
    cluster.redis.wipe(&folder).await?;
    let taken_back = TakenBack {
        sends: 0..messages.ended_sends(),
        whole_logs: true,
    };
    membership.reset().await?;
    Ok(taken_back)
}

/// Takes back what was acknowledged between the backup and its restoration.
async fn restore(
    standalone: &mut Standalone,
    messages: &MessageWorkload,
    membership: &MembershipWorkload,
) -> Result<TakenBack> {
    let paused = membership.pause().await;
    standalone.stop().await?;
    standalone.back_up()?;
    membership.back_up_model();
    let from = messages.ended_sends();
    standalone.restart().await?;
    drop(paused);
    all_receive(
        messages,
        "all clients receive what will be taken back",
        DRAIN_TIMEOUT,
    )
    .await?;
    let paused = membership.pause().await;
    standalone.stop().await?;
    standalone.restore()?;
    let taken_back = TakenBack {
        sends: from..messages.ended_sends(),
        whole_logs: false,
    };
    membership.restore_model();
    standalone.restart().await?;
    drop(paused);
    // The log becomes longer than what clients had before, so that its length alone does not show what was taken back.
    tokio::time::sleep(2 * STEADY).await;
    Ok(taken_back)
}

async fn drain_connect(cluster: &mut Cluster) -> Result<()> {
    let mut victim = cluster.connects.remove(0);
    victim.process.signal(libc::SIGTERM)?;
    let status = victim.process.wait(DRAIN_TIMEOUT).await?;
    ensure!(
        status.success(),
        "connect exited with {status}:\n{}",
        victim.process.tail(20)
    );
    replace_connect(cluster, &victim).await
}

async fn replace_connect(cluster: &mut Cluster, old: &Connect) -> Result<()> {
    cluster.add_connect_at(&old.tcp, &old.ws)?;
    cluster.ready().await
}

async fn mend_redis(cluster: &mut Cluster) -> Result<()> {
    let folder = cluster.folder().to_owned();
    cluster.redis.replace_lost(&folder).await
}

/// Cuts off the replicas until clients have received what only the master holds, then kills the master.
async fn fail_over_cut_off(cluster: &mut Cluster, messages: &MessageWorkload) -> Result<()> {
    cluster.redis.cut_replicas_off().await?;
    let heads = messages.heads();
    // What the replicas never confirm is not published; it reaches clients when heads are compared.
    let received = until(
        "clients receive unconfirmed messages",
        Duration::from_secs(12),
        async || (messages.ahead_of(&heads) >= messages.clients() / 10).then_some(()),
    );
    received.await?;
    cluster.redis.fail_over().await?;
    mend_redis(cluster).await
}

/// Waits until every client has received a message that was sent after this call.
async fn all_receive(messages: &MessageWorkload, what: &str, timeout: Duration) -> Result<()> {
    let heads = messages.heads();
    until(what, timeout, async || {
        (messages.ahead_of(&heads) == messages.clients()).then_some(())
    })
    .await
}
