//! What keeps an ImCluster from serving as asked for: each has a condition with its reason and an Event.

use serde_json::{Value, json};

use super::world::{World, cluster, external, is};

impl World {
    /// That the cause is told by the tier's condition, by `Degraded`, and by an Event.
    fn tells(&self, tier: &str, reason: &str) {
        assert_eq!(self.condition(tier), is("False", reason), "{reason}");
        assert_eq!(self.condition("Degraded"), is("True", reason), "{reason}");
        let names = self.server.names("events");
        let events: Vec<Value> = names
            .iter()
            .filter_map(|name| self.server.get("events", name))
            .collect();
        let told = events
            .iter()
            .any(|event| event["reason"] == reason && event["type"] == "Warning");
        assert!(told, "no warning {reason} in {events:?}");
    }
}

fn waiting(reason: &str) -> Value {
    json!([{"name": "connect", "image": "x", "imageID": "", "ready": false, "restartCount": 4,
        "state": {"waiting": {"reason": reason, "message": "as the kubelet says"}}}])
}

#[tokio::test(start_paused = true)]
async fn what_keeps_pods_from_running_is_told_and_taken_back() {
    let world = World::with(|server| server.put("imclusters", cluster(&external()))).await;
    world.settle().await;
    assert_eq!(world.condition("Ready").0, "True");
    let unschedulable = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]);
    let causes = [
        ("Unschedulable", "conditions", unschedulable),
        (
            "ImagePullFailed",
            "containerStatuses",
            waiting("ImagePullBackOff"),
        ),
        (
            "CrashLooping",
            "containerStatuses",
            waiting("CrashLoopBackOff"),
        ),
        (
            "ReferenceMissing",
            "containerStatuses",
            waiting("CreateContainerConfigError"),
        ),
    ];
    for (reason, field, cause) in causes {
        world.server.edit("pods", "demo-connect-0", |pod| {
            pod["status"] = json!({"phase": "Pending", "conditions": []});
            pod["status"][field] = cause;
        });
        world.rest().await;
        world.tells("ConnectReady", reason);
    }
    world.settle().await;
    assert_eq!(world.condition("Ready").0, "True");
    assert_eq!(world.condition("Degraded"), is("False", "AsExpected"));
}

#[tokio::test(start_paused = true)]
async fn a_quota_that_is_used_up_is_told() {
    let world = World::with(|server| server.put("imclusters", cluster(&external()))).await;
    world.settle().await;
    world.server.delete("pods", "demo-connect-0");
    world.server.edit("deployments", "demo-connect", |deployment| {
        deployment["status"]["conditions"] = json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
            "message": "pods is forbidden: exceeded quota: small"}]);
    });
    world.rest().await;
    world.tells("ConnectReady", "QuotaExceeded");
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_does_not_come_is_told() {
    let mut spec = external();
    spec["redis"] = json!({"mode": "Single"});
    let world = World::with(|server| server.put("imclusters", cluster(&spec))).await;
    let labels =
        world.server.get("statefulsets", "demo-redis").unwrap()["metadata"]["labels"].clone();
    world.server.put(
        "persistentvolumeclaims",
        json!({"metadata": {"name": "data-demo-redis-0", "labels": labels, "creationTimestamp": "2020-01-01T00:00:00Z"},
            "spec": {}, "status": {"phase": "Pending"}}),
    );
    world.rest().await;
    world.tells("RedisReady", "VolumePending");
}

#[tokio::test(start_paused = true)]
async fn a_redis_and_an_etcd_that_do_not_answer_are_told() {
    let mut spec = external();
    spec["redis"] = json!({"mode": "Single"});
    spec["etcd"] = json!({"replicas": 3});
    let world = World::with(|server| {
        server.put("imclusters", cluster(&spec));
        server.put(
            "persistentvolumeclaims",
            json!({"metadata": {"name": "data-demo-etcd-0", "labels": {"imcluster.io/cluster": "demo"},
                "annotations": {"imcluster.io/bootstrapped": "true"}}, "spec": {}, "status": {"phase": "Bound"}}),
        );
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    world.rest().await;
    assert_eq!(world.condition("RedisReady"), is("False", "NoMaster"));
    assert_eq!(world.condition("EtcdReady"), is("False", "NoQuorum"));
    world.tells("RedisReady", "NoMaster");
}
