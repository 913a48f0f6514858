//! One client's connection as the shard sees it: its socket, its outbox, whose it is, what it is subscribed to.

mod accepts;
pub(crate) mod checks;
pub(crate) mod encoding;
pub(crate) mod outbox;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, IoSlice};
use std::net::IpAddr;
use std::ops::Deref;
use std::rc::Rc;

use bytes::Bytes;
use im_wire::code::CloseCode;
use im_wire::dialect::Entrance;
use im_wire::ids::{RoomId, Seq, UserId};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::accepts::Accepts;
use self::checks::Checks;
use self::encoding::{Encoding, Ending};
use self::outbox::{Budget, Outbox};
use crate::metrics;

/// What logic said when it authenticated the client, and of each newer token since.
#[derive(Debug)]
pub(crate) struct Authenticated {
    pub(crate) user: UserId,
    pub(crate) device: String,
    pub(crate) token: Cell<TokenFacts>,
    /// Shown to logic with every call.
    pub(crate) grant: RefCell<Bytes>,
    /// When the token expires, unix milliseconds; 0: never.
    pub(crate) expires_ms: Cell<u64>,
}

/// A connection whose client is known.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) connection: Rc<Connection>,
    pub(crate) identity: Rc<Authenticated>,
}

impl Client {
    /// Logic has said whose the connection is, for the first and only time.
    pub(crate) fn new(connection: &Rc<Connection>, identity: Authenticated) -> Self {
        let identity = connection.authenticated.get_or_init(|| Rc::new(identity));
        Self {
            connection: Rc::clone(connection),
            identity: Rc::clone(identity),
        }
    }

    /// `None`: not authenticated yet.
    pub(crate) fn of(connection: &Rc<Connection>) -> Option<Self> {
        let identity = connection.authenticated.get()?;
        Some(Self {
            connection: Rc::clone(connection),
            identity: Rc::clone(identity),
        })
    }

    pub(crate) fn user(&self) -> &UserId {
        &self.identity.user
    }
}

impl Deref for Client {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

/// What logic said of the token that was shown last.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TokenFacts {
    /// When it was issued, unix milliseconds; 0: it does not say.
    pub(crate) issued_ms: u64,
    /// Only the client says that this is its device: no token names it.
    pub(crate) device_unproven: bool,
}

/// A room that the connection is subscribed to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subscription {
    /// The log's head when logic said that the user may: older entries about the user's membership say nothing.
    pub(crate) checked_at: Seq,
}

/// Rooms of the user that a client does not want although it follows all. Few clients have any.
#[derive(Debug, Default)]
struct Unfollowed {
    rooms: HashSet<RoomId>,
}

/// See the module's top. Lives on one shard's thread.
pub(crate) struct Connection {
    pub(crate) key: u32,
    pub(crate) id: String,
    pub(crate) entrance: Entrance,
    address: Cell<IpAddr>,
    pub(crate) since: Instant,
    pub(crate) encoding: Cell<Encoding>,
    authenticated: OnceCell<Rc<Authenticated>>,
    pub(crate) last_heard: Cell<Instant>,
    pub(crate) rooms: RefCell<HashMap<RoomId, Subscription>>,
    pub(crate) follows_all: Cell<bool>,
    /// Of the user's list of rooms, as logic gave it when it was last compared; 0: not yet.
    pub(crate) list_digest: Cell<u64>,
    /// While logic checks what the user may hear.
    checks: RefCell<Option<Box<Checks>>>,
    /// Rooms of the user that a connection which follows all of them was told to leave.
    unfollowed: RefCell<Option<Box<Unfollowed>>>,
    /// goim: the operations it wants of pushes; empty: all.
    pub(crate) accepts: RefCell<Accepts>,
    /// goim and golang-im: the room it is in.
    pub(crate) room: RefCell<Option<RoomId>>,
    /// Auth has come; logic may still be thinking about it.
    pub(crate) has_asked: Cell<bool>,
    pub(crate) moved: Cell<bool>,
    pub(crate) in_flight: Cell<u32>,
    stream: TcpStream,
    outbox: RefCell<Outbox>,
    bound: usize,
    budget: Rc<Budget>,
    ending: RefCell<Option<Ending>>,
    broken: Cell<bool>,
    wake: Notify,
}

