//! What is wanted of a subscriber and not done yet: the newest wish for each room counts, so it never grows beyond the
//! rooms there are.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use im_wire::ids::RoomId;
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(super) struct Wishes {
    open: Mutex<HashMap<RoomId, bool>>,
    changed: Notify,
    settled: AtomicBool,
}

impl Wishes {
    /// Whether the room is to be heard. The lock is held for one insertion.
    pub(super) fn set(&self, room: RoomId, wanted: bool) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(room, wanted);
        self.changed.notify_one();
    }

    /// All that is open.
    pub(super) fn take(&self) -> HashMap<RoomId, bool> {
        std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Something was set since the last time.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Nobody has given it its rooms yet.
    pub(super) fn is_new(&self) -> bool {
        !self.settled.load(Ordering::Relaxed)
    }

    /// It has been given its rooms.
    pub(super) fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }
}
