//! What is played on a cluster, one after the other.

mod authority;
mod calm;
mod etcd;
mod install;
mod losses;
mod namespaces;
mod redis;
mod rollouts;
mod volumes;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::kube::Kube;
use super::stage::{Played, Stage, Way, settled};
use crate::crowd::Size;

/// The namespace of the operator.
pub const SYSTEM: &str = "imcluster-system";
/// The operator's Deployment and Helm release.
pub const OPERATOR: &str = "im-operator";
/// The namespace and the name of the ImCluster that most cases are about.
const HA: (&str, &str) = ("im-e2e-ha", "demo");

/// One thing to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Case {
    /// `kubectl apply -k` of the operator, then of the minimal sample; removed again.
    Kustomize,
    /// `helm install` of the operator, then the minimal sample: time until Ready, a chat through the Service.
    Minimal,
    /// An edit that the API server refuses, with a message that says what to write.
    Refused,
    /// Delete and re-create the minimal sample: its data is found.
    Retain,
    /// Volumes of the minimal sample are to grow: first where their class can't, then where it can.
    VolumeGrowth,
    /// The volume of the minimal sample's redis is full for a while.
    RedisDiskFull,
    /// An operator with rights in two namespaces alone; one is deleted while it restarts, the other goes on.
    WatchNamespaces,
    /// The HA sample becomes Ready.
    Ha,
    /// New images for connect under the audit, as often as `--rollouts` says.
    ConnectRollout,
    /// New images for connect under the audit, as often, with `externalTrafficPolicy: Local` behind a balancer that cuts the
    /// connections of nodes whose check fails.
    ConnectRolloutLocal,
    /// New images for logic under the audit, as often as `--rollouts` says.
    LogicRollout,
    /// A new `spec.version`: every tier of ours, in order.
    Upgrade,
    /// A rollout of connect during which the operator is killed again and again.
    OperatorKilled,
    /// `kubectl rollout restart` of connect with the operator scaled to 0.
    OperatorAbsent,
    /// connect pods deleted with a grace period of one second.
    ShortGrace,
    /// A connect pod killed.
    ConnectKill,
    /// A logic pod killed.
    LogicKill,
    /// The redis master killed.
    RedisMasterKill,
    /// All redis and Sentinel pods deleted at once.
    RedisAllDeleted,
    /// Redis' settings, resources and image changed, for each durability.
    RedisRollout,
    /// A rollout of redis during which the operator is killed again and again.
    RedisRolloutOperatorKilled,
    /// A rollout of redis during which a replica stands still for a while.
    RedisRolloutReplicaCutOff,
    /// Etcd's resources changed: its members are replaced one after the other.
    EtcdRollout,
    /// Another internal authority takes its place, as asked for and after its Secret was deleted.
    AuthorityRotation,
    /// An etcd member killed.
    EtcdMemberKill,
    /// An etcd member and its volume deleted: the others take a new one in.
    EtcdMemberLost,
    /// A worker drained, and let in again.
    NodeDrain,
    /// The worker of the redis master drained, and let in again.
    MasterNodeDrain,
    /// `kubectl scale imc`: 2, 4, 2.
    Scale,
    /// An autoscaler says how many logic pods there are, and is taken away again.
    LogicAutoscaled,
    /// Five minutes in which nobody writes to the API server but the operator's lease.
    Quiet,
}

impl Case {
    /// All of them, in the order in which they are played.
    pub const ALL: [Self; 31] = [
        Self::Kustomize,
        Self::Minimal,
        Self::Refused,
        Self::Retain,
        Self::VolumeGrowth,
        Self::RedisDiskFull,
        Self::WatchNamespaces,
        Self::Ha,
        Self::ConnectRollout,
        Self::ConnectRolloutLocal,
        Self::LogicRollout,
        Self::Upgrade,
        Self::OperatorKilled,
        Self::OperatorAbsent,
        Self::ShortGrace,
        Self::ConnectKill,
        Self::LogicKill,
        Self::RedisMasterKill,
        Self::RedisAllDeleted,
        Self::RedisRollout,
        Self::RedisRolloutOperatorKilled,
        Self::RedisRolloutReplicaCutOff,
        Self::EtcdRollout,
        Self::AuthorityRotation,
        Self::EtcdMemberKill,
        Self::EtcdMemberLost,
        Self::NodeDrain,
        Self::MasterNodeDrain,
        Self::Scale,
        Self::LogicAutoscaled,
        Self::Quiet,
    ];
    /// What a change is checked with.
    pub const ESSENTIAL: [Self; 8] = [
        Self::Minimal,
        Self::Retain,
        Self::Ha,
        Self::ConnectRollout,
        Self::LogicRollout,
        Self::RedisMasterKill,
        Self::EtcdMemberLost,
        Self::NodeDrain,
    ];
}

