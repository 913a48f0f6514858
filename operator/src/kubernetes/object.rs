//! Kubernetes objects as they are to be: what `build` prepares and `apply` applies.

use kube::Resource;
use kube::core::ApiResource;
use serde::Serialize;
use serde_json::Value;

use crate::api::Tier;

/// One Kubernetes object as it is to be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Object {
    /// The part of the ImCluster it is for.
    pub(crate) tier: Tier,
    /// Who owns the fields that it says.
    pub(crate) manager: &'static str,
    /// Its kind.
    pub(crate) resource: ApiResource,
    /// All that is said of it, with `apiVersion`, `kind` and `metadata`.
    pub(crate) body: Value,
}

impl Object {
    /// Of a typed object, for a tier and in the name of its manager. `apiVersion` and `kind` are set.
    ///
    /// # Panics
    /// Never: Kubernetes' own types are JSON.
    pub(crate) fn new<K>(tier: Tier, object: &K) -> Self
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        let body = serde_json::to_value(object).expect("a Kubernetes type is JSON");
        Self::dynamic(tier, ApiResource::erase::<K>(&()), body)
    }

    /// Of a kind that is known only at run time.
    pub(crate) fn dynamic(tier: Tier, resource: ApiResource, mut body: Value) -> Self {
        body["apiVersion"] = Value::String(resource.api_version.clone());
        body["kind"] = Value::String(resource.kind.clone());
        Self {
            tier,
            manager: tier.manager(),
            resource,
            body,
        }
    }

    /// Whether it makes pods: what changes in it may replace them.
    pub(crate) fn has_pods(&self) -> bool {
        matches!(self.resource.kind.as_str(), "Deployment" | "StatefulSet")
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.body
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
}

/// The objects of an ImCluster, all of them: what is not among them is not wanted any more.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Objects<S> {
    list: Vec<Object>,
    state: S,
}

/// They have been built, and nothing is known of their being there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prepared;

/// They are there as they were built, and nothing else of the ImCluster's is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Applied {
    writes: usize,
}

impl<S> Objects<S> {
    /// In the order in which they are applied.
    pub(crate) fn list(&self) -> &[Object] {
        &self.list
    }
}

impl Objects<Prepared> {
    pub(crate) fn prepared(list: Vec<Object>) -> Self {
        Self {
            list,
            state: Prepared,
        }
    }

    /// Only for who has applied all of them.
    pub(super) fn applied(self, writes: usize) -> Objects<Applied> {
        Objects {
            list: self.list,
            state: Applied { writes },
        }
    }
}

impl Objects<Applied> {
    /// How many calls that took: none where all was as it is to be.
    pub(crate) fn writes(&self) -> usize {
        self.state.writes
    }
}

#[cfg(test)]
impl Objects<Applied> {
    pub(crate) fn nothing_applied() -> Self {
        Self {
            list: Vec::new(),
            state: Applied { writes: 0 },
        }
    }
}
