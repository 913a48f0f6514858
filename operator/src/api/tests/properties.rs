//! What holds of the objects of any valid ImCluster.

use std::collections::BTreeSet;

use crate::build::{Inputs, Run, build};
use crate::kubernetes::object::Object;
use crate::validate::{Pods, validate};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::samples::stored;

fn pod() -> impl Strategy<Value = Map<String, Value>> {
    let label = "[a-z]{1,10}(/[a-z]{1,5})?";
    let labels = btree_map(label, "[a-z0-9]{0,20}", 0..4);
    let env = btree_map("[A-Z]{1,8}", "[ -~]{0,20}", 0..3);
    let memory = option::of(prop_oneof![
        Just("64Mi"),
        Just("1.5Gi"),
        Just("2e9"),
        Just("nonsense")
    ]);
    let overrides = option::of(prop_oneof![
        Just(json!({ "spec": { "terminationGracePeriodSeconds": 1 } })),
        Just(
            json!({ "spec": { "automountServiceAccountToken": true, "securityContext": { "runAsNonRoot": false, "runAsUser": 0 } } })
        ),
        Just(
            json!({ "metadata": { "labels": { "imcluster.io/cluster": "other", "app.kubernetes.io/component": "x" } } })
        ),
        Just(json!({ "spec": { "volumes": [{ "name": "extra", "emptyDir": {} }] } })),
    ]);
    (
        labels.clone(),
        labels,
        env,
        memory,
        overrides,
        option::of("[a-z]{1,9}"),
        any::<bool>(),
    )
        .prop_map(
            |(labels, annotations, env, memory, overrides, class, spread)| {
                let mut all = Map::new();
                all.insert("labels".into(), json!(labels));
                all.insert("annotations".into(), json!(annotations));
                let env: Vec<Value> = env
                    .into_iter()
                    .map(|(name, value)| json!({ "name": name, "value": value }))
                    .collect();
                all.insert("extraEnv".into(), json!(env));
                if let Some(memory) = memory {
                    all.insert(
                        "resources".into(),
                        json!({ "limits": { "memory": memory } }),
                    );
                }
                if let Some(overrides) = overrides {
                    all.insert("podOverrides".into(), overrides);
                }
                if let Some(class) = class {
                    all.insert("priorityClassName".into(), json!(class));
                }
                if spread {
                    all.insert("topologySpreadConstraints".into(), json!([]));
                }
                all
            },
        )
}

fn with(mut fields: Map<String, Value>, more: Value) -> Value {
    fields.extend(more.as_object().expect("an object").clone());
    Value::Object(fields)
}

fn connect() -> impl Strategy<Value = Value> {
    let service = prop_oneof![
        Just(json!({})),
        Just(
            json!({ "type": "NodePort", "nodePorts": { "ws": 30102 }, "externalTrafficPolicy": "Cluster" })
        ),
        Just(
            json!({ "type": "LoadBalancer", "loadBalancerClass": "a/b", "sourceRanges": ["2001:db8::/32"] })
        ),
    ];
    let draining = prop_oneof![
        (1..=1000).prop_map(|n: i32| json!(n)),
        (1..=100).prop_map(|n: i32| json!(format!("{n}%")))
    ];
    (pod(), 0..=1000, 5..=3600, draining, service).prop_map(|(pod, replicas, drain, draining, service)| {
        let rollout = json!({ "maxDraining": draining });
        with(pod, json!({ "replicas": replicas, "drainSeconds": drain, "rollout": rollout, "service": service }))
    })
}

fn redis() -> impl Strategy<Value = Value> {
    let mode = prop_oneof![Just("Single"), Just("Sentinel"), Just("External")];
    let durability = prop_oneof![Just("Relaxed"), Just("Standard"), Just("Strict")];
    (pod(), pod(), mode, durability, any::<bool>()).prop_map(|(pod, sentinel, mode, durability, retain)| {
        let storage = json!({ "size": "1Gi", "retain": retain });
        let mut all =
            with(pod, json!({ "mode": mode, "durability": durability, "sentinel": sentinel, "storage": storage }));
        if mode == "External" {
            all["external"] = json!({ "urlSecret": { "name": "redis", "key": "url" } });
        }
        all
    })
}