/// How the cases are played.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// What to show, in this order. Default: what a change is checked with.
    #[arg(long = "case", value_enum)]
    pub cases: Vec<Case>,
    /// Every case.
    #[arg(long)]
    pub all: bool,
    /// The version that is installed; images of it are on the nodes.
    #[arg(long, default_value = "0.1.0")]
    pub version: String,
    /// The version that rollouts go to and come from; another build, and its images are on the nodes too.
    #[arg(long, default_value = "0.1.1")]
    pub next: String,
    /// The tag of redis' image that is on the nodes. Not given: the operator's choice.
    #[arg(long)]
    pub redis_tag: Option<String>,
    /// Another tag of redis' image that is on the nodes. Not given: rollouts of redis' image are left out.
    #[arg(long)]
    pub redis_next: Option<String>,
    /// Clients of the audit.
    #[arg(long, default_value_t = 1000)]
    pub connections: usize,
    /// Their rooms.
    #[arg(long, default_value_t = 50)]
    pub rooms: usize,
    /// Messages per second over all rooms.
    #[arg(long, default_value_t = 100)]
    pub rate: u32,
    /// How often a rollout is repeated.
    #[arg(long, default_value_t = 1)]
    pub rollouts: u32,
    /// How long a connect pod of the audited cluster may take to move its clients, in seconds.
    #[arg(long, default_value_t = 20)]
    pub drain_seconds: u32,
    /// A merge patch of the audited cluster's spec, in JSON: what else is to be tried.
    #[arg(long, default_value = "{}", value_parser = json_value)]
    pub spec: Value,
    /// The root of the source tree, with its charts and manifests.
    #[arg(long, default_value = ".")]
    pub tree: PathBuf,
    /// Where records, pods' logs and what a failure leaves behind are kept.
    #[arg(long, default_value = "target/kubernetes-e2e")]
    pub folder: PathBuf,
}

/// The cases' common ground.
struct Play {
    kube: Kube,
    options: Options,
    stage: Option<Stage>,
}

/// Plays the chosen cases; an error names those that failed.
#[allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]
pub async fn play(options: Options) -> Result<()> {
    let cases = match (options.all, options.cases.is_empty()) {
        (true, _) => Case::ALL.to_vec(),
        (false, true) => Case::ESSENTIAL.to_vec(),
        (false, false) => options.cases.clone(),
    };
    std::fs::create_dir_all(&options.folder)?;
    let mut play = Play { kube: Kube::connect().await?, options, stage: None };
    let mut failed = Vec::new();
    for case in cases {
        let begun = Instant::now();
        println!("== {case:?}");
        match Box::pin(play.one(case)).await {
            Ok(()) => println!("== {case:?}: passed in {:.0} s", begun.elapsed().as_secs_f64()),
            Err(error) => {
                println!("== {case:?}: FAILED after {:.0} s: {error:#}", begun.elapsed().as_secs_f64());
                if let Err(error) = play.leave_behind(case).await {
                    eprintln!("what the cluster looks like could not be kept: {error:#}");
                }
                failed.push(case);
                // The next case gets a crowd that has nothing behind it.
                play.stage = None;
            }
        }
    }
    ensure!(failed.is_empty(), "failed: {failed:?}; see {}", play.options.folder.display());
    Ok(())
}

