//! What is broken while the crowd speaks and people come and go, one after the other, each under its own audit.

mod strike;

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::audited::{Audit, Begun};
use crate::backing::Way;
use crate::cluster::{Cluster, Plan, SECRET};
use crate::crowd::{Crowd, Size};
use crate::people::{Findings, People};
use crate::standalone::Standalone;
use crate::token::Signer;

/// How long the crowd speaks before and after a fault.
const CALM: Duration = Duration::from_secs(4);
/// Presence ends so long after a node's last sign of life: as short as may be, as everything is compared two of them after
/// each fault.
const PRESENCE_LEASE: Duration = Duration::from_secs(5);
/// Every list of rooms is compared once in so long: two leases, as by default.
const ROOMS_COMPARE: Duration = Duration::from_secs(10);
/// What a comparison has found is done within this.
const FOLLOWED_UP: Duration = Duration::from_secs(3);
const PERSONS: usize = 16;
const GROUPS: usize = 8;

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
    /// One connect stands still for 30 s (SIGSTOP), as on a machine that swaps or a paused virtual machine.
    ConnectPause,
    /// SIGTERM to one logic.
    LogicDrain,
    /// kill -9 of one logic.
    LogicKill,
    /// No logic for 30 s; with --full for 5 minutes.
    LogicGone,
    /// kill -9 of the redis master with its replicas in step.
    Failover,
    /// kill -9 of the redis master after its replicas were cut off: a tail is taken back and its seqs are given again.
    FailoverCutOff,
    /// All of redis stands still for 10 s (SIGSTOP).
    RedisFreeze,
    /// A planned failover behind one address: both servers live on, and only the address leads elsewhere.
    HandOver,
    /// Subscriptions are cut off from redis for 10 s, commands are not.
    BusCut,
    /// Commands are cut off from redis for 10 s, subscriptions are not.
    CommandsCut,
    /// The redis master is killed and comes back without its data.
    RedisWipe,
    /// etcd is killed, one logic with it; both come back.
    EtcdLoss,
    /// A backup is put back on standalone: what was said since is taken back.
    Restore,
}

/// What a fault is played on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// A cluster whose redis is found so.
    Cluster(Way),
    /// The standalone program.
    Standalone,
}

impl Fault {
    /// What is played where nothing is named, in this order.
    pub const ESSENTIAL: [Self; 8] = [
        Self::None,
        Self::ConnectDrain,
        Self::ConnectKill,
        Self::LogicDrain,
        Self::LogicKill,
        Self::EtcdLoss,
        Self::Failover,
        Self::FailoverCutOff,
    ];
    /// Every fault there is, those that are played on the same ground together.
    pub const ALL: [Self; 16] = [
        Self::None,
        Self::ConnectDrain,
        Self::ConnectKill,
        Self::ConnectPause,
        Self::LogicDrain,
        Self::LogicKill,
        Self::LogicGone,
        Self::EtcdLoss,
        Self::Failover,
        Self::FailoverCutOff,
        Self::RedisFreeze,
        Self::HandOver,
        Self::BusCut,
        Self::CommandsCut,
        Self::RedisWipe,
        Self::Restore,
    ];

    /// What it is played on.
    pub fn ground(self) -> Ground {
        match self {
            Self::Restore => Ground::Standalone,
            Self::RedisFreeze | Self::HandOver | Self::BusCut | Self::CommandsCut | Self::RedisWipe => {
                Ground::Cluster(Way::OneAddress)
            }
            _ => Ground::Cluster(Way::Sentinels),
        }
    }
}

/// What a fault did to everybody.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Which.
    pub fault: Fault,
    /// What it did.
    #[serde(flatten)]
    pub audit: Audit,
    /// Changes that people made meanwhile: joining, leaving, removing, direct rooms.
    pub changes: usize,
    /// What of presence and of rooms was wrong two leases later.
    pub findings: Findings,
}

impl Report {
    /// Whether nothing is lost, repeated, reordered or invented, nobody gave up, and presence and rooms are as they should.
    pub fn is_clean(&self) -> bool {
        self.audit.is_clean() && self.findings.is_empty()
    }
}