impl Connection {
    pub(crate) fn new(
        key: u32,
        id: String,
        entrance: Entrance,
        address: IpAddr,
        stream: TcpStream,
        (bound, budget): (usize, Rc<Budget>),
    ) -> Self {
        let now = Instant::now();
        let encoding = if entrance == Entrance::Tcp {
            Encoding::NativeTcp
        } else {
            Encoding::NativeText
        };
        Self {
            key,
            id,
            entrance,
            address: Cell::new(address),
            since: now,
            encoding: Cell::new(encoding),
            authenticated: OnceCell::new(),
            last_heard: Cell::new(now),
            rooms: RefCell::default(),
            follows_all: Cell::new(false),
            list_digest: Cell::new(0),
            checks: RefCell::default(),
            unfollowed: RefCell::default(),
            accepts: RefCell::default(),
            room: RefCell::default(),
            has_asked: Cell::new(false),
            moved: Cell::new(false),
            in_flight: Cell::new(0),
            stream,
            outbox: RefCell::default(),
            bound,
            budget,
            ending: RefCell::default(),
            broken: Cell::new(false),
            wake: Notify::new(),
        }
    }

    /// The client's, as far as is known: whoever passes its connection on may say it later.
    pub(crate) fn address(&self) -> IpAddr {
        self.address.get()
    }

    pub(crate) fn set_address(&self, address: IpAddr) {
        self.address.set(address);
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Writes, or queues what the socket does not take. Past the bound the connection ends as a slow reader.
    pub(crate) fn write(&self, bytes: &Bytes) {
        if self.broken.get() || self.ending.borrow().is_some() {
            return;
        }
        let mut outbox = self.outbox.borrow_mut();
        if outbox.is_empty() {
            return self.write_now(bytes, &mut outbox);
        }
        if outbox.len() + bytes.len() > self.bound {
            drop(outbox);
            return self.too_slow();
        }
        self.queue(bytes.clone(), &mut outbox);
    }

    fn queue(&self, bytes: Bytes, outbox: &mut Outbox) {
        let before = outbox.len();
        outbox.push(bytes);
        self.budget.changed(before, outbox.len());
    }

    fn too_slow(&self) {
        metrics::SLOW_READERS.inc();
        self.end(
            CloseCode::SlowReader,
            "the outbox is full: read faster, and resume",
        );
    }

    /// Ends a connection whose outbox takes room that others need; gives the room back at once.
    pub(crate) fn shed(&self) {
        /// What may stay of an outbox so that the reason can be told after it.
        const REST: usize = 64 << 10;
        self.too_slow();
        let mut outbox = self.outbox.borrow_mut();
        let before = outbox.len();
        if !outbox.keep_first(REST) {
            self.broken.set(true);
            self.wake.notify_one();
        }
        self.budget.changed(before, outbox.len());
    }

    /// Nothing waits: what the socket takes whole neither allocates nor counts another owner of the bytes.
    fn write_now(&self, bytes: &Bytes, outbox: &mut Outbox) {
        let mut written = 0;
        while written < bytes.len() {
            match self.try_write(&bytes[written..]) {
                Ok(length) if length > 0 => written += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.queue_rest(bytes, written, outbox);
                    return self.wake.notify_one();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.broken.set(true);
                    return self.wake.notify_one();
                }
            }
        }
    }

    /// What was begun is ended, so that what follows can be read; frames beyond the bound are not.
    fn queue_rest(&self, bytes: &Bytes, written: usize, outbox: &mut Outbox) {
        let mut end = bytes.len();
        if end - written > self.bound {
            self.too_slow();
            end = self.encoding.get().frame_end(bytes, written);
            if end - written > self.bound {
                return self.broken.set(true);
            }
        }
        self.queue(bytes.slice(written..end), outbox);
    }

    fn try_write(&self, bytes: &[u8]) -> std::io::Result<usize> {
        metrics::count_write();
        self.stream.try_write(bytes)
    }

