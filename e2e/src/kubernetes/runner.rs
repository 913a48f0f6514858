//! What cases share: the cluster, the installed operator, the samples, and the scenario on the HA cluster.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::client::Kube;
use super::scenario::{Access, Scenario, settled};
use crate::workload::messages::Size;

/// The namespace of the operator.
pub(crate) const SYSTEM: &str = "imcluster-system";
/// The operator's Deployment and Helm release.
pub(crate) const OPERATOR: &str = "im-operator";
/// Namespace and name of the ImCluster that most cases are about.
pub(crate) const HA: (&str, &str) = ("im-e2e-ha", "demo");
/// Namespace and name of the ImCluster of the minimal sample.
pub(crate) const MINIMAL: (&str, &str) = ("im-e2e-minimal", "demo");

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// The version to install; its images are on the nodes.
    #[arg(long, default_value = "0.1.0")]
    pub(crate) version: String,
    /// The version that rollouts go to and come from: another build, whose images are on the nodes too.
    #[arg(long, default_value = "0.1.1")]
    pub(crate) next: String,
    /// The tag of a redis image that is on the nodes. Default: the operator's choice.
    #[arg(long)]
    pub(crate) redis_tag: Option<String>,
    /// Another tag of a redis image that is on the nodes. Without it, no rollout changes redis' image.
    #[arg(long)]
    pub(crate) redis_next: Option<String>,
    /// Clients of the workload.
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// Their rooms.
    #[arg(long, default_value_t = 50)]
    rooms: usize,
    /// Messages per second over all rooms.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// How often a rollout is repeated.
    #[arg(long, default_value_t = 1)]
    pub(crate) rollouts: u32,
    /// How long a connect pod of the HA cluster may take to move its clients, in seconds.
    #[arg(long, default_value_t = 20)]
    drain_seconds: u32,
    /// A JSON merge patch for the spec of the HA cluster.
    #[arg(long, default_value = "{}", value_parser = json_value)]
    spec: Value,
    /// The root of the source tree, with its charts and manifests.
    #[arg(long, default_value = ".")]
    tree: PathBuf,
    /// Where reports, logs of pods and the state after a failure are written.
    #[arg(long, default_value = "target/kubernetes-e2e")]
    pub(crate) folder: PathBuf,
}

pub(crate) struct Runner {
    pub(crate) kube: Kube,
    pub(crate) options: Options,
    scenario: Option<Scenario>,
}

impl Runner {
    pub(crate) async fn start(options: Options) -> Result<Self> {
        std::fs::create_dir_all(&options.folder)?;
        Ok(Self {
            kube: Kube::connect().await?,
            options,
            scenario: None,
        })
    }

    /// The HA cluster with a workload on it: set up once, used by all cases that are about it.
    pub(crate) async fn scenario(&mut self) -> Result<&Scenario> {
        if self.scenario.is_none() {
            self.set_up_ha().await?;
            self.start_scenario(Access::NodePorts).await?;
        }
        self.scenario.as_ref().context("just set")
    }

    /// A new workload on the HA cluster; the last one is disconnected first.
    pub(crate) async fn start_scenario(&mut self, access: Access) -> Result<&Scenario> {
        self.scenario = None;
        let Options {
            connections,
            rooms,
            rate,
            ..
        } = self.options;
        let size = Size {
            connections,
            rooms,
            rate,
        };
        let scenario = Scenario::start(
            self.kube.clone(),
            HA.0,
            HA.1,
            &size,
            &self.options.folder,
            access,
        )
        .await?;
        Ok(self.scenario.insert(scenario))
    }

    pub(crate) fn end_scenario(&mut self) {
        self.scenario = None;
    }