fn etcd() -> impl Strategy<Value = Value> {
    (pod(), prop_oneof![Just(1), Just(3)], any::<bool>()).prop_map(|(pod, replicas, external)| {
        let mut all = with(pod, json!({ "replicas": replicas }));
        if external {
            all["mode"] = json!("External");
            all["external"] = json!({ "endpoints": ["https://etcd.example.org:2379"] });
        }
        all
    })
}

fn spec() -> impl Strategy<Value = Value> {
    let version = "[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?";
    let image = option::of("[a-z0-9][a-z0-9./-]{0,30}[a-z0-9]");
    let auth = prop_oneof![
        Just(json!({})),
        Just(json!({ "hs256Secret": { "name": "a", "key": "b" } })),
        Just(
            json!({ "publicKeys": { "configMap": "a", "keys": ["b"] }, "issuer": "i", "audience": "u" })
        ),
        Just(json!({ "jwksUrl": "https://id.example.com/keys" })),
    ];
    let general = (version, image, auth, any::<bool>(), vec("[a-z]{1,9}", 0..3));
    (general, connect(), pod(), 0..=1000, redis(), etcd()).prop_map(
        |((version, registry, auth, policies, secrets), connect, logic, replicas, redis, etcd)| {
            let secrets: BTreeSet<String> = secrets.into_iter().collect();
            json!({
                "version": version,
                "images": { "registry": registry, "pullSecrets": secrets },
                "auth": auth,
                "connect": connect,
                "logic": with(logic, json!({ "replicas": replicas })),
                "redis": redis,
                "etcd": etcd,
                "networkPolicy": { "enabled": policies },
            })
        },
    )
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]([-a-z0-9]{0,38}[a-z0-9])?", Just("a".repeat(40))]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn objects_of_any_valid_cluster_are_sound(name in name(), spec in spec(), paused: bool, existing: bool) {
        let mut object = stored(spec);
        object["metadata"]["name"] = json!(name);
        let cluster = serde_json::from_value(object).expect("an ImCluster");
        let valid = validate(&cluster, Pods::Privileged).map_err(|problems| TestCaseError::fail(format!("{problems:?}")))?;
        let mut inputs = Inputs::wanted(&valid, "im-system", "imcluster/operator:0.1.0");
        inputs.pod_monitors = true;
        inputs.connect_paused = paused;
        inputs.etcd_existing = existing;
        inputs.runs.logic = Run { image: "old/logic:1".into(), version: "1".into() };
        let built = build(&valid, &inputs);
        prop_assert_eq!(&built, &build(&valid, &inputs), "the same input builds the same");

        let mut seen = BTreeSet::new();
        for object in built.objects.list() {
            prop_assert!(seen.insert((object.resource.kind.clone(), object.name().to_owned())), "twice: {}", object.name());
            check_metadata(&name, object)?;
            if let Some(template) = object.body.pointer("/spec/template") {
                check_pods(object, template, built.objects.list())?;
            }
        }
        check_selectors(built.objects.list())?;
    }
}

fn check_metadata(cluster: &str, object: &Object) -> Result<(), TestCaseError> {
    let metadata = &object.body["metadata"];
    prop_assert!(
        object.name().len() <= 63 && object.name().starts_with(cluster),
        "{}",
        object.name()
    );
    if object.resource.kind == "StatefulSet" {
        // Its pods carry the name and a hash of eleven characters in a label.
        prop_assert!(object.name().len() <= 52, "{}", object.name());
    }
    prop_assert_eq!(&metadata["namespace"], "chat");
    prop_assert_eq!(&metadata["labels"]["imcluster.io/cluster"], cluster);
    prop_assert_eq!(
        &metadata["labels"]["app.kubernetes.io/managed-by"],
        "im-operator"
    );
    prop_assert_eq!(&metadata["ownerReferences"][0]["controller"], &json!(true));
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        prop_assert!(
            value.as_str().is_some_and(|value| value.len() <= 63),
            "{key}: {value}"
        );
    }
    Ok(())
}

