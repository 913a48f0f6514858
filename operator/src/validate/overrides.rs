//! Whether `podOverrides` is a part of a pod template.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use super::{Pods, Problem, confined};

/// What Kubernetes would not understand in it, and what such pods may not ask for.
pub(super) fn problems(field: &str, value: &Value, pods: Pods) -> Vec<Problem> {
    let Some(object) = value.as_object() else {
        return vec![Problem::new(
            field,
            "write a part of a pod template, with metadata and spec",
        )];
    };
    let mut problems = Vec::new();
    for key in object
        .keys()
        .filter(|key| !matches!(key.as_str(), "metadata" | "spec"))
    {
        problems.push(Problem::new(
            format!("{field}.{key}"),
            "is not known: a pod template has metadata and spec",
        ));
    }
    if let Some(metadata) = value.get("metadata").and_then(Value::as_object) {
        for key in metadata
            .keys()
            .filter(|key| !matches!(key.as_str(), "labels" | "annotations"))
        {
            let at = format!("{field}.metadata.{key}");
            problems.push(Problem::new(
                at,
                "is of no use on pods of the operator: labels and annotations are",
            ));
        }
    }
    for list in ["containers", "initContainers", "volumes"] {
        let entries = value
            .pointer(&format!("/spec/{list}"))
            .and_then(Value::as_array);
        for (index, entry) in entries.into_iter().flatten().enumerate() {
            if entry
                .get("name")
                .and_then(Value::as_str)
                .is_none_or(str::is_empty)
            {
                problems.push(Problem::new(
                    format!("{field}.spec.{list}[{index}]"),
                    "needs a name",
                ));
            }
        }
    }
    let mut typed = value.clone();
    // The only fields that types need and a part may leave out.
    if let Some(spec) = typed.get_mut("spec").and_then(Value::as_object_mut) {
        spec.entry("containers")
            .or_insert_with(|| Value::Array(Vec::new()));
    }
    match serde_json::from_value::<PodTemplateSpec>(typed.clone()) {
        Ok(understood) => {
            if pods == Pods::Confined {
                problems.extend(confined::problems(field, &understood));
            }
            let understood = serde_json::to_value(understood).unwrap_or_default();
            unknown(field, &typed, &understood, &mut problems);
        }
        Err(error) => problems.push(Problem::new(
            field,
            format!("is no part of a pod template: {error}"),
        )),
    }
    problems
}

/// Fields that went missing when Kubernetes' types took the value: those they don't know.
fn unknown(field: &str, given: &Value, understood: &Value, problems: &mut Vec<Problem>) {
    match (given, understood) {
        (Value::Object(given), Value::Object(understood)) => {
            for (key, value) in given {
                let at = format!("{field}.{key}");
                match understood.get(key) {
                    Some(other) => unknown(&at, value, other, problems),
                    None if value.is_null() => {}
                    None => problems.push(Problem::new(at, "is not a field of a pod template")),
                }
            }
        }
        (Value::Array(given), Value::Array(understood)) => {
            for (index, (value, other)) in given.iter().zip(understood).enumerate() {
                unknown(&format!("{field}[{index}]"), value, other, problems);
            }
        }
        _ => {}
    }
}
