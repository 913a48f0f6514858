//! Writes the report: at once where something happened, at most every 30 s where only counts moved, and not at all where
//! nothing did.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use super::{counts_moved, only_counts_differ};
use crate::api::{ImCluster, ImClusterStatus};
use crate::kubernetes::cache::Cache;
use crate::metrics;

/// Counts alone are written once in so long.
const COUNTS_EVERY: Duration = Duration::from_secs(30);
/// Who owns the report's fields.
const MANAGER: &str = "im-operator-status";

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// It was written.
    Written,
    /// It says what the last one said.
    Same,
    /// Counts moved too little.
    Small,
    /// Counts moved too soon after the last time: worth another try after this.
    Soon(Duration),
}

/// Remembers when counts were last written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Writer {
    counted: Option<Instant>,
}

impl Writer {
    /// What is to be done with a report, given the one that stands.
    pub(crate) fn judge(&self, current: Option<&ImClusterStatus>, new: &ImClusterStatus) -> Held {
        let Some(current) = current else {
            return Held::Written;
        };
        if current == new {
            return Held::Same;
        }
        if !only_counts_differ(current, new) {
            return Held::Written;
        }
        if !counts_moved(current, new) {
            return Held::Small;
        }
        let left = self
            .counted
            .map(|at| COUNTS_EVERY.saturating_sub(at.elapsed()))
            .unwrap_or_default();
        if left.is_zero() {
            Held::Written
        } else {
            Held::Soon(left)
        }
    }

    /// Writes a report where that is due.
    ///
    /// # Errors
    /// The API server refused it or did not answer.
    pub(crate) async fn write(
        &mut self,
        client: &Client,
        clusters: &Cache<ImCluster>,
        cluster: &ImCluster,
        new: &ImClusterStatus,
    ) -> Result<Held, kube::Error> {
        let held = self.judge(cluster.status.as_ref(), new);
        match held {
            Held::Written => {}
            Held::Same => return Ok(held),
            Held::Small | Held::Soon(_) => {
                metrics::STATUS_HELD.inc();
                return Ok(held);
            }
        }
        let api: Api<ImCluster> =
            Api::namespaced(client.clone(), &cluster.namespace().unwrap_or_default());
        let patch = json!({
            "apiVersion": "imcluster.io/v1alpha1",
            "kind": "ImCluster",
            // Of another of the same name nothing is known.
            "metadata": {"name": cluster.name_any(), "uid": cluster.uid()},
            "status": new,
        });
        let params = PatchParams::apply(MANAGER).force();
        let mut written = api
            .patch_status(&cluster.name_any(), &params, &Patch::Apply(&patch))
            .await?;
        written.metadata.managed_fields = None;
        clusters.put(written);
        self.counted = Some(Instant::now());
        Ok(held)
    }
}
