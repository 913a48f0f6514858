//! What outlives pods: Secrets, the authority, StatefulSets and volumes that change.

use std::time::Duration;

use crate::api::{ConditionStatus, ConditionType, ImCluster, Reason};
use crate::controller::status::{Findings, compose};
use crate::kubernetes::object::Objects;
use crate::tiers::volumes::Growth;
use crate::tiers::workload::Workload;
use jiff::Timestamp;
use serde_json::json;
use tokio::time::sleep;

use super::world::{World, cluster, external};

#[test]
fn volumes_that_grow_and_those_that_cannot_are_reported() {
    let mut object = cluster(&external());
    object["status"] = json!({"version": "1.0.0"});
    let object: ImCluster = serde_json::from_value(object).unwrap();
    let whole = Workload {
        wanted: 1,
        replicas: 1,
        ready: 1,
        rolled_out: true,
        ..Workload::default()
    };
    let applied = Objects::nothing_applied();
    let report = |volumes: Growth| {
        let found = Findings {
            logic: whole.clone(),
            connect: whole.clone(),
            applied: Some(&applied),
            volumes,
            ..Findings::default()
        };
        let report = compose(&object, &found, Timestamp::UNIX_EPOCH);
        let condition = |kind| {
            let condition = report
                .conditions
                .iter()
                .find(|one| one.kind == kind)
                .unwrap();
            (
                condition.status,
                condition.reason,
                condition.message.clone(),
            )
        };
        (
            condition(ConditionType::Progressing),
            condition(ConditionType::Degraded),
            condition(ConditionType::Ready).0,
        )
    };
    let told = vec!["data-demo-redis-0".to_owned()];
    let growing = report(Growth {
        growing: told.clone(),
        ..Growth::default()
    });
    assert_eq!(
        growing.0,
        (
            ConditionStatus::True,
            Reason::VolumesGrowing,
            told[0].clone()
        )
    );
    assert_eq!(
        (growing.1.0, growing.2),
        (ConditionStatus::False, ConditionStatus::True)
    );
    let stuck = report(Growth {
        stuck: told.clone(),
        ..Growth::default()
    });
    assert_eq!(
        stuck.1,
        (
            ConditionStatus::True,
            Reason::VolumeNotGrown,
            told[0].clone()
        )
    );
    assert_eq!(
        (stuck.0.0, stuck.2),
        (ConditionStatus::False, ConditionStatus::True)
    );
}

#[tokio::test(start_paused = true)]
async fn volumes_grow_around_their_pods_and_one_that_cannot_stays_as_it_is() {
    let mut spec = external();
    spec["redis"] = json!({"mode": "Single"});
    spec["etcd"] = json!({"mode": "Managed"});
    let claim = |tier: &str, size: &str| {
        json!({"metadata": {"name": format!("data-demo-{tier}-0"), "labels": {"imcluster.io/cluster": "demo"}},
            "spec": {"resources": {"requests": {"storage": size}}},
            "status": {"phase": "Bound", "capacity": {"storage": size}}})
    };
    let world = World::with(|server| {
        server.put("imclusters", cluster(&spec));
        server.put("persistentvolumeclaims", claim("redis", "8Gi"));
        server.put("persistentvolumeclaims", claim("etcd", "1Gi"));
    })
    .await;
    let asks = |tier: &str| {
        let claim = world
            .server
            .get("persistentvolumeclaims", &format!("data-demo-{tier}-0"))
            .unwrap();
        claim["spec"]["resources"]["requests"]["storage"].clone()
    };
    let quota = || {
        let set = world.server.get("statefulsets", "demo-etcd").unwrap();
        let arguments = set["spec"]["template"]["spec"]["containers"][0]["args"].clone();
        let quota = arguments
            .as_array()
            .unwrap()
            .iter()
            .find_map(|one| one.as_str()?.strip_prefix("--quota-backend-bytes="));
        quota.unwrap().to_owned()
    };
    let reported = |tier: &str| {
        world.server.get("imclusters", "demo").unwrap()["status"][tier]["volumeSize"].clone()
    };
    assert_eq!(
        (asks("redis"), reported("redis"), reported("etcd")),
        (json!("8Gi"), json!("8Gi"), json!("1Gi"))
    );
    let small = quota();
    let resize = |tier: &'static str, size: &'static str| {
        world.server.edit("imclusters", "demo", |cluster| {
            cluster["spec"][tier]["storage"]["size"] = json!(size)
        });
    };

    // The storage class can't.
    world
        .server
        .fail("patch", "persistentvolumeclaims", 403, usize::MAX);
    resize("etcd", "2Gi");
    world.rest().await;
    assert_eq!(
        (asks("etcd"), quota()),
        (json!("1Gi"), small.clone()),
        "etcd is told of the volume that there is"
    );
    resize("etcd", "1Gi");
    world.rest().await;

    // It can.
    world.server.heal("patch", "persistentvolumeclaims");
    world.server.fail("apply", "statefulsets", 422, 1);
    world.server.writes();
    resize("etcd", "2Gi");
    world.rest().await;
    let writes = world.writes();
    let about = |kind: &str| {
        writes
            .iter()
            .filter(|write| write.contains(kind))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        about("persistentvolumeclaims"),
        ["patch persistentvolumeclaims data-demo-etcd-0"]
    );
    assert_eq!(
        about("statefulsets"),
        [
            "delete statefulsets demo-etcd",
            "apply statefulsets demo-etcd"
        ]
    );
    assert_eq!(world.server.deletions(), ["Orphan"], "its pods stay");
    assert_eq!(
        (asks("etcd"), reported("etcd"), quota()),
        (json!("2Gi"), json!("2Gi"), small.clone())
    );
    world
        .server
        .edit("persistentvolumeclaims", "data-demo-etcd-0", |claim| {
            claim["status"]["capacity"]["storage"] = json!("2Gi");
        });
    world.rest().await;
    assert_ne!(quota(), small, "etcd may use what has come");
}

