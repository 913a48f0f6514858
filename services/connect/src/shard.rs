//! One thread's part of the node: its connections and its part of the hub; the rest of the process reaches it through its
//! mailbox. Everything here runs on that thread; nothing is locked, nothing in a fan-out awaits.

mod answers;
mod bans;
mod broadcast;
mod bus;
mod call;
mod drain;
pub(crate) mod early;
mod effects;
mod fan_out;
pub(crate) mod follow;
mod housekeeping;
mod kicks;
mod lists;
mod load;
pub(crate) mod mailbox;
mod paces;
mod presence;
mod questions;
pub(crate) mod rates;
mod relief;
pub(crate) mod rights;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use im_proto::bans::Bans;
use im_wire::ids::{RoomId, Seq, UserId};
use slab::Slab;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use self::fan_out::DELETED;

use self::answers::Answered;
use self::broadcast::Broadcasts;
use self::early::Early;
use self::load::Load;
use self::mailbox::DrainPlan;
use self::paces::Paces;
use self::presence::Ends;
use self::questions::{Bounds, Questions};
use self::rates::Rates;
use crate::accept::admission::Admission;
use crate::connection::encoding::Encoding;
use crate::connection::outbox::Budget;
use crate::connection::{Authenticated, Client, Connection, Subscription};
use crate::downlink::router::Router;
use crate::hub::{Hub, Limits, LogPosition};
use crate::metrics;
use crate::options::Options;
use crate::uplink::shared::Shared;

/// What failed is asked again after so long, then after twice as long and so on.
const RETRY: Duration = Duration::from_millis(200);
/// After so long at the latest.
const MAX_RETRY: Duration = Duration::from_secs(10);
/// Auths under way at once.
const MAX_IDENTIFYING: usize = 16;
/// Signals that may wait for a room's next batch.
const MAX_SIGNALS: usize = 64;

/// See the module's top.
pub(crate) struct Shard {
    /// Itself, for work that goes on by itself.
    me: Weak<Self>,
    pub(crate) number: usize,
    pub(crate) options: Arc<Options>,
    pub(crate) logic: Arc<Shared>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) accepting: CancellationToken,
    /// Who is not let in.
    pub(crate) bans: Arc<Bans>,
    /// While connections are looked through for banned ones: whether they are to be once more.
    pub(crate) sweeping: Cell<Option<bool>>,
    pub(crate) draining: RefCell<Option<DrainPlan>>,
    /// Bytes from sockets pass through here; nothing stays.
    pub(crate) read_buffer: RefCell<Vec<u8>>,
    router: Arc<Router>,
    hub: RefCell<Hub>,
    load: RefCell<Load>,
    connections: RefCell<Slab<Rc<Connection>>>,
    by_user: RefCell<HashMap<UserId, Vec<u32>>>,
    /// Auths that logic is asked about at once: between those of a crowd that comes at the same moment there is room for what
    /// others say.
    pub(crate) identifying: Semaphore,
    pub(crate) rates: Rates,
    pub(crate) paces: Paces,
    pub(crate) early: Early,
    /// What all outboxes here hold together.
    pub(crate) outboxes: Rc<Budget>,
    /// What logic is to be asked.
    questions: RefCell<Questions>,
    /// Pushes and kicks under way.
    broadcasts: RefCell<Broadcasts>,
    /// Something is to be delivered that did not come through the mailbox.
    pub(crate) has_work: Notify,
    compare_step: Cell<u64>,
    kicks: RefCell<VecDeque<kicks::Kick>>,
    lists: lists::Lists,
    answered: Answered,
    ends: Ends,
}

