//! Puts what a connection receives into the queue of notifications. Called by the connection's own task, so it never waits: what
//! finds the queue full is dropped and counted, and a [`BusNotification::GapPossible`] follows.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use im_proto::v1::bus_event::Event;
use im_runtime::limits::queue::{Sender, Weigh};
use im_wire::ids::RoomId;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;

use super::BusNotification;
use crate::envelope::Envelope;
use crate::keys::Keys;
use crate::metrics;

#[derive(Debug)]
pub(super) struct Dispatcher<T> {
    keys: Keys,
    into: Sender<T>,
    /// Events may have been lost, and no notification says so yet.
    gap: AtomicBool,
    /// Confirmations that found the queue full.
    unconfirmed: Mutex<Vec<RoomId>>,
    /// Something is to be sent when the queue has room.
    pub(super) pending: Notify,
}

/// One connection's state as its pushes show it.
#[derive(Debug, Default)]
pub(super) struct PushState {
    /// Unsubscriptions asked for and not confirmed yet.
    leaving: AtomicI64,
    /// A slot has moved to another master.
    pub(super) moved: AtomicBool,
    /// The connection can no longer be relied on.
    pub(super) lost: Notify,
}

impl PushState {
    pub(super) fn unsubscribing(&self, rooms: usize) {
        self.leaving
            .fetch_add(i64::try_from(rooms).unwrap_or(i64::MAX), Ordering::AcqRel);
    }

    /// A subscription has ended. Not asked for, it means that the slot has moved to another master, and that replies no
    /// longer match their commands.
    fn unsubscribed(&self) {
        if self.leaving.fetch_sub(1, Ordering::AcqRel) <= 0 {
            self.moved.store(true, Ordering::Release);
            self.lost.notify_one();
        }
    }
}

impl<T: From<BusNotification> + Weigh + Send + 'static> Dispatcher<T> {
    pub(super) fn new(keys: Keys, into: Sender<T>) -> Arc<Self> {
        Arc::new(Self {
            keys,
            into,
            gap: AtomicBool::new(false),
            unconfirmed: Mutex::default(),
            pending: Notify::new(),
        })
    }

    /// Something came over the connection.
    pub(super) fn on_push(&self, state: &PushState, push: PushInfo) {
        match push.kind {
            PushKind::SMessage => self.message(&push.data),
            PushKind::SSubscribe => {
                if let Some(room) = self.room(&push.data) {
                    self.subscribed(room);
                }
            }
            PushKind::SUnsubscribe => state.unsubscribed(),
            PushKind::Disconnection => state.lost.notify_one(),
            _ => {}
        }
    }

    /// A subscription is confirmed.
    pub(super) fn subscribed(&self, room: RoomId) {
        if let Err(TrySendError::Full(_)) = self
            .into
            .try_send(BusNotification::Subscribed(room.clone()).into())
        {
            self.unconfirmed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(room);
            self.pending.notify_one();
        }
    }

    /// Events may have been lost.
    pub(super) fn gap_possible(&self) {
        self.gap.store(true, Ordering::Release);
        self.pending.notify_one();
    }

    /// Sends what is pending as the queue has room for it. Cancelling it loses nothing.
    pub(super) async fn flush_pending(&self) {
        loop {
            let nothing = !self.gap.load(Ordering::Acquire)
                && self
                    .unconfirmed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .is_empty();
            if nothing {
                return;
            }
            let Some(slot) = self.into.reserve().await else {
                return;
            };
            let room = self
                .unconfirmed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            if let Some(room) = room {
                slot.send(BusNotification::Subscribed(room).into());
            } else if self.gap.swap(false, Ordering::AcqRel) {
                metrics::POSSIBLE_GAPS.inc();
                slot.send(BusNotification::GapPossible.into());
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
                tracing::debug!(%room, %error, "unreadable bus event");
                return;
            }
        };
        let kind = if matches!(event.event, Some(Event::Logged(_))) {
            "logged"
        } else {
            "signal"
        };
        match self.into.try_send(BusNotification::Event(event).into()) {
            Ok(()) => metrics::EVENTS.with_label_values(&[kind]).inc(),
            Err(TrySendError::Full(_)) => {
                metrics::DROPPED.inc();
                self.gap_possible();
            }
            Err(TrySendError::Closed(_)) => {}
        }
    }

    fn room(&self, data: &[Value]) -> Option<RoomId> {
        match data.first()? {
            Value::BulkString(channel) => self
                .keys
                .room_of_channel(std::str::from_utf8(channel).ok()?),
            Value::SimpleString(channel) => self.keys.room_of_channel(channel),
            _ => None,
        }
    }
}
