//! An API server in memory: objects with versions and owned fields, lists, watches, and faults on request.

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::kubernetes::calls::{Calls, Gate, kind, verb};
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::Client;
use kube::client::{Body, ClientBuilder};
use serde_json::{Map, Value, json};
use tokio::sync::broadcast;
use tower::BoxError;

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Server(Arc<Mutex<State>>);

struct State {
    /// (plural, namespace, name) → object.
    objects: BTreeMap<(String, String, String), Value>,
    version: u64,
    /// Every write that was accepted: verb, plural, name.
    writes: Vec<(&'static str, String, String)>,
    /// How what depends on the deleted was to be treated, of every deletion.
    deletions: Vec<String>,
    faults: Vec<Fault>,
    changes: broadcast::Sender<(String, Value)>,
    /// Watches of these kinds answer with this code instead.
    broken_watches: BTreeMap<String, u16>,
    /// Nothing in these may be listed or watched.
    refused_namespaces: HashSet<String>,
    groups: HashSet<String>,
}

/// The next `left` calls of a verb and kind are answered with `code`.
struct Fault {
    verb: &'static str,
    kind: &'static str,
    code: u16,
    left: usize,
}

impl Server {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            objects: BTreeMap::new(),
            version: 100,
            writes: Vec::new(),
            deletions: Vec::new(),
            faults: Vec::new(),
            changes: broadcast::Sender::new(4096),
            broken_watches: BTreeMap::new(),
            refused_namespaces: HashSet::new(),
            groups: HashSet::new(),
        })))
    }

    /// A client with the operator's own layer around its calls.
    pub(crate) fn client(&self, gate: Gate) -> Client {
        let own = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let own = own.clone();
            async move { Ok::<_, Infallible>(own.answer(request).await) }
        });
        ClientBuilder::new(service, "default")
            .with_layer(&Calls { gate })
            .build()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The next calls of this verb and kind fail.
    pub(crate) fn fail(&self, verb: &'static str, kind: &'static str, code: u16, times: usize) {
        self.state().faults.push(Fault {
            verb,
            kind,
            code,
            left: times,
        });
    }

    /// These calls don't fail any more.
    pub(crate) fn heal(&self, verb: &'static str, kind: &'static str) {
        self.state()
            .faults
            .retain(|fault| (fault.verb, fault.kind) != (verb, kind));
    }

    /// How many of the failures asked for are still to come.
    pub(crate) fn failures_left(&self) -> usize {
        self.state().faults.iter().map(|fault| fault.left).sum()
    }

    /// Ends all watches; those of a kind answer with a code from now on, or again if there is none.
    pub(crate) fn break_watch(&self, kind: &str, code: Option<u16>) {
        let mut state = self.state();
        match code {
            Some(code) => state.broken_watches.insert(kind.to_owned(), code),
            None => state.broken_watches.remove(kind),
        };
        state.changes = broadcast::Sender::new(4096);
    }

    /// Nothing in this namespace may be listed or watched.
    pub(crate) fn refuse_namespace(&self, namespace: &str) {
        self.state().refused_namespaces.insert(namespace.to_owned());
    }

    /// The writes since the last call.
    pub(crate) fn writes(&self) -> Vec<(&'static str, String, String)> {
        std::mem::take(&mut self.state().writes)
    }

    /// How many writes there were since the last look.
    /// How what depended on each object that was deleted since the last look was to be treated.
    pub(crate) fn deletions(&self) -> Vec<String> {
        std::mem::take(&mut self.state().deletions)
    }

    pub(crate) fn count(&self) -> usize {
        self.state().writes.len()
    }

    pub(crate) fn get(&self, kind: &str, name: &str) -> Option<Value> {
        self.state()
            .objects
            .get(&(kind.to_owned(), "chat".to_owned(), name.to_owned()))
            .cloned()
    }

    pub(crate) fn names(&self, kind: &str) -> Vec<String> {
        self.state()
            .objects
            .keys()
            .filter(|(plural, _, _)| plural == kind)
            .map(|(_, _, name)| name.clone())
            .collect()
    }

    /// Writes as somebody else: not counted, and what changes is owned by nobody.
    pub(crate) fn put(&self, kind: &str, mut object: Value) {
        let mut state = self.state();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        object["metadata"]["namespace"] = json!("chat");
        let key = (kind.to_owned(), "chat".to_owned(), name);
        state.store(key, object);
    }

    /// Changes an object as somebody else does.
    pub(crate) fn edit(&self, kind: &str, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut object = self
            .get(kind, name)
            .unwrap_or_else(|| panic!("no {kind} {name}"));
        edit(&mut object);
        self.put(kind, object);
    }

    pub(crate) fn delete(&self, kind: &str, name: &str) {
        self.state()
            .remove(&(kind.to_owned(), "chat".to_owned(), name.to_owned()));
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let parts = Request::from_parts(head, ());
        let verb = verb(&parts);
        let path = parts.uri().path().to_owned();
        let kind = kind(&path);
        let query: BTreeMap<String, String> = form(parts.uri().query().unwrap_or_default())
            .into_iter()
            .collect();
        let mut state = self.state();
        let fault = state
            .faults
            .iter_mut()
            .find(|fault| fault.left > 0 && fault.verb == verb && fault.kind == kind);
        if let Some(fault) = fault {
            fault.left -= 1;
            return status(fault.code, "asked for by the test");
        }
        if kind == "discovery" || kind == "other" {
            return state.discover(&path);
        }
        let (plural, subresource) = kind.split_once('/').unwrap_or((&kind, ""));
        let (namespace, name) = place(&path);
        if namespace
            .as_ref()
            .is_some_and(|namespace| state.refused_namespaces.contains(namespace))
        {
            return status(403, "forbidden: asked for by the test");
        }
        let key = (
            plural.to_owned(),
            namespace.unwrap_or_else(|| "chat".to_owned()),
            name.clone().unwrap_or_default(),
        );
        match (parts.method(), name.is_some()) {
            (&Method::GET, false) if verb == "watch" => state.watch(plural, &query),
            (&Method::GET, false) => state.list(plural, &query),
            (&Method::GET, true) => match state.objects.get(&key) {
                Some(object) => json_answer(object),
                None => status(404, "not found"),
            },
            (&Method::POST, _) => {
                let object: Value = serde_json::from_slice(&body).unwrap();
                let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                state.create((key.0, key.1, name), object)
            }
            (&Method::PUT, _) => state.replace(key, serde_json::from_slice(&body).unwrap()),
            (&Method::DELETE, _) => state.delete(key, &body),
            (&Method::PATCH, _) => {
                let patch: Value = serde_json::from_slice(&body).unwrap();
                let manager = query.get("fieldManager").cloned().unwrap_or_default();
                let kind = kind.clone();
                state.patch(verb, kind, key, patch, &manager, subresource)
            }
            other => panic!("{other:?} {path}"),
        }
    }
}

