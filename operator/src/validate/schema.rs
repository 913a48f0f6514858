//! The definition's bounds and CEL rules, applied to a resource in process.

use std::sync::LazyLock;

use kube::core::cel::{CompiledSchema, Validator, compile_schema};
use regex::Regex;
use serde_json::Value;

use super::{Problem, shown};
use crate::api;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let schema = api::crd()
        .spec
        .versions
        .into_iter()
        .next()
        .and_then(|version| version.schema);
    let schema = schema.and_then(|schema| schema.open_api_v3_schema);
    serde_json::to_value(schema.expect("the definition has a schema")).expect("a schema is JSON")
});

static RULES: LazyLock<CompiledSchema> = LazyLock::new(|| compile_schema(&SCHEMA));

/// What the definition refuses in a resource, status apart. Rules about changes are the API server's alone.
pub(super) fn problems(resource: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    let spec = resource.get("spec").unwrap_or(&Value::Null);
    if let Some(schema) = SCHEMA.pointer("/properties/spec") {
        bounds("spec", schema, spec, &mut problems);
    }
    let mut without_status = resource.clone();
    if let Some(object) = without_status.as_object_mut() {
        object.remove("status");
    }
    // A value of a wrong type would only be refused a second time, in the rules' words.
    if problems.is_empty()
        && let Err(errors) = Validator::new().validate_compiled(&RULES, &without_status, None)
    {
        problems.extend(errors.into_vec().into_iter().map(|error| {
            let field = if error.field_path.is_empty() {
                "metadata".to_owned()
            } else {
                error.field_path
            };
            Problem::new(field, error.message)
        }));
    }
    problems
}

fn bounds(field: &str, schema: &Value, value: &Value, problems: &mut Vec<Problem>) {
    let number = |key: &str| schema.get(key).and_then(Value::as_f64);
    let mut refuse = |message: String| problems.push(Problem::new(field, message));
    match value {
        Value::Null => {
            if schema.get("nullable") != Some(&Value::Bool(true)) {
                refuse("is missing".to_owned());
            }
        }
        Value::Bool(_) => expect("boolean", schema, value, &mut refuse),
        Value::Number(given) => {
            expect("integer", schema, value, &mut refuse);
            let given = given.as_f64().unwrap_or(f64::NAN);
            if let Some(least) = number("minimum").filter(|&least| given < least) {
                refuse(format!("{given} is too small: write {least} or more"));
            }
            if let Some(most) = number("maximum").filter(|&most| given > most) {
                refuse(format!("{given} is too large: write {most} or less"));
            }
        }
        Value::String(text) => {
            expect("string", schema, value, &mut refuse);
            let length = text.chars().count() as f64;
            if number("minLength").is_some_and(|least| length < least) {
                refuse(format!("{} is too short", shown(value)));
            }
            if let Some(most) = number("maxLength").filter(|&most| length > most) {
                refuse(format!("is longer than {most} characters"));
            }
            let pattern = schema.get("pattern").and_then(Value::as_str);
            if let Some(pattern) = pattern.filter(|pattern| !matches(pattern, text)) {
                refuse(format!("{} does not match {pattern}", shown(value)));
            }
            if let Some(choices) = schema
                .get("enum")
                .and_then(Value::as_array)
                .filter(|all| !all.contains(value))
            {
                let choices: Vec<String> =
                    choices.iter().map(|choice| choice.to_string()).collect();
                refuse(format!(
                    "{} is not one of {}",
                    shown(value),
                    choices.join(", ")
                ));
            }
        }
        Value::Array(entries) => {
            expect("array", schema, value, &mut refuse);
            if number("minItems").is_some_and(|least| (entries.len() as f64) < least) {
                refuse("has too few entries".to_owned());
            }
            if let Some(most) = number("maxItems").filter(|&most| entries.len() as f64 > most) {
                refuse(format!("has more than {most} entries"));
            }
            if let Some(schema) = schema.get("items") {
                for (index, entry) in entries.iter().enumerate() {
                    bounds(&format!("{field}[{index}]"), schema, entry, problems);
                }
            }
        }
        Value::Object(entries) => {
            expect("object", schema, value, &mut refuse);
            if let Some(most) = number("maxProperties").filter(|&most| entries.len() as f64 > most)
            {
                refuse(format!("has more than {most} entries"));
            }
            for (key, entry) in entries {
                let inner = schema
                    .get("properties")
                    .and_then(|all| all.get(key))
                    .or(schema.get("additionalProperties"));
                if let Some(inner) = inner {
                    bounds(&format!("{field}.{key}"), inner, entry, problems);
                }
            }
        }
    }
}

fn expect(kind: &str, schema: &Value, value: &Value, refuse: &mut impl FnMut(String)) {
    if let Some(wanted) = schema
        .get("type")
        .and_then(Value::as_str)
        .filter(|&wanted| wanted != kind)
    {
        refuse(format!("{} is no {wanted}", shown(value)));
    }
}

/// The definition's patterns are compiled at their first use and are the same for ever.
fn matches(pattern: &str, text: &str) -> bool {
    Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text))
}
