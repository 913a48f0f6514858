//! A crowd outside of the cluster, on one ImCluster in it, and the events that are played under its eyes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use super::balancer::Balancer;
use super::figures::Figures;
use super::kube::{Kube, until};
use super::witness::{Life, Witness, now};
use crate::audited::{Audit, Begun, TakenBack};
use crate::crowd::{Crowd, Size};
use crate::token::Signer;

/// How long the crowd speaks before and after an event.
const CALM: Duration = Duration::from_secs(5);
/// How long an ImCluster may take to become as it was asked to.
pub const PATIENCE: Duration = Duration::from_secs(900);
const HTTP: u16 = 3111;

/// How the crowd gets in.
pub enum Way {
    /// By the node ports of all workers.
    Nodes,
    /// By a balancer that believes the nodes' health checks.
    Balancer(Balancer),
}

impl Way {
    /// Where the crowd finds a port of the Service.
    async fn addresses(&self, kube: &Kube, namespace: &str, service: &str, port: &str) -> Result<Vec<String>> {
        match self {
            Self::Nodes => kube.outside(namespace, service, port).await,
            Self::Balancer(balancer) => Ok(vec![balancer.address(port).to_owned()]),
        }
    }
}

/// An ImCluster with what is needed to judge it.
pub struct Stage {
    /// The cluster around it.
    pub kube: Kube,
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Sees its pods.
    pub witness: Witness,
    crowd: Crowd,
    /// How the crowd gets in.
    pub way: Way,
    signer: Signer,
    rate: u32,
    folder: PathBuf,
}

/// What an event did to everybody.
#[derive(Debug, Serialize)]
pub struct Played {
    /// Which.
    pub event: String,
    /// What the crowd saw.
    pub audit: Audit,
    /// What the pods that ended showed.
    pub figures: Figures,
    /// How long the event took, in seconds.
    pub took: f64,
}

impl Stage {
    /// Gathers a crowd on an ImCluster that is ready. Half of it comes over TCP, half over WebSocket.
    pub async fn set(kube: Kube, namespace: &str, name: &str, size: &Size, folder: &Path, way: Way) -> Result<Self> {
        let logs = folder.join(namespace);
        std::fs::create_dir_all(&logs)?;
        let witness = Witness::begin(&kube, namespace, &logs);
        let signer = signer(&kube, namespace, name).await?;
        let service = format!("{name}-connect");
        let tcp = way.addresses(&kube, namespace, &service, "tcp").await?;
        let tcp: Vec<String> = tcp.iter().map(|address| format!("tcp://{address}")).collect();
        let ws = way.addresses(&kube, namespace, &service, "ws").await?;
        let ws: Vec<String> = ws.iter().map(|address| format!("ws://{address}/ws")).collect();
        let crowd = Crowd::gather(size, &[&tcp, &ws], &signer).await?;
        Ok(Self {
            kube,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            witness,
            crowd,
            way,
            signer,
            rate: size.rate,
            folder: folder.to_owned(),
        })
    }

    /// Lets the crowd speak while `event` happens, waits until everybody has everything, and judges.
    pub async fn play(&self, what: &str, event: impl Future<Output = Result<()>>) -> Result<Played> {
        let mut begun = Box::pin(Begun::now(&self.crowd)).await?;
        self.crowd.take_flights();
        let started = now();
        let event = Box::pin(event);
        let outcome = begun.speaking(self.rate, async {
            tokio::time::sleep(CALM).await;
            let start = tokio::time::Instant::now();
            let outcome = event.await;
            let took = start.elapsed().as_secs_f64();
            tokio::time::sleep(CALM).await;
            outcome.map(|()| took)
        });
        let outcome = Box::pin(outcome).await.with_context(|| what.to_owned());
        let audit = Box::pin(self.judge(begun)).await;
        let figures = Figures::of(&self.witness.lives(), started, &self.crowd.take_flights());
        let (took, audit) = match (outcome, audit) {
            (Ok(took), Ok(audit)) => (took, audit),
            (Err(error), audit) => {
                let saw = audit.map_or_else(|error| format!("{error:#}"), |audit| format!("{audit:#?}"));
                return Err(error.context(format!("the crowd saw: {saw}\n{figures}")));
            }
            (Ok(_), Err(error)) => return Err(error.context(format!("{what}\n{figures}"))),
        };
        let played = Played { event: what.to_owned(), audit, figures, took };
        let file = self.folder.join("played.jsonl");
        let mut line = serde_json::to_string(&played)?;
        line.push('\n');
        append(&file, &line)?;
        Ok(played)
    }

