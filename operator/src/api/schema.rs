//! The parts of the schema that types alone don't say: bounds of lists and strings, and Kubernetes' own types without
//! their long descriptions, so that the definition stays small.

use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::ImCluster;

/// Entries of any list or map of Kubernetes' own types, and characters of their strings.
const ENTRIES: u64 = 64;
const CHARACTERS: u64 = 1024;

/// The definition of [`ImCluster`], as it is installed.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = ImCluster::crd();
    let labels = [(
        "app.kubernetes.io/part-of".to_owned(),
        "imcluster".to_owned(),
    )];
    crd.metadata.labels = Some(labels.into());
    for version in &mut crd.spec.versions {
        if let Some(schema) = version
            .schema
            .as_mut()
            .and_then(|schema| schema.open_api_v3_schema.as_mut())
        {
            unwrap_lines(schema);
        }
    }
    crd
}

/// Descriptions break lines where the source does; `kubectl explain` breaks them again.
fn unwrap_lines(schema: &mut JSONSchemaProps) {
    if let Some(description) = &mut schema.description {
        let paragraphs: Vec<String> = description
            .split("\n\n")
            .map(|lines| lines.replace('\n', " "))
            .collect();
        *description = paragraphs.join("\n\n");
    }
    schema
        .properties
        .iter_mut()
        .flatten()
        .for_each(|(_, inner)| unwrap_lines(inner));
    if let Some(JSONSchemaPropsOrArray::Schema(inner)) = &mut schema.items {
        unwrap_lines(inner);
    }
}

pub(super) fn labels(_: &mut SchemaGenerator) -> Schema {
    text_map(63)
}

pub(super) fn annotations(_: &mut SchemaGenerator) -> Schema {
    text_map(4096)
}

fn text_map(longest: u64) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": ENTRIES,
        "additionalProperties": { "type": "string", "maxLength": longest },
    })
}

pub(super) fn names(_: &mut SchemaGenerator) -> Schema {
    texts(
        16,
        json!({ "type": "string", "minLength": 1, "maxLength": 253 }),
    )
}

pub(super) fn keys(_: &mut SchemaGenerator) -> Schema {
    let key = json!({ "type": "string", "minLength": 1, "maxLength": 253, "pattern": "^[-._a-zA-Z0-9]+$" });
    let mut schema = texts(16, key);
    schema.insert("minItems".to_owned(), json!(1));
    schema
}

pub(super) fn cidrs(_: &mut SchemaGenerator) -> Schema {
    texts(
        64,
        json!({ "type": "string", "minLength": 3, "maxLength": 49, "pattern": "^[0-9a-fA-F.:]+/[0-9]{1,3}$" }),
    )
}

pub(super) fn endpoints(_: &mut SchemaGenerator) -> Schema {
    let endpoint = json!({ "type": "string", "minLength": 8, "maxLength": 300, "pattern": "^https?://[^/,]+$" });
    let mut schema = texts(16, endpoint);
    schema.insert("minItems".to_owned(), json!(1));
    schema
}

fn texts(most: u64, item: Value) -> Schema {
    json_schema!({ "type": "array", "maxItems": most, "x-kubernetes-list-type": "set", "items": item })
}

pub(super) fn size(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": 20, "pattern": "^[0-9]+([KMGT]i?)?$" })
}

pub(super) fn volume_size(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": 40 })
}

pub(super) fn max_draining(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-int-or-string": true, "anyOf": [{ "type": "integer" }, { "type": "string" }], "maxLength": 4 })
}

pub(super) fn overrides(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "metadata": {
                "type": "object",
                "description": "More labels and annotations.",
                "x-kubernetes-preserve-unknown-fields": true,
            },
            "spec": {
                "type": "object",
                "description": "More of the pod's spec.",
                "x-kubernetes-preserve-unknown-fields": true,
            },
        },
    })
}

pub(super) fn resources(generator: &mut SchemaGenerator) -> Schema {
    bounded::<ResourceRequirements>(generator)
}

pub(super) fn affinity(generator: &mut SchemaGenerator) -> Schema {
    bounded::<Affinity>(generator)
}

pub(super) fn tolerations(generator: &mut SchemaGenerator) -> Schema {
    bounded::<Vec<Toleration>>(generator)
}

pub(super) fn spread(generator: &mut SchemaGenerator) -> Schema {
    bounded::<Vec<TopologySpreadConstraint>>(generator)
}

pub(super) fn env(generator: &mut SchemaGenerator) -> Schema {
    bounded::<Vec<EnvVar>>(generator)
}

pub(super) fn peers(generator: &mut SchemaGenerator) -> Schema {
    bounded::<Vec<NetworkPolicyPeer>>(generator)
}

/// A type of Kubernetes with every list, map and string bounded and nothing described.
fn bounded<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = T::json_schema(generator);
    if let Some(object) = schema.as_object_mut() {
        bound(object);
    }
    schema
}

fn bound(schema: &mut Map<String, Value>) {
    schema.remove("description");
    schema.remove("title");
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        schema.entry("maxLength").or_insert_with(|| json!(63));
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => {
            schema
                .entry("maxLength")
                .or_insert_with(|| json!(CHARACTERS));
        }
        Some("array") => {
            schema.entry("maxItems").or_insert_with(|| json!(ENTRIES));
        }
        Some("object") if schema.contains_key("additionalProperties") => {
            schema
                .entry("maxProperties")
                .or_insert_with(|| json!(ENTRIES));
        }
        _ => {}
    }
    for key in ["items", "additionalProperties"] {
        if let Some(Value::Object(inner)) = schema.get_mut(key) {
            bound(inner);
        }
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties
            .values_mut()
            .filter_map(Value::as_object_mut)
            .for_each(bound);
    }
}
