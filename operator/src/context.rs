//! What everything in a leading operator shares: the API server, what it has told, and what is asked for next.

use std::sync::Arc;

use kube::Client;

use crate::api::Tier;
use crate::build;
use crate::controller::queue::Queue;
use crate::kubernetes::calls::Gate;
use crate::kubernetes::events::Events;
use crate::kubernetes::key::Key;
use crate::kubernetes::stores::Stores;
use crate::settings::Settings;
use crate::tiers::connect::drains::Readings;

/// What everything in a leading operator shares.
pub(crate) struct Context {
    pub(crate) client: Client,
    /// Whether this replica may change anything: the API server's objects, redis and etcd alike.
    pub(crate) gate: Gate,
    pub(crate) settings: Settings,
    /// What the API server has told.
    pub(crate) stores: Stores,
    /// ImClusters that are due.
    pub(crate) queue: Arc<Queue>,
    /// What connect pods last answered.
    pub(crate) readings: Readings,
    pub(crate) events: Events,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Context")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// Of this replica.
    pub(crate) fn new(client: Client, gate: Gate, settings: Settings, replica: &str) -> Self {
        Self {
            gate,
            stores: Stores::new(&settings.watch_namespaces),
            queue: Arc::default(),
            readings: Readings::default(),
            events: Events::new(client.clone(), replica),
            client,
            settings,
        }
    }

    /// A pod of redis or Sentinel by its full name: resolvers that find no such name ask no server outside of the cluster.
    pub(crate) fn pod_host(&self, key: &Key, tier: Tier, ordinal: i32) -> String {
        format!(
            "{}.{}",
            build::pod_host(&key.name, &key.namespace, tier, ordinal),
            self.settings.cluster_domain
        )
    }
}
