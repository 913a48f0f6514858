//! Every CEL rule of the definition, both ways: what keeps it passes, what breaks it is refused with its message.

use std::collections::BTreeSet;

use crate::api;
use kube::core::cel::{ErrorKind, Validator};
use serde_json::{Value, json};

use super::samples::{external, highly_available, minimal, stored};

fn schema() -> Value {
    let version = api::crd().spec.versions.remove(0);
    let schema = version
        .schema
        .and_then(|schema| schema.open_api_v3_schema)
        .expect("a schema");
    serde_json::to_value(schema).expect("JSON")
}

/// The messages of the rules that are broken when `old` (absent: nothing) becomes `new`.
fn refused(old: Option<Value>, new: Value) -> Vec<String> {
    match Validator::new().validate(&schema(), &new, old.as_ref()) {
        Ok(()) => Vec::new(),
        Err(errors) => errors
            .into_vec()
            .into_iter()
            .map(|error| {
                assert_eq!(error.kind, ErrorKind::ValidationFailure, "{error:?}");
                error.message
            })
            .collect(),
    }
}

fn messages(schema: &Value, into: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            for rule in fields
                .get("x-kubernetes-validations")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                into.insert(
                    rule["message"]
                        .as_str()
                        .expect("every rule has a message")
                        .to_owned(),
                );
            }
            fields.values().for_each(|inner| messages(inner, into));
        }
        Value::Array(entries) => entries.iter().for_each(|inner| messages(inner, into)),
        _ => {}
    }
}

/// What a change of one field does to a spec.
fn with(mut spec: Value, path: &str, value: Value) -> Value {
    let mut at = &mut spec;
    for part in path.split('.') {
        at = &mut at[part];
    }
    *at = value;
    spec
}

fn long_name() -> Value {
    let mut object = stored(minimal());
    object["metadata"]["name"] = json!("a".repeat(41));
    object
}

/// Of a cluster whose volumes have `has`: less is asked for than the spec says, and than they have.
fn shrunk(tier: &str, has: &str, wanted: &str) -> (Option<Value>, Value) {
    let path = format!("{tier}.storage.size");
    let mut old = stored(with(highly_available(), &path, json!(has)));
    old["status"] = json!({tier: {"replicas": 1, "ready": 1, "volumeSize": has}});
    let mut new = stored(with(highly_available(), &path, json!(wanted)));
    new["status"] = old["status"].clone();
    (Some(old), new)
}

/// What breaks a rule, and a part of its message.
fn broken() -> Vec<(Option<Value>, Value, &'static str)> {
    let create = |path: &str, value: Value| (None, stored(with(minimal(), path, value)));
    let change = |old: Value, path: &str, value: Value| {
        (Some(stored(old.clone())), stored(with(old, path, value)))
    };
    let cases = [
        (
            create("connect.rollout.maxDraining", json!(0)),
            "a share from 1% to 100%",
        ),
        (
            create("connect.rollout.maxDraining", json!("0%")),
            "a share from 1% to 100%",
        ),
        (
            create("connect.rollout.maxDraining", json!("101%")),
            "a share from 1% to 100%",
        ),
        (
            create("connect.service.sourceRanges", json!(["10.0.0.0/8"])),
            "need type: LoadBalancer",
        ),
        (
            create(
                "connect.service",
                json!({ "type": "NodePort", "loadBalancerClass": "x" }),
            ),
            "need type: LoadBalancer",
        ),
        (
            create("connect.service.nodePorts", json!({ "tcp": 30101 })),
            "nodePorts need type",
        ),
        (
            create("connect.service.externalTrafficPolicy", json!("Local")),
            "externalTrafficPolicy needs type",
        ),
        (
            create("redis.mode", json!("External")),
            "needs external.urlSecret",
        ),
        (
            create(
                "redis.external",
                json!({ "urlSecret": { "name": "a", "key": "b" } }),
            ),
            "external needs mode",
        ),
        (
            create("redis.storage", json!({ "size": "63Mi" })),
            "at least 64Mi",
        ),
        (
            create("etcd.mode", json!("External")),
            "needs external.endpoints",
        ),
        (
            create("etcd.external", json!({ "endpoints": ["http://a:1"] })),
            "external needs mode",
        ),
        (create("etcd.replicas", json!(2)), "write 1 or 3"),
        (
            create("images.redis", json!({ "repository": "valkey" })),
            "redis has versions of its own",
        ),
        (
            create("images.etcd", json!({ "repository": "etcd" })),
            "etcd has versions of its own",
        ),
        ((None, long_name()), "metadata.name: 1 to 40"),
        (
            change(minimal(), "redis.mode", json!("Sentinel")),
            "mode can't be changed",
        ),
        (
            change(minimal(), "etcd.replicas", json!(3)),
            "replicas of etcd can't be changed",
        ),
        (
            change(external(), "etcd", json!({ "mode": "Managed" })),
            "mode can't be changed",
        ),
        (
            change(external(), "redis.external.prefix", json!("other")),
            "prefix can't be changed",
        ),
        (
            change(
                highly_available(),
                "connect.service.loadBalancerClass",
                json!("a/b"),
            ),
            "loadBalancerClass can't be changed in place",
        ),
        (
            shrunk("redis", "20Gi", "19Gi"),
            "spec.redis.storage.size: volumes can grow, not shrink",
        ),
        (
            shrunk("etcd", "2Gi", "1536Mi"),
            "spec.etcd.storage.size: volumes can grow, not shrink",
        ),
        (
            change(highly_available(), "redis.storage.className", json!("slow")),
            "className can't be changed",
        ),
        (
            change(
                highly_available(),
                "redis.storage",
                json!({ "size": "20Gi" }),
            ),
            "className can't be changed",
        ),
    ];
    cases
        .into_iter()
        .map(|((old, new), message)| (old, new, message))
        .collect()
}