impl Shard {
    pub(crate) fn new(
        number: usize,
        options: Arc<Options>,
        logic: Arc<Shared>,
        admission: Arc<Admission>,
        router: Arc<Router>,
        accepting: CancellationToken,
        bans: Arc<Bans>,
    ) -> Rc<Self> {
        let rates = Rates::new(&options);
        let paces = Paces::new(&options);
        let early = Early::new(
            options.max_unidentified / options.shards,
            options.handshake_bytes / options.shards,
        );
        let outboxes = Rc::new(Budget::new(options.outbox_total / options.shards));
        let limits = Limits {
            pending: options.room_pending,
            pending_bytes: options.room_pending_bytes,
            signals: MAX_SIGNALS,
            linger: options.room_linger,
            retry: RETRY,
            longest: MAX_RETRY,
            seed: rand::random(),
        };
        let bounds = Bounds {
            pages: (options.catch_up_bytes / options.fetch_bytes.max(1) as usize).max(1),
            pages_each: options.catch_up_at_once.max(1) as usize,
        };
        Rc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            number,
            options,
            logic,
            admission,
            accepting,
            bans,
            sweeping: Cell::new(None),
            draining: RefCell::default(),
            read_buffer: RefCell::new(vec![0; 64 << 10]),
            router,
            hub: RefCell::new(Hub::new(limits)),
            load: RefCell::new(Load::new(Instant::now())),
            connections: RefCell::default(),
            by_user: RefCell::default(),
            identifying: Semaphore::new(MAX_IDENTIFYING),
            rates,
            paces,
            early,
            outboxes,
            questions: RefCell::new(Questions::new(bounds)),
            broadcasts: RefCell::default(),
            has_work: Notify::new(),
            compare_step: Cell::new(0),
            kicks: RefCell::default(),
            lists: lists::Lists::default(),
            answered: Answered::default(),
            ends: Ends::default(),
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
    pub(crate) fn identified(&self, client: &Client) {
        self.by_user
            .borrow_mut()
            .entry(client.user().clone())
            .or_default()
            .push(client.key);
        self.early.leave();
        metrics::CONNECTIONS
            .with_label_values(&[client.encoding.get().dialect()])
            .inc();
        metrics::HANDSHAKE.observe(client.since.elapsed().as_secs_f64());
    }

    /// The connection is gone: nothing refers to it afterwards.
    pub(crate) fn exit(&self, connection: &Connection) {
        let now = Instant::now();
        self.questions.borrow_mut().forget_member(connection.key);
        for (room, _) in connection.rooms.take() {
            self.hub.borrow_mut().leave(&room, connection.key, now);
            self.count_online(connection, &room, false);
        }
        if self.forget_identity(connection) {
            metrics::CONNECTIONS
                .with_label_values(&[connection.encoding.get().dialect()])
                .dec();
        } else {
            self.early.leave();
        }
        self.connections
            .borrow_mut()
            .try_remove(connection.key as usize);
    }

    /// Whether it was known under its user's name: a handshake may end after logic's answer.
    fn forget_identity(&self, connection: &Connection) -> bool {
        let Some(Authenticated { user, .. }) = connection.authenticated() else {
            return false;
        };
        let mut by_user = self.by_user.borrow_mut();
        let Some(keys) = by_user.get_mut(user) else {
            return false;
        };
        let before = keys.len();
        keys.retain(|key| *key != connection.key);
        let was_known = keys.len() < before;
        if keys.is_empty() {
            by_user.remove(user);
        }
        was_known
    }

    pub(crate) fn connection(&self, key: u32) -> Option<Rc<Connection>> {
        self.connections.borrow().get(key as usize).cloned()
    }

    /// Whether a connection has ended, as it may while logic is asked: it must not be put into rooms then.
    pub(crate) fn is_gone(&self, connection: &Rc<Connection>) -> bool {
        self.connection(connection.key)
            .is_none_or(|current| !Rc::ptr_eq(&current, connection))
    }

    /// Where a room stands that somebody here is in or has just left.
    pub(crate) fn head(&self, room: &RoomId) -> Option<LogPosition> {
        self.hub.borrow().head(room)
    }

    /// Every connection, authenticated or not.
    pub(crate) fn everyone(&self) -> Vec<Rc<Connection>> {
        self.connections
            .borrow()
            .iter()
            .map(|(_, connection)| Rc::clone(connection))
            .collect()
    }

    pub(crate) fn of_user(&self, user: &str) -> Vec<Rc<Connection>> {
        let by_user = self.by_user.borrow();
        let keys = by_user.get(user).map(Vec::as_slice).unwrap_or_default();
        keys.iter()
            .filter_map(|key| self.connection(*key))
            .collect()
    }

    /// The connection is subscribed to a room from behind `after`; `head` is where logic saw the log's head just now.
    pub(crate) fn join(
        self: &Rc<Self>,
        connection: &Connection,
        room: &RoomId,
        after: LogPosition,
        head: LogPosition,
    ) {
        let checked_at = connection
            .rooms
            .borrow()
            .get(room)
            .map_or(head.seq, |heard| heard.checked_at.max(head.seq));
        let heard = connection
            .rooms
            .borrow_mut()
            .insert(room.clone(), Subscription { checked_at });
        let mut effects = Vec::new();
        {
            let mut hub = self.hub.borrow_mut();
            if heard.is_some() {
                hub.leave(room, connection.key, Instant::now());
                self.questions.borrow_mut().leave(room, connection.key);
            } else {
                self.count_online(connection, room, true);
            }
            hub.join(room, connection.key, after, head, &mut effects);
        }
        self.apply(effects);
    }

    /// The connection is no longer subscribed to a room. Returns whether it was.
    pub(crate) fn leave(&self, connection: &Connection, room: &RoomId) -> bool {
        let heard = connection.forget(room);
        if heard {
            self.hub
                .borrow_mut()
                .leave(room, connection.key, Instant::now());
            self.questions.borrow_mut().leave(room, connection.key);
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

    /// Whether the entry about this user's membership is news to the connection.
    fn is_news(connection: &Connection, room: &RoomId, seq: Seq) -> bool {
        connection
            .rooms
            .borrow()
            .get(room)
            .is_some_and(|subscription| seq > subscription.checked_at)
    }
}

/// Encoded once per encoding, when the first receiver needs it.
pub(crate) type PerEncoding = [Option<bytes::Bytes>; Encoding::COUNT];

#[cfg(test)]
mod tests;
