//! What reaches a shard from the rest of the process. Everything that has arrived is taken in before anything is
//! written, so batches form by themselves under load and an idle room waits for nothing.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use im_proto::v1::call;
use im_wire::code::CloseCode;
use im_wire::ids::RoomId;
use im_wire::native::{Message, ServerOp};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout_at;

use super::Shard;
use crate::drain::{self, Pace};
use crate::hub::{Next, Place};
use crate::metrics;
use crate::session::encode::Signal;
use crate::session::subscribe;

/// How many orders are taken at once.
const BATCH: usize = 1024;
/// How many rooms' heads are asked for in one call.
const AT_ONCE: usize = 500;

/// Whether all rooms are to be compared once more when those under way have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Again(bool);

/// Whom a push is for.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Users(Arc<Vec<String>>),
    Devices(Arc<Vec<String>>),
    Everyone,
}

/// Which connections are to end: all that are set must match.
#[derive(Debug, Clone, Default)]
pub(crate) struct Match {
    pub(crate) user: String,
    pub(crate) device: String,
    pub(crate) conn: String,
}

/// One thing for a shard to do.
#[derive(Debug)]
pub(crate) enum Order {
    Logged(Arc<Message>),
    Signal { room: RoomId, signal: Arc<Signal>, to_user: String },
    Heard(RoomId),
    Push { target: Target, signal: Arc<Signal>, done: oneshot::Sender<u64> },
    Kick { which: Match, code: CloseCode, text: String, done: oneshot::Sender<u64> },
    RoomsChanged { user: String, added: Vec<RoomId>, removed: Vec<RoomId>, done: oneshot::Sender<u64> },
    Compare,
    Drain(Pace),
}

/// The shard's end of its queue.
pub(crate) struct Inbox {
    pub(crate) orders: mpsc::Receiver<Order>,
    /// Events were dropped because the queue was full.
    pub(crate) disturbed: Arc<AtomicBool>,
}

impl Inbox {
    /// Runs as long as the process has orders.
    pub(crate) async fn run(mut self, shard: Rc<Shard>) {
        let gauge = metrics::SHARD_QUEUE.with_label_values(&[&shard.number.to_string()]);
        let mut batch = Vec::with_capacity(BATCH);
        let mut next = Next::Arrival;
        while self.next(&mut batch, next).await {
            gauge.set(self.orders.len() as i64);
            for order in batch.drain(..) {
                shard.take(order);
            }
            if self.disturbed.swap(false, Ordering::AcqRel) {
                shard.disturbed();
            }
            next = shard.deliver_some();
        }
    }

