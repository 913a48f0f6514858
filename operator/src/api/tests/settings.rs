//! Pods are given settings that their programs have, with the values of the spec.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::samples::{built, external, highly_available, minimal};

/// The variables that the documentation of a program names.
fn documented(program: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = std::fs::read_to_string(path).expect("the documentation");
    let begin = text
        .find(&format!("<!-- begin {program} -->"))
        .expect("the program's part");
    let end = text
        .find(&format!("<!-- end {program} -->"))
        .expect("its end");
    text[begin..end]
        .split('`')
        .filter(|word| word.starts_with("IM_") || word.starts_with("OTEL_"))
        .map(str::to_owned)
        .collect()
}

/// The variables of a Deployment's main container.
fn given(spec: Value, deployment: &str) -> BTreeMap<String, String> {
    let built = built(spec);
    let mut objects = built.objects.list().iter();
    let object =
        objects.find(|object| object.resource.kind == "Deployment" && object.name() == deployment);
    let container =
        &object.expect("the Deployment").body["spec"]["template"]["spec"]["containers"][0];
    let variables = container["env"].as_array().expect("variables");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    variables
        .iter()
        .map(|one| (text(&one["name"]), text(&one["value"])))
        .collect()
}

#[test]
fn every_variable_is_one_that_the_program_knows() {
    for (program, deployment) in [("im-connect", "demo-connect"), ("im-logic", "demo-logic")] {
        let known = documented(program);
        for spec in [minimal(), highly_available(), external()] {
            let given = given(spec, deployment);
            let unknown: Vec<_> = given
                .keys()
                .filter(|name| name.starts_with("IM_") && !known.contains(*name))
                .collect();
            assert!(unknown.is_empty(), "{program} does not know {unknown:?}");
        }
    }
}

#[test]
fn the_spec_reaches_the_programs() {
    let logic = given(highly_available(), "demo-logic");
    assert_eq!(logic["IM_REDIS_WAIT_REPLICAS"], "2");
    assert_eq!(logic["IM_HISTORY_MAX_ENTRIES"], "500");
    assert_eq!(logic["IM_HISTORY_MAX_AGE"], "0s");
    assert_eq!(
        logic["IM_AUTH_PUBLIC_KEY_FILE"],
        "/etc/imcluster/keys/a.pem,/etc/imcluster/keys/b.pem"
    );
    assert_eq!(logic["IM_AUTH_ISSUER"], "https://id.example.com");
    assert!(!logic.contains_key("IM_AUTH_HS256_SECRET_FILE"));
    let connect = given(highly_available(), "demo-connect");
    assert_eq!(connect["IM_DRAIN_DEADLINE"], "120s");
    assert_eq!(connect["IM_LOG"], "debug");
    assert_eq!(
        connect["OTEL_EXPORTER_OTLP_ENDPOINT"],
        "http://collector.monitoring:4317"
    );
    assert!(!connect.contains_key("IM_MAX_CONNECTIONS_PER_IP"));
    assert_eq!(connect["IM_ETCD_ENDPOINTS"].split(',').count(), 3);

    let smallest = given(minimal(), "demo-logic");
    assert_eq!(
        smallest["IM_AUTH_HS256_SECRET_FILE"],
        "/etc/imcluster/auth/hs256-secret"
    );
    assert_eq!(smallest["IM_REDIS_WAIT_REPLICAS"], "0");
    assert_eq!(smallest["IM_HISTORY_MAX_AGE"], "30d");
}

#[test]
fn limits_by_address_are_off_where_addresses_are_hidden_unless_given() {
    let hidden = given(external(), "demo-connect");
    assert_eq!(hidden["IM_MAX_CONNECTIONS_PER_IP"], "10000000");
    assert_eq!(hidden["IM_IP_REQUESTS_PER_SECOND"], "10000000");
    assert_eq!(hidden["IM_ACCEPTS_PER_SECOND_PER_IP"], "10000000");
    assert_eq!(hidden["IM_AUTH_FAILURES_PER_IP"], "10000000");
    assert_eq!(hidden["IM_REDIS_PREFIX"], "chat");
    let mut spec = external();
    spec["connect"]["extraEnv"] =
        serde_json::json!([{ "name": "IM_MAX_CONNECTIONS_PER_IP", "value": "7" }]);
    let own = given(spec, "demo-connect");
    assert_eq!(own["IM_MAX_CONNECTIONS_PER_IP"], "7");
    assert_eq!(own["IM_IP_REQUESTS_PER_SECOND"], "10000000");
}