impl State {
    fn store(&mut self, key: (String, String, String), mut object: Value) -> Value {
        let before = self.objects.get(&key);
        let mut same = object.clone();
        if let Some(before) = before {
            same["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
            if same == *before {
                return same;
            }
        }
        let generation = before
            .and_then(|before| before["metadata"]["generation"].as_i64())
            .unwrap_or(0);
        let new_spec = before.is_none_or(|before| before.get("spec") != object.get("spec"));
        let created = before.is_none();
        self.version += 1;
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = json!(self.version.to_string());
        metadata["generation"] = json!(generation + i64::from(new_spec));
        if metadata.get("uid").is_none_or(Value::is_null) {
            metadata["uid"] = json!(format!("uid-{}", self.version));
        }
        if metadata.get("creationTimestamp").is_none_or(Value::is_null) {
            metadata["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        self.objects.insert(key.clone(), object.clone());
        let kind = if created { "ADDED" } else { "MODIFIED" };
        let _ = self
            .changes
            .send((key.0, json!({"type": kind, "object": object})));
        object
    }

    fn remove(&mut self, key: &(String, String, String)) {
        if let Some(mut object) = self.objects.remove(key) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            let _ = self
                .changes
                .send((key.0.clone(), json!({"type": "DELETED", "object": object})));
        }
    }

    fn wrote(&mut self, verb: &'static str, kind: &str, name: &str) {
        self.writes.push((verb, kind.to_owned(), name.to_owned()));
    }

    fn create(&mut self, key: (String, String, String), mut object: Value) -> Answer {
        if self.objects.contains_key(&key) {
            return status(409, "already exists");
        }
        object["metadata"]["namespace"] = json!(key.1);
        self.wrote("create", &key.0, &key.2);
        json_answer(&self.store(key, object))
    }

    fn replace(&mut self, key: (String, String, String), object: Value) -> Answer {
        let Some(before) = self.objects.get(&key) else {
            return status(404, "not found");
        };
        if object["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"] {
            return status(409, "the object has been modified");
        }
        self.wrote("update", &key.0, &key.2);
        json_answer(&self.store(key, object))
    }

    fn delete(&mut self, key: (String, String, String), body: &[u8]) -> Answer {
        let Some(before) = self.objects.get(&key) else {
            return status(404, "not found");
        };
        let options: Value = serde_json::from_slice(body).unwrap_or_default();
        if let Some(uid) = options.pointer("/preconditions/uid")
            && *uid != before["metadata"]["uid"]
        {
            return status(409, "another uid");
        }
        let answer = json_answer(before);
        self.deletions.push(
            options["propagationPolicy"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        );
        self.wrote("delete", &key.0, &key.2);
        self.remove(&key);
        answer
    }

    fn patch(
        &mut self,
        verb: &'static str,
        kind: String,
        key: (String, String, String),
        patch: Value,
        manager: &str,
        subresource: &str,
    ) -> Answer {
        let before = self.objects.get(&key).cloned();
        if before.is_none() && (verb != "apply" || !subresource.is_empty()) {
            return status(404, "not found");
        }
        let mut object = before.unwrap_or_else(|| json!({"metadata": {}}));
        if let Some(version) = patch
            .pointer("/metadata/resourceVersion")
            .filter(|version| !version.is_null())
            && *version != object["metadata"]["resourceVersion"]
        {
            return status(409, "the object has been modified");
        }
        self.wrote(verb, &kind, &key.2);
        let mut said = patch.clone();
        if subresource == "status" {
            // A list of conditions is owned by who reports: the report is the whole of it.
            object["status"] = if verb == "apply" {
                patch["status"].clone()
            } else {
                merged(&object["status"], &patch["status"])
            };
            return json_answer(&self.store(key, object));
        }
        if let Some(metadata) = said.get_mut("metadata").and_then(Value::as_object_mut) {
            ["name", "namespace", "uid", "resourceVersion"]
                .iter()
                .for_each(|key| drop(metadata.remove(*key)));
        }
        if verb == "apply" {
            let old = object
                .pointer("/metadata/managedFields")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default();
            let mut entries: Vec<Value> = old
                .into_iter()
                .filter(|entry| entry["manager"] != manager)
                .collect();
            let mut owned = said.as_object().cloned().unwrap_or_default();
            ["apiVersion", "kind"]
                .iter()
                .for_each(|key| drop(owned.remove(*key)));
            entries.push(
                json!({"manager": manager, "operation": "Apply", "fieldsType": "FieldsV1",
                "apiVersion": said["apiVersion"], "fieldsV1": fields(&Value::Object(owned))}),
            );
            object["metadata"]["managedFields"] = json!(entries);
        }
        object = merged(&object, &said);
        object["metadata"]["name"] = json!(key.2);
        object["metadata"]["namespace"] = json!(key.1);
        json_answer(&self.store(key, object))
    }

    fn selected(&self, plural: &str, query: &BTreeMap<String, String>) -> Vec<Value> {
        let of_kind = self
            .objects
            .iter()
            .filter(|((kind, _, _), _)| kind == plural)
            .map(|(_, object)| object.clone());
        of_kind.filter(|object| matches(object, query)).collect()
    }

    fn list(&self, plural: &str, query: &BTreeMap<String, String>) -> Answer {
        if let Some(code) = self.broken_watches.get(plural) {
            return status(*code, "asked for by the test");
        }
        let items = self.selected(plural, query);
        json_answer(
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": self.version.to_string()}, "items": items}),
        )
    }

    fn watch(&self, plural: &str, query: &BTreeMap<String, String>) -> Answer {
        if let Some(code) = self.broken_watches.get(plural) {
            return status(*code, "asked for by the test");
        }
        let from: u64 = query
            .get("resourceVersion")
            .and_then(|version| version.parse().ok())
            .unwrap_or(0);
        let version = |object: &Value| {
            object["metadata"]["resourceVersion"]
                .as_str()
                .and_then(|v| v.parse::<u64>().ok())
        };
        let missed = self
            .selected(plural, query)
            .into_iter()
            .filter(move |object| version(object) > Some(from));
        let missed: Vec<Value> = missed
            .map(|object| json!({"type": "MODIFIED", "object": object}))
            .collect();
        let (plural, query) = (plural.to_owned(), query.clone());
        let changes = tokio_stream::wrappers::BroadcastStream::new(self.changes.subscribe());
        let later = changes.filter_map(move |change| {
            let wanted = change
                .ok()
                .filter(|(kind, event)| *kind == plural && matches(&event["object"], &query));
            std::future::ready(wanted.map(|(_, event)| event))
        });
        let events = futures::stream::iter(missed).chain(later);
        let frames =
            events.map(|event| Ok::<_, BoxError>(Frame::data(Bytes::from(format!("{event}\n")))));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }

    fn discover(&self, path: &str) -> Answer {
        match path {
            "/version" => json_answer(
                &json!({"major": "1", "minor": "34", "gitVersion": "v1.34.0", "gitCommit": "", "gitTreeState": "",
                "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}),
            ),
            "/apis/monitoring.coreos.com/v1" if self.groups.contains(path) => {
                json_answer(&json!({"kind": "APIResourceList",
                "groupVersion": "monitoring.coreos.com/v1", "resources": []}))
            }
            _ => status(404, "not found"),
        }
    }
}

/// The namespace and the name in a path.
fn place(path: &str) -> (Option<String>, Option<String>) {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let rest = if parts[0] == "api" {
        &parts[2..]
    } else {
        &parts[3..]
    };
    match rest {
        ["namespaces", namespace, _plural, name, ..] => {
            (Some((*namespace).to_owned()), Some((*name).to_owned()))
        }
        ["namespaces", namespace, _plural] => (Some((*namespace).to_owned()), None),
        [_plural, name] => (None, Some((*name).to_owned())),
        _ => (None, None),
    }
}

fn matches(object: &Value, query: &BTreeMap<String, String>) -> bool {
    let Some(selector) = query.get("labelSelector") else {
        return true;
    };
    let labels = &object["metadata"]["labels"];
    selector.split(',').all(|term| match term.split_once('=') {
        Some((key, value)) => labels[key] == *value,
        None => labels.get(term).is_some(),
    })
}

fn form(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let mut bytes = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((&first, more)) = rest.split_first() {
            match (first, more) {
                (b'%', [one, two, more @ ..]) => {
                    let digits = [*one, *two];
                    bytes.push(
                        u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap(),
                    );
                    rest = more;
                }
                (b'+', more) => {
                    bytes.push(b' ');
                    rest = more;
                }
                (other, more) => {
                    bytes.push(other);
                    rest = more;
                }
            }
        }
        String::from_utf8(bytes).unwrap()
    };
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (decode(key), decode(value)))
        .collect()
}

/// Which fields a manager owns that applies this.
fn fields(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(key, value)| (format!("f:{key}"), fields(value)))
                .collect(),
        ),
        Value::Array(items)
            if !items.is_empty() && items.iter().all(|item| item.get("name").is_some()) =>
        {
            let item = |item: &Value| {
                let mut owned = fields(item).as_object().cloned().unwrap_or_default();
                owned.insert(".".to_owned(), json!({}));
                (
                    format!("k:{}", json!({"name": item["name"]})),
                    Value::Object(owned),
                )
            };
            Value::Object(items.iter().map(item).collect::<Map<_, _>>())
        }
        _ => json!({}),
    }
}

fn merged(one: &Value, two: &Value) -> Value {
    match (one, two) {
        (Value::Object(one), Value::Object(two)) => {
            let mut all = one.clone();
            for (key, value) in two {
                let old = all.get(key).cloned().unwrap_or(Value::Null);
                all.insert(key.clone(), merged(&old, value));
            }
            Value::Object(all)
        }
        (_, two) => two.clone(),
    }
}

fn json_answer(value: &Value) -> Answer {
    Response::new(
        Full::new(Bytes::from(value.to_string()))
            .map_err(Into::into)
            .boxed_unsync(),
    )
}

fn status(code: u16, message: &str) -> Answer {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    let value = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code});
    let mut answer = json_answer(&value);
    *answer.status_mut() = StatusCode::from_u16(code).unwrap();
    answer
}
