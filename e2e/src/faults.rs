//! `im-e2e faults`: one fault after the other is injected while clients send and users come and go; each run is checked.

mod fault;
mod nemesis;
mod report;

use std::time::Duration;

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;

pub use self::fault::{Environment, Fault};
use self::nemesis::{STEADY, Servers};
pub use self::report::{Report, table};
use crate::checked_run::CheckedRun;
use crate::servers::cluster::{Cluster, Plan};
use crate::servers::redis::MasterDiscovery;
use crate::servers::standalone::Standalone;
use crate::token::{SECRET, Signer};
use crate::workload::membership::MembershipWorkload;
use crate::workload::messages::{MessageWorkload, Size};

/// Presence expires this long after a node's last heartbeat. As short as possible: each run waits for two leases.
const PRESENCE_LEASE: Duration = Duration::from_secs(5);
/// Every list of rooms is compared at this interval: two leases, as by default.
const ROOMS_COMPARE: Duration = Duration::from_secs(10);
/// What a comparison has found is repaired within this.
const REPAIR: Duration = Duration::from_secs(3);
const USERS: usize = 16;
const GROUPS: usize = 8;

/// Servers and the workloads on them: used for all faults with the same environment.
pub struct Scenario {
    servers: Servers,
    messages: MessageWorkload,
    membership: MembershipWorkload,
    rate: u32,
    environment: Environment,
    /// Whether faults last their full length.
    full: bool,
}

impl Scenario {
    /// Starts the servers and connects the clients. Clients know the addresses of the connect processes that run now; a
    /// process that replaces another takes over its addresses.
    pub async fn start(
        environment: Environment,
        plan: Plan,
        size: &Size,
        full: bool,
    ) -> Result<Self> {
        let (servers, tcp, ws, apis) = match environment {
            Environment::Standalone => {
                let standalone = Standalone::start(intervals()).await?;
                let tcp = vec![standalone.tcp.clone()];
                let ws = vec![standalone.ws.clone()];
                let apis = standalone.apis.clone();
                (Servers::Standalone(Box::new(standalone)), tcp, ws, apis)
            }
            Environment::Cluster(redis) => {
                let connect_env = plan
                    .connect_env
                    .iter()
                    .cloned()
                    .chain(intervals())
                    .collect();
                // With replicas to wait for, a message is published on them too: a subscription left on one would get it.
                let wait_replicas = if redis == MasterDiscovery::OneAddress {
                    0
                } else {
                    plan.wait_replicas
                };
                let plan = Plan {
                    redis,
                    wait_replicas,
                    connect_env,
                    ..plan
                };
                let cluster = Cluster::start(plan).await?;
                let tcp = cluster
                    .connects
                    .iter()
                    .map(|connect| connect.tcp.clone())
                    .collect();
                let ws = cluster
                    .connects
                    .iter()
                    .map(|connect| connect.ws.clone())
                    .collect();
                let apis = cluster.apis.clone();
                (Servers::Cluster(Box::new(cluster)), tcp, ws, apis)
            }
        };
        let tcp: Vec<String> = tcp
            .iter()
            .map(|address| format!("tcp://{address}"))
            .collect();
        let ws: Vec<String> = ws
            .iter()
            .map(|address| format!("ws://{address}/ws"))
            .collect();
        let signer = Signer::new(SECRET);
        let messages = MessageWorkload::connect(size, &[&tcp, &ws], &signer).await?;
        let membership = MembershipWorkload::connect(USERS, GROUPS, &tcp, apis, &signer).await?;
        Ok(Self {
            servers,
            messages,
            membership,
            rate: size.rate,
            environment,
            full,
        })
    }

    /// What its servers are.
    pub fn environment(&self) -> Environment {
        self.environment
    }

    /// Injects a fault and mends it while the workloads run, waits until every client has received everything, and checks.
    /// Presence and rooms are checked two leases after the fault.
    pub async fn run(&mut self, fault: Fault) -> Result<Report> {
        let Self {
            servers,
            messages,
            membership,
            rate,
            full,
            ..
        } = self;
        let mut run = CheckedRun::start(messages).await?;
        let changes = membership.changes();
        let injected = run.during(*rate, async {
            let stop = CancellationToken::new();
            let inject = async {
                tokio::time::sleep(STEADY).await;
                let taken_back = nemesis::inject(servers, messages, membership, fault, *full).await;
                tokio::time::sleep(STEADY).await;
                stop.cancel();
                taken_back
            };
            let (taken_back, changed) = tokio::join!(inject, membership.run(&stop));
            changed.context("the membership workload")?;
            taken_back
        });
        let taken_back = injected.await.with_context(|| format!("{fault:?}"))?;
        let mended = tokio::time::Instant::now();
        let changes = membership.changes() - changes;
        let http = match servers {
            Servers::Cluster(cluster) => {
                &cluster
                    .logics
                    .first()
                    .context("no logic process runs")?
                    .http
            }
            Servers::Standalone(standalone) => &standalone.http,
        };
        let checked = run.check(http, &Signer::new(SECRET), &taken_back).await?;
        tokio::time::sleep_until(mended + 2 * PRESENCE_LEASE + REPAIR).await;
        let findings = membership
            .check(&messages.users())
            .await
            .context("presence and rooms")?;
        Ok(Report {
            fault,
            run: checked,
            changes,
            findings,
        })
    }
}

/// The settings for how soon presence and lists of rooms are repaired.
fn intervals() -> [(&'static str, String); 2] {
    [
        ("IM_PRESENCE_LEASE", PRESENCE_LEASE),
        ("IM_ROOMS_COMPARE", ROOMS_COMPARE),
    ]
    .map(|(name, interval)| (name, format!("{}ms", interval.as_millis())))
}
