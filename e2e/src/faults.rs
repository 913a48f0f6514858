//! What is broken while the crowd speaks, one after the other, each under its own audit.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::audited::{Audit, Begun};
use crate::cluster::{Cluster, Connect, SECRET};
use crate::crowd::{Crowd, Size};
use crate::process::until;
use crate::token::Signer;

/// How long the crowd speaks before and after a fault.
const CALM: Duration = Duration::from_secs(4);
const DRAIN: Duration = Duration::from_secs(90);

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Nothing: what the crowd does when left alone.
    None,
    /// SIGTERM to one connect, which moves its clients and ends.
    ConnectDrain,
    /// kill -9 of one connect.
    ConnectKill,
    /// SIGTERM to one logic.
    LogicDrain,
    /// kill -9 of one logic.
    LogicKill,
    /// kill -9 of the redis master with its replicas in step.
    Failover,
    /// kill -9 of the redis master after its replicas were cut off: a tail is taken back and its seqs are given again.
    FailoverCutOff,
    /// etcd is killed, one logic with it; both come back.
    EtcdLoss,
}

impl Fault {
    /// Every fault, in the order in which they are played.
    pub const ALL: [Self; 8] = [
        Self::None,
        Self::ConnectDrain,
        Self::ConnectKill,
        Self::LogicDrain,
        Self::LogicKill,
        Self::EtcdLoss,
        Self::Failover,
        Self::FailoverCutOff,
    ];
}

/// What a fault did to everybody.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Which.
    pub fault: Fault,
    /// What it did.
    #[serde(flatten)]
    pub audit: Audit,
}

/// A cluster with a crowd on it.
pub struct Stage {
    cluster: Cluster,
    crowd: Crowd,
    size: Size,
}

impl Stage {
    /// Gathers the crowd. Clients know the addresses of the connect processes that run and of those that `spare` will run
    /// on: none here, a replaced process takes its predecessor's addresses.
    pub async fn set(cluster: Cluster, size: Size) -> Result<Self> {
        let tcp: Vec<String> = cluster.connects.iter().map(|connect| format!("tcp://{}", connect.tcp)).collect();
        let websocket: Vec<String> = cluster.connects.iter().map(|connect| format!("ws://{}/ws", connect.ws)).collect();
        let crowd = Crowd::gather(&size, &[&tcp, &websocket], &Signer::new(SECRET)).await?;
        Ok(Self { cluster, crowd, size })
    }

    /// Lets the crowd speak, breaks something, mends it, waits until everybody has everything, and judges.
    pub async fn play(&mut self, fault: Fault) -> Result<Report> {
        let (crowd, cluster) = (&self.crowd, &mut self.cluster);
        let mut begun = Begun::now(crowd).await?;
        let broken = begun.speaking(self.size.rate, async {
            tokio::time::sleep(CALM).await;
            let broken = strike(cluster, crowd, fault).await;
            tokio::time::sleep(CALM).await;
            broken
        });
        broken.await.with_context(|| format!("{fault:?}"))?;
        let logic = self.cluster.logics.first().context("no logic runs")?;
        Ok(Report { fault, audit: begun.judge(&logic.http, &Signer::new(SECRET)).await? })
    }
}

async fn strike(cluster: &mut Cluster, crowd: &Crowd, fault: Fault) -> Result<()> {
    match fault {
        Fault::None => Ok(()),
        Fault::ConnectDrain => drain_connect(cluster).await,
        Fault::ConnectKill => {
            let mut victim = cluster.connects.remove(0);
            victim.process.kill()?;
            tokio::time::sleep(CALM).await;
            replace_connect(cluster, &victim).await
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
        Fault::Failover => {
            cluster.redis.fail_over().await?;
            mend_redis(cluster).await
        }
        Fault::FailoverCutOff => fail_over_cut_off(cluster, crowd).await,
        Fault::EtcdLoss => {
            cluster.etcd.kill()?;
            cluster.logics.remove(0).process.kill()?;
            tokio::time::sleep(CALM).await;
            let folder = cluster.folder().to_owned();
            cluster.etcd.restart(&folder).await?;
            cluster.add_logic()?;
            cluster.ready().await
        }
    }
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
    let heads = crowd.heard();
    cluster.redis.cut_replicas_off().await?;
    let patience = Duration::from_secs(12);
    // What the replicas never confirm is not published; it reaches clients when heads are compared.
    let seen = until("clients hear what is not confirmed", patience, async || {
        (crowd.ahead_of(&heads) >= crowd.len() / 10).then_some(())
    });
    seen.await?;
    cluster.redis.fail_over().await?;
    mend_redis(cluster).await
}