/// The restricted Pod Security Standard, as its documentation states it, and what we add.
fn check_pods(object: &Object, template: &Value, all: &[Object]) -> Result<(), TestCaseError> {
    let spec = &template["spec"];
    let at = object.name();
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        prop_assert!(
            spec.get(key).is_none_or(|value| value == &json!(false)),
            "{at}: {key}"
        );
    }
    prop_assert_eq!(
        &spec["automountServiceAccountToken"],
        &json!(false),
        "{}",
        at
    );
    prop_assert_eq!(&spec["enableServiceLinks"], &json!(false), "{}", at);
    prop_assert_eq!(
        &spec["securityContext"]["runAsNonRoot"],
        &json!(true),
        "{}",
        at
    );
    prop_assert!(
        spec["securityContext"]["runAsUser"]
            .as_i64()
            .is_some_and(|user| user > 0),
        "{}",
        at
    );
    prop_assert!(
        spec["terminationGracePeriodSeconds"]
            .as_i64()
            .is_some_and(|grace| grace >= 20),
        "{}",
        at
    );
    let account = all.iter().any(|one| {
        one.resource.kind == "ServiceAccount" && spec["serviceAccountName"] == one.name()
    });
    prop_assert!(account, "{}: its service account is built", at);

    let volumes: Vec<&Value> = spec["volumes"].as_array().into_iter().flatten().collect();
    let claims = object
        .body
        .pointer("/spec/volumeClaimTemplates")
        .and_then(Value::as_array);
    let mut names: BTreeSet<&str> = volumes
        .iter()
        .filter_map(|volume| volume["name"].as_str())
        .collect();
    prop_assert_eq!(names.len(), volumes.len(), "{}: volumes of one name", at);
    names.extend(
        claims
            .into_iter()
            .flatten()
            .filter_map(|claim| claim["metadata"]["name"].as_str()),
    );
    for volume in volumes {
        let kinds = [
            "secret",
            "configMap",
            "emptyDir",
            "projected",
            "downwardAPI",
            "persistentVolumeClaim",
        ];
        prop_assert!(
            kinds.iter().any(|kind| volume.get(kind).is_some()),
            "{at}: {volume}"
        );
    }

    let containers = ["containers", "initContainers"]
        .iter()
        .filter_map(|key| spec[key].as_array())
        .flatten();
    for container in containers {
        let security = &container["securityContext"];
        prop_assert_eq!(
            &security["allowPrivilegeEscalation"],
            &json!(false),
            "{}",
            at
        );
        prop_assert_eq!(
            &security["capabilities"],
            &json!({ "drop": ["ALL"] }),
            "{}",
            at
        );
        prop_assert_eq!(
            &security["seccompProfile"]["type"],
            "RuntimeDefault",
            "{}",
            at
        );
        prop_assert_eq!(&security["readOnlyRootFilesystem"], &json!(true), "{}", at);
        prop_assert!(security.get("privileged").is_none(), "{}", at);
        prop_assert!(
            container["image"]
                .as_str()
                .is_some_and(|image| !image.ends_with(":latest")),
            "{}",
            at
        );
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            prop_assert!(
                mount["name"]
                    .as_str()
                    .is_some_and(|name| names.contains(name)),
                "{at}: {mount}"
            );
        }
        let variables: Vec<&str> = container["env"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| one["name"].as_str())
            .collect();
        let distinct: BTreeSet<&str> = variables.iter().copied().collect();
        prop_assert_eq!(distinct.len(), variables.len(), "{}: {:?}", at, variables);
    }
    Ok(())
}

/// Each selector finds the pods of exactly one workload, that of its own name.
fn check_selectors(all: &[Object]) -> Result<(), TestCaseError> {
    let workloads: Vec<(&str, &Value)> = all
        .iter()
        .filter_map(|object| {
            Some((
                object.name(),
                object.body.pointer("/spec/template/metadata/labels")?,
            ))
        })
        .collect();
    prop_assert!(workloads.len() >= 2);
    let pointers = [
        "/spec/selector/matchLabels",
        "/spec/podSelector/matchLabels",
        "/spec/selector",
    ];
    for object in all {
        let Some(selector) = pointers
            .iter()
            .find_map(|pointer| object.body.pointer(pointer))
            .and_then(Value::as_object)
        else {
            continue;
        };
        let found: Vec<&str> = workloads
            .iter()
            .filter(|(_, labels)| {
                selector
                    .iter()
                    .all(|(key, value)| labels.get(key) == Some(value))
            })
            .map(|(name, _)| *name)
            .collect();
        prop_assert_eq!(
            found,
            vec![object.name()],
            "{} {}",
            object.resource.kind,
            object.name()
        );
    }
    Ok(())
}
