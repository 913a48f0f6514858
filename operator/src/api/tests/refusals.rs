//! What the operator itself refuses, were it ever stored: the definition's bounds and rules, and those it can't say.

use crate::validate::{Pods, validate};
use serde_json::{Value, json};

use super::samples::{external, highly_available, minimal, read, valid};

/// The fields and messages of what is wrong.
fn wrong(change: impl FnOnce(&mut Value)) -> Vec<(String, String)> {
    let mut spec = minimal();
    change(&mut spec);
    match validate(&read(spec), Pods::Confined) {
        Ok(_) => Vec::new(),
        Err(problems) => problems
            .into_iter()
            .map(|problem| (problem.field, problem.message))
            .collect(),
    }
}

#[track_caller]
fn refuses(field: &str, message: &str, change: impl FnOnce(&mut Value)) {
    let found = wrong(change);
    assert!(
        found
            .iter()
            .any(|(at, text)| at == field && text.contains(message)),
        "{field}: …{message}… is not among {found:#?}"
    );
}

#[test]
fn the_samples_are_valid() {
    for spec in [minimal(), highly_available(), external()] {
        valid(spec);
    }
}

#[test]
fn bounds_of_the_definition_are_kept() {
    refuses("spec.connect.replicas", "write 1000 or less", |spec| {
        spec["connect"] = json!({ "replicas": 1001 })
    });
    refuses("spec.connect.drainSeconds", "write 5 or more", |spec| {
        spec["connect"] = json!({ "drainSeconds": 1 })
    });
    refuses("spec.version", "too short", |spec| {
        spec["version"] = json!("")
    });
    refuses("spec.version", "does not match", |spec| {
        spec["version"] = json!("1 2")
    });
    refuses("spec.version", "longer than 63", |spec| {
        spec["version"] = json!("1".repeat(64))
    });
    refuses("spec.images.pullSecrets", "more than 16", |spec| {
        spec["images"] =
            json!({ "pullSecrets": (0..17).map(|n| n.to_string()).collect::<Vec<_>>() });
    });
    refuses("spec.auth.jwksUrl", "does not match ^https://", |spec| {
        spec["auth"] = json!({ "jwksUrl": "http://id.example.com" });
    });
    refuses("spec.logic.labels.a", "longer than 63", |spec| {
        spec["logic"] = json!({ "labels": { "a": "b".repeat(64) } })
    });
    refuses("spec.etcd.external.endpoints", "too few", |spec| {
        spec["etcd"] = json!({ "mode": "External", "external": { "endpoints": [] } });
    });
}

#[test]
fn rules_of_the_definition_are_kept() {
    refuses("spec.etcd.replicas", "write 1 or 3", |spec| {
        spec["etcd"] = json!({ "replicas": 2 })
    });
    refuses("spec.redis", "needs external.urlSecret", |spec| {
        spec["redis"] = json!({ "mode": "External" })
    });
    let mut cluster = read(minimal());
    cluster.metadata.name = Some("Demo".to_owned());
    let problems = validate(&cluster, Pods::Confined).expect_err("a name with a capital");
    assert!(
        problems
            .iter()
            .any(|problem| problem.message.contains("1 to 40")),
        "{problems:?}"
    );
}

#[test]
fn what_was_never_stored_is_refused() {
    let mut cluster = read(minimal());
    cluster.metadata.uid = None;
    let problems = validate(&cluster, Pods::Confined).expect_err("no UID");
    assert_eq!(problems[0].field, "metadata.uid");
}

#[test]
fn variables_of_the_operator_and_repeated_ones_are_refused() {
    refuses(
        "spec.connect.extraEnv[0]",
        "IM_REDIS_URL is set by the operator",
        |spec| {
            spec["connect"] =
                json!({ "extraEnv": [{ "name": "IM_REDIS_URL", "value": "redis://elsewhere" }] });
        },
    );
    refuses("spec.logic.extraEnv[1]", "twice", |spec| {
        spec["logic"] =
            json!({ "extraEnv": [{ "name": "A", "value": "1" }, { "name": "A", "value": "2" }] });
    });
    refuses("spec.redis.sentinel.extraEnv[0]", "name is empty", |spec| {
        spec["redis"] = json!({ "mode": "Sentinel", "sentinel": { "extraEnv": [{ "name": "" }] } });
    });
    assert_eq!(
        wrong(|spec| spec["connect"] =
            json!({ "extraEnv": [{ "name": "IM_LOG", "value": "debug" }] })),
        Vec::new()
    );
}

#[test]
fn an_address_range_that_is_none_is_refused() {
    refuses(
        "spec.connect.service.sourceRanges[1]",
        "no address range",
        |spec| {
            spec["connect"] = json!({ "service": { "type": "LoadBalancer", "sourceRanges": ["10.0.0.0/8", "10.0.0.0/99"] } });
        },
    );
}