#[test]
fn what_breaks_a_rule_is_refused_with_its_message() {
    for (old, new, expected) in broken() {
        let refused = refused(old, new.clone());
        assert!(
            refused.iter().any(|message| message.contains(expected)),
            "{expected:?} not in {refused:?}: {new:#}"
        );
    }
}

#[test]
fn every_rule_is_broken_by_a_case_above() {
    let mut all = BTreeSet::new();
    messages(&schema(), &mut all);
    let seen: BTreeSet<String> = broken()
        .into_iter()
        .flat_map(|(old, new, _)| refused(old, new))
        .collect();
    assert!(all.len() > 15, "rules were found: {all:?}");
    assert_eq!(
        all.difference(&seen).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "rules that no case breaks"
    );
}

#[test]
fn what_keeps_every_rule_passes() {
    let none: Vec<String> = Vec::new();
    for spec in [minimal(), highly_available(), external()] {
        assert_eq!(refused(None, stored(spec.clone())), none, "{spec:#}");
        assert_eq!(
            refused(Some(stored(spec.clone())), stored(spec.clone())),
            none,
            "unchanged {spec:#}"
        );
    }
    let same_size = with(highly_available(), "redis.storage.size", json!("20480Mi"));
    let changes = [
        (minimal(), with(minimal(), "version", json!("0.1.1"))),
        (minimal(), with(minimal(), "connect.replicas", json!(1000))),
        (
            minimal(),
            with(minimal(), "connect.rollout.maxDraining", json!(1)),
        ),
        (
            minimal(),
            with(minimal(), "connect.rollout.maxDraining", json!("100%")),
        ),
        (
            minimal(),
            with(minimal(), "redis.durability", json!("Strict")),
        ),
        (
            minimal(),
            with(
                minimal(),
                "redis.storage",
                json!({ "size": "8Gi", "retain": false }),
            ),
        ),
        (highly_available(), same_size),
        (
            minimal(),
            with(
                minimal(),
                "connect.service",
                json!({ "type": "LoadBalancer", "loadBalancerClass": "a/b" }),
            ),
        ),
        (
            highly_available(),
            with(highly_available(), "redis.storage.size", json!("21Gi")),
        ),
        (
            external(),
            with(external(), "redis.external.urlSecret.key", json!("other")),
        ),
    ];
    for (old, new) in changes {
        assert_eq!(
            refused(Some(stored(old)), stored(new.clone())),
            none,
            "{new:#}"
        );
    }
}

#[test]
fn a_name_of_forty_letters_passes_and_others_that_services_could_not_have_do_not() {
    let named = |name: &str| {
        let mut object = stored(minimal());
        object["metadata"]["name"] = json!(name);
        refused(None, object)
    };
    assert_eq!(named(&"a".repeat(40)), Vec::<String>::new());
    for name in ["1demo", "demo.one", "demo-"] {
        assert_eq!(named(name).len(), 1, "{name}");
    }
}

#[test]
fn a_size_that_the_storage_refused_can_be_taken_back_and_a_report_is_never_refused_for_it() {
    let with_volumes = |asked: &str, has: &str| {
        let mut object = stored(with(highly_available(), "redis.storage.size", json!(asked)));
        object["status"] = json!({"redis": {"replicas": 1, "ready": 1, "volumeSize": has}});
        object
    };
    // Asked for 40Gi, which the class refused.
    assert_eq!(
        refused(
            Some(with_volumes("40Gi", "20Gi")),
            with_volumes("20Gi", "20Gi")
        ),
        Vec::<String>::new()
    );
    // Made anew over volumes that were larger before.
    assert_eq!(
        refused(
            Some(with_volumes("8Gi", "20Gi")),
            with_volumes("8Gi", "20Gi")
        ),
        Vec::<String>::new()
    );
    assert_eq!(
        refused(
            Some(with_volumes("8Gi", "20Gi")),
            with_volumes("9Gi", "20Gi")
        ),
        Vec::<String>::new()
    );
    assert_eq!(
        refused(
            Some(with_volumes("8Gi", "20Gi")),
            with_volumes("7Gi", "20Gi")
        )
        .len(),
        1
    );
}
