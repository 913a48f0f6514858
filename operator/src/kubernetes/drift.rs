//! Whether an object is as it was last applied, told from the object alone: it carries a hash of what was applied, and
//! its managed fields say whether that is still ours. Who changes a field takes it from us, and so shows.

use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Holds the hash of what was applied.
pub(crate) const HASH: &str = "imcluster.io/applied";

/// The hash of an object, whatever the order of its keys.
pub(crate) fn hash(body: &Value) -> String {
    let mut digest = Sha256::new();
    feed(&mut digest, body);
    digest
        .finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn feed(digest: &mut Sha256, value: &Value) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            digest.update(b"{");
            for key in keys {
                digest.update((key.len() as u64).to_be_bytes());
                digest.update(key.as_bytes());
                feed(digest, &map[key]);
            }
            digest.update(b"}");
        }
        Value::Array(items) => {
            digest.update(b"[");
            items.iter().for_each(|item| feed(digest, item));
            digest.update(b"]");
        }
        leaf => {
            let text = leaf.to_string();
            digest.update((text.len() as u64).to_be_bytes());
            digest.update(text.as_bytes());
        }
    }
}

/// What `manager` owns of an object by applying, as the API server tells it.
pub(crate) fn owned_fields<'o>(object: &'o DynamicObject, manager: &str) -> Option<&'o Value> {
    let entries = object.metadata.managed_fields.as_ref()?.iter();
    let mut ours = entries.filter(|entry| {
        entry.manager.as_deref() == Some(manager)
            && entry.operation.as_deref() == Some("Apply")
            && entry.subresource.as_deref().unwrap_or_default().is_empty()
    });
    ours.next()?.fields_v1.as_ref().map(|fields| &fields.0)
}

/// Whether `live` carries the hash of `body`, and `manager` owns everything that `body` says.
pub(crate) fn is_unchanged(live: &DynamicObject, body: &Value, manager: &str) -> bool {
    body.pointer("/metadata/annotations")
        .and_then(|annotations| annotations.get(HASH))
        .and_then(Value::as_str)
        == live.annotations().get(HASH).map(String::as_str)
        && owned_fields(live, manager).is_some_and(|owned| covers_object(owned, body))
}

/// What an object says of itself, and so nobody owns.
const IDENTITY: [&str; 3] = ["apiVersion", "kind", "status"];
const METADATA_IDENTITY: [&str; 4] = ["name", "namespace", "uid", "creationTimestamp"];

fn covers_object(owned: &Value, body: &Value) -> bool {
    let Value::Object(body) = body else {
        return false;
    };
    body.iter()
        .filter(|(key, _)| !IDENTITY.contains(&key.as_str()))
        .all(|(key, value)| match (key.as_str(), value) {
            ("metadata", Value::Object(metadata)) => {
                let told: Map<String, Value> = metadata
                    .iter()
                    .filter(|(key, _)| !METADATA_IDENTITY.contains(&key.as_str()))
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                owned
                    .get("f:metadata")
                    .is_some_and(|owned| covers(owned, &Value::Object(told)))
            }
            (key, value) => covers_field(owned, key, value),
        })
}

fn covers_field(owned: &Value, key: &str, value: &Value) -> bool {
    value.is_null()
        || owned
            .get(format!("f:{key}"))
            .is_some_and(|owned| covers(owned, value))
}

fn covers(owned: &Value, value: &Value) -> bool {
    let Value::Object(fields) = owned else {
        return false;
    };
    if fields.is_empty() {
        return true;
    }
    match value {
        Value::Object(map) => map
            .iter()
            .all(|(key, value)| covers_field(owned, key, value)),
        Value::Array(items) => items.iter().all(|item| {
            fields
                .iter()
                .any(|(name, owned)| covers_item(name, owned, item))
        }),
        _ => false,
    }
}

/// Whether the entry `name` of a list's fields is this item, and all of it is owned.
fn covers_item(name: &str, owned: &Value, item: &Value) -> bool {
    let parsed = |text| serde_json::from_str::<Value>(text).ok();
    match name.split_once(':') {
        Some(("v", text)) => parsed(text).as_ref() == Some(item),
        Some(("k", text)) => {
            let Some(Value::Object(keys)) = parsed(text) else {
                return false;
            };
            // A key that the item leaves out has its default.
            let mut named = keys
                .iter()
                .filter_map(|(key, wanted)| item.get(key).map(|got| got == wanted))
                .peekable();
            named.peek().is_some() && named.all(|same| same) && covers(owned, item)
        }
        _ => false,
    }
}

/// Whether an object's value is what is wanted, whatever defaults the API server has added.
pub(crate) fn says(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (_, Value::Null) => true,
        (Value::Object(live), Value::Object(wanted)) => wanted.iter().all(|(key, wanted)| {
            wanted.is_null() || live.get(key).is_some_and(|live| says(live, wanted))
        }),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len()
                && live
                    .iter()
                    .zip(wanted)
                    .all(|(live, wanted)| says(live, wanted))
        }
        (live, wanted) => live == wanted,
    }
}

