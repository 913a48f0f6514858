//! Events: what happens to an ImCluster, told once where `kubectl describe` shows it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use tokio::time::{Instant, timeout};

use crate::api::ImCluster;
use crate::kubernetes::key::Key;
use crate::metrics;

/// The same thing is told again after so long only.
const QUIET: Duration = Duration::from_secs(30 * 60);
/// Telling is never worth waiting for longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Things remembered as told; beyond it the oldest are told again.
const REMEMBERED: usize = 4096;
/// What the API server takes.
const LONGEST: usize = 1000;

/// Tells Events.
pub(crate) struct Events {
    recorder: Recorder,
    told: Mutex<HashMap<(Key, String, String), Instant>>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// In the name of this replica.
    pub(crate) fn new(client: Client, instance: &str) -> Self {
        let reporter = Reporter { controller: "im-operator".to_owned(), instance: Some(instance.to_owned()) };
        Self { recorder: Recorder::new(client, reporter), told: Mutex::default() }
    }

    /// All is as it should be, and that is new.
    pub(crate) async fn normal(&self, about: &ImCluster, reason: &str, note: &str) {
        self.tell(about, EventType::Normal, reason, note).await;
    }

    /// Something is wrong.
    pub(crate) async fn warning(&self, about: &ImCluster, reason: &str, note: &str) {
        self.tell(about, EventType::Warning, reason, note).await;
    }

    async fn tell(&self, about: &ImCluster, type_: EventType, reason: &str, note: &str) {
        if !self.is_new(Key::of(about), reason, note) {
            return;
        }
        let note = note.chars().take(LONGEST).collect();
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        match timeout(PATIENCE, self.recorder.publish(&event, &about.object_ref(&()))).await {
            Ok(Ok(())) => metrics::EVENTS.with_label_values(&[reason]).inc(),
            // Where a namespace ends, nothing can be told any more.
            Ok(Err(kube::Error::Api(status))) if status.message.contains("being terminated") => {}
            Ok(Err(error)) => tracing::warn!(%error, cluster = %Key::of(about), reason, "an Event is not told"),
            Err(_) => tracing::warn!(cluster = %Key::of(about), reason, "an Event is not told in time"),
        }
    }

    fn is_new(&self, about: Key, reason: &str, note: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        told.retain(|_, at| now.duration_since(*at) < QUIET);
        if told.contains_key(&(about.clone(), reason.to_owned(), note.to_owned())) {
            return false;
        }
        if told.len() >= REMEMBERED {
            let oldest = told.iter().min_by_key(|(_, at)| **at).map(|(what, _)| what.clone());
            oldest.and_then(|oldest| told.remove(&oldest));
        }
        told.insert((about, reason.to_owned(), note.to_owned()), now);
        true
    }
}
