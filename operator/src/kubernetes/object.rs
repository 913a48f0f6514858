//! One Kubernetes object as it is to be: what `build` makes and `apply` applies.

use kube::Resource;
use kube::core::ApiResource;
use serde::Serialize;
use serde_json::Value;

use crate::api::Tier;

/// One Kubernetes object as it is to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// The part of the ImCluster it is for.
    pub tier: Tier,
    /// Who owns the fields that it says.
    pub manager: &'static str,
    /// Its kind.
    pub resource: ApiResource,
    /// All that is said of it, with `apiVersion`, `kind` and `metadata`.
    pub body: Value,
}

impl Object {
    /// Of a typed object, for a tier and in the name of its manager. `apiVersion` and `kind` are set.
    ///
    /// # Panics
    /// Never: Kubernetes' own types are JSON.
    pub fn new<K>(tier: Tier, object: &K) -> Self
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        let body = serde_json::to_value(object).expect("a Kubernetes type is JSON");
        Self::dynamic(tier, ApiResource::erase::<K>(&()), body)
    }

    /// Of a kind that is known only at run time.
    pub fn dynamic(tier: Tier, resource: ApiResource, mut body: Value) -> Self {
        body["apiVersion"] = Value::String(resource.api_version.clone());
        body["kind"] = Value::String(resource.kind.clone());
        Self { tier, manager: tier.manager(), resource, body }
    }

    /// Whether it makes pods: what changes in it may replace them.
    pub fn has_pods(&self) -> bool {
        matches!(self.resource.kind.as_str(), "Deployment" | "StatefulSet")
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
    }
}
