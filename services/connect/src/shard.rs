//! One thread's part of the node: its connections, its part of the hub, and the queue through which the rest of the
//! process reaches it. Everything here runs on that thread; nothing is locked, nothing in a fan-out awaits.

mod answers;
mod fan_out;
mod inbox;
mod load;
mod upkeep;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use im_wire::ids::{RoomId, Seq, UserId};
use slab::Slab;
use tokio_util::sync::CancellationToken;

use self::answers::Answered;
use self::load::Load;
use crate::accept::admission::Admission;
use crate::accept::rate::Bucket;
use crate::downlink::router::Router;
use crate::drain::Draining;
use crate::hub::{Asker, Effect, Hub, Limits, Member, Place};
use crate::metrics;
use crate::options::Options;
use crate::session::connection::{Connection, Hearing};
use crate::session::encode::Encoding;
use crate::uplink::shared::Shared;

pub(crate) use inbox::{Inbox, Match, Order, Target};
pub(crate) use upkeep::unix_ms as upkeep_unix_ms;

/// What failed is asked again after so long.
const RETRY: Duration = Duration::from_millis(200);

/// See the module's top.
pub(crate) struct Shard {
    pub(crate) number: usize,
    pub(crate) options: Arc<Options>,
    pub(crate) logic: Arc<Shared>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) accepting: CancellationToken,
    pub(crate) draining: RefCell<Option<Draining>>,
    /// Bytes from sockets pass through here; nothing stays.
    pub(crate) read_buffer: RefCell<Vec<u8>>,
    router: Arc<Router>,
    hub: RefCell<Hub>,
    load: RefCell<Load>,
    connections: RefCell<Slab<Rc<Connection>>>,
    by_user: RefCell<HashMap<UserId, Vec<u32>>>,
    user_rates: RefCell<HashMap<UserId, Bucket>>,
    ip_rates: RefCell<HashMap<IpAddr, Bucket>>,
    /// Pages of history for members whose outbox is too full just now.
    held: RefCell<Vec<(RoomId, Member, Place)>>,
    compare_step: Cell<u64>,
    /// While all rooms are compared with the log.
    comparing_all: Cell<Option<inbox::Again>>,
    answered: Answered,
}

impl Shard {
    pub(crate) fn new(
        number: usize,
        options: Arc<Options>,
        logic: Arc<Shared>,
        admission: Arc<Admission>,
        router: Arc<Router>,
        accepting: CancellationToken,
    ) -> Rc<Self> {
        let limits = Limits { pending: options.room_pending, linger: options.room_linger, retry: RETRY };
        Rc::new(Self {
            number,
            options,
            logic,
            admission,
            accepting,
            draining: RefCell::default(),
            read_buffer: RefCell::new(vec![0; 64 << 10]),
            router,
            hub: RefCell::new(Hub::new(limits)),
            load: RefCell::new(Load::new(Instant::now())),
            connections: RefCell::default(),
            by_user: RefCell::default(),
            user_rates: RefCell::default(),
            ip_rates: RefCell::default(),
            held: RefCell::default(),
            compare_step: Cell::new(0),
            comparing_all: Cell::new(None),
            answered: Answered::default(),
        })
    }

    /// Adds a connection under a key of its own.
    pub(crate) fn enter(&self, make: impl FnOnce(u32) -> Connection) -> Rc<Connection> {
        let mut connections = self.connections.borrow_mut();
        let entry = connections.vacant_entry();
        // A shard's connections are bounded far below 2^32.
        let connection = Rc::new(make(entry.key() as u32));
        entry.insert(Rc::clone(&connection));
        connection
    }

    /// The connection is authenticated.
    pub(crate) fn identified(&self, connection: &Connection) {
        if let Some(user) = connection.user() {
            self.by_user.borrow_mut().entry(user.clone()).or_default().push(connection.key);
            metrics::CONNECTIONS.with_label_values(&[connection.encoding.get().dialect()]).inc();
            metrics::HANDSHAKE.observe(connection.since.elapsed().as_secs_f64());
        }
    }

    /// The connection is gone: nothing refers to it afterwards.
    pub(crate) fn exit(&self, connection: &Connection) {
        let now = Instant::now();
        for (room, _) in connection.rooms.take() {
            self.deliver_room(&room);
            self.hub.borrow_mut().leave(&room, connection.key, now);
            self.count_online(connection, &room, false);
        }
        if let Some(user) = connection.user() {
            let mut by_user = self.by_user.borrow_mut();
            if let Some(keys) = by_user.get_mut(user) {
                keys.retain(|key| *key != connection.key);
                if keys.is_empty() {
                    by_user.remove(user);
                }
            }
            metrics::CONNECTIONS.with_label_values(&[connection.encoding.get().dialect()]).dec();
        }
        self.connections.borrow_mut().try_remove(connection.key as usize);
    }