impl Play {
    async fn one(&mut self, case: Case) -> Result<()> {
        match case {
            Case::Kustomize => self.kustomize().await,
            Case::Minimal => self.minimal().await,
            Case::Refused => self.refused().await,
            Case::Retain => self.retain().await,
            Case::Ha => self.ha().await,
            Case::VolumeGrowth => self.volume_growth().await,
            Case::RedisDiskFull => self.redis_disk_full().await,
            Case::WatchNamespaces => self.watch_namespaces().await,
            Case::ConnectRollout => self.rollouts("connect").await,
            Case::ConnectRolloutLocal => self.rollouts_local().await,
            Case::LogicRollout => self.rollouts("logic").await,
            Case::Upgrade => self.upgrade().await,
            Case::OperatorKilled => self.operator_killed().await,
            Case::OperatorAbsent => self.operator_absent().await,
            Case::ShortGrace => self.short_grace().await,
            Case::ConnectKill => self.kill("connect").await,
            Case::LogicKill => self.kill("logic").await,
            Case::RedisMasterKill => self.redis_master_kill().await,
            Case::RedisAllDeleted => self.redis_all_deleted().await,
            Case::RedisRollout => self.redis_rollout().await,
            Case::RedisRolloutOperatorKilled => self.redis_rollout_operator_killed().await,
            Case::RedisRolloutReplicaCutOff => self.redis_rollout_replica_cut_off().await,
            Case::EtcdRollout => self.etcd_rollout().await,
            Case::AuthorityRotation => self.authority_rotation().await,
            Case::EtcdMemberKill => self.kill("etcd").await,
            Case::EtcdMemberLost => self.etcd_member_lost().await,
            Case::NodeDrain => self.node_drain().await,
            Case::MasterNodeDrain => self.master_node_drain().await,
            Case::Scale => self.scale().await,
            Case::LogicAutoscaled => self.logic_autoscaled().await,
            Case::Quiet => self.quiet().await,
        }
    }

    /// The HA cluster with a crowd on it: brought up once, used by all cases that are about it.
    async fn stage(&mut self) -> Result<&Stage> {
        if self.stage.is_none() {
            self.bring_up_ha().await?;
            self.gather(Way::Nodes).await?;
        }
        self.stage.as_ref().context("just set")
    }

    /// A new crowd on the HA cluster.
    async fn gather(&mut self, way: Way) -> Result<()> {
        // The last one leaves first.
        self.stage = None;
        let Options { connections, rooms, rate, .. } = self.options;
        let size = Size { connections, rooms, rate };
        let stage = Stage::set(self.kube.clone(), HA.0, HA.1, &size, &self.options.folder, way).await?;
        self.stage = Some(stage);
        Ok(())
    }

    /// The stage with clients on every connect pod: a crowd that lost a pod's worth of places is gathered anew.
    async fn spread_stage(&mut self) -> Result<&Stage> {
        let pods: Vec<String> =
            self.stage().await?.witness.staying("connect").into_iter().map(|life| life.name).collect();
        for pod in pods {
            let (status, page) = self.kube.get(HA.0, &pod, 9100, "/drain").await?;
            ensure!(status == 200, "{pod}: {status}");
            if serde_json::from_str::<Value>(&page)?["connections"] == 0 {
                self.stage = None;
                break;
            }
        }
        self.stage().await
    }

    /// A sample as JSON, under another namespace and with a merge patch.
    async fn sample(&self, file: &str, namespace: &str, patch: &Value) -> Result<Value> {
        let path = self.options.tree.join("manifests/samples").join(file);
        let path = path.to_str().context("a path in UTF-8")?;
        let mut sample = self.kube.json(&["create", "--dry-run=client", "-f", path]).await?;
        merge(&mut sample, &json!({"metadata": {"namespace": namespace}}));
        merge(&mut sample, patch);
        Ok(sample)
    }

    /// A namespace in which only restricted pods may run.
    async fn namespace(&self, name: &str) -> Result<()> {
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        self.kube.apply(&namespace.to_string()).await.map(|_| ())
    }

    /// Deletes a namespace and waits until nothing of it is left.
    async fn remove_namespace(&self, name: &str) -> Result<()> {
        self.kube.kubectl(&["delete", "namespace", name, "--ignore-not-found", "--timeout=180s"]).await.map(|_| ())
    }