    /// The scenario with clients on every connect pod: if a pod has none, the workload reconnects.
    pub(crate) async fn spread_scenario(&mut self) -> Result<&Scenario> {
        let pods = self.scenario().await?.pods.running("connect");
        for pod in pods {
            let (status, page) = self.kube.get(HA.0, &pod.name, 9100, "/drain").await?;
            ensure!(status == 200, "{}: {status}", pod.name);
            if serde_json::from_str::<Value>(&page)?["connections"] == 0 {
                self.end_scenario();
                break;
            }
        }
        self.scenario().await
    }

    /// The version that a tier of the HA cluster has, and the one to roll out next.
    pub(crate) async fn versions(&mut self, tier: &str) -> Result<(String, String)> {
        let current = self
            .scenario()
            .await?
            .ready_pod(tier)?
            .version
            .context("the version is unknown")?;
        let Options { version, next, .. } = &self.options;
        let to = if current == *next { version } else { next };
        Ok((current, to.clone()))
    }

    /// The operator by Helm, as in the README, in the version under test.
    pub(crate) async fn install(&self) -> Result<()> {
        self.install_with(&[]).await
    }

    /// The same, with more arguments for Helm.
    #[expect(clippy::print_stdout, reason = "a command line program")]
    pub(crate) async fn install_with(&self, more: &[&str]) -> Result<()> {
        let begun = Instant::now();
        let chart = self.options.tree.join("charts/im-operator");
        let tag = format!("image.tag={}", self.options.version);
        // Long enough for kubelets and processes on a slow machine.
        let pause = "env.IM_AUTHORITY_PAUSE=150s";
        let release = [
            "upgrade",
            "--install",
            OPERATOR,
            utf8(&chart)?,
            "--namespace",
            SYSTEM,
        ];
        let flags = [
            "--create-namespace",
            "--take-ownership",
            "--wait",
            "--timeout",
            "180s",
        ];
        let values = ["--set", &tag, "--set", pause];
        self.kube
            .helm(&[&release[..], &flags[..], &values[..], more].concat())
            .await?;
        println!(
            "  helm install: the operator is ready after {:.1} s",
            begun.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// The path of the kustomization.
    pub(crate) fn manifests(&self) -> Result<String> {
        Ok(utf8(&self.options.tree.join("manifests"))?.to_owned())
    }

    /// The minimal sample in an empty namespace, until it is Ready. Clients connect by node ports.
    #[expect(clippy::print_stdout, reason = "a command line program")]
    pub(crate) async fn fresh_minimal(&self) -> Result<()> {
        self.remove_namespace(MINIMAL.0).await?;
        self.create_namespace(MINIMAL.0).await?;
        let begun = Instant::now();
        self.minimal_in(MINIMAL.0).await?;
        println!(
            "  the minimal sample is Ready after {:.1} s",
            begun.elapsed().as_secs_f64()
        );
        print!(
            "{}",
            self.kube.kubectl(&["get", "imc", "-n", MINIMAL.0]).await?
        );
        Ok(())
    }

    /// The minimal sample in a namespace, until it is Ready.
    pub(crate) async fn minimal_in(&self, namespace: &str) -> Result<()> {
        let name = MINIMAL.1;
        let spec = json!({
            "version": self.options.version,
            "connect": {"service": node_port_service()},
            "images": self.images(),
        });
        let patch = json!({"metadata": {"name": name}, "spec": spec});
        let sample = self.sample("minimal.yaml", namespace, &patch).await?;
        self.kube.apply(&sample.to_string()).await?;
        settled(&self.kube, namespace, name).await.map(|_| ())
    }

    /// The operator and the HA sample, in the version under test and with a short drain.
    #[expect(clippy::print_stdout, reason = "a command line program")]
    async fn set_up_ha(&self) -> Result<()> {
        let (namespace, name) = HA;
        self.install().await?;
        self.create_namespace(namespace).await?;
        let connect = json!({
            "drainSeconds": self.options.drain_seconds,
            "service": node_port_service(),
            "rollout": {"maxDraining": 1},
        });
        let spec =
            json!({"version": self.options.version, "connect": connect, "images": self.images()});
        let mut sample = self
            .sample(
                "ha.yaml",
                namespace,
                &json!({"metadata": {"name": name}, "spec": spec}),
            )
            .await?;
        merge(&mut sample, &json!({"spec": self.options.spec}));
        let begun = Instant::now();
        self.kube.apply(&sample.to_string()).await?;
        settled(&self.kube, namespace, name).await?;
        println!(
            "  the HA sample is Ready after {:.1} s",
            begun.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// The images to use in place of those of a sample.
    fn images(&self) -> Value {
        self.options.redis_tag.as_ref().map_or(
            Value::Null,
            |tag| json!({"redis": {"repository": "redis", "tag": tag}}),
        )
    }

    /// A sample as JSON, in another namespace and with a merge patch.
    async fn sample(&self, file: &str, namespace: &str, patch: &Value) -> Result<Value> {
        let path = self.options.tree.join("manifests/samples").join(file);
        let mut sample = self
            .kube
            .json(&["create", "--dry-run=client", "-f", utf8(&path)?])
            .await?;
        merge(&mut sample, &json!({"metadata": {"namespace": namespace}}));
        merge(&mut sample, patch);
        Ok(sample)
    }

    /// Creates a namespace in which only restricted pods may run.
    pub(crate) async fn create_namespace(&self, name: &str) -> Result<()> {
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        self.kube.apply(&namespace.to_string()).await.map(|_| ())
    }

    /// Deletes a namespace and waits until it is gone.
    pub(crate) async fn remove_namespace(&self, name: &str) -> Result<()> {
        self.kube
            .kubectl(&[
                "delete",
                "namespace",
                name,
                "--ignore-not-found",
                "--timeout=180s",
            ])
            .await
            .map(|_| ())
    }

    /// Writes objects, events and the operator's log to a folder, to debug a failure.
    pub(crate) async fn dump_state(&self, folder: &str) -> Result<()> {
        let folder = self.options.folder.join(folder);
        std::fs::create_dir_all(&folder)?;
        let managed = "app.kubernetes.io/managed-by=im-operator";
        let operator = "app.kubernetes.io/name=im-operator";
        let dumps: [(&str, &[&str]); 6] = [
            (
                "imclusters.yaml",
                &["get", "imclusters", "-A", "-o", "yaml"],
            ),
            ("describe.txt", &["describe", "imclusters", "-A"]),
            (
                "objects.txt",
                &[
                    "get",
                    "all,pvc,pdb,endpointslices,netpol",
                    "-A",
                    "-o",
                    "wide",
                ],
            ),
            (
                "pods.yaml",
                &["get", "pods", "-A", "-l", managed, "-o", "yaml"],
            ),
            (
                "events.txt",
                &["get", "events", "-A", "--sort-by=.lastTimestamp"],
            ),
            (
                "operator.log",
                &[
                    "logs",
                    "-n",
                    SYSTEM,
                    "-l",
                    operator,
                    "--tail=-1",
                    "--prefix",
                ],
            ),
        ];
        for (file, arguments) in dumps {
            let text = self
                .kube
                .kubectl(arguments)
                .await
                .unwrap_or_else(|error| format!("{error:#}"));
            std::fs::write(folder.join(file), text)?;
        }
        Ok(())
    }
}

/// Kills all pods of the operator.
pub(crate) async fn kill_operator(kube: &Kube) -> Result<()> {
    let system = kube.pods(SYSTEM);
    let operators = kube
        .kubectl(&["get", "pods", "-n", SYSTEM, "-o", "name"])
        .await?;
    for operator in operators
        .lines()
        .filter_map(|line| line.strip_prefix("pod/"))
    {
        system
            .delete(operator, &DeleteParams::default().grace_period(0))
            .await?;
    }
    Ok(())
}

pub(crate) fn node_port_service() -> Value {
    json!({"type": "NodePort", "externalTrafficPolicy": "Cluster"})
}

/// Applies a merge patch by RFC 7386.
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

fn json_value(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text)
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().context("the path is not UTF-8")
}