/// Takes what nobody needs to keep from an object that is kept in memory only to be compared.
pub(crate) fn trim(object: &mut DynamicObject) {
    if let Some(entries) = &mut object.metadata.managed_fields {
        entries.retain(|entry| entry.operation.as_deref() == Some("Apply"));
    }
    if let Some(annotations) = &mut object.metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MANAGER: &str = "im-operator-connect";

    fn desired() -> Value {
        let mut body = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "demo-connect", "namespace": "chat", "labels": {"app.kubernetes.io/name": "connect"}},
            "spec": {
                "replicas": 3,
                "template": {"spec": {
                    "containers": [{"name": "connect", "image": "im:1", "args": ["--a", "--b"],
                        "ports": [{"containerPort": 3101, "name": "tcp"}]}],
                    "volumes": [{"name": "tmp", "emptyDir": {}}],
                }},
            },
        });
        let hash = hash(&body);
        body["metadata"]["annotations"] = json!({HASH: hash});
        body
    }

    fn fields() -> Value {
        json!({
            "f:metadata": {"f:annotations": {"f:imcluster.io/applied": {}}, "f:labels": {"f:app.kubernetes.io/name": {}}},
            "f:spec": {
                "f:replicas": {},
                "f:template": {"f:spec": {
                    "f:containers": {"k:{\"name\":\"connect\"}": {".": {}, "f:name": {}, "f:image": {}, "f:args": {},
                        "f:ports": {"k:{\"containerPort\":3101,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:name": {}}}}},
                    "f:volumes": {"k:{\"name\":\"tmp\"}": {".": {}, "f:emptyDir": {}, "f:name": {}}},
                }},
            },
        })
    }

    fn live(body: &Value, fields: &Value) -> DynamicObject {
        let mut live = body.clone();
        live["metadata"]["managedFields"] = json!([
            {"manager": "kubectl-edit", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {}},
            {"manager": MANAGER, "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": fields},
        ]);
        serde_json::from_value(live).unwrap()
    }

    #[test]
    fn what_was_applied_and_left_alone_is_settled() {
        let body = desired();
        assert!(is_unchanged(&live(&body, &fields()), &body, MANAGER));
        assert!(!is_unchanged(
            &live(&body, &fields()),
            &body,
            "another-manager"
        ));
    }

    #[test]
    fn a_field_that_another_took_is_seen_wherever_it_is() {
        let body = desired();
        for taken in [
            "/f:spec/f:replicas",
            "/f:metadata/f:labels/f:app.kubernetes.io~1name",
            "/f:spec/f:template/f:spec/f:containers/k:{\"name\":\"connect\"}/f:image",
            "/f:spec/f:template/f:spec/f:containers/k:{\"name\":\"connect\"}",
            "/f:spec/f:template/f:spec/f:containers/k:{\"name\":\"connect\"}/f:ports/k:{\"containerPort\":3101,\"protocol\":\"TCP\"}/f:name",
            "/f:metadata/f:annotations/f:imcluster.io~1applied",
        ] {
            let mut fields = fields();
            let (parent, name) = taken.rsplit_once('/').unwrap();
            let parent = fields
                .pointer_mut(parent)
                .and_then(Value::as_object_mut)
                .unwrap();
            parent.remove(&name.replace("~1", "/")).expect(taken);
            // An empty map would mean "all of it": the API server leaves a marker or takes the map away.
            parent.insert(".".to_owned(), json!({}));
            assert!(
                !is_unchanged(&live(&body, &fields), &body, MANAGER),
                "{taken}"
            );
        }
    }

    #[test]
    fn a_changed_intention_is_seen() {
        let before = live(&desired(), &fields());
        let mut body = desired();
        body["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("annotations");
        body["spec"].as_object_mut().unwrap().remove("replicas");
        let hash = hash(&body);
        body["metadata"]["annotations"] = json!({HASH: hash});
        assert!(!is_unchanged(&before, &body, MANAGER));
    }

    #[test]
    fn defaults_that_were_added_make_no_difference_and_values_do() {
        let live = json!([{"metadata": {"name": "data"}, "spec": {"volumeMode": "Filesystem", "size": "1Gi"}, "status": {}}]);
        let wanted = |size: &str| json!([{"metadata": {"name": "data", "labels": null}, "spec": {"size": size}}]);
        assert!(says(&live, &wanted("1Gi")));
        assert!(!says(&live, &wanted("2Gi")) && !says(&live, &json!([])));
        assert!(!says(&live, &json!([{"metadata": {"labels": {"a": "b"}}}])));
    }

    #[test]
    fn the_hash_tells_values_apart_and_not_orders() {
        let one: Value = serde_json::from_str(r#"{"a":1,"b":["x","y"]}"#).unwrap();
        let two: Value = serde_json::from_str(r#"{"b":["x","y"],"a":1}"#).unwrap();
        assert_eq!(hash(&one), hash(&two));
        for other in [
            r#"{"a":1,"b":["y","x"]}"#,
            r#"{"a":"1","b":["x","y"]}"#,
            r#"{"a":1,"b":["xy"]}"#,
            r#"{"a":1}"#,
        ] {
            assert_ne!(
                hash(&one),
                hash(&serde_json::from_str(other).unwrap()),
                "{other}"
            );
        }
    }
}
