//! The cluster that KUBECONFIG names.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Node, Pod, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use serde_json::Value;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_util::task::AbortOnDropHandle;

/// How long an answer through the API server may take.
const ANSWER: Duration = Duration::from_secs(10);

/// A cluster, by its API server and by `kubectl` and `helm`.
#[derive(Clone)]
pub struct Kube {
    /// Typed access.
    pub client: kube::Client,
}

/// A port of a pod on loopback, for as long as this lives.
pub struct Forward {
    /// `127.0.0.1:port`.
    pub address: String,
    _task: AbortOnDropHandle<()>,
}

impl Kube {
    /// The cluster of KUBECONFIG.
    pub async fn connect() -> Result<Self> {
        let client = kube::Client::try_default().await.context("no cluster: set KUBECONFIG")?;
        client.apiserver_version().await.context("the API server does not answer")?;
        Ok(Self { client })
    }

    /// The pods of a namespace.
    pub fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The ImClusters of a namespace.
    pub fn imclusters(&self, namespace: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("imcluster.io", "v1alpha1", "ImCluster");
        Api::namespaced_with(self.client.clone(), namespace, &ApiResource::from_gvk_with_plural(&kind, "imclusters"))
    }

    /// One ImCluster as JSON.
    pub async fn imcluster(&self, namespace: &str, name: &str) -> Result<Value> {
        Ok(serde_json::to_value(self.imclusters(namespace).get(name).await?)?)
    }

