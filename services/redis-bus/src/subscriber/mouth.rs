//! Tells what was heard. Called by a connection's own task, so it never waits: what finds the queue full is dropped,
//! counted, and made up for by a "disturbed" later.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use im_proto::v1::bus_event::Event;
use im_runtime::limits::queue::{Sender, Weigh};
use im_wire::ids::RoomId;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;

use super::Tiding;
use crate::envelope::Envelope;
use crate::keys::Keys;
use crate::metrics;

#[derive(Debug)]
pub(super) struct Mouth<T> {
    keys: Keys,
    into: Sender<T>,
    /// Events may have been lost and nobody has been told yet.
    disturbed: AtomicBool,
    /// Confirmations that found the queue full.
    unsaid: Mutex<Vec<RoomId>>,
    /// There is something to be said when the queue has room.
    pub(super) waiting: Notify,
}

/// One connection's state as its pushes show it.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    /// Unsubscriptions asked for and not confirmed yet.
    leaving: AtomicI64,
    /// A slot has moved to another master.
    pub(super) moved: AtomicBool,
    /// The connection is not to be relied on any more.
    pub(super) lost: Notify,
}

impl Hearing {
    pub(super) fn leaves(&self, rooms: usize) {
        self.leaving.fetch_add(i64::try_from(rooms).unwrap_or(i64::MAX), Ordering::AcqRel);
    }

    /// A subscription has ended. Not asked for, it means that the slot has moved to another master, and that replies no
    /// longer match their commands.
    fn left(&self) {
        if self.leaving.fetch_sub(1, Ordering::AcqRel) <= 0 {
            self.moved.store(true, Ordering::Release);
            self.lost.notify_one();
        }
    }
}

impl<T: From<Tiding> + Weigh + Send + 'static> Mouth<T> {
    pub(super) fn new(keys: Keys, into: Sender<T>) -> Arc<Self> {
        let (disturbed, unsaid) = (AtomicBool::new(false), Mutex::default());
        Arc::new(Self { keys, into, disturbed, unsaid, waiting: Notify::new() })
    }

    /// Something came over the connection.
    pub(super) fn heard(&self, hearing: &Hearing, push: PushInfo) {
        match push.kind {
            PushKind::SMessage => self.message(&push.data),
            PushKind::SSubscribe => {
                if let Some(room) = self.room(&push.data) {
                    self.subscribed(room);
                }
            }
            PushKind::SUnsubscribe => hearing.left(),
            PushKind::Disconnection => hearing.lost.notify_one(),
            _ => {}
        }
    }

    /// A subscription stands.
    pub(super) fn subscribed(&self, room: RoomId) {
        if let Err(TrySendError::Full(_)) = self.into.try_send(Tiding::Subscribed(room.clone()).into()) {
            self.unsaid.lock().unwrap_or_else(PoisonError::into_inner).push(room);
            self.waiting.notify_one();
        }
    }

    /// Events may have been lost.
    pub(super) fn disturb(&self) {
        self.disturbed.store(true, Ordering::Release);
        self.waiting.notify_one();
    }

    /// Says what is waiting to be said, as the queue takes it. Cancelling it loses nothing.
    pub(super) async fn speak(&self) {
        loop {
            let nothing = !self.disturbed.load(Ordering::Acquire)
                && self.unsaid.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
            if nothing {
                return;
            }
            let Some(place) = self.into.reserve().await else { return };
            let room = self.unsaid.lock().unwrap_or_else(PoisonError::into_inner).pop();
            if let Some(room) = room {
                place.send(Tiding::Subscribed(room).into());
            } else if self.disturbed.swap(false, Ordering::AcqRel) {
                metrics::DISTURBED.inc();
                place.send(Tiding::Disturbed.into());
            }
        }
    }

    fn message(&self, data: &[Value]) {
        let (Some(room), Some(Value::BulkString(envelope))) = (self.room(data), data.get(1)) else {
            metrics::UNREADABLE.inc();
            return;
        };
        let event = match Envelope::decode(&room, envelope) {
            Ok(event) => event,
            Err(error) => {
                metrics::UNREADABLE.inc();
                tracing::debug!(%room, %error, "an event on the bus is unreadable");
                return;
            }
        };
        let kind = if matches!(event.event, Some(Event::Logged(_))) { "logged" } else { "signal" };
        match self.into.try_send(Tiding::Event(event).into()) {
            Ok(()) => metrics::EVENTS.with_label_values(&[kind]).inc(),
            Err(TrySendError::Full(_)) => {
                metrics::DROPPED.inc();
                self.disturb();
            }
            Err(TrySendError::Closed(_)) => {}
        }
    }

    fn room(&self, data: &[Value]) -> Option<RoomId> {
        match data.first()? {
            Value::BulkString(channel) => self.keys.room_of_channel(std::str::from_utf8(channel).ok()?),
            Value::SimpleString(channel) => self.keys.room_of_channel(channel),
            _ => None,
        }
    }
}
