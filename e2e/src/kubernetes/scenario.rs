//! A workload outside of the cluster on one ImCluster, and checked runs of it while something happens in the cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use im_runtime::clock;
use serde_json::Value;

use super::balancer::Balancer;
use super::client::Kube;
use super::measurements::Measurements;
use super::pod_recorder::{PodRecord, PodRecorder};
use super::report::EventReport;
use crate::checked_run::{CheckedRun, RunReport, TakenBack};
use crate::token::Signer;
use crate::wait::until_ok;
use crate::workload::messages::{MessageWorkload, Size};

/// How long the workload runs undisturbed before and after an event.
const STEADY: Duration = Duration::from_secs(5);
/// How long an ImCluster may take to become what its spec says.
pub(crate) const SETTLE_TIMEOUT: Duration = Duration::from_secs(900);
const HTTP_PORT: u16 = 3111;

/// How clients reach the cluster.
pub(crate) enum Access {
    /// By the node ports of all workers.
    NodePorts,
    /// By a load balancer that goes by the nodes' health checks.
    Balancer(Balancer),
}

impl Access {
    /// The addresses of a port of the Service.
    async fn addresses(
        &self,
        kube: &Kube,
        namespace: &str,
        service: &str,
        port: &str,
    ) -> Result<Vec<String>> {
        match self {
            Self::NodePorts => kube.node_addresses(namespace, service, port).await,
            Self::Balancer(balancer) => Ok(vec![balancer.address(port).to_owned()]),
        }
    }
}

/// An ImCluster with a workload and a recorder of its pods.
pub(crate) struct Scenario {
    pub(crate) kube: Kube,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) pods: PodRecorder,
    pub(crate) access: Access,
    workload: MessageWorkload,
    signer: Signer,
    rate: u32,
    folder: PathBuf,
}

impl Scenario {
    /// Connects a workload to an ImCluster that is ready, half of it over TCP and half over WebSocket.
    pub(crate) async fn start(
        kube: Kube,
        namespace: &str,
        name: &str,
        size: &Size,
        folder: &Path,
        access: Access,
    ) -> Result<Self> {
        let logs = folder.join(namespace);
        std::fs::create_dir_all(&logs)?;
        let pods = PodRecorder::start(&kube, namespace, &logs);
        let signer = signer(&kube, namespace, name).await?;
        let service = format!("{name}-connect");
        let tcp = access.addresses(&kube, namespace, &service, "tcp").await?;
        let tcp: Vec<String> = tcp
            .iter()
            .map(|address| format!("tcp://{address}"))
            .collect();
        let ws = access.addresses(&kube, namespace, &service, "ws").await?;
        let ws: Vec<String> = ws
            .iter()
            .map(|address| format!("ws://{address}/ws"))
            .collect();
        let workload = MessageWorkload::connect(size, &[&tcp, &ws], &signer).await?;
        Ok(Self {
            kube,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            pods,
            access,
            workload,
            signer,
            rate: size.rate,
            folder: folder.to_owned(),
        })
    }

    /// Runs the workload while `event` happens, waits until every client has received everything, checks, and prints the
    /// report. Fails unless the run is clean.
    #[expect(clippy::print_stdout, reason = "a command line program")]
    pub(crate) async fn run(
        &self,
        what: &str,
        event: impl Future<Output = Result<()>>,
    ) -> Result<EventReport> {
        let mut run = Box::pin(CheckedRun::start(&self.workload)).await?;
        self.workload.take_send_times();
        let from = clock::unix().as_secs_f64();
        let event = Box::pin(event);
        let outcome = run.during(self.rate, async {
            tokio::time::sleep(STEADY).await;
            let start = tokio::time::Instant::now();
            let outcome = event.await;
            let took = start.elapsed().as_secs_f64();
            tokio::time::sleep(STEADY).await;
            outcome.map(|()| took)
        });
        let outcome = Box::pin(outcome).await.with_context(|| what.to_owned());
        let checked = Box::pin(self.check(run)).await;
        let measurements =
            Measurements::since(from, &self.pods.records(), &self.workload.take_send_times());
        let (took, run) = match (outcome, checked) {
            (Ok(took), Ok(run)) => (took, run),
            (Err(error), checked) => {
                let clients =
                    checked.map_or_else(|error| format!("{error:#}"), |run| format!("{run:#?}"));
                return Err(error.context(format!("clients saw: {clients}\n{measurements}")));
            }
            (Ok(_), Err(error)) => return Err(error.context(format!("{what}\n{measurements}"))),
        };
        let report = EventReport {
            event: what.to_owned(),
            run,
            measurements,
            took,
        };
        let mut line = serde_json::to_string(&report)?;
        line.push('\n');
        append(&self.folder.join("played.jsonl"), &line)?;
        println!("{report}");
        report.require_clean()?;
        Ok(report)
    }