    pub(crate) fn connection(&self, key: u32) -> Option<Rc<Connection>> {
        self.connections.borrow().get(key as usize).cloned()
    }

    /// Every connection, authenticated or not.
    pub(crate) fn everyone(&self) -> Vec<Rc<Connection>> {
        self.connections.borrow().iter().map(|(_, connection)| Rc::clone(connection)).collect()
    }

    pub(crate) fn of_user(&self, user: &str) -> Vec<Rc<Connection>> {
        let by_user = self.by_user.borrow();
        let keys = by_user.get(user).map(Vec::as_slice).unwrap_or_default();
        keys.iter().filter_map(|key| self.connection(*key)).collect()
    }

    /// The connection hears a room from behind `after`; `head` is where logic saw the log's head just now.
    pub(crate) fn join(self: &Rc<Self>, connection: &Connection, room: &RoomId, after: Place, head: Place) {
        self.deliver_room(room);
        let heard = connection.rooms.borrow_mut().insert(room.clone(), Hearing { checked_at: head.seq });
        let mut effects = Vec::new();
        {
            let mut hub = self.hub.borrow_mut();
            if heard.is_some() {
                hub.leave(room, connection.key, Instant::now());
            } else {
                self.count_online(connection, room, true);
            }
            hub.join(room, connection.key, after, head, &mut effects);
        }
        self.carry_out(effects);
    }

    /// The connection no longer hears a room. Returns whether it did.
    pub(crate) fn leave(&self, connection: &Connection, room: &RoomId) -> bool {
        self.deliver_room(room);
        let heard = connection.forget(room);
        if heard {
            self.hub.borrow_mut().leave(room, connection.key, Instant::now());
            self.count_online(connection, room, false);
        }
        heard
    }

    /// goim answers heartbeats with the number online in the room; only rooms with such clients are counted.
    fn count_online(&self, connection: &Connection, room: &RoomId, joins: bool) {
        if !connection.encoding.get().is_native() {
            self.router.count_online(room, joins);
        }
    }

    pub(crate) fn online(&self, room: &RoomId) -> u64 {
        self.router.online(room)
    }

    /// Takes one request's worth from the user's and the address' allowance; which limit refused, where one did.
    pub(crate) fn allow(&self, connection: &Connection, now: Instant) -> Result<(), &'static str> {
        let options = &self.options;
        if let Some(user) = connection.user() {
            let mut rates = self.user_rates.borrow_mut();
            let per_second = options.user_requests_per_second;
            if !rates.entry(user.clone()).or_insert_with(|| Bucket::full(per_second, now)).take(per_second, now) {
                return Err("user");
            }
        }
        let mut rates = self.ip_rates.borrow_mut();
        let per_second = options.ip_requests_per_second;
        let bucket = rates.entry(connection.address).or_insert_with(|| Bucket::full(per_second, now));
        if bucket.take(per_second, now) { Ok(()) } else { Err("ip") }
    }

    /// Does what the hub has decided.
    pub(crate) fn carry_out(self: &Rc<Self>, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Hear(room) => self.router.hear(self.number, room),
                Effect::Forget(room) => self.router.forget(self.number, &room),
                Effect::Fetch { room, asker: Asker::Member(member), after } if self.must_wait(member) => {
                    self.held.borrow_mut().push((room, member, after));
                }
                Effect::Fetch { room, asker, after } => self.fetch(room, asker, after),
                Effect::Tell { room, member, items } => self.tell(&room, member, &items),
            }
        }
    }

    fn must_wait(&self, member: Member) -> bool {
        self.connections.borrow().get(member as usize).is_some_and(|connection| !connection.is_calm())
    }

    fn fetch(self: &Rc<Self>, room: RoomId, asker: Asker, after: Place) {
        let shard = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let answer = shard.logic.fetch(&room, after, asker == Asker::Room).await;
            shard.deliver_room(&room);
            let mut effects = Vec::new();
            let now = Instant::now();
            match answer {
                Ok(answer) => shard.hub.borrow_mut().fetched(&room, asker, after, (*answer).clone(), now, &mut effects),
                Err(_) => shard.hub.borrow_mut().fetch_failed(&room, asker, now),
            }
            shard.deliver_room(&room);
            shard.carry_out(effects);
        });
    }

    /// Whether the entry about this user's membership is news to the connection.
    fn is_news(connection: &Connection, room: &RoomId, seq: Seq) -> bool {
        connection.rooms.borrow().get(room).is_some_and(|hearing| seq > hearing.checked_at)
    }

    /// What waits in outboxes, for the gauge.
    fn outbox_bytes(&self) -> usize {
        self.connections.borrow().iter().map(|(_, connection)| connection.waiting()).sum()
    }
}

/// Encoded once per way of hearing, when the first receiver needs it.
pub(crate) type PerEncoding = [Option<bytes::Bytes>; Encoding::COUNT];
