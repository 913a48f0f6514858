//! Visits: exact calls, nothing on the second pass, faults, references, rivals.

use std::time::Duration;

use crate::settings::Settings;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::server::Server;
use super::world::{World, cluster, external, is, secret, settings};

const MANAGED: &[&str] = &[
    "networkpolicies",
    "serviceaccounts",
    "poddisruptionbudgets",
    "services",
    "statefulsets",
    "deployments",
    "secrets",
];

#[tokio::test(start_paused = true)]
async fn the_first_visit_makes_each_thing_once_and_in_order() {
    let world = World::with(|server| server.put("imclusters", cluster(&external()))).await;
    let writes = world.writes();
    let position = |write: &str| {
        writes
            .iter()
            .position(|made| made == write)
            .unwrap_or_else(|| panic!("no {write} in {writes:#?}"))
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
    let mut once: Vec<_> = writes
        .iter()
        .filter(|write| !write.contains("imclusters/status"))
        .collect();
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
    world
        .server
        .edit("imclusters", "demo", |cluster| cluster["spec"] = spec);
    world.rest().await;
    let mut writes = world.writes();
    writes.retain(|write| !write.contains("imclusters/status"));
    writes.sort();
    assert_eq!(
        writes,
        [
            "delete networkpolicies demo-connect",
            "delete networkpolicies demo-logic"
        ]
    );
    assert_eq!(
        world.server.names("networkpolicies"),
        ["by-hand", "of-another"]
    );
}

#[tokio::test(start_paused = true)]
async fn after_any_fault_the_end_is_the_same() {
    let calm = World::with(|server| server.put("imclusters", cluster(&external()))).await;
    calm.settle().await;
    let names = |world: &World| {
        MANAGED
            .iter()
            .map(|kind| world.server.names(kind))
            .collect::<Vec<_>>()
    };
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
        assert_eq!(
            world.condition("Ready"),
            is("True", "AsExpected"),
            "{verb} {kind} {code}"
        );
        assert_eq!(
            world.condition("Degraded").0,
            "False",
            "{verb} {kind} {code}"
        );
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
    world.server.edit("imclusters", "demo", |cluster| {
        cluster["spec"]["logic"]["replicas"] = json!(3)
    });
    world.rest().await;
    assert_eq!(
        world.server.get("deployments", "demo-logic").unwrap()["spec"]["replicas"],
        3
    );

    // And a watch that is too old lists anew.
    world.server.break_watch("imclusters", Some(410));
    world.rest().await;
    world.server.break_watch("imclusters", None);
    world.server.edit("imclusters", "demo", |cluster| {
        cluster["spec"]["logic"]["replicas"] = json!(2)
    });
    // It is tried again after a while that has grown.
    sleep(Duration::from_secs(60)).await;
    world.rest().await;
    assert_eq!(
        world.server.get("deployments", "demo-logic").unwrap()["spec"]["replicas"],
        2
    );
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
    assert_eq!(
        world.server.get("deployments", "demo-logic").unwrap()["spec"]["replicas"],
        2
    );
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
        assert_eq!(
            world.condition(kind),
            is("Unknown", "WatchFailing"),
            "{kind}"
        );
    }
    assert!(
        world.server.get("deployments", "demo-logic").is_none(),
        "nothing is decided blindly"
    );
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
    assert_eq!(
        (world.condition("Ready").0.as_str(), version()),
        ("True", json!("1.0.0"))
    );

    // A new version that names a Secret that is not there.
    world.server.edit("imclusters", "demo", |cluster| {
        cluster["spec"]["version"] = json!("2.0.0");
        cluster["spec"]["redis"]["external"]["urlSecret"]["name"] = json!("not-there");
    });
    world.rest().await;
    assert_eq!(world.condition("Ready"), is("False", "ReferenceMissing"));
    assert_eq!(
        world.condition("Available").0,
        "True",
        "what ran before goes on"
    );
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
    world.server.edit("imclusters", "demo", |cluster| {
        cluster["spec"]["paused"] = json!(false)
    });
    world.rest().await;
    // Logic first, then connect.
    world.settle().await;
    world.settle().await;
    assert_eq!(
        (world.condition("Ready").0.as_str(), version()),
        ("True", json!("2.0.0"))
    );
    world.server.fail("get", "secrets", 500, 2);
    world.server.edit("imclusters", "demo", |cluster| {
        cluster["metadata"]["labels"] = json!({"a": "b"})
    });
    world.rest().await;
    assert_eq!(world.condition("Ready").0, "True");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_gone_holds_up_no_other() {
    let server = Server::new();
    server.put("secrets", secret("their-redis", "url"));
    server.put("imclusters", cluster(&external()));
    server.refuse_namespace("gone");
    let of = Settings {
        watch_namespaces: vec!["gone".to_owned(), "chat".to_owned()],
        ..settings()
    };
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
    world.server.edit("imclusters", "demo", |cluster| {
        cluster["spec"]["connect"]["drainSeconds"] = json!(1)
    });
    world.rest().await;
    assert_eq!(world.writes(), ["apply imclusters/status demo"]);
    assert_eq!(world.condition("Degraded"), is("True", "InvalidSpec"));
    assert_eq!(world.condition("Available").0, "True");
    world.server.edit("imclusters", "demo", |cluster| {
        cluster["spec"]["connect"]["drainSeconds"] = json!(240)
    });
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
async fn an_autoscaler_says_how_many_logic_pods_there_are_as_long_as_it_is_there() {
    let world = World::with(|server| server.put("imclusters", cluster(&external()))).await;
    world.settle().await;
    let replicas =
        || world.server.get("deployments", "demo-logic").unwrap()["spec"]["replicas"].clone();
    let scale = |count: i32| {
        world
            .server
            .edit("deployments", "demo-logic", |deployment| {
                deployment["spec"]["replicas"] = json!(count);
                for entry in deployment["metadata"]["managedFields"]
                    .as_array_mut()
                    .unwrap()
                {
                    if let Some(spec) = entry
                        .pointer_mut("/fieldsV1/f:spec")
                        .and_then(Value::as_object_mut)
                    {
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
        assert_eq!(
            (replicas(), world.writes()),
            (json!(count), Vec::new()),
            "and then it is left alone"
        );
    }
    world.server.delete("horizontalpodautoscalers", "logic");
    world.rest().await;
    assert_eq!(replicas(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_object_of_somebody_else_is_not_taken() {
    let world = World::with(|server| {
        server.put(
            "services",
            json!({"metadata": {"name": "demo-connect"}, "spec": {"ports": []}}),
        );
        server.put("imclusters", cluster(&external()));
    })
    .await;
    assert_eq!(world.condition("Degraded"), is("True", "OwnedByAnother"));
    assert_eq!(
        world.server.get("services", "demo-connect").unwrap()["spec"],
        json!({"ports": []})
    );
}

#[tokio::test(start_paused = true)]
async fn a_cluster_of_another_operator_is_refused() {
    let mut cluster = cluster(&external());
    cluster["metadata"]["annotations"] = json!({"imcluster.io/operator": "elsewhere/im-operator"});
    let world = World::with(|server| server.put("imclusters", cluster)).await;
    assert_eq!(world.writes(), Vec::<String>::new());
    assert_eq!(world.server.names("events").len(), 1);
    // Once it is handed over it is seen to.
    world.server.edit("imclusters", "demo", |cluster| {
        cluster["metadata"]["annotations"] = json!({})
    });
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
        deployment["spec"]["template"]["spec"]["containers"][0]["image"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    world.server.edit("imclusters", "demo", |cluster| {
        cluster["spec"]["version"] = json!("1.1.0")
    });
    world
        .server
        .edit("deployments", "demo-logic", |deployment| {
            deployment["status"]["observedGeneration"] = json!(0)
        });
    world.rest().await;
    assert_eq!(
        (image("demo-logic"), image("demo-connect")),
        (
            "imcluster/logic:1.1.0".to_owned(),
            "imcluster/connect:1.0.0".to_owned()
        )
    );
    assert_eq!(world.condition("Progressing"), is("True", "Upgrading"));
    world.pods_of("demo-logic");
    world.rest().await;
    assert_eq!(image("demo-connect"), "imcluster/connect:1.1.0");
    world.pods_of("demo-connect");
    world.rest().await;
    assert_eq!(
        world.server.get("imclusters", "demo").unwrap()["status"]["version"],
        "1.1.0"
    );
    assert_eq!(world.condition("Progressing"), is("False", "Settled"));
}

#[tokio::test(start_paused = true)]
async fn what_another_build_of_the_operator_changes_goes_from_one_cluster_to_the_next() {
    let named = |name: &str| {
        let mut cluster = cluster(&external());
        cluster["metadata"]["name"] = json!(name);
        cluster
    };
    let world = World::with(|server| {
        ["demo", "other"]
            .iter()
            .for_each(|name| server.put("imclusters", named(name)))
    })
    .await;
    world.settle().await;
    let server = world.server.clone();
    drop(world);
    let deployments = ["demo-connect", "demo-logic", "other-connect", "other-logic"];
    for name in deployments {
        // As an older build has made it.
        server.edit("deployments", name, |deployment| {
            deployment["metadata"]["annotations"]["imcluster.io/applied"] = json!("another");
            deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(1);
        });
        server.edit("deployments", name, |deployment| {
            deployment["status"]["observedGeneration"] =
                deployment["metadata"]["generation"].clone();
        });
    }
    server.delete("services", "other-logic");
    server.delete("services", "demo-logic");
    server.writes();
    let next = Settings {
        operator_image: "imcluster/operator:2".to_owned(),
        ..settings()
    };
    let world = World::join_as(server, next).await;
    let applied = || -> Vec<String> {
        let writes = world
            .server
            .writes()
            .into_iter()
            .filter(|(verb, kind, _)| (*verb, kind.as_str()) == ("apply", "deployments"));
        let names: std::collections::BTreeSet<String> = writes.map(|(_, _, name)| name).collect();
        names.into_iter().collect()
    };
    assert!(
        world.server.get("services", "other-logic").is_some(),
        "what has no pods does not wait"
    );
    assert!(world.server.get("services", "demo-logic").is_some());
    let first = applied();
    let (one, two) = if first[0].starts_with("demo") {
        ("demo", "other")
    } else {
        ("other", "demo")
    };
    assert_eq!(first, [format!("{one}-connect"), format!("{one}-logic")]);
    sleep(Duration::from_secs(120)).await;
    world.rest().await;
    assert_eq!(applied(), Vec::<String>::new(), "{one} is not whole yet");
    for name in first {
        world.pods_of(&name);
    }
    world.rest().await;
    assert_eq!(
        applied(),
        [format!("{two}-connect"), format!("{two}-logic")]
    );
}