    async fn check(&self, run: CheckedRun<'_>) -> Result<RunReport> {
        let logic = self.ready_pod("logic")?;
        let forward = self
            .kube
            .forward(&self.namespace, &logic.name, HTTP_PORT)
            .await?;
        run.check(&forward.address, &self.signer, &TakenBack::default())
            .await
    }

    /// Number of clients.
    pub(crate) fn clients(&self) -> u64 {
        self.workload.clients() as u64
    }

    /// Waits until the ImCluster is what its spec says: see [`settled`].
    pub(crate) async fn settled(&self) -> Result<Duration> {
        settled(&self.kube, &self.namespace, &self.name).await
    }

    /// Edits the ImCluster and waits until it has settled.
    pub(crate) async fn edit(&self, patch: &Value) -> Result<Duration> {
        self.kube.edit(&self.namespace, &self.name, patch).await?;
        self.settled().await
    }

    /// Waits until these tiers have only pods of this version, and none that is terminating.
    pub(crate) async fn all_run(&self, tiers: &[&str], version: &str) -> Result<()> {
        let probe = async || {
            for tier in tiers {
                let terminating = self.pods.terminating(tier).len();
                ensure!(
                    terminating == 0,
                    "{terminating} pods of {tier} are terminating"
                );
                let pods = self.pods.running(tier);
                ensure!(!pods.is_empty(), "no pod of {tier}");
                for pod in pods {
                    let reported = pod.version.as_deref().unwrap_or("unknown");
                    ensure!(
                        reported == version,
                        "{} has version {reported}, not {version}",
                        pod.name
                    );
                }
            }
            Ok(())
        };
        until_ok(
            &format!("all pods of {tiers:?} have version {version}"),
            SETTLE_TIMEOUT,
            probe,
        )
        .await
        .map(|_| ())
    }

    /// Waits until none of the pods with these UIDs exists.
    pub(crate) async fn all_gone(&self, uids: &[String]) -> Result<()> {
        let probe = async || {
            let left: Vec<String> = self
                .remaining(uids)
                .into_iter()
                .map(|pod| pod.name)
                .collect();
            ensure!(left.is_empty(), "{left:?} still exist");
            Ok(())
        };
        until_ok("the old pods are gone", SETTLE_TIMEOUT, probe)
            .await
            .map(|_| ())
    }

    /// The pods with these UIDs that still exist.
    pub(crate) fn remaining(&self, uids: &[String]) -> Vec<PodRecord> {
        self.pods
            .records()
            .into_iter()
            .filter(|pod| uids.contains(&pod.uid) && pod.gone.is_none())
            .collect()
    }

    /// The UIDs of the tier's running pods.
    pub(crate) fn uids(&self, tier: &str) -> Vec<String> {
        self.pods
            .running(tier)
            .into_iter()
            .map(|pod| pod.uid)
            .collect()
    }

    /// A running pod of the tier that has been ready.
    pub(crate) fn ready_pod(&self, tier: &str) -> Result<PodRecord> {
        let pod = self
            .pods
            .running(tier)
            .into_iter()
            .find(|pod| pod.ready.is_some());
        pod.with_context(|| format!("no ready pod of {tier}"))
    }
}

/// Signs with the secret that the operator generated.
pub(crate) async fn signer(kube: &Kube, namespace: &str, name: &str) -> Result<Signer> {
    Ok(Signer::new(
        kube.secret(namespace, &format!("{name}-auth"), "hs256-secret")
            .await?,
    ))
}

/// Waits until the operator has observed the current spec, reports Ready and no longer Progressing: how long that took.
pub(crate) async fn settled(kube: &Kube, namespace: &str, name: &str) -> Result<Duration> {
    let probe = async || {
        let found = kube.imcluster(namespace, name).await?;
        let generation = &found["metadata"]["generation"];
        let status = &found["status"];
        ensure!(
            status["observedGeneration"] == *generation,
            "generation {generation} is not observed yet"
        );
        for (kind, wanted) in [("Ready", "True"), ("Progressing", "False")] {
            let condition = condition(status, kind)?;
            let actual = &condition["status"];
            ensure!(
                condition["observedGeneration"] == *generation,
                "{kind} is of an older generation"
            );
            ensure!(
                actual == wanted,
                "{kind} is {actual}: {} {}",
                condition["reason"],
                condition["message"]
            );
        }
        Ok(())
    };
    until_ok(
        &format!("{namespace}/{name} is what its spec says"),
        SETTLE_TIMEOUT,
        probe,
    )
    .await
}

/// The condition of this type.
pub(crate) fn condition<'a>(status: &'a Value, kind: &str) -> Result<&'a Value> {
    let all = status["conditions"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    all.iter()
        .find(|condition| condition["type"] == kind)
        .with_context(|| format!("no condition {kind}"))
}

fn append(file: &Path, line: &str) -> Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)?;
    Ok(file.write_all(line.as_bytes())?)
}