    fn try_write_joined(&self, slices: &[IoSlice<'_>]) -> std::io::Result<usize> {
        metrics::count_write();
        self.stream.try_write_vectored(slices)
    }

    /// Like [`Self::write`], but leaves what the socket might take at once in the outbox. `true`: somebody has to flush it.
    pub(crate) fn write_later(&self, bytes: &Bytes) -> bool {
        if self.has_waiting() || self.is_broken() || self.ending.borrow().is_some() {
            self.write(bytes);
            return false;
        }
        self.queue(bytes.clone(), &mut self.outbox.borrow_mut());
        true
    }

    /// Writes a signal: dropped where half the outbox is taken.
    pub(crate) fn write_signal(&self, bytes: &Bytes) -> bool {
        let takes = self.takes_signals();
        if takes {
            self.write(bytes);
        } else {
            metrics::SIGNALS_DROPPED.inc();
        }
        takes
    }

    fn flush_into(&self, outbox: &mut Outbox) {
        let before = outbox.len();
        let flushed = outbox.flush(|slices| self.try_write_joined(slices));
        match flushed {
            Ok(true) => {}
            Ok(false) => self.wake.notify_one(),
            Err(_) => {
                outbox.clear();
                self.broken.set(true);
                self.wake.notify_one();
            }
        }
        self.budget.changed(before, outbox.len());
    }

    /// Writes what waits, as far as the socket takes it.
    pub(crate) fn flush(&self) {
        self.flush_into(&mut self.outbox.borrow_mut());
    }

    pub(crate) fn waiting(&self) -> usize {
        self.outbox.borrow().len()
    }

    pub(crate) fn has_waiting(&self) -> bool {
        !self.outbox.borrow().is_empty()
    }

    /// How many pages of history of so many bytes may be on their way: none while a quarter of the outbox is taken, otherwise as
    /// many as it has room for, and one in any case.
    pub(crate) fn pages(&self, bytes: usize) -> usize {
        let waiting = self.outbox.borrow().len();
        if waiting < self.bound / 4 {
            ((self.bound - waiting) / bytes.max(1)).max(1)
        } else {
            0
        }
    }

    /// What the outbox has room for besides a quarter that is left to what is said meanwhile.
    pub(crate) fn room(&self) -> usize {
        (self.bound / 4 * 3).saturating_sub(self.outbox.borrow().len())
    }

    /// Whether signals are still delivered: not from half the outbox on.
    pub(crate) fn takes_signals(&self) -> bool {
        self.outbox.borrow().len() < self.bound / 2
    }

    /// The connection is to end; the session says so to the client and closes. The first reason stands.
    pub(crate) fn end(&self, code: CloseCode, text: impl Into<String>) {
        self.end_after(code, text, 0);
    }

    pub(crate) fn end_after(&self, code: CloseCode, text: impl Into<String>, after_ms: u32) {
        self.ending.borrow_mut().get_or_insert_with(|| Ending {
            code,
            text: text.into(),
            after_ms,
        });
        self.wake.notify_one();
    }

    pub(crate) fn ending(&self) -> Option<Ending> {
        self.ending.borrow().clone()
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    pub(crate) fn set_broken(&self) {
        self.broken.set(true);
    }

    /// Writes the last frames: what waited before them is dropped where the reader was too slow for it.
    pub(crate) fn write_last(&self, bytes: Bytes) {
        let mut outbox = self.outbox.borrow_mut();
        self.queue(bytes, &mut outbox);
        self.flush_into(&mut outbox);
    }

    /// Something changed that the session's task must look at.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Ends a subscription. Returns whether there was one.
    pub(crate) fn forget(&self, room: &RoomId) -> bool {
        /// Most have few subscriptions; who has had many keeps no space for them.
        const SPARE: usize = 8;
        let mut rooms = self.rooms.borrow_mut();
        let heard = rooms.remove(room).is_some();
        im_runtime::give_back(&mut rooms, SPARE);
        heard
    }

    /// Whether only the client says that its device is its own; who has no name yet has proven nothing.
    pub(crate) fn device_unproven(&self) -> bool {
        self.authenticated()
            .is_none_or(|identity| identity.token.get().device_unproven)
    }

    /// Logic has said that the user may hear the room, of which it saw the log up to `head`.
    pub(crate) fn checked(&self, room: &RoomId, head: Seq) {
        if let Some(subscription) = self.rooms.borrow_mut().get_mut(room) {
            subscription.checked_at = subscription.checked_at.max(head);
        }
    }

    /// The room's log was taken back to `seq`: what is said behind it about the user's membership is news.
    pub(crate) fn reset(&self, room: &RoomId, seq: Seq) {
        if let Some(subscription) = self.rooms.borrow_mut().get_mut(room) {
            subscription.checked_at = subscription.checked_at.min(seq);
        }
    }

    /// The client leaves a room of the user although it follows all of them: it is not to find itself back in it.
    pub(crate) fn unfollow(&self, room: &RoomId, bound: usize) {
        if self.follows_all.get() {
            let mut unfollowed = self.unfollowed.borrow_mut();
            let unfollowed = unfollowed.get_or_insert_default();
            if unfollowed.rooms.len() < bound {
                unfollowed.rooms.insert(room.clone());
            }
        }
    }

    /// The opposite of [`Self::unfollow`].
    pub(crate) fn follow_again(&self, room: &RoomId) {
        if let Some(unfollowed) = self.unfollowed.borrow_mut().as_mut() {
            unfollowed.rooms.remove(room);
        }
    }

    pub(crate) fn has_unfollowed(&self, room: &RoomId) -> bool {
        self.unfollowed
            .borrow()
            .as_ref()
            .is_some_and(|unfollowed| unfollowed.rooms.contains(room))
    }

    /// Whose it is, once logic has said so.
    pub(crate) fn authenticated(&self) -> Option<&Authenticated> {
        self.authenticated.get().map(Rc::as_ref)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.budget.changed(self.outbox.get_mut().len(), 0);
    }
}
