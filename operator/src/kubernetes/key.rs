//! Which object: a namespace and a name.

use std::fmt;

use kube::{Resource, ResourceExt};

/// The label that names the ImCluster an object belongs to.
pub(crate) const CLUSTER: &str = "imcluster.io/cluster";

/// Names an object of a known kind; mostly an ImCluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name there.
    pub(crate) name: String,
}

impl Key {
    /// Of these two.
    pub(crate) fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Of an object.
    pub(crate) fn of(object: &impl Resource) -> Self {
        Self::new(object.namespace().unwrap_or_default(), object.name_any())
    }

    /// Of the ImCluster that an object says it belongs to.
    pub(crate) fn of_cluster(object: &impl Resource) -> Option<Self> {
        Some(Self::new(
            object.namespace()?,
            object.labels().get(CLUSTER)?,
        ))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}/{}", self.namespace, self.name)
    }
}