    async fn judge(&self, begun: Begun<'_>) -> Result<Audit> {
        let logic = self.witness.staying("logic").into_iter().find(|life| life.ready.is_some());
        let logic = logic.context("no logic pod to read the logs from")?;
        let forward = self.kube.forward(&self.namespace, &logic.name, HTTP).await?;
        begun.judge(&forward.address, &self.signer, &TakenBack::default()).await
    }

    /// How many clients the crowd has.
    pub fn clients(&self) -> u64 {
        self.crowd.stats().len() as u64
    }

    /// Waits until the ImCluster is as its spec says: see [`settled`].
    pub async fn settled(&self) -> Result<Duration> {
        settled(&self.kube, &self.namespace, &self.name).await
    }

    /// Edits the ImCluster and waits until it is as edited.
    pub async fn edit(&self, patch: &Value) -> Result<Duration> {
        self.kube.edit(&self.namespace, &self.name, patch).await?;
        self.settled().await
    }

    /// Waits until no pod of these tiers is there but Ready ones of this version, none of them about to end.
    pub async fn all_run(&self, tiers: &[&str], version: &str) -> Result<()> {
        let probe = async || {
            for tier in tiers {
                let ending = self.witness.ending(tier).len();
                ensure!(ending == 0, "{ending} pods of {tier} still end");
                let pods = self.witness.staying(tier);
                ensure!(!pods.is_empty(), "no pod of {tier}");
                for pod in pods {
                    let said = pod.version.as_deref().unwrap_or("nothing yet");
                    ensure!(said == version, "{} says it is {said}, not {version}", pod.name);
                }
            }
            Ok(())
        };
        until(&format!("{tiers:?} run {version} alone"), PATIENCE, probe).await.map(|_| ())
    }

    /// The tier's pod with the most clients that is not about to end.
    pub fn a_pod(&self, tier: &str) -> Result<Life> {
        self.witness
            .staying(tier)
            .into_iter()
            .find(|life| life.ready.is_some())
            .with_context(|| format!("no pod of {tier}"))
    }
}

/// Signs with the secret that the operator generated.
pub async fn signer(kube: &Kube, namespace: &str, name: &str) -> Result<Signer> {
    Ok(Signer::new(kube.secret(namespace, &format!("{name}-auth"), "hs256-secret").await?))
}

/// Waits until the operator has seen the present spec, says Ready, and progresses no more: how long that took.
pub async fn settled(kube: &Kube, namespace: &str, name: &str) -> Result<Duration> {
    let probe = async || {
        let found = kube.imcluster(namespace, name).await?;
        let (generation, status) = (&found["metadata"]["generation"], &found["status"]);
        ensure!(status["observedGeneration"] == *generation, "generation {generation} is not seen yet");
        for (kind, wanted) in [("Ready", "True"), ("Progressing", "False")] {
            let condition = condition(status, kind)?;
            let (is, why) = (&condition["status"], &condition["message"]);
            ensure!(condition["observedGeneration"] == *generation, "{kind} is of an older generation");
            ensure!(is == wanted, "{kind} is {is}: {} {why}", condition["reason"]);
        }
        Ok(())
    };
    until(&format!("{namespace}/{name} is as its spec says"), PATIENCE, probe).await
}

/// A condition by its type.
pub fn condition<'a>(status: &'a Value, kind: &str) -> Result<&'a Value> {
    let all = status["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    match all.iter().find(|condition| condition["type"] == kind) {
        Some(found) => Ok(found),
        None => bail!("there is no condition {kind}"),
    }
}

fn append(file: &Path, line: &str) -> Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file)?;
    Ok(file.write_all(line.as_bytes())?)
}