    /// Takes what has arrived. Waits for it, but not where something is to be delivered before: then the sessions have their
    /// turn and it goes on. `false`: nothing will come any more.
    async fn next(&mut self, batch: &mut Vec<Order>, next: Next) -> bool {
        match next {
            Next::Arrival => return self.orders.recv_many(batch, BATCH).await > 0,
            Next::At(due) => {
                let arrived = timeout_at(due.into(), self.orders.recv_many(batch, BATCH)).await;
                return arrived.is_err() || !batch.is_empty();
            }
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
}

impl Shard {
    fn take(self: &Rc<Self>, order: Order) {
        match order {
            Order::Logged(message) => self.logged(message),
            Order::Signal { room, signal, to_user } => {
                // What was said before the signal is heard before it.
                self.deliver_room(&room);
                self.signal(&room, &signal, &to_user);
            }
            Order::Heard(room) => {
                let mut effects = Vec::new();
                self.hub.borrow_mut().heard(&room, &mut effects);
                self.carry_out(effects);
            }
            Order::Push { target, signal, done } => {
                let _caller_gone = done.send(self.push(&target, &signal));
            }
            Order::Kick { which, code, text, done } => {
                let _caller_gone = done.send(self.kick(&which, code, &text));
            }
            Order::RoomsChanged { user, added, removed, done } => {
                let _caller_gone = done.send(self.rooms_changed(&user, &added, &removed));
            }
            Order::Compare => self.disturbed(),
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

    /// Events may have been lost: rooms that wait for the bus stop waiting, all others are compared with the log. What
    /// is said while they are, as by several streams to a logic process that died, makes one more round of it.
    fn disturbed(self: &Rc<Self>) {
        let rooms = self.stands();
        let mut effects = Vec::new();
        for (room, _) in &rooms {
            self.hub.borrow_mut().unstick(room, &mut effects);
        }
        self.carry_out(effects);
        let under_way = self.comparing_all.get().is_some();
        self.comparing_all.set(Some(Again(under_way)));
        if !under_way {
            tokio::task::spawn_local(Rc::clone(self).compare_all(rooms));
        }
    }

    async fn compare_all(self: Rc<Self>, mut rooms: Vec<(RoomId, Place)>) {
        loop {
            let parts = rooms.chunks(AT_ONCE).map(|rooms| Rc::clone(&self).compare_part(rooms.to_vec()));
            futures::future::join_all(parts).await;
            if self.comparing_all.take() != Some(Again(true)) {
                return;
            }
            self.comparing_all.set(Some(Again(false)));
            rooms = self.stands();
        }
    }

    /// How far each room has come here.
    fn stands(&self) -> Vec<(RoomId, Place)> {
        self.hub.borrow().heads().map(|(room, place)| (room.clone(), place)).collect()
    }

    fn push(&self, target: &Target, signal: &Signal) -> u64 {
        let mut delivered = 0;
        let mut give = |connection: &crate::session::connection::Connection| {
            let encoding = connection.encoding.get();
            let accepts = connection.accepts.borrow();
            let wanted = !encoding.is_goim() || accepts.is_empty() || accepts.contains(&signal.operation);
            if wanted && connection.user().is_some() {
                let bytes = encoding.signal(signal);
                if !bytes.is_empty() && connection.write_signal(&bytes) {
                    delivered += 1;
                }
            }
        };
        match target {
            Target::Users(users) => users.iter().flat_map(|user| self.of_user(user)).for_each(|c| give(&c)),
            Target::Devices(devices) => {
                let named = |c: &Rc<crate::session::connection::Connection>| {
                    c.identity.get().is_some_and(|identity| devices.contains(&identity.device))
                };
                self.everyone().iter().filter(|c| named(c)).for_each(|c| give(c));
            }
            Target::Everyone => self.everyone().iter().for_each(|c| give(c)),
        }
        delivered
    }

    fn kick(&self, which: &Match, code: CloseCode, text: &str) -> u64 {
        let fits = |wanted: &str, had: &str| wanted.is_empty() || wanted == had;
        let mut closed = 0;
        for connection in self.everyone() {
            let Some(identity) = connection.identity.get() else { continue };
            let user = fits(&which.user, identity.user.as_str());
            if user && fits(&which.device, &identity.device) && fits(&which.conn, &connection.id) {
                connection.end(code, text);
                closed += 1;
            }
        }
        closed
    }

    fn rooms_changed(self: &Rc<Self>, user: &str, added: &[RoomId], removed: &[RoomId]) -> u64 {
        let connections = self.of_user(user);
        for connection in &connections {
            for room in removed {
                self.drop_room(connection, room, "left");
            }
            let unheard = |room: &&RoomId| !connection.rooms.borrow().contains_key(*room);
            let fresh: Vec<RoomId> = added.iter().filter(unheard).cloned().collect();
            if connection.follows_all.get() && !fresh.is_empty() {
                tokio::task::spawn_local(subscribe::follow(Rc::clone(self), Rc::clone(connection), fresh));
            } else if connection.encoding.get().is_native() {
                for room in fresh {
                    let op = ServerOp::RoomChanged { room, subscribed: false, reason: "joined".to_owned() };
                    connection.write(&connection.encoding.get().response(0, op));
                }
            }
        }
        connections.len() as u64
    }

    /// Asks logic for these rooms' heads and lets the hub compare.
    pub(super) fn compare(self: &Rc<Self>, rooms: Vec<(RoomId, Place)>) {
        for rooms in rooms.chunks(AT_ONCE).map(<[_]>::to_vec) {
            tokio::task::spawn_local(Rc::clone(self).compare_part(rooms));
        }
    }

    async fn compare_part(self: Rc<Self>, rooms: Vec<(RoomId, Place)>) {
        metrics::COMPARED.inc_by(rooms.len() as u64);
        let names = rooms.iter().map(|(room, _)| room.to_string()).collect();
        let asked = call::Op::Heads(im_proto::v1::Heads { rooms: names });
        let Ok(heads) = self.logic.heads(asked).await else {
            self.compare_later(rooms);
            return;
        };
        let mut effects = Vec::new();
        for ((room, stood), head) in rooms.iter().zip(heads) {
            self.hub.borrow_mut().compared(room, *stood, head, &mut effects);
        }
        self.carry_out(effects);
    }

    /// Logic did not answer: what was to be compared must not be forgotten.
    fn compare_later(self: &Rc<Self>, rooms: Vec<(RoomId, Place)>) {
        let shard = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let jitter = std::time::Duration::from_millis(500 + u64::from(rand::random::<u8>()) * 4);
            tokio::time::sleep(jitter).await;
            let hub = shard.hub.borrow();
            let rooms = rooms.into_iter().filter_map(|(room, _)| hub.head(&room).map(|place| (room, place))).collect();
            drop(hub);
            shard.compare(rooms);
        });
    }
}
