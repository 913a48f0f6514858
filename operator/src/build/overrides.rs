//! `podOverrides`: what users add to a pod template beyond the fields there are. What the operator sets wins.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value};

/// A field of `podOverrides` that says other than the operator does, and is without effect.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ignored {
    /// Where: `spec.connect.podOverrides.spec.hostname`.
    pub(crate) field: String,
}

/// By which field the entries of a list are told apart; those of other lists of objects are all kept.
const KEYS: &[&str] = &["mountPath", "containerPort", "name"];

/// Adds what `user` says to `own`, and notes what can't be added.
pub(super) fn merge(
    field: &str,
    user: &Value,
    own: PodTemplateSpec,
    ignored: &mut Vec<Ignored>,
) -> PodTemplateSpec {
    let Ok(mut merged) = serde_json::to_value(&own) else {
        return own;
    };
    let mut conflicts = Vec::new();
    join(field, user, &mut merged, &mut conflicts);
    match serde_json::from_value(merged) {
        Ok(template) => {
            ignored.append(&mut conflicts);
            template
        }
        // `validate` refuses what Kubernetes' types don't take, so this is for what slips through it.
        Err(_) => {
            ignored.push(Ignored {
                field: field.to_owned(),
            });
            own
        }
    }
}

fn join(field: &str, user: &Value, own: &mut Value, ignored: &mut Vec<Ignored>) {
    match (user, own) {
        (Value::Null, _) => {}
        (Value::Object(user), Value::Object(own)) => objects(field, user, own, ignored),
        (Value::Array(user), Value::Array(own))
            if user.iter().chain(own.iter()).all(Value::is_object) =>
        {
            lists(field, user, own, ignored);
        }
        (user, own) if user == own => {}
        _ => ignored.push(Ignored {
            field: field.to_owned(),
        }),
    }
}

fn objects(
    field: &str,
    user: &Map<String, Value>,
    own: &mut Map<String, Value>,
    ignored: &mut Vec<Ignored>,
) {
    for (key, value) in user {
        match own.get_mut(key) {
            Some(own) => join(&format!("{field}.{key}"), value, own, ignored),
            None => {
                own.insert(key.clone(), value.clone());
            }
        }
    }
}

fn lists(field: &str, user: &[Value], own: &mut Vec<Value>, ignored: &mut Vec<Ignored>) {
    for (index, entry) in user.iter().enumerate() {
        let same = KEYS
            .iter()
            .find(|&&key| entry.get(key).is_some())
            .and_then(|&key| {
                let name = entry.get(key);
                own.iter().position(|other| other.get(key) == name)
            });
        match same {
            Some(at) => join(&format!("{field}[{index}]"), entry, &mut own[at], ignored),
            None => own.push(entry.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(user: Value, own: Value) -> (Value, Vec<String>) {
        let own: PodTemplateSpec = serde_json::from_value(own).expect("a template");
        let mut ignored = Vec::new();
        let template = merge("podOverrides", &user, own, &mut ignored);
        let fields = ignored.into_iter().map(|one| one.field).collect();
        (serde_json::to_value(template).expect("JSON"), fields)
    }

    #[test]
    fn a_sidecar_is_added_and_the_main_container_keeps_what_the_operator_sets() {
        let user = json!({ "spec": { "containers": [
            { "name": "connect", "image": "other", "stdin": true },
            { "name": "proxy", "image": "proxy:1" },
        ] } });
        let own = json!({ "spec": { "containers": [{ "name": "connect", "image": "imcluster/connect:1" }] } });
        let (template, ignored) = merged(user, own);
        let containers = &template["spec"]["containers"];
        assert_eq!(containers[0]["image"], "imcluster/connect:1");
        assert_eq!(containers[0]["stdin"], true);
        assert_eq!(containers[1]["name"], "proxy");
        assert_eq!(ignored, ["podOverrides.spec.containers[0].image"]);
    }

    #[test]
    fn saying_the_same_is_no_conflict_and_saying_nothing_either() {
        let user = json!({ "metadata": { "labels": { "a": "1" } }, "spec": { "hostname": null, "containers": [] } });
        let own = json!({ "metadata": { "labels": { "a": "1" } }, "spec": { "containers": [], "hostname": "x" } });
        let (template, ignored) = merged(user, own);
        assert_eq!(template["spec"]["hostname"], "x");
        assert!(ignored.is_empty(), "{ignored:?}");
    }

    #[test]
    fn mounts_are_told_apart_by_their_path_and_tolerations_are_all_kept() {
        let user = json!({ "spec": {
            "tolerations": [{ "key": "a", "operator": "Exists" }],
            "containers": [{ "name": "c", "volumeMounts": [
                { "name": "tls", "mountPath": "/other" },
                { "name": "mine", "mountPath": "/etc/tls" },
            ] }],
        } });
        let own = json!({ "spec": {
            "tolerations": [{ "key": "b", "operator": "Exists" }],
            "containers": [{ "name": "c", "volumeMounts": [{ "name": "tls", "mountPath": "/etc/tls" }] }],
        } });
        let (template, ignored) = merged(user, own);
        let mounts = template["spec"]["containers"][0]["volumeMounts"]
            .as_array()
            .expect("mounts");
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0]["name"], "tls");
        assert_eq!(
            template["spec"]["tolerations"].as_array().map(Vec::len),
            Some(2)
        );
        assert_eq!(
            ignored,
            ["podOverrides.spec.containers[0].volumeMounts[1].name"]
        );
    }
}