    /// A merge patch of one ImCluster, as a user's edit.
    pub async fn edit(&self, namespace: &str, name: &str, patch: &Value) -> Result<()> {
        match self.imclusters(namespace).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            // What kubectl would print.
            Err(kube::Error::Api(status)) => bail!("{}", status.message),
            Err(error) => Err(error.into()),
        }
    }

    /// The pods of one tier.
    pub async fn tier(&self, namespace: &str, cluster: &str, tier: &str) -> Result<Vec<Pod>> {
        let selector = format!("app.kubernetes.io/instance={cluster},app.kubernetes.io/component={tier}");
        Ok(self.pods(namespace).list(&ListParams::default().labels(&selector)).await?.items)
    }

    /// A key of a Secret.
    pub async fn secret(&self, namespace: &str, name: &str, key: &str) -> Result<Vec<u8>> {
        let secret = Api::<Secret>::namespaced(self.client.clone(), namespace).get(name).await?;
        let data = secret.data.unwrap_or_default();
        data.get(key).map(|value| value.0.clone()).with_context(|| format!("Secret {name} has no key {key}"))
    }

    /// Where something outside the cluster reaches a port of a Service of type NodePort: every worker's address.
    pub async fn outside(&self, namespace: &str, service: &str, port: &str) -> Result<Vec<String>> {
        let found = Api::<Service>::namespaced(self.client.clone(), namespace).get(service).await?;
        let number = node_port(&found, port)?;
        Ok(self.workers().await?.into_iter().map(|address| format!("{address}:{number}")).collect())
    }

    /// Every worker's address.
    pub async fn workers(&self) -> Result<Vec<String>> {
        let nodes = Api::<Node>::all(self.client.clone()).list(&ListParams::default()).await?;
        let mut addresses = Vec::new();
        for node in nodes {
            let control_plane = "node-role.kubernetes.io/control-plane";
            if node.metadata.labels.unwrap_or_default().contains_key(control_plane) {
                continue;
            }
            let known = node.status.and_then(|status| status.addresses).unwrap_or_default();
            let internal = known.into_iter().find(|address| address.type_ == "InternalIP");
            addresses.extend(internal.map(|address| address.address));
        }
        ensure!(!addresses.is_empty(), "the cluster has no worker");
        Ok(addresses)
    }

    /// `GET` of a pod's port and path, past Services and NetworkPolicies: status and body.
    pub async fn get(&self, namespace: &str, pod: &str, port: u16, path: &str) -> Result<(u16, String)> {
        let pods = self.pods(namespace);
        let fetch = async {
            let mut forwarder = pods.portforward(pod, &[port]).await?;
            let stream = forwarder.take_stream(port).context("no stream")?;
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
            let request = hyper::Request::get(path).header("host", pod).body(Empty::<bytes::Bytes>::new())?;
            let answer = sender.send_request(request).await?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await?.to_bytes();
            anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        tokio::time::timeout(ANSWER, fetch).await.with_context(|| format!("{pod}:{port}{path}: no answer in time"))?
    }

    /// Makes a port of a pod reachable on loopback.
    pub async fn forward(&self, namespace: &str, pod: &str, port: u16) -> Result<Forward> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?.to_string();
        let (pods, pod) = (self.pods(namespace), pod.to_owned());
        let accept = async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (pods, pod) = (pods.clone(), pod.clone());
                tokio::spawn(async move {
                    let Ok(mut forwarder) = pods.portforward(&pod, &[port]).await else { return };
                    let Some(mut stream) = forwarder.take_stream(port) else { return };
                    // Either end may go at any time.
                    let _ = copy_bidirectional(&mut socket, &mut stream).await;
                });
            }
        };
        Ok(Forward { address, _task: AbortOnDropHandle::new(tokio::spawn(accept)) })
    }

    /// Ends the first container of a pod by SIGKILL. On a kind cluster its node does it, as a crash would; elsewhere the pod
    /// is deleted without grace.
    pub async fn crash(&self, namespace: &str, pod: &str) -> Result<()> {
        let (node, _) = self.container(namespace, pod).await?;
        if Box::pin(run("docker", &["inspect", "--format", "{{.Id}}", &node], "", ANSWER)).await.is_ok() {
            return self.signal(namespace, pod, "SIGKILL").await;
        }
        self.pods(namespace).delete(pod, &DeleteParams::default().grace_period(0)).await?;
        Ok(())
    }

    /// Sends a signal to the first process of a pod's first container, by way of its node: on kind clusters only.
    pub async fn signal(&self, namespace: &str, pod: &str, signal: &str) -> Result<()> {
        let (node, id) = self.container(namespace, pod).await?;
        let words = ["exec", &node, "ctr", "--namespace", "k8s.io", "task", "kill", "--signal", signal, &id];
        Box::pin(run("docker", &words, "", ANSWER)).await.map(|_| ())
    }

    /// The node of a pod and the id of its first container there.
    async fn container(&self, namespace: &str, pod: &str) -> Result<(String, String)> {
        let found = self.pods(namespace).get(pod).await?;
        let node = found.spec.and_then(|spec| spec.node_name).context("it runs nowhere")?;
        let containers = found.status.and_then(|status| status.container_statuses).unwrap_or_default();
        let id =
            containers.first().and_then(|container| container.container_id.clone()).context("it has no container")?;
        Ok((node, id.strip_prefix("containerd://").context("a container of containerd")?.to_owned()))
    }

    /// Runs `kubectl` with these arguments.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        Box::pin(run("kubectl", arguments, "", Duration::from_secs(300))).await
    }

    /// Runs `kubectl` with these arguments and `-o json`.
    pub async fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[arguments, &["-o", "json"]].concat()).await?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {} gives no JSON", arguments.join(" ")))
    }

    /// `kubectl apply --server-side` of these objects in YAML or JSON.
    pub async fn apply(&self, objects: &str) -> Result<String> {
        let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        Box::pin(run("kubectl", &arguments, objects, Duration::from_secs(60))).await
    }

    /// Runs `helm` with these arguments.
    pub async fn helm(&self, arguments: &[&str]) -> Result<String> {
        Box::pin(run("helm", arguments, "", Duration::from_secs(300))).await
    }
}

/// The node port of a Service's port of this name.
pub fn node_port(service: &Service, port: &str) -> Result<i32> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let number = ports.into_iter().find(|one| one.name.as_deref() == Some(port)).and_then(|one| one.node_port);
    let name = service.metadata.name.as_deref().unwrap_or_default();
    number.with_context(|| format!("Service {name} has no node port {port}"))
}

/// Runs a program with an input: its output, or an error with all it said.
pub async fn run(program: &str, arguments: &[&str], input: &str, patience: Duration) -> Result<String> {
    let what = || format!("{program} {}", arguments.join(" "));
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(what)?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(input.as_bytes()).await?;
    drop(stdin);
    let output = tokio::time::timeout(patience, child.wait_with_output()).await.with_context(what)??;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{}: {}\n{said}{}", what(), output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(said)
}

/// Waits until `probe` says so, asking twice a second; what it said last is in the error.
pub async fn until(what: &str, patience: Duration, mut probe: impl AsyncFnMut() -> Result<()>) -> Result<Duration> {
    let begun = tokio::time::Instant::now();
    loop {
        match probe().await {
            Ok(()) => return Ok(begun.elapsed()),
            Err(error) if begun.elapsed() > patience => {
                return Err(error.context(format!("not within {patience:?}: {what}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

/// Seconds since 1970.
pub fn seconds(time: &Time) -> f64 {
    time.0.as_millisecond() as f64 / 1000.0
}