#[tokio::test(start_paused = true)]
async fn secrets_stay_or_go_with_the_volumes_as_is_asked_for_last() {
    let mut spec = external();
    spec["redis"] = json!({"mode": "Single", "storage": {"size": "1Gi", "retain": false}});
    let world = World::with(|server| server.put("imclusters", cluster(&spec))).await;
    let owners = |name: &str| {
        let owners =
            world.server.get("secrets", name).unwrap()["metadata"]["ownerReferences"].clone();
        owners.as_array().map_or(0, Vec::len)
    };
    let secrets = ["demo-auth", "demo-ca", "demo-redis"];
    assert_eq!(secrets.map(owners), [1, 1, 1]);
    for (retain, wanted) in [(true, 0), (false, 1)] {
        let password =
            world.server.get("secrets", "demo-redis").unwrap()["data"]["password"].clone();
        world.server.edit("imclusters", "demo", |cluster| {
            cluster["spec"]["redis"]["storage"]["retain"] = json!(retain);
        });
        world.rest().await;
        assert_eq!(secrets.map(owners), [wanted; 3], "{retain}");
        assert_eq!(
            world.server.get("secrets", "demo-redis").unwrap()["data"]["password"],
            password
        );
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
        set["spec"]["volumeClaimTemplates"][0]["metadata"]["labels"] =
            json!({"app.kubernetes.io/name": "redis"});
        set["metadata"]["annotations"]["imcluster.io/applied"] = json!("another");
    });
    world.server.fail("apply", "statefulsets", 422, 1);
    world.server.writes();
    world.wake();
    world.rest().await;
    let writes: Vec<String> = world
        .writes()
        .into_iter()
        .filter(|write| write.contains("statefulsets"))
        .collect();
    assert_eq!(
        writes,
        [
            "delete statefulsets demo-redis",
            "apply statefulsets demo-redis"
        ]
    );
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
async fn another_authority_takes_its_place_step_by_step_when_asked_to_or_when_the_secret_is_deleted()
 {
    let world = World::with(|server| server.put("imclusters", cluster(&external()))).await;
    let text = |secret: &str, key: &str| {
        let secret = world.server.get("secrets", secret).unwrap();
        let coded = secret["data"][key].as_str().unwrap_or_default().to_owned();
        String::from_utf8(
            base64::Engine::decode(&base64::engine::general_purpose::STANDARD, coded).unwrap(),
        )
        .unwrap()
    };
    let believed = || {
        text("demo-logic-tls", "ca.crt")
            .matches("BEGIN CERTIFICATE")
            .count()
    };
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
        let (shown, first) = (
            text("demo-logic-tls", "tls.crt"),
            text("demo-logic-tls", "ca.crt"),
        );
        assert_eq!(believed(), 1);
        if deleted {
            world.server.delete("secrets", "demo-ca");
        } else {
            world.server.edit("imclusters", "demo", |cluster| {
                cluster["metadata"]["annotations"]["imcluster.io/rotate-authority"] = json!("true");
            });
        }
        until("the next one is believed", &|| believed() == 2).await;
        assert_eq!(
            text("demo-logic-tls", "tls.crt"),
            shown,
            "what is shown stays at first"
        );
        until("it signs", &|| text("demo-logic-tls", "tls.crt") != shown).await;
        assert!(
            text("demo-logic-tls", "ca.crt").contains(first.trim()),
            "the old one is believed still"
        );
        until("the old one is believed no more", &|| believed() == 1).await;
        assert!(!text("demo-logic-tls", "ca.crt").contains(first.trim()));
        let cluster = world.server.get("imclusters", "demo").unwrap();
        assert!(
            cluster["metadata"]["annotations"]["imcluster.io/rotate-authority"].is_null(),
            "once is enough"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_exists_is_adopted_and_never_overwritten() {
    let mut spec = external();
    spec["redis"] = json!({"mode": "Single"});
    let world = World::with(|server| {
        server.put(
            "secrets",
            json!({"metadata": {"name": "demo-redis"}, "data": {"password": "b2xk"}}),
        );
        server.put(
            "secrets",
            json!({"metadata": {"name": "demo-auth"}, "data": {"hs256-secret": "b2xk"}}),
        );
        server.put("imclusters", cluster(&spec));
    })
    .await;
    let data = |name: &str| world.server.get("secrets", name).unwrap()["data"].clone();
    assert_eq!(data("demo-redis")["password"], "b2xk");
    assert!(data("demo-redis")["url"].is_string());
    assert_eq!(data("demo-auth")["hs256-secret"], "b2xk");
    // What is made outlives the ImCluster with its data, certificates do not.
    let owned = |name: &str| {
        world.server.get("secrets", name).unwrap()["metadata"]["ownerReferences"].is_array()
    };
    assert!(!owned("demo-ca") && owned("demo-redis-tls"));
}
