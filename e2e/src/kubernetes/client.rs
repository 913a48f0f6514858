//! The cluster of KUBECONFIG, by its API server and by `kubectl` and `helm`.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Node, Pod, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
};
use serde_json::Value;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::process::output;
use crate::proxies::accept_each;

/// For a response through the API server.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(crate) struct Kube {
    pub(crate) client: kube::Client,
}

/// A port of a pod on loopback, until this is dropped.
pub(crate) struct Forward {
    pub(crate) address: String,
    _task: AbortOnDropHandle<()>,
}

impl Kube {
    pub(crate) async fn connect() -> Result<Self> {
        let client = kube::Client::try_default()
            .await
            .context("no cluster: set KUBECONFIG")?;
        client
            .apiserver_version()
            .await
            .context("the API server does not answer")?;
        Ok(Self { client })
    }

    pub(crate) fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) fn imclusters(&self, namespace: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("imcluster.io", "v1alpha1", "ImCluster");
        Api::namespaced_with(
            self.client.clone(),
            namespace,
            &ApiResource::from_gvk_with_plural(&kind, "imclusters"),
        )
    }

    /// One ImCluster as JSON.
    pub(crate) async fn imcluster(&self, namespace: &str, name: &str) -> Result<Value> {
        Ok(serde_json::to_value(
            self.imclusters(namespace).get(name).await?,
        )?)
    }

    /// Edits an ImCluster by a merge patch, as a user would.
    pub(crate) async fn edit(&self, namespace: &str, name: &str, patch: &Value) -> Result<()> {
        match self
            .imclusters(namespace)
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Ok(_) => Ok(()),
            // Only the message, as kubectl prints it.
            Err(kube::Error::Api(status)) => bail!("{}", status.message),
            Err(error) => Err(error.into()),
        }
    }

    /// The pods of one tier.
    pub(crate) async fn tier(
        &self,
        namespace: &str,
        cluster: &str,
        tier: &str,
    ) -> Result<Vec<Pod>> {
        let selector =
            format!("app.kubernetes.io/instance={cluster},app.kubernetes.io/component={tier}");
        Ok(self
            .pods(namespace)
            .list(&ListParams::default().labels(&selector))
            .await?
            .items)
    }

    /// The value of a key of a Secret.
    pub(crate) async fn secret(&self, namespace: &str, name: &str, key: &str) -> Result<Vec<u8>> {
        let secret = Api::<Secret>::namespaced(self.client.clone(), namespace)
            .get(name)
            .await?;
        let data = secret.data.unwrap_or_default();
        data.get(key)
            .map(|value| value.0.clone())
            .with_context(|| format!("Secret {name} has no key {key}"))
    }

    /// Where clients outside the cluster reach a port of a Service of type NodePort: at every worker.
    pub(crate) async fn node_addresses(
        &self,
        namespace: &str,
        service: &str,
        port: &str,
    ) -> Result<Vec<String>> {
        let found = Api::<Service>::namespaced(self.client.clone(), namespace)
            .get(service)
            .await?;
        let number = node_port(&found, port)?;
        Ok(self
            .workers()
            .await?
            .into_iter()
            .map(|address| format!("{address}:{number}"))
            .collect())
    }

    /// The address of every worker.
    pub(crate) async fn workers(&self) -> Result<Vec<String>> {
        let nodes = Api::<Node>::all(self.client.clone())
            .list(&ListParams::default())
            .await?;
        let mut addresses = Vec::new();
        for node in nodes {
            let control_plane = "node-role.kubernetes.io/control-plane";
            if node
                .metadata
                .labels
                .unwrap_or_default()
                .contains_key(control_plane)
            {
                continue;
            }
            let all = node
                .status
                .and_then(|status| status.addresses)
                .unwrap_or_default();
            let internal = all
                .into_iter()
                .find(|address| address.type_ == "InternalIP");
            addresses.extend(internal.map(|address| address.address));
        }
        ensure!(!addresses.is_empty(), "the cluster has no worker");
        Ok(addresses)
    }

    /// `GET` from a pod by port-forward, so without Services and NetworkPolicies: status and body.
    pub(crate) async fn get(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        path: &str,
    ) -> Result<(u16, String)> {
        let pods = self.pods(namespace);
        let fetch = async {
            let mut forwarder = pods.portforward(pod, &[port]).await?;
            let stream = forwarder.take_stream(port).context("no stream")?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
            let request = hyper::Request::get(path)
                .header("host", pod)
                .body(Empty::<bytes::Bytes>::new())?;
            let response = sender.send_request(request).await?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await?.to_bytes();
            anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        tokio::time::timeout(RESPONSE_TIMEOUT, fetch)
            .await
            .with_context(|| format!("{pod}:{port}{path}: no response in time"))?
    }

    /// Makes a port of a pod reachable on loopback.
    pub(crate) async fn forward(&self, namespace: &str, pod: &str, port: u16) -> Result<Forward> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?.to_string();
        let pods = self.pods(namespace);
        let pod = pod.to_owned();
        let accept = accept_each(listener, move |mut client: TcpStream| {
            let pods = pods.clone();
            let pod = pod.clone();
            async move {
                let Ok(mut forwarder) = pods.portforward(&pod, &[port]).await else {
                    return;
                };
                let Some(mut stream) = forwarder.take_stream(port) else {
                    return;
                };
                // Either side may close at any time.
                let _ = copy_bidirectional(&mut client, &mut stream).await;
            }
        });
        Ok(Forward {
            address,
            _task: AbortOnDropHandle::new(tokio::spawn(accept)),
        })
    }

    /// Kills the first container of a pod by SIGKILL on its node, as a crash would. Where that is impossible, outside of kind
    /// clusters, the pod is deleted without grace.
    pub(crate) async fn crash(&self, namespace: &str, pod: &str) -> Result<()> {
        let (node, _) = self.container(namespace, pod).await?;
        if Box::pin(output(
            "docker",
            &["inspect", "--format", "{{.Id}}", &node],
            "",
            RESPONSE_TIMEOUT,
        ))
        .await
        .is_ok()
        {
            return self.signal(namespace, pod, "SIGKILL").await;
        }
        self.pods(namespace)
            .delete(pod, &DeleteParams::default().grace_period(0))
            .await?;
        Ok(())
    }

    /// Sends a signal to the main process of a pod's first container through its node: on kind clusters only.
    pub(crate) async fn signal(&self, namespace: &str, pod: &str, signal: &str) -> Result<()> {
        let (node, id) = self.container(namespace, pod).await?;
        let arguments = [
            "exec",
            &node,
            "ctr",
            "--namespace",
            "k8s.io",
            "task",
            "kill",
            "--signal",
            signal,
            &id,
        ];
        Box::pin(output("docker", &arguments, "", RESPONSE_TIMEOUT))
            .await
            .map(|_| ())
    }

    /// The node of a pod and the id of its first container there.
    async fn container(&self, namespace: &str, pod: &str) -> Result<(String, String)> {
        let found = self.pods(namespace).get(pod).await?;
        let node = found
            .spec
            .and_then(|spec| spec.node_name)
            .context("the pod is not scheduled")?;
        let containers = found
            .status
            .and_then(|status| status.container_statuses)
            .unwrap_or_default();
        let id = containers
            .first()
            .and_then(|container| container.container_id.clone())
            .context("the pod has no container")?;
        Ok((
            node,
            id.strip_prefix("containerd://")
                .context("not a container of containerd")?
                .to_owned(),
        ))
    }

    /// Runs `kubectl` with these arguments.
    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        Box::pin(output("kubectl", arguments, "", Duration::from_secs(300))).await
    }

    /// Runs `kubectl` with these arguments and `-o json`.
    pub(crate) async fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[arguments, &["-o", "json"]].concat()).await?;
        serde_json::from_str(&text)
            .with_context(|| format!("kubectl {} did not print JSON", arguments.join(" ")))
    }

    /// `kubectl apply --server-side` of these objects in YAML or JSON.
    pub(crate) async fn apply(&self, objects: &str) -> Result<String> {
        let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        Box::pin(output(
            "kubectl",
            &arguments,
            objects,
            Duration::from_secs(60),
        ))
        .await
    }

    /// Runs `helm` with these arguments.
    pub(crate) async fn helm(&self, arguments: &[&str]) -> Result<String> {
        Box::pin(output("helm", arguments, "", Duration::from_secs(300))).await
    }
}

/// The node port of the Service's port with this name.
pub(crate) fn node_port(service: &Service, port: &str) -> Result<i32> {
    let ports = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten());
    let number = ports
        .into_iter()
        .find(|one| one.name.as_deref() == Some(port))
        .and_then(|one| one.node_port);
    let name = service.metadata.name.as_deref().unwrap_or_default();
    number.with_context(|| format!("Service {name} has no node port {port}"))
}

/// Seconds since 1970.
pub(crate) fn seconds(time: &Time) -> f64 {
    time.0.as_millisecond() as f64 / 1000.0
}