/// The settings that say how soon presence and lists of rooms are true again.
fn times() -> [(&'static str, String); 2] {
    [("IM_PRESENCE_LEASE", PRESENCE_LEASE), ("IM_ROOMS_COMPARE", ROOMS_COMPARE)]
        .map(|(name, time)| (name, format!("{}ms", time.as_millis())))
}

enum Site {
    Cluster(Box<Cluster>),
    Standalone(Box<Standalone>),
}

/// A site with a crowd and people on it.
pub struct Stage {
    site: Site,
    crowd: Crowd,
    people: People,
    size: Size,
    ground: Ground,
    /// Faults last as long as they are described, not shortened.
    full: bool,
}

impl Stage {
    /// Starts what faults of this ground are played on and gathers the crowd and the people. Clients know the addresses of
    /// the connect processes that run; a replaced process takes its predecessor's.
    pub async fn set(ground: Ground, plan: Plan, size: Size, full: bool) -> Result<Self> {
        let (site, tcp, ws, apis) = match ground {
            Ground::Standalone => {
                let standalone = Standalone::start(times()).await?;
                let (tcp, ws, apis) = (standalone.tcp.clone(), standalone.ws.clone(), standalone.apis.clone());
                (Site::Standalone(Box::new(standalone)), vec![tcp], vec![ws], apis)
            }
            Ground::Cluster(redis) => {
                let connect_env = plan.connect_env.iter().cloned().chain(times()).collect();
                // Where replicas are waited for, publishing reaches them too, so that a connection left behind at one hears.
                let wait_replicas = if redis == Way::OneAddress { 0 } else { plan.wait_replicas };
                let plan = Plan { redis, wait_replicas, connect_env, ..plan };
                let cluster = Cluster::start(plan).await?;
                let tcp = cluster.connects.iter().map(|connect| connect.tcp.clone()).collect();
                let ws = cluster.connects.iter().map(|connect| connect.ws.clone()).collect();
                let apis = cluster.apis.clone();
                (Site::Cluster(Box::new(cluster)), tcp, ws, apis)
            }
        };
        let tcp: Vec<String> = tcp.iter().map(|address| format!("tcp://{address}")).collect();
        let ws: Vec<String> = ws.iter().map(|address| format!("ws://{address}/ws")).collect();
        let signer = Signer::new(SECRET);
        let crowd = Crowd::gather(&size, &[&tcp, &ws], &signer).await?;
        let people = People::gather(PERSONS, GROUPS, &tcp, apis, &signer).await?;
        Ok(Self { site, crowd, people, size, ground, full })
    }

    /// What it stands on.
    pub fn ground(&self) -> Ground {
        self.ground
    }

    /// Lets the crowd speak and people come and go, breaks something, mends it, waits until everybody has everything, judges
    /// what was heard, and two leases after the fault holds presence and rooms against what they should be.
    pub async fn play(&mut self, fault: Fault) -> Result<Report> {
        let Self { site, crowd, people, size, full, .. } = self;
        let mut begun = Begun::now(crowd).await?;
        let changes = people.changes();
        let speaking = begun.speaking(size.rate, async {
            let stop = tokio_util::sync::CancellationToken::new();
            let striking = async {
                tokio::time::sleep(CALM).await;
                let taken_back = strike::strike(site, crowd, people, fault, *full).await;
                tokio::time::sleep(CALM).await;
                stop.cancel();
                taken_back
            };
            let (taken_back, lived) = tokio::join!(striking, people.live(&stop));
            lived.context("the people")?;
            taken_back
        });
        let taken_back = speaking.await.with_context(|| format!("{fault:?}"))?;
        let mended = tokio::time::Instant::now();
        let changes = people.changes() - changes;
        let http = match site {
            Site::Cluster(cluster) => cluster.logics.first().context("no logic runs")?.http.clone(),
            Site::Standalone(standalone) => standalone.http().to_owned(),
        };
        let audit = begun.judge(&http, &Signer::new(SECRET), &taken_back).await?;
        tokio::time::sleep_until(mended + 2 * PRESENCE_LEASE + FOLLOWED_UP).await;
        let findings = people.findings(&crowd.users()).await.context("presence and rooms")?;
        Ok(Report { fault, audit, changes, findings })
    }
}
