//! A store whose appends wait at a gate, and that remembers in which order they came.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use im_logic::auth::seal::Key;
use im_logic::store::{
    Append, Appended, Asserted, Counts, Create, Delete, Deleted, Ended, Error, Invitation, Member, Membership, Page,
    Presence, ReadPosition, Result, Slice, Store, Tail, View,
};
use im_proto::v1::{AskBans, Ban, BanChanges, Signal};
use im_wire::ids::{Epoch, RoomId, Seq, UserId};
use tokio::sync::Semaphore;

pub(crate) struct Gated {
    inner: Arc<dyn Store>,
    /// One permit lets one append through.
    pub(crate) gate: Semaphore,
    /// The bodies of the appends, in the order of their first polls.
    pub(crate) begun: Mutex<Vec<String>>,
    /// Appends that are in this call now, and the most there ever were.
    now: AtomicUsize,
    pub(crate) most: AtomicUsize,
    /// No room is put into an index by a call of its own while this is held.
    pub(crate) indexing: tokio::sync::Mutex<()>,
    /// What every append fails with.
    pub(crate) failing: Mutex<Option<Error>>,
    /// Changes of membership are stored, and no replica confirms what there is.
    pub(crate) unconfirmed: AtomicBool,
}

/// A message of this body ends in a panic.
pub(crate) const PANIC: &str = "panic";

impl Gated {
    pub(crate) fn new(inner: Arc<dyn Store>, open: usize) -> Arc<Self> {
        let (begun, now, most) = (Mutex::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self {
            inner,
            gate: Semaphore::new(open),
            begun,
            now,
            most,
            indexing: tokio::sync::Mutex::default(),
            failing: Mutex::default(),
            unconfirmed: AtomicBool::default(),
        })
    }

    pub(crate) fn begun(&self) -> Vec<String> {
        self.begun.lock().unwrap().clone()
    }
}

#[async_trait]
impl Store for Gated {
    async fn append(&self, append: Append) -> Result<Appended> {
        assert_ne!(append.entry.body, PANIC, "as the test wants it");
        if let Some(error) = self.failing.lock().unwrap().clone() {
            return Err(error);
        }
        self.begun.lock().unwrap().push(String::from_utf8_lossy(&append.entry.body).into_owned());
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.gate.acquire().await.expect("the gate is never closed").forget();
        let appended = self.inner.append(append).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        appended
    }

    async fn create(&self, create: Create) -> Result<bool> {
        self.inner.create(create).await
    }
    async fn change_membership(&self, change: Membership) -> Result<Option<Appended>> {
        let changed = self.inner.change_membership(change).await?;
        if self.unconfirmed.load(Ordering::SeqCst) {
            return Err(Error::NotReplicated { confirmed: 0, wanted: 1 });
        }
        Ok(changed)
    }
    async fn delete(&self, delete: Delete) -> Result<Deleted> {
        self.inner.delete(delete).await
    }
    async fn members(&self, room: &RoomId, after: Option<&UserId>, limit: usize) -> Result<Vec<Member>> {
        self.inner.members(room, after, limit).await
    }
    async fn views(&self, rooms: &[RoomId], user: &UserId) -> Result<Vec<Option<View>>> {
        self.inner.views(rooms, user).await
    }
    async fn tail(&self, room: &RoomId, epoch: Epoch, seq: Seq, limit: usize, max_bytes: usize) -> Result<Tail> {
        self.inner.tail(room, epoch, seq, limit, max_bytes).await
    }
    async fn page(&self, room: &RoomId, slice: Slice, limit: usize) -> Result<Page> {
        self.inner.page(room, slice, limit).await
    }
    async fn heads(&self, rooms: &[RoomId]) -> Result<Vec<(Epoch, Seq)>> {
        self.inner.heads(rooms).await
    }
    async fn mark_read(&self, room: &RoomId, user: &UserId, seq: Seq) -> Result<ReadPosition> {
        self.inner.mark_read(room, user, seq).await
    }
    async fn signal(&self, room: &RoomId, signal: Signal) -> Result<()> {
        self.inner.signal(room, signal).await
    }
    async fn user_rooms(&self, user: &UserId, after: Option<&RoomId>, limit: usize) -> Result<Vec<RoomId>> {
        self.inner.user_rooms(user, after, limit).await
    }
    async fn index_room(&self, users: &[UserId], room: &RoomId) -> Result<()> {
        let _held = self.indexing.lock().await;
        self.inner.index_room(users, room).await
    }
    async fn invite(&self, user: &UserId, invitation: Invitation, max: usize) -> Result<bool> {
        self.inner.invite(user, invitation, max).await
    }
    async fn invitations(&self, user: &UserId) -> Result<Vec<Invitation>> {
        self.inner.invitations(user).await
    }
    async fn uninvite(&self, user: &UserId, room: &RoomId) -> Result<bool> {
        self.inner.uninvite(user, room).await
    }
    async fn spend(&self, user: &UserId, what: &'static str, day: u64, amount: u64, limit: u64) -> Result<bool> {
        self.inner.spend(user, what, day, amount, limit).await
    }
    async fn unindex_room(&self, user: &UserId, room: &RoomId) -> Result<()> {
        self.inner.unindex_room(user, room).await
    }
    async fn node_beat(&self, node: &str, lease: Duration, connections: u64, counts: Counts) -> Result<bool> {
        self.inner.node_beat(node, lease, connections, counts).await
    }
    async fn node_gone(&self, node: &str) -> Result<()> {
        self.inner.node_gone(node).await
    }
    async fn nodes(&self) -> Result<Vec<(String, u64)>> {
        self.inner.nodes().await
    }
    async fn online(&self, rooms: &[RoomId]) -> Result<Vec<u64>> {
        self.inner.online(rooms).await
    }
    async fn online_rooms(&self) -> Result<Vec<(RoomId, u64)>> {
        self.inner.online_rooms().await
    }
    async fn connected(&self, presence: Presence) -> Result<()> {
        self.inner.connected(presence).await
    }
    async fn disconnected(&self, ended: Ended) -> Result<()> {
        self.inner.disconnected(ended).await
    }
    async fn assert_presence(&self, node: &str, places: Range<u64>, named: Vec<Presence>) -> Result<Asserted> {
        self.inner.assert_presence(node, places, named).await
    }
    async fn presence(&self, users: &[UserId]) -> Result<Vec<(Vec<Presence>, u64)>> {
        self.inner.presence(users).await
    }
    async fn grant_key(&self, proposed: Key) -> Result<Key> {
        self.inner.grant_key(proposed).await
    }
    async fn ban(&self, ban: Ban, max: usize) -> Result<bool> {
        self.inner.ban(ban, max).await
    }
    async fn lift_ban(&self, id: &str) -> Result<bool> {
        self.inner.lift_ban(id).await
    }
    async fn forget_bans(&self) -> Result<usize> {
        self.inner.forget_bans().await
    }
    async fn bans(&self, ask: AskBans) -> Result<BanChanges> {
        self.inner.bans(ask).await
    }
    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}
