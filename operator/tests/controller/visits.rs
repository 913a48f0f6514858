//! Visits: exact calls, nothing on the second pass, faults, references, rivals.

use std::time::Duration;

use im_operator::settings::Settings;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::server::Server;
use crate::world::{World, cluster, external, is, secret, settings};

const MANAGED: &[&str] = &[
    "networkpolicies",
    "serviceaccounts",
    "poddisruptionbudgets",
    "services",
    "statefulsets",
    "deployments",
    "secrets",
];

pub(crate) struct World {
    pub(crate) server: Server,
    context: Arc<Context>,
    _work: JoinSet<()>,
}

fn settings() -> Settings {
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

fn secret(name: &str, key: &str) -> Value {
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
    async fn join(server: Server) -> Self {
        Self::join_as(server, settings()).await
    }

    async fn join_as(server: Server, settings: Settings) -> Self {
        let context = Arc::new(Context::new(server.client(Gate::open()), Gate::open(), settings, "test"));
        let mut work = JoinSet::new();
        for (_, task) in controller::work(&context) {
            work.spawn(task);
        }
        let world = Self { server, context, _work: work };
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
    async fn after_reading(&self) {
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

    fn pods_of(&self, name: &str) {
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
        let text = |key: &str| found.and_then(|condition| condition[key].as_str()).unwrap_or_default().to_owned();
        (text("status"), text("reason"))
    }

    /// The writes since the last look, without Events.
    fn writes(&self) -> Vec<String> {
        let writes = self.server.writes().into_iter().filter(|(_, kind, _)| kind != "events");
        writes.map(|(verb, kind, name)| format!("{verb} {kind} {name}")).collect()
    }

    fn wake(&self) {
        self.context.queue.wake(Key::new("chat", "demo"));
    }
}

pub(crate) fn is(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[tokio::test(start_paused = true)]
async fn the_first_visit_makes_each_thing_once_and_in_order() {
    let world = World::with(|server| server.put("imclusters", cluster(&external()))).await;
    let writes = world.writes();
    let position = |write: &str| {
        writes.iter().position(|made| made == write).unwrap_or_else(|| panic!("no {write} in {writes:#?}"))
    };
    assert_eq!(position("apply imclusters demo"), 0);
    let order = [
        "create secrets demo-peer",
        "create secrets demo-ca",
        "create secrets demo-connect-tls",
        "apply networkpolicies demo-connect",
        "apply deployments demo-logic",
        "apply deployments demo-connect",
        "apply imclusters/status demo",
    ];
    assert!(order.map(position).is_sorted(), "{writes:#?}");
    let mut once: Vec<_> = writes.iter().filter(|write| !write.contains("imclusters/status")).collect();
    let all = once.len();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), all, "{writes:#?}");
    assert_eq!(world.condition("Progressing"), is("True", "SettingUp"));
}

#[tokio::test(start_paused = true)]
async fn a_settled_cluster_causes_no_write() {
    let world = World::with(|server| server.put("imclusters", cluster(&external()))).await;
    world.settle().await;
    assert_eq!(world.condition("Ready"), is("True", "AsExpected"));
    assert_eq!(world.condition("Progressing"), is("False", "Settled"));
    world.server.writes();
    for _ in 0..3 {
        world.wake();
        world.rest().await;
    }
    assert_eq!(world.server.writes(), []);

    // Nor does a new operator process write anything but its Lease.
    let next = World::join(world.server.clone()).await;
    assert_eq!(next.server.writes(), []);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changes_is_put_right_and_nothing_else() {
    let world = World::with(|server| server.put("imclusters", cluster(&external()))).await;
    world.settle().await;
    world.server.writes();
    world.server.edit("services", "demo-logic", |service| {
        let entries = service["metadata"]["managedFields"].as_array_mut().unwrap();
        // Who changes a field takes it from us.
        entries[0]["fieldsV1"]["f:spec"] = json!({".": {}});
        service["spec"]["selector"] = json!({"hijacked": "true"});
    });
    world.rest().await;
    assert_eq!(world.writes(), ["apply services demo-logic"]);
    world.server.delete("poddisruptionbudgets", "demo-logic");
    world.rest().await;
    assert_eq!(world.writes(), ["apply poddisruptionbudgets demo-logic"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_wanted_any_more_goes_and_strangers_stay() {
    let world = World::with(|server| {
        server.put("imclusters", cluster(&external()));
        let labels = json!({"imcluster.io/cluster": "demo", "app.kubernetes.io/managed-by": "im-operator"});
        server.put("networkpolicies", json!({"metadata": {"name": "by-hand", "labels": labels}, "spec": {}}));
        server.put("networkpolicies", json!({"metadata": {"name": "of-another", "labels": labels, "annotations": {"imcluster.io/applied": "x"},
            "ownerReferences": [{"apiVersion": "imcluster.io/v1alpha1", "kind": "ImCluster", "name": "demo", "uid": "older", "controller": true}]}, "spec": {}}));
    })
    .await;
    world.settle().await;
    world.server.writes();
    let mut spec = external();
    spec["networkPolicy"] = json!({"enabled": false});
    world.server.edit("imclusters", "demo", |cluster| cluster["spec"] = spec);
    world.rest().await;
    let mut writes = world.writes();
    writes.retain(|write| !write.contains("imclusters/status"));
    writes.sort();
    assert_eq!(writes, ["delete networkpolicies demo-connect", "delete networkpolicies demo-logic"]);
    assert_eq!(world.server.names("networkpolicies"), ["by-hand", "of-another"]);
}

#[tokio::test(start_paused = true)]
async fn after_any_fault_the_end_is_the_same() {
    let calm = World::with(|server| server.put("imclusters", cluster(&external()))).await;
    calm.settle().await;
    let names = |world: &World| MANAGED.iter().map(|kind| world.server.names(kind)).collect::<Vec<_>>();
    for (verb, kind, code) in [
        ("apply", "deployments", 409),
        ("apply", "services", 500),
        ("apply", "networkpolicies", 429),
        ("create", "secrets", 409),
        ("create", "secrets", 503),
        ("apply", "imclusters", 409),
        ("apply", "imclusters/status", 500),
        ("get", "secrets", 410),
    ] {
        let world = World::with(|server| {
            server.fail(verb, kind, code, 3);
            server.put("imclusters", cluster(&external()));
        })
        .await;
        world.settle().await;
        assert_eq!(world.server.failures_left(), 0, "{verb} {kind} {code}");
        assert_eq!(names(&world), names(&calm), "{verb} {kind} {code}");
        assert_eq!(world.condition("Ready"), is("True", "AsExpected"), "{verb} {kind} {code}");
        assert_eq!(world.condition("Degraded").0, "False", "{verb} {kind} {code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_lasts_is_reported_with_its_reason() {
    let world = World::with(|server| {
        server.fail("apply", "deployments", 422, usize::MAX);
        server.put("imclusters", cluster(&external()));
    })
    .await;
    assert_eq!(world.condition("Degraded"), is("True", "ApplyFailed"));
    assert!(!world.server.names("events").is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_watch_that_fails_keeps_no_other_from_going_on() {
    let world = World::with(|server| server.put("imclusters", cluster(&external()))).await;
    world.settle().await;
    world.server.writes();
    world.server.break_watch("networkpolicies", Some(500));
    world.server.edit("imclusters", "demo", |cluster| cluster["spec"]["logic"]["replicas"] = json!(3));
    world.rest().await;
    assert_eq!(world.server.get("deployments", "demo-logic").unwrap()["spec"]["replicas"], 3);

    // And a watch that is too old lists anew.
    world.server.break_watch("imclusters", Some(410));
    world.rest().await;
    world.server.break_watch("imclusters", None);
    world.server.edit("imclusters", "demo", |cluster| cluster["spec"]["logic"]["replicas"] = json!(2));
    // It is tried again after a while that has grown.
    sleep(Duration::from_secs(60)).await;
    world.rest().await;
    assert_eq!(world.server.get("deployments", "demo-logic").unwrap()["spec"]["replicas"], 2);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_listed_holds_up_only_what_needs_it_and_is_told() {
    // Of what each object can be asked for by itself.
    let world = World::with(|server| {
        server.put("imclusters", cluster(&external()));
        server.break_watch("networkpolicies", Some(403));
    })
    .await;
    world.after_reading().await;
    world.settle().await;
    assert_eq!(world.server.get("deployments", "demo-logic").unwrap()["spec"]["replicas"], 2);
    assert_eq!(world.condition("Ready"), is("True", "AsExpected"));
    assert_eq!(world.condition("Degraded"), is("True", "WatchFailing"));
    world.server.break_watch("networkpolicies", None);
    world.rest().await;
    assert_eq!(world.condition("Degraded").0, "False");

    // Without these nothing can be known.
    let world = World::with(|server| {
        server.put("imclusters", cluster(&external()));
        server.break_watch("statefulsets", Some(403));
    })
    .await;
    world.after_reading().await;
    assert_eq!(world.condition("Degraded"), is("True", "WatchFailing"));
    for kind in ["Ready", "Available", "ConnectReady", "Progressing"] {
        assert_eq!(world.condition(kind), is("Unknown", "WatchFailing"), "{kind}");
    }
    assert!(world.server.get("deployments", "demo-logic").is_none(), "nothing is decided blindly");
    world.server.break_watch("statefulsets", None);
    world.rest().await;
    world.settle().await;
    assert_eq!(world.condition("Ready").0, "True");
    assert_eq!(world.condition("Degraded").0, "False");
}

#[tokio::test(start_paused = true)]
async fn ready_and_version_speak_of_a_spec_that_was_applied() {
    let world = World::with(|server| server.put("imclusters", cluster(&external()))).await;
    world.settle().await;
    let version = || world.server.get("imclusters", "demo").unwrap()["status"]["version"].clone();
    assert_eq!((world.condition("Ready").0.as_str(), version()), ("True", json!("1.0.0")));

    // A new version that names a Secret that is not there.
    world.server.edit("imclusters", "demo", |cluster| {
        cluster["spec"]["version"] = json!("2.0.0");
        cluster["spec"]["redis"]["external"]["urlSecret"]["name"] = json!("not-there");
    });
    world.rest().await;
    assert_eq!(world.condition("Ready"), is("False", "ReferenceMissing"));
    assert_eq!(world.condition("Available").0, "True", "what ran before goes on");
    assert_eq!(version(), json!("1.0.0"));

    // While paused.
    world.server.edit("imclusters", "demo", |cluster| {
        cluster["spec"]["redis"]["external"]["urlSecret"]["name"] = json!("their-redis");
        cluster["spec"]["paused"] = json!(true);
    });
    world.rest().await;
    assert_eq!(world.condition("Ready"), is("False", "Paused"));
    assert_eq!(version(), json!("1.0.0"));

    // A hiccup of the API server changes nothing about a spec that was applied.
    world.server.edit("imclusters", "demo", |cluster| cluster["spec"]["paused"] = json!(false));
    world.rest().await;
    // Logic first, then connect.
    world.settle().await;
    world.settle().await;
    assert_eq!((world.condition("Ready").0.as_str(), version()), ("True", json!("2.0.0")));
    world.server.fail("get", "secrets", 500, 2);
    world.server.edit("imclusters", "demo", |cluster| cluster["metadata"]["labels"] = json!({"a": "b"}));
    world.rest().await;
    assert_eq!(world.condition("Ready").0, "True");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_gone_holds_up_no_other() {
    let server = Server::new();
    server.put("secrets", secret("their-redis", "url"));
    server.put("imclusters", cluster(&external()));
    server.refuse_namespace("gone");
    let of = Settings { watch_namespaces: vec!["gone".to_owned(), "chat".to_owned()], ..settings() };
    let world = World::join_as(server, of).await;
    world.settle().await;
    assert_eq!(world.condition("Ready").0, "True");
    assert_eq!(world.condition("Degraded").0, "False");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_spec_is_told_and_the_running_cluster_is_left_alone() {
    let world = World::with(|server| server.put("imclusters", cluster(&external()))).await;
    world.settle().await;
    world.server.writes();
    world.server.edit("imclusters", "demo", |cluster| cluster["spec"]["connect"]["drainSeconds"] = json!(1));
    world.rest().await;
    assert_eq!(world.writes(), ["apply imclusters/status demo"]);
    assert_eq!(world.condition("Degraded"), is("True", "InvalidSpec"));
    assert_eq!(world.condition("Available").0, "True");
    world.server.edit("imclusters", "demo", |cluster| cluster["spec"]["connect"]["drainSeconds"] = json!(240));
    world.rest().await;
    assert_eq!(world.condition("Ready").0, "True");
}

#[tokio::test(start_paused = true)]
async fn a_spec_that_this_operator_cannot_read_is_told_once() {
    let world = World::with(|server| {
        let mut unreadable = external();
        unreadable["redis"]["mode"] = json!("Holographic");
        server.put("imclusters", cluster(&unreadable));
    })
    .await;
    assert_eq!(world.condition("Ready"), is("False", "InvalidSpec"));
    assert_eq!(world.writes(), ["patch imclusters/status demo"]);
}

#[tokio::test(start_paused = true)]
async fn a_missing_secret_is_named_and_looked_for_again() {
    let server = Server::new();
    server.put("imclusters", cluster(&external()));
    let world = World::join(server).await;
    assert_eq!(world.condition("Degraded"), is("True", "ReferenceMissing"));
    assert_eq!(world.server.names("deployments"), Vec::<String>::new());
    world.server.put("secrets", secret("their-redis", "url"));
    sleep(Duration::from_secs(30)).await;
    world.settle().await;
    assert_eq!(world.condition("Ready").0, "True");
}

#[tokio::test(start_paused = true)]
async fn what_exists_is_adopted_and_never_overwritten() {
    let mut spec = external();
    spec["redis"] = json!({"mode": "Single"});
    let world = World::with(|server| {
        server.put("secrets", json!({"metadata": {"name": "demo-redis"}, "data": {"password": "b2xk"}}));
        server.put("secrets", json!({"metadata": {"name": "demo-auth"}, "data": {"hs256-secret": "b2xk"}}));
        server.put("imclusters", cluster(&spec));
    })
    .await;
    let data = |name: &str| world.server.get("secrets", name).unwrap()["data"].clone();
    assert_eq!(data("demo-redis")["password"], "b2xk");
    assert!(data("demo-redis")["url"].is_string());
    assert_eq!(data("demo-auth")["hs256-secret"], "b2xk");
    // What is made outlives the ImCluster with its data, certificates do not.
    let owned = |name: &str| world.server.get("secrets", name).unwrap()["metadata"]["ownerReferences"].is_array();
    assert!(!owned("demo-ca") && owned("demo-redis-tls"));
}

#[tokio::test(start_paused = true)]
async fn secrets_stay_or_go_with_the_volumes_as_is_asked_for_last() {
    let mut spec = external();
    spec["redis"] = json!({"mode": "Single", "storage": {"size": "1Gi", "retain": false}});
    let world = World::with(|server| server.put("imclusters", cluster(&spec))).await;
    let owners = |name: &str| {
        let owners = world.server.get("secrets", name).unwrap()["metadata"]["ownerReferences"].clone();
        owners.as_array().map_or(0, Vec::len)
    };
    let secrets = ["demo-auth", "demo-ca", "demo-redis"];
    assert_eq!(secrets.map(owners), [1, 1, 1]);
    for (retain, wanted) in [(true, 0), (false, 1)] {
        let password = world.server.get("secrets", "demo-redis").unwrap()["data"]["password"].clone();
        world.server.edit("imclusters", "demo", |cluster| {
            cluster["spec"]["redis"]["storage"]["retain"] = json!(retain);
        });
        world.rest().await;
        assert_eq!(secrets.map(owners), [wanted; 3], "{retain}");
        assert_eq!(world.server.get("secrets", "demo-redis").unwrap()["data"]["password"], password);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stateful_set_whose_unchangeable_parts_must_change_is_made_anew_around_its_pods() {
    let mut spec = external();
    spec["redis"] = json!({"mode": "Single"});
    let world = World::with(|server| server.put("imclusters", cluster(&spec))).await;
    let labels = || {
        let set = world.server.get("statefulsets", "demo-redis").unwrap();
        set["spec"]["volumeClaimTemplates"][0]["metadata"]["labels"].clone()
    };
    let wanted = labels();
    // As one of an earlier release that labelled less.
    world.server.edit("statefulsets", "demo-redis", |set| {
        set["spec"]["volumeClaimTemplates"][0]["metadata"]["labels"] = json!({"app.kubernetes.io/name": "redis"});
        set["metadata"]["annotations"]["imcluster.io/applied"] = json!("another");
    });
    world.server.fail("apply", "statefulsets", 422, 1);
    world.server.writes();
    world.wake();
    world.rest().await;
    let writes: Vec<String> = world.writes().into_iter().filter(|write| write.contains("statefulsets")).collect();
    assert_eq!(writes, ["delete statefulsets demo-redis", "apply statefulsets demo-redis"]);
    assert_eq!(world.server.deletions(), ["Orphan"], "its pods stay");
    assert_eq!(labels(), wanted);
    // What is refused for another reason is no reason to delete anything.
    world.server.fail("apply", "statefulsets", 422, 1);
    world.server.edit("imclusters", "demo", |cluster| {
        cluster["spec"]["redis"]["resources"] = json!({"limits": {"memory": "1Gi"}});
    });
    sleep(Duration::from_secs(60)).await;
    world.rest().await;
    assert_eq!(world.server.deletions(), Vec::<String>::new());
}

/// The clock of certificates is the real one, so this waits for real.
#[tokio::test]
async fn another_authority_takes_its_place_step_by_step_when_asked_to_or_when_the_secret_is_deleted() {
    let world = World::with(|server| server.put("imclusters", cluster(&external()))).await;
    let text = |secret: &str, key: &str| {
        let secret = world.server.get("secrets", secret).unwrap();
        let coded = secret["data"][key].as_str().unwrap_or_default().to_owned();
        String::from_utf8(base64::Engine::decode(&base64::engine::general_purpose::STANDARD, coded).unwrap()).unwrap()
    };
    let believed = || text("demo-logic-tls", "ca.crt").matches("BEGIN CERTIFICATE").count();
    let until = async |what: &str, holds: &dyn Fn() -> bool| {
        for _ in 0..300 {
            if holds() {
                return;
            }
            world.wake();
            sleep(Duration::from_millis(100)).await;
        }
        panic!("{what}: {} believed", believed());
    };
    world.settle().await;
    for deleted in [false, true] {
        let (shown, first) = (text("demo-logic-tls", "tls.crt"), text("demo-logic-tls", "ca.crt"));
        assert_eq!(believed(), 1);
        if deleted {
            world.server.delete("secrets", "demo-ca");
        } else {
            world.server.edit("imclusters", "demo", |cluster| {
                cluster["metadata"]["annotations"]["imcluster.io/rotate-authority"] = json!("true");
            });
        }
        until("the next one is believed", &|| believed() == 2).await;
        assert_eq!(text("demo-logic-tls", "tls.crt"), shown, "what is shown stays at first");
        until("it signs", &|| text("demo-logic-tls", "tls.crt") != shown).await;
        assert!(text("demo-logic-tls", "ca.crt").contains(first.trim()), "the old one is believed still");
        until("the old one is believed no more", &|| believed() == 1).await;
        assert!(!text("demo-logic-tls", "ca.crt").contains(first.trim()));
        let cluster = world.server.get("imclusters", "demo").unwrap();
        assert!(cluster["metadata"]["annotations"]["imcluster.io/rotate-authority"].is_null(), "once is enough");
    }
}

#[tokio::test(start_paused = true)]
async fn an_autoscaler_says_how_many_logic_pods_there_are_as_long_as_it_is_there() {
    let world = World::with(|server| server.put("imclusters", cluster(&external()))).await;
    world.settle().await;
    let replicas = || world.server.get("deployments", "demo-logic").unwrap()["spec"]["replicas"].clone();
    let scale = |count: i32| {
        world.server.edit("deployments", "demo-logic", |deployment| {
            deployment["spec"]["replicas"] = json!(count);
            for entry in deployment["metadata"]["managedFields"].as_array_mut().unwrap() {
                if let Some(spec) = entry.pointer_mut("/fieldsV1/f:spec").and_then(Value::as_object_mut) {
                    spec.remove("f:replicas");
                }
            }
        });
    };
    // Without one the spec says it.
    scale(3);
    world.rest().await;
    assert_eq!(replicas(), 2);
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "demo-logic"});
    world.server.put(
        "horizontalpodautoscalers",
        json!({"metadata": {"name": "logic"}, "spec": {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 9}}),
    );
    world.rest().await;
    assert_eq!(replicas(), 2);
    for count in [5, 4] {
        scale(count);
        world.rest().await;
        assert_eq!(replicas(), count);
        world.settle().await;
        world.server.writes();
        world.wake();
        world.rest().await;
        assert_eq!((replicas(), world.writes()), (json!(count), Vec::new()), "and then it is left alone");
    }
    world.server.delete("horizontalpodautoscalers", "logic");
    world.rest().await;
    assert_eq!(replicas(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_object_of_somebody_else_is_not_taken() {
    let world = World::with(|server| {
        server.put("services", json!({"metadata": {"name": "demo-connect"}, "spec": {"ports": []}}));
        server.put("imclusters", cluster(&external()));
    })
    .await;
    assert_eq!(world.condition("Degraded"), is("True", "OwnedByAnother"));
    assert_eq!(world.server.get("services", "demo-connect").unwrap()["spec"], json!({"ports": []}));
}

#[tokio::test(start_paused = true)]
async fn a_cluster_of_another_operator_is_refused() {
    let mut cluster = cluster(&external());
    cluster["metadata"]["annotations"] = json!({"imcluster.io/operator": "elsewhere/im-operator"});
    let world = World::with(|server| server.put("imclusters", cluster)).await;
    assert_eq!(world.writes(), Vec::<String>::new());
    assert_eq!(world.server.names("events").len(), 1);
    // Once it is handed over it is seen to.
    world.server.edit("imclusters", "demo", |cluster| cluster["metadata"]["annotations"] = json!({}));
    world.rest().await;
    world.settle().await;
    assert_eq!(world.condition("Ready").0, "True");
}

#[tokio::test(start_paused = true)]
async fn a_paused_cluster_is_reported_and_not_touched() {
    let world = World::with(|server| server.put("imclusters", cluster(&external()))).await;
    world.settle().await;
    world.server.edit("imclusters", "demo", |cluster| {
        cluster["spec"]["paused"] = json!(true);
        cluster["spec"]["logic"]["replicas"] = json!(5);
    });
    world.rest().await;
    world.server.writes();
    world.server.delete("poddisruptionbudgets", "demo-logic");
    world.rest().await;
    assert_eq!(world.writes(), Vec::<String>::new());
    assert_eq!(world.condition("Paused"), is("True", "Paused"));
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_goes_tier_by_tier() {
    let world = World::with(|server| server.put("imclusters", cluster(&external()))).await;
    world.settle().await;
    let image = |name: &str| {
        let deployment = world.server.get("deployments", name).unwrap();
        deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()
    };
    world.server.edit("imclusters", "demo", |cluster| cluster["spec"]["version"] = json!("1.1.0"));
    world.server.edit("deployments", "demo-logic", |deployment| deployment["status"]["observedGeneration"] = json!(0));
    world.rest().await;
    assert_eq!(
        (image("demo-logic"), image("demo-connect")),
        ("imcluster/logic:1.1.0".to_owned(), "imcluster/connect:1.0.0".to_owned())
    );
    assert_eq!(world.condition("Progressing"), is("True", "Upgrading"));
    world.pods_of("demo-logic");
    world.rest().await;
    assert_eq!(image("demo-connect"), "imcluster/connect:1.1.0");
    world.pods_of("demo-connect");
    world.rest().await;
    assert_eq!(world.server.get("imclusters", "demo").unwrap()["status"]["version"], "1.1.0");
    assert_eq!(world.condition("Progressing"), is("False", "Settled"));
}
