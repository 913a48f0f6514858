//! Subscriptions that are wanted or no longer wanted, and not applied yet: the newest change of each room counts, so this never
//! grows beyond the rooms there are.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use im_wire::ids::RoomId;
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(super) struct DesiredSubscriptions {
    pending: Mutex<HashMap<RoomId, bool>>,
    changed: Notify,
    settled: AtomicBool,
}

impl DesiredSubscriptions {
    /// Whether the room is to be subscribed. The lock is held for one insertion.
    pub(super) fn set(&self, room: RoomId, wanted: bool) {
        self.pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(room, wanted);
        self.changed.notify_one();
    }

    /// All that is pending.
    pub(super) fn take(&self) -> HashMap<RoomId, bool> {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until something was set since the last time.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The rooms of this master have not been assigned yet.
    pub(super) fn is_new(&self) -> bool {
        !self.settled.load(Ordering::Relaxed)
    }

    /// They have.
    pub(super) fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }
}