#[test]
fn overrides_that_kubernetes_would_not_understand_are_refused() {
    refuses(
        "spec.connect.podOverrides.spec.hostNetwrok",
        "not a field",
        |spec| {
            spec["connect"] = json!({ "podOverrides": { "spec": { "hostNetwrok": true } } });
        },
    );
    refuses(
        "spec.etcd.podOverrides.spec.containers[0].imagee",
        "not a field",
        |spec| {
            spec["etcd"] = json!({ "podOverrides": { "spec": { "containers": [{ "name": "a", "imagee": "b" }] } } });
        },
    );
    refuses(
        "spec.redis.podOverrides",
        "no part of a pod template",
        |spec| {
            spec["redis"] = json!({ "podOverrides": { "spec": { "hostAliases": "none" } } });
        },
    );
    refuses(
        "spec.redis.podOverrides.spec.containers[0]",
        "needs a name",
        |spec| {
            spec["redis"] =
                json!({ "podOverrides": { "spec": { "containers": [{ "image": "a" }] } } });
        },
    );
    refuses("spec.logic.podOverrides.status", "not known", |spec| {
        spec["logic"] = json!({ "podOverrides": { "status": {} } });
    });
    refuses(
        "spec.logic.podOverrides.metadata.name",
        "of no use",
        |spec| {
            spec["logic"] = json!({ "podOverrides": { "metadata": { "name": "mine" } } });
        },
    );
    assert_eq!(
        wrong(|spec| spec["logic"] =
            json!({ "podOverrides": { "spec": { "hostAliases": [{ "ip": "10.0.0.1" }] } } })),
        Vec::new()
    );
}

#[test]
fn overrides_that_reach_beyond_the_pod_are_refused_unless_the_operator_allows_them() {
    let with = |context: Value| json!({ "containers": [{ "name": "x", "image": "y", "securityContext": context }] });
    let cases = [
        ("hostNetwork", json!({ "hostNetwork": true })),
        ("hostPID", json!({ "hostPID": true })),
        ("hostIPC", json!({ "hostIPC": true })),
        (
            "volumes[0].hostPath",
            json!({ "volumes": [{ "name": "x", "hostPath": { "path": "/" } }] }),
        ),
        (
            "volumes[0].nfs",
            json!({ "volumes": [{ "name": "x", "nfs": { "server": "a", "path": "/" } }] }),
        ),
        (
            "securityContext.runAsNonRoot",
            json!({ "securityContext": { "runAsNonRoot": false } }),
        ),
        (
            "securityContext.sysctls",
            json!({ "securityContext": { "sysctls": [{ "name": "a", "value": "b" }] } }),
        ),
        (
            "containers[0].securityContext.privileged",
            with(json!({ "privileged": true })),
        ),
        (
            "containers[0].securityContext.allowPrivilegeEscalation",
            with(json!({ "allowPrivilegeEscalation": true })),
        ),
        (
            "containers[0].securityContext.runAsUser",
            with(json!({ "runAsUser": 0 })),
        ),
        (
            "containers[0].securityContext.capabilities.add",
            with(json!({ "capabilities": { "add": ["SYS_ADMIN"] } })),
        ),
        (
            "containers[0].securityContext.seccompProfile",
            with(json!({ "seccompProfile": { "type": "Unconfined" } })),
        ),
        (
            "containers[0].securityContext.procMount",
            with(json!({ "procMount": "Unmasked" })),
        ),
        (
            "containers[0].ports[0].hostPort",
            json!({ "containers": [{ "name": "x", "image": "y", "ports": [{ "containerPort": 1, "hostPort": 1 }] }] }),
        ),
        (
            "initContainers[0].securityContext.privileged",
            json!({ "initContainers": [{ "name": "x", "image": "y", "securityContext": { "privileged": true } }] }),
        ),
        (
            "ephemeralContainers",
            json!({ "ephemeralContainers": [{ "name": "x", "image": "y" }] }),
        ),
    ];
    for (field, spec) in cases {
        let change =
            |whole: &mut Value| whole["logic"] = json!({ "podOverrides": { "spec": spec } });
        refuses(
            &format!("spec.logic.podOverrides.spec.{field}"),
            "IM_PRIVILEGED_PODS",
            change,
        );
        let mut whole = minimal();
        change(&mut whole);
        assert!(validate(&read(whole), Pods::Privileged).is_ok(), "{field}");
    }
    let harmless = with(
        json!({ "runAsUser": 1000, "capabilities": { "add": ["NET_BIND_SERVICE"], "drop": ["ALL"] } }),
    );
    assert_eq!(
        wrong(|whole| whole["logic"] = json!({ "podOverrides": { "spec": harmless } })),
        Vec::new()
    );
}

#[test]
fn the_published_samples_keep_every_bound_and_rule() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/samples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder)
        .expect("samples")
        .map(|entry| entry.expect("a file").path())
    {
        if entry
            .file_name()
            .is_none_or(|name| name == "kustomization.yaml")
        {
            continue;
        }
        let text = std::fs::read_to_string(&entry).expect("a sample");
        let mut object: Value = serde_saphyr::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", entry.display()));
        object["metadata"]["namespace"] = json!("chat");
        object["metadata"]["uid"] = json!("6f1f2a52-0000-4000-8000-000000000002");
        let cluster: crate::api::ImCluster = serde_json::from_value(object).expect("an ImCluster");
        validate(&cluster, Pods::Confined)
            .unwrap_or_else(|problems| panic!("{}: {problems:#?}", entry.display()));
        seen += 1;
    }
    assert!(seen >= 2, "{seen} samples");
}