    /// States, events and the operator's log, for whoever looks into a failure.
    async fn leave_behind(&self, case: Case) -> Result<()> {
        let folder = self.options.folder.join(format!("failed-{case:?}"));
        std::fs::create_dir_all(&folder)?;
        let looks: [(&str, &[&str]); 6] = [
            ("imclusters.yaml", &["get", "imclusters", "-A", "-o", "yaml"]),
            ("describe.txt", &["describe", "imclusters", "-A"]),
            ("objects.txt", &["get", "all,pvc,pdb,endpointslices,netpol", "-A", "-o", "wide"]),
            ("pods.yaml", &["get", "pods", "-A", "-l", "app.kubernetes.io/managed-by=im-operator", "-o", "yaml"]),
            ("events.txt", &["get", "events", "-A", "--sort-by=.lastTimestamp"]),
            (
                "operator.log",
                &["logs", "-n", SYSTEM, "-l", "app.kubernetes.io/name=im-operator", "--tail=-1", "--prefix"],
            ),
        ];
        for (file, arguments) in looks {
            let text = self.kube.kubectl(arguments).await.unwrap_or_else(|error| format!("{error:#}"));
            std::fs::write(folder.join(file), text)?;
        }
        Ok(())
    }
}

/// How long no message may be acknowledged while a redis master hands over, in seconds.
const SILENCE: f64 = 5.0;

/// Fails where nothing was acknowledged for longer than a hand-over of redis may take.
fn spoke_on(played: &Played) -> Result<()> {
    let silence = played.figures.silence;
    ensure!(silence < SILENCE, "nothing was acknowledged for {silence:.1} s, which may be {SILENCE} s");
    Ok(())
}

/// Fails where a container was started again.
fn none_restarted(played: &Played) -> Result<()> {
    let restarts = played.figures.restarts;
    ensure!(restarts == 0, "{restarts} containers were started again");
    Ok(())
}

/// Kills all of the operator's pods.
async fn kill_operator(kube: &Kube) -> Result<()> {
    let system = kube.pods(SYSTEM);
    let operators = kube.kubectl(&["get", "pods", "-n", SYSTEM, "-o", "name"]).await?;
    for operator in operators.lines().filter_map(|line| line.strip_prefix("pod/")) {
        system.delete(operator, &DeleteParams::default().grace_period(0)).await?;
    }
    Ok(())
}

/// RFC 7386.
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

/// Prints what was played, and fails unless the audit is clean.
#[allow(clippy::print_stdout, reason = "a program for people")]
fn show(played: &Played) -> Result<()> {
    let (audit, verdict) = (&played.audit, &played.audit.verdict);
    let share = 100.0 * audit.resumed as f64 / (audit.resumed + audit.live).max(1) as f64;
    let away = &audit.away_ms;
    println!("{} took {:.1} s; the crowd spoke for {:.1} s", played.event, played.took, audit.seconds);
    println!(
        "  sends {}, acknowledged {}, unknown {}, written again {}, dedupe hits {}",
        verdict.sent, verdict.acknowledged, verdict.unknown, audit.retries, verdict.retried_duplicates
    );
    println!(
        "  delivered {}: {} live, {} by resuming ({share:.2} %); taken back {}",
        verdict.delivered, audit.live, audit.resumed, verdict.taken_back
    );
    println!(
        "  lost {}, acknowledged and lost {}, stored twice {}, repeated {}, reordered {}, phantoms {}, gaps in logs {}, truncated {}",
        verdict.lost,
        verdict.acknowledged_lost,
        verdict.stored_twice,
        verdict.repeated,
        verdict.reordered,
        verdict.phantoms,
        verdict.log_gaps,
        verdict.truncated
    );
    println!("  repeats on the wire {}, gaps on the wire {}", audit.repeats_dropped, audit.gaps_seen);
    println!(
        "  away {} times, p50 {} ms, p99 {} ms, max {} ms; moves {}, at most {} by one client; failed attempts to connect {}",
        away.count, away.p50, away.p99, away.max, audit.moves, audit.most_moves, audit.failed_attempts
    );
    println!("{}", played.figures);
    for example in &verdict.examples {
        println!("  ! {example}");
    }
    ensure!(audit.is_clean(), "the audit of {} is not clean; gave up: {:?}", played.event, audit.ended);
    Ok(())
}

fn json_value(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text)
}

/// The image tag of a tier: what a rollout of this tier alone changes.
fn tag(tier: &str, version: &str) -> Value {
    json!({"spec": {"images": {tier: {"tag": version}}}})
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}
