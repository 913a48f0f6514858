//! An API server in memory with an operator at work on it.

use std::sync::Arc;
use std::time::Duration;

use crate::context::Context;
use crate::controller::{self, Controller};
use crate::kubernetes::calls::Gate;
use crate::kubernetes::key::Key;
use crate::settings::Settings;
use crate::validate::Pods;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::server::Server;

pub(crate) struct World {
    pub(crate) server: Server,
    context: Arc<Context>,
    _work: JoinSet<()>,
}

pub(crate) fn settings() -> Settings {
    Settings {
        watch_namespaces: Vec::new(),
        namespace: "operators".to_owned(),
        operator_image: "imcluster/operator:1".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        pods: Pods::Confined,
        leader_election: false,
        lease_name: "im-operator".to_owned(),
        lease_duration: Duration::from_secs(15),
        visits: 4,
        revisit: Duration::from_secs(600),
        drain_interval: Duration::from_secs(5),
        authority_pause: Duration::from_secs(1),
    }
}

pub(crate) fn cluster(spec: &Value) -> Value {
    json!({"apiVersion": "imcluster.io/v1alpha1", "kind": "ImCluster", "metadata": {"name": "demo"}, "spec": spec})
}

/// One whose redis and etcd are somebody else's, so that its state follows from its objects alone.
pub(crate) fn external() -> Value {
    json!({"version": "1.0.0",
        "connect": {"replicas": 2}, "logic": {"replicas": 2},
        "redis": {"mode": "External", "external": {"urlSecret": {"name": "their-redis", "key": "url"}}},
        "etcd": {"mode": "External", "external": {"endpoints": ["http://etcd.example:2379"]}}})
}

pub(crate) fn secret(name: &str, key: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": {key: "cmVkaXM6Ly9yZWRpcy5leGFtcGxl"}})
}

impl World {
    pub(crate) async fn with(prepare: impl FnOnce(&Server)) -> Self {
        let server = Server::new();
        server.put("secrets", secret("their-redis", "url"));
        prepare(&server);
        Self::join(server).await
    }

    /// Another operator process at an API server that has been used.
    pub(crate) async fn join(server: Server) -> Self {
        Self::join_as(server, settings()).await
    }

    pub(crate) async fn join_as(server: Server, settings: Settings) -> Self {
        let context = Arc::new(Context::new(
            server.client(Gate::open()),
            Gate::open(),
            settings,
            "test",
        ));
        let controller = Arc::new(Controller::new(Arc::clone(&context)));
        let mut work = JoinSet::new();
        for (_, task) in controller::work(&controller) {
            work.spawn(task);
        }
        let world = Self {
            server,
            context,
            _work: work,
        };
        world.rest().await;
        world
    }

    /// Until nothing has been written for a while.
    pub(crate) async fn rest(&self) {
        let mut quiet = 0;
        let mut last = usize::MAX;
        timeout(Duration::from_secs(600), async {
            while quiet < 10 {
                sleep(Duration::from_secs(1)).await;
                let now = self.server.count();
                quiet = if now == last { quiet + 1 } else { 0 };
                last = now;
            }
        })
        .await
        .expect("it never comes to rest");
    }

    /// Until it is no more waited for what has not been read.
    pub(crate) async fn after_reading(&self) {
        sleep(Duration::from_secs(20)).await;
        self.rest().await;
    }

    /// What Kubernetes would do: pods of every Deployment, ready.
    pub(crate) async fn settle(&self) {
        for name in self.server.names("deployments") {
            self.pods_of(&name);
        }
        self.rest().await;
    }

    pub(crate) fn pods_of(&self, name: &str) {
        let deployment = self.server.get("deployments", name).unwrap();
        let replicas = deployment["spec"]["replicas"].as_i64().unwrap();
        let template = &deployment["spec"]["template"];
        let mut labels = template["metadata"]["labels"].clone();
        labels["pod-template-hash"] = json!("r1");
        self.server.put("replicasets", json!({"metadata": {"name": format!("{name}-r1"), "labels": labels,
            "annotations": {"deployment.kubernetes.io/revision": "1"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": deployment["metadata"]["uid"], "controller": true}]}}));
        for ordinal in 0..replicas {
            self.server.put(
                "pods",
                json!({"metadata": {"name": format!("{name}-{ordinal}"), "labels": labels}, "spec": template["spec"],
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}),
            );
        }
        self.server.edit("deployments", name, |deployment| {
            deployment["status"] = json!({"observedGeneration": deployment["metadata"]["generation"], "replicas": replicas,
                "updatedReplicas": replicas, "readyReplicas": replicas});
        });
    }

    /// A condition's status and reason.
    pub(crate) fn condition(&self, kind: &str) -> (String, String) {
        let cluster = self.server.get("imclusters", "demo").unwrap();
        let found = cluster["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == kind);
        let text = |key: &str| {
            found
                .and_then(|condition| condition[key].as_str())
                .unwrap_or_default()
                .to_owned()
        };
        (text("status"), text("reason"))
    }

    /// The writes since the last look, without Events.
    pub(crate) fn writes(&self) -> Vec<String> {
        let writes = self
            .server
            .writes()
            .into_iter()
            .filter(|(_, kind, _)| kind != "events");
        writes
            .map(|(verb, kind, name)| format!("{verb} {kind} {name}"))
            .collect()
    }

    pub(crate) fn wake(&self) {
        self.context.queue.wake(Key::new("chat", "demo"));
    }
}

pub(crate) fn is(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}
