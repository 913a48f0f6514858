//! Whether an ImCluster can be built. The API server has applied the definition's rules to it; they are applied again
//! here, as it may have been stored under an older definition, and with them those that a definition can't say.

mod confined;
mod overrides;
mod schema;

use std::collections::BTreeSet;

use kube::ResourceExt;
use serde_json::Value;

use crate::api::{ImCluster, ImClusterSpec, Pod, ServiceType};

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{field}: {message}")]
pub(crate) struct Problem {
    /// Where: `spec.connect.replicas`.
    pub(crate) field: String,
    /// What is wrong, and what to write instead.
    pub(crate) message: String,
}

impl Problem {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

/// An ImCluster that keeps every rule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Valid(ImCluster);

impl Valid {
    /// The resource.
    pub(crate) fn cluster(&self) -> &ImCluster {
        &self.0
    }

    /// What is asked for.
    pub(crate) fn spec(&self) -> &ImClusterSpec {
        &self.0.spec
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.0.metadata.name.as_deref().unwrap_or_default()
    }

    /// Its namespace.
    pub(crate) fn namespace(&self) -> &str {
        self.0.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Its UID.
    pub(crate) fn uid(&self) -> &str {
        self.0.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Whether the client Service hides clients' addresses, so that limits by address can't hold.
    pub(crate) fn hides_addresses(&self) -> bool {
        self.0.spec.connect.service.hides_addresses()
    }

    /// Whether a load balancer sends clients only to nodes that have a pod which takes new ones, and may cut those of others.
    pub(crate) fn is_reached_by_node(&self) -> bool {
        self.0.spec.connect.service.kind != ServiceType::ClusterIP && !self.hides_addresses()
    }
}

/// What pods may ask of the nodes they run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pods {
    /// Nothing that Kubernetes' Pod Security Standard "restricted" refuses.
    Confined,
    /// Whatever an ImCluster's `podOverrides` say.
    Privileged,
}

/// Takes an ImCluster that was read from the API server.
///
/// # Errors
/// All that is wrong with it, sorted by field.
pub(crate) fn validate(cluster: &ImCluster, may: Pods) -> Result<Valid, Vec<Problem>> {
    let mut problems = BTreeSet::new();
    for (field, value) in [
        ("metadata.name", cluster.name_any()),
        (
            "metadata.namespace",
            cluster.namespace().unwrap_or_default(),
        ),
    ] {
        if value.is_empty() {
            problems.insert(Problem::new(field, "is missing"));
        }
    }
    if cluster.uid().unwrap_or_default().is_empty() {
        problems.insert(Problem::new(
            "metadata.uid",
            "is missing: only what the API server has stored can be built",
        ));
    }
    match serde_json::to_value(cluster) {
        Ok(value) => problems.extend(schema::problems(&value)),
        Err(error) => {
            problems.insert(Problem::new("spec", format!("can't be read: {error}")));
        }
    }
    let spec = &cluster.spec;
    for (field, pod) in pods(spec) {
        problems.extend(environment(field, pod));
        if let Some(value) = &pod.pod_overrides {
            problems.extend(overrides::problems(
                &format!("{field}.podOverrides"),
                value,
                may,
            ));
        }
    }
    for (index, range) in spec.connect.service.source_ranges.iter().enumerate() {
        if range.parse::<ipnet::IpNet>().is_err() {
            let field = format!("spec.connect.service.sourceRanges[{index}]");
            problems.insert(Problem::new(
                field,
                format!("{range:?} is no address range: write for example 203.0.113.0/24"),
            ));
        }
    }
    match problems.is_empty() {
        true => Ok(Valid(cluster.clone())),
        false => Err(problems.into_iter().collect()),
    }
}

fn pods(spec: &ImClusterSpec) -> [(&'static str, &Pod); 5] {
    [
        ("spec.connect", &spec.connect.pod),
        ("spec.logic", &spec.logic.pod),
        ("spec.redis", &spec.redis.pod),
        ("spec.redis.sentinel", &spec.redis.sentinel.pod),
        ("spec.etcd", &spec.etcd.pod),
    ]
}

/// Variables that the operator sets, on any tier; extra ones must be others.
pub(crate) const OWN_VARIABLES: &[&str] = &[
    "IM_ADMIN_LISTEN",
    "IM_ADVERTISE",
    "IM_AUTH_AUDIENCE",
    "IM_AUTH_HS256_SECRET",
    "IM_AUTH_HS256_SECRET_FILE",
    "IM_AUTH_ISSUER",
    "IM_AUTH_JWKS_URL",
    "IM_AUTH_PUBLIC_KEY_FILE",
    "IM_DRAIN_AT_LEAST",
    "IM_DRAIN_DEADLINE",
    "IM_ETCD_ENDPOINTS",
    "IM_ETCD_PREFIX",
    "IM_GRPC_LISTEN",
    "IM_HISTORY_MAX_AGE",
    "IM_HISTORY_MAX_ENTRIES",
    "IM_HTTP_LISTEN",
    "IM_LOG_FORMAT",
    "IM_NODE",
    "IM_PEER_SECRET",
    "IM_PEER_SECRET_FILE",
    "IM_REDIS_PREFIX",
    "IM_REDIS_URL",
    "IM_REDIS_URL_FILE",
    "IM_REDIS_WAIT_REPLICAS",
    "IM_TCP_LISTEN",
    "IM_TLS_CA_FILE",
    "IM_TLS_CERT_FILE",
    "IM_TLS_KEY_FILE",
    "IM_WS_LISTEN",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "POD_IP",
    "POD_NAME",
];

fn environment(field: &str, pod: &Pod) -> Vec<Problem> {
    let mut seen = BTreeSet::new();
    let mut problems = Vec::new();
    for (index, variable) in pod.extra_env.iter().enumerate() {
        let at = format!("{field}.extraEnv[{index}]");
        let name = variable.name.as_str();
        if OWN_VARIABLES.contains(&name) {
            problems.push(Problem::new(
                &at,
                format!("{name} is set by the operator: leave it out, a field of the spec says it"),
            ));
        }
        if name.is_empty() {
            problems.push(Problem::new(
                &at,
                "the name is empty: write for example IM_LOG",
            ));
        }
        if !seen.insert(name) {
            problems.push(Problem::new(
                &at,
                format!("{name} stands here twice: leave one out"),
            ));
        }
        if variable.value.is_some() && variable.value_from.is_some() {
            problems.push(Problem::new(
                &at,
                format!("{name} has both value and valueFrom: leave one out"),
            ));
        }
    }
    problems
}

/// Shown in messages about what a field holds.
fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > 60 {
        text.truncate(
            (0..=60)
                .rev()
                .find(|&at| text.is_char_boundary(at))
                .unwrap_or(0),
        );
        text.push('…');
    }
    text
}
