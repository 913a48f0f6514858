//! The way down without a network: what the store publishes goes straight to connect's queue.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use async_trait::async_trait;
use im_connect::downlink::{Bus, BusNotification};
use im_logic::store::Publish;
use im_proto::v1::{BusEvent, Entry, Logged, Signal, bus_event};
use im_runtime::limits::queue::Sender;
use im_wire::ids::{Epoch, RoomId, Seq};
use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;

im_runtime::metrics! {
    DROPPED: IntCounter("im_standalone_bus_dropped_total", "Events that found connect's queue full, by their number or their bytes: dropped, and made up for from the log.");
    ROOMS: IntGauge("im_standalone_bus_rooms", "Rooms that somebody connected is in, or was until a moment ago.");
}

/// Both ends of the bus: the store publishes into it, connect listens to it. Cheap to clone.
///
/// Order: per room that of publishing. Loss: what finds the queue full, after which [`BusNotification::GapPossible`] follows.
#[derive(Debug, Clone, Default)]
pub(crate) struct LocalBus {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    into: OnceLock<Sender<BusNotification>>,
    heard: RwLock<HashSet<RoomId>>,
    /// Rooms whose subscription is still to be confirmed; one of each at most.
    confirm: Mutex<HashSet<RoomId>>,
    disturbed: AtomicBool,
    /// There is something to confirm or to own up to.
    news: Notify,
}

impl LocalBus {
    fn publish(&self, room: &RoomId, event: impl FnOnce() -> bus_event::Event) {
        if !self
            .inner
            .heard
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(room)
        {
            return;
        }
        let Some(into) = self.inner.into.get() else {
            return;
        };
        let event = BusEvent {
            room: room.as_str().to_owned(),
            event: Some(event()),
        };
        if let Err(TrySendError::Full(_)) = into.try_send(BusNotification::Event(event)) {
            DROPPED.inc();
            self.inner.disturbed.store(true, Ordering::Release);
            self.inner.news.notify_one();
        }
    }

    /// The next thing that must reach connect, however long its queue is full.
    fn next(&self) -> Option<BusNotification> {
        if self.inner.disturbed.swap(false, Ordering::AcqRel) {
            return Some(BusNotification::GapPossible);
        }
        let mut confirm = self
            .inner
            .confirm
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let room = confirm.iter().next().cloned()?;
        confirm.remove(&room);
        Some(BusNotification::Subscribed(room))
    }
}

impl Publish for LocalBus {
    fn logged(&self, room: &RoomId, epoch: Epoch, seq: Seq, entry: &Entry) {
        self.publish(room, || {
            bus_event::Event::Logged(Logged {
                epoch,
                seq,
                entry: Some(entry.clone()),
            })
        });
    }

    fn signal(&self, room: &RoomId, signal: &Signal) {
        self.publish(room, || bus_event::Event::Signal(signal.clone()));
    }
}

#[async_trait]
impl Bus for LocalBus {
    async fn run(&self, into: Sender<BusNotification>) {
        let into = self.inner.into.get_or_init(|| into);
        loop {
            while let Some(notification) = self.next() {
                if into.send(notification).await.is_err() {
                    return;
                }
            }
            self.inner.news.notified().await;
        }
    }

    fn subscribe(&self, room: RoomId) {
        let mut heard = self
            .inner
            .heard
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        heard.insert(room.clone());
        ROOMS.set(i64::try_from(heard.len()).unwrap_or(i64::MAX));
        drop(heard);
        self.inner
            .confirm
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(room);
        self.inner.news.notify_one();
    }

    fn unsubscribe(&self, room: &RoomId) {
        let mut heard = self
            .inner
            .heard
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        heard.remove(room);
        ROOMS.set(i64::try_from(heard.len()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use im_runtime::limits::queue::{Receiver, queue};

    use super::*;

    fn room(name: &str) -> RoomId {
        RoomId::new(name).unwrap()
    }

    fn told(notification: BusNotification) -> String {
        match notification {
            BusNotification::Event(BusEvent {
                room,
                event: Some(bus_event::Event::Logged(logged)),
            }) => {
                format!("{room} {}", logged.seq)
            }
            BusNotification::Event(other) => format!("{other:?}"),
            BusNotification::Subscribed(room) => format!("heard {room}"),
            BusNotification::GapPossible => "disturbed".to_owned(),
        }
    }

    async fn listening(bus: &LocalBus, capacity: usize) -> Receiver<BusNotification> {
        let (into, from) = queue(capacity, 1 << 20);
        let own = bus.clone();
        tokio::spawn(async move { own.run(into).await });
        while bus.inner.into.get().is_none() {
            tokio::task::yield_now().await;
        }
        from
    }

    #[tokio::test(start_paused = true)]
    async fn only_rooms_that_are_heard_are_told() {
        let bus = LocalBus::default();
        let mut from = listening(&bus, 16).await;
        bus.logged(&room("a"), 1, 1, &Entry::default());
        bus.subscribe(room("a"));
        assert_eq!(told(from.recv().await.unwrap()), "heard a");
        for (name, seq) in [("a", 2), ("b", 1), ("a", 3)] {
            bus.logged(&room(name), 1, seq, &Entry::default());
        }
        assert_eq!(told(from.recv().await.unwrap()), "a 2");
        assert_eq!(told(from.recv().await.unwrap()), "a 3");
        bus.unsubscribe(&room("a"));
        bus.logged(&room("a"), 1, 4, &Entry::default());
        bus.subscribe(room("c"));
        assert_eq!(told(from.recv().await.unwrap()), "heard c");
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_the_queue_full_is_owned_up_to_once_there_is_room() {
        let bus = LocalBus::default();
        let mut from = listening(&bus, 2).await;
        bus.subscribe(room("a"));
        assert_eq!(told(from.recv().await.unwrap()), "heard a");
        for seq in 1..=5 {
            bus.logged(&room("a"), 1, seq, &Entry::default());
        }
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(told(from.recv().await.unwrap()));
        }
        assert_eq!(all, ["a 1", "a 2", "disturbed"]);
    }
}
