//! What reaches a shard from the rest of the process. Everything that has arrived is taken in before anything is
//! written, so batches form by themselves under load and an idle room waits for nothing.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use im_runtime::limits::queue::{AROUND, Receiver, Weigh};
use im_wire::code::CloseCode;
use im_wire::ids::{RoomId, Seq};
use im_wire::native::Message;
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use super::Shard;
use crate::connection::Connection;
use crate::drain::{self, Pace};
use crate::hub::Next;
use crate::metrics;
use crate::translate::Signal;

/// How many orders are taken at once.
const BATCH: usize = 1024;
/// Whom a push is for.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Users(Arc<Vec<String>>),
    /// Of whichever user, where the token names the device.
    Devices(Arc<Vec<String>>),
    UserDevice(Arc<(String, String)>),
    Everyone,
}

/// Which connections are to end: all that are set must match, `device` alone only where the token names it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Match {
    pub(crate) user: String,
    pub(crate) device: String,
    pub(crate) conn: String,
}

impl Match {
    /// Whether the connection is meant. One that is not authenticated yet is nobody's. A client may call its device what it
    /// likes: by a device alone only those are meant whose token names it.
    pub(super) fn fits(&self, connection: &Connection) -> bool {
        if self.user.is_empty() && self.conn.is_empty() && connection.device_unproven() {
            return false;
        }
        let fits = |wanted: &str, had: &str| wanted.is_empty() || wanted == had;
        connection.identity.get().is_some_and(|identity| {
            let user = fits(&self.user, identity.user.as_str());
            user && fits(&self.device, &identity.device) && fits(&self.conn, &connection.id)
        })
    }
}

/// What has become of a user's rooms.
#[derive(Debug, Clone)]
pub(crate) struct RoomsChange {
    pub(crate) user: String,
    pub(crate) added: Vec<RoomId>,
    pub(crate) removed: Vec<RoomId>,
    /// Where it stands in the room's log; 0: not known.
    pub(crate) seq: Seq,
}

/// One thing for a shard to do.
#[derive(Debug)]
pub(crate) enum Order {
    Logged(Arc<Message>),
    Signal {
        room: RoomId,
        signal: Arc<Signal>,
        to_user: String,
    },
    Heard(RoomId),
    Push {
        target: Target,
        signal: Arc<Signal>,
        done: oneshot::Sender<u64>,
    },
    Kick {
        which: Match,
        code: CloseCode,
        text: String,
        done: oneshot::Sender<u64>,
    },
    RoomsChanged {
        change: Arc<RoomsChange>,
        done: oneshot::Sender<u64>,
    },
    Compare,
    /// The list of bans is another one.
    Bans,
    Drain(Pace),
}

/// The shard's end of its queue.
pub(crate) struct Inbox {
    pub(crate) orders: Receiver<Order>,
    /// Events were dropped because the queue was full.
    pub(crate) disturbed: Arc<AtomicBool>,
}

impl Weigh for Order {
    fn bytes(&self) -> usize {
        match self {
            Self::Logged(message) => AROUND + message.body.bytes().len(),
            Self::Signal { signal, .. } => AROUND + signal.body.bytes().len(),
            _ => 0,
        }
    }
}

impl Inbox {
    /// Runs as long as the process has orders.
    pub(crate) async fn run(mut self, shard: Rc<Shard>) {
        let number = shard.number.to_string();
        let gauge = metrics::SHARD_QUEUE.with_label_values(&[&number]);
        let bytes_gauge = metrics::SHARD_QUEUE_BYTES.with_label_values(&[&number]);
        let mut batch = Vec::with_capacity(BATCH);
        let mut next = Next::Arrival;
        while self.next(&shard, &mut batch, next).await {
            #[cfg(test)]
            super::planted::pass(&shard.options.node, shard.number, "inbox");
            gauge.set(self.orders.len() as i64);
            bytes_gauge.set(self.orders.bytes() as i64);
            for order in batch.drain(..) {
                shard.take(order);
            }
            if self.disturbed.swap(false, Ordering::AcqRel) {
                shard.disturbed();
            }
            next = shard.deliver_some();
            if shard.go_on_with_many() {
                next = Next::Now;
            }
        }
    }

    /// Takes what has arrived. Waits for it, but not where something is to be delivered before: then the sessions have their
    /// turn and it goes on. `false`: nothing will come any more.
    async fn next(&mut self, shard: &Shard, batch: &mut Vec<Order>, next: Next) -> bool {
        match next {
            Next::Arrival => return self.arrival(shard, batch).await,
            Next::At(due) => return timeout_at(due.into(), self.arrival(shard, batch)).await.unwrap_or(true),
            Next::Now => {
                // Where another thread waits for this core, be it logic or redis, it waits no longer than a turn.
                std::thread::yield_now();
                tokio::task::yield_now().await;
            }
        }
        while batch.len() < BATCH
            && let Ok(order) = self.orders.try_recv()
        {
            batch.push(order);
        }
        true
    }

    /// Waits for orders, or for something to deliver that came another way.
    async fn arrival(&mut self, shard: &Shard, batch: &mut Vec<Order>) -> bool {
        tokio::select! {
            biased;
            count = self.orders.recv_many(batch, BATCH) => count > 0,
            () = shard.stirred.notified() => true,
        }
    }
}

impl Shard {
    fn take(self: &Rc<Self>, order: Order) {
        match order {
            Order::Logged(message) => self.logged(message),
            Order::Signal { room, signal, to_user } if to_user.is_empty() => {
                self.hub.borrow_mut().signal(&room, signal)
            }
            Order::Signal { room, signal, to_user } => self.signal_to(&room, &signal, &to_user),
            Order::Heard(room) => {
                let mut effects = Vec::new();
                self.hub.borrow_mut().heard(&room, &mut effects);
                self.carry_out(effects);
            }
            Order::Push { target, signal, done } => self.push(target, signal, done),
            Order::Kick { which, code, text, done } => self.kick(which, code, text, done),
            Order::RoomsChanged { change, done } => {
                let _caller_gone = done.send(self.rooms_changed(&change));
            }
            Order::Compare => self.disturbed(),
            Order::Bans => self.look_for_banned(),
            Order::Drain(pace) => drain::begin(self, pace),
        }
    }

    fn logged(self: &Rc<Self>, message: Arc<Message>) {
        let mut effects = Vec::new();
        self.hub.borrow_mut().logged(message, &mut effects);
        if !effects.is_empty() {
            self.carry_out(effects);
        }
    }

    /// Events may have been lost: rooms that wait for the bus stop waiting, all others are compared with the log. What is said
    /// while they are, as by several streams to a logic process that died, makes one more round of it.
    fn disturbed(self: &Rc<Self>) {
        let rooms: Vec<RoomId> = self.hub.borrow().heads().map(|(room, _)| room.clone()).collect();
        let mut effects = Vec::new();
        for room in &rooms {
            self.hub.borrow_mut().unstick(room, &mut effects);
        }
        self.carry_out(effects);
        self.hurry_lists();
        self.compare(rooms);
    }
}
