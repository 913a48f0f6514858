//! Events: what happens to an ImCluster, emitted once, where `kubectl describe` shows it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use tokio::time::{Instant, timeout};

use crate::api::ImCluster;
use crate::kubernetes::key::Key;
use crate::metrics;

/// The same Event is emitted again only after this.
const REPEAT_AFTER: Duration = Duration::from_secs(30 * 60);
/// No Event is worth waiting for longer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Events remembered as emitted; beyond it the oldest may be emitted again.
const MAX_REMEMBERED: usize = 4096;
/// What the API server takes.
const MAX_NOTE: usize = 1000;

/// Emits Events.
pub(crate) struct Events {
    recorder: Recorder,
    emitted: Mutex<HashMap<(Key, String, String), Instant>>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// In the name of this replica.
    pub(crate) fn new(client: Client, instance: &str) -> Self {
        let reporter = Reporter {
            controller: "im-operator".to_owned(),
            instance: Some(instance.to_owned()),
        };
        Self {
            recorder: Recorder::new(client, reporter),
            emitted: Mutex::default(),
        }
    }

    /// Emits a Normal event.
    pub(crate) async fn normal(&self, about: &ImCluster, reason: &str, note: &str) {
        self.emit(about, EventType::Normal, reason, note).await;
    }

    /// Emits a Warning event.
    pub(crate) async fn warning(&self, about: &ImCluster, reason: &str, note: &str) {
        self.emit(about, EventType::Warning, reason, note).await;
    }

    async fn emit(&self, about: &ImCluster, type_: EventType, reason: &str, note: &str) {
        if !self.is_new(Key::of(about), reason, note) {
            return;
        }
        let note = note.chars().take(MAX_NOTE).collect();
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        match timeout(
            TIMEOUT,
            self.recorder.publish(&event, &about.object_ref(&())),
        )
        .await
        {
            Ok(Ok(())) => metrics::EVENTS.with_label_values(&[reason]).inc(),
            // Where a namespace ends, no Event can be created any more.
            Ok(Err(kube::Error::Api(status))) if status.message.contains("being terminated") => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, cluster = %Key::of(about), reason, "cannot publish an Event")
            }
            Err(_) => {
                tracing::warn!(cluster = %Key::of(about), reason, "timed out publishing an Event")
            }
        }
    }

    fn is_new(&self, about: Key, reason: &str, note: &str) -> bool {
        let mut emitted = self.emitted.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        emitted.retain(|_, at| now.duration_since(*at) < REPEAT_AFTER);
        if emitted.contains_key(&(about.clone(), reason.to_owned(), note.to_owned())) {
            return false;
        }
        if emitted.len() >= MAX_REMEMBERED {
            let oldest = emitted
                .iter()
                .min_by_key(|(_, at)| **at)
                .map(|(what, _)| what.clone());
            oldest.and_then(|oldest| emitted.remove(&oldest));
        }
        emitted.insert((about, reason.to_owned(), note.to_owned()), now);
        true
    }
}
