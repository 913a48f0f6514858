//! The store of a cluster: a room is a stream and a few hashes in one slot of redis, every change of it one script
//! (see `im_redis_bus` for keys, scripts, order and loss).
//!
//! Appends go through `queue` (bounded, batched, in order per room) and `batch`; everything else goes straight to redis.

mod bans;
mod batch;
mod index;
mod invitations;
mod journal;
mod metrics;
mod nodes;
mod presence;
mod queue;
mod reply;
mod rooms;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use im_proto::v1::{AskBans, Ban, BanChanges, Signal};
use im_redis_bus::{Client, Envelope, Lane};
use im_runtime::tls::Tls;
use im_wire::ids::{Epoch, RoomId, Seq, UserId};

use super::{
    Append, Appended, Asserted, Counts, Create, Delete, Deleted, Ended, Invitation, Member, Membership, Page, Presence,
    ReadPosition, Result, Retention, Slice, Store, Tail, View,
};
use crate::auth::seal::Key;
use queue::{Job, Queue};

pub use im_redis_bus::StartError;

/// How to store in redis.
#[derive(Debug, Clone)]
pub struct Options {
    /// `redis://`, `rediss://`, `redis+sentinel://` or `redis+cluster://`.
    pub url: String,
    /// What is shown to a redis that speaks TLS, and believed of it.
    pub tls: Option<Arc<Tls>>,
    /// What every key and channel begins with; connect must be given the same.
    pub prefix: String,
    /// Connections to each master that all calls share.
    pub connections: usize,
    /// Append queues, each with one batch on its way at a time; a room always uses the same one.
    pub append_workers: usize,
    /// Replicas that must confirm an append before it is published and acknowledged; 0: none.
    pub wait_replicas: usize,
    /// How long they have for that.
    pub wait_timeout: Duration,
    /// How long redis may take to answer a call.
    pub command_timeout: Duration,
    /// How long opening a connection may take.
    pub connect_timeout: Duration,
    /// Appends waiting in each queue at most; more are refused at once.
    pub queue: usize,
    /// Appends in one script call at most.
    pub batch: usize,
    /// What is kept how long.
    pub retention: Retention,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".to_owned(),
            tls: None,
            prefix: "im".to_owned(),
            connections: 2,
            append_workers: 2,
            wait_replicas: 0,
            wait_timeout: Duration::from_secs(1),
            command_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(1),
            queue: 4096,
            batch: 64,
            retention: Retention::default(),
        }
    }
}

/// The store. Clones share everything.
#[derive(Debug, Clone)]
pub struct RedisStore {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
}

/// What every part of the store needs.
#[derive(Debug)]
struct Shared {
    client: Client,
    options: Options,
}

impl RedisStore {
    /// Begins to connect, in the background of the current tokio runtime; does not wait for redis.
    ///
    /// # Errors
    /// [`StartError`]: URL or prefix cannot be used.
    pub fn start(options: Options) -> std::result::Result<Self, StartError> {
        let workers = options.append_workers.max(1);
        let client = Client::start(im_redis_bus::Options {
            url: options.url.clone(),
            tls: options.tls.clone(),
            prefix: options.prefix.clone(),
            connections: options.connections,
            // One for each append queue, and one for rooms being created.
            blocking: if options.wait_replicas > 0 { workers + 1 } else { 0 },
            command_timeout: options.command_timeout,
            blocking_timeout: options.wait_timeout,
            connect_timeout: options.connect_timeout,
            ..im_redis_bus::Options::default()
        })?;
        let shared = Arc::new(Shared { client, options });
        let queue = Arc::new(Queue::start(&shared, workers));
        Ok(Self { shared, queue })
    }

    /// The way to redis, for whoever else needs it (a bus to the same servers).
    pub fn client(&self) -> &Client {
        &self.shared.client
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn append(&self, append: Append) -> Result<Appended> {
        let (answer, answered) = queue::answer();
        let room = append.room.clone();
        self.queue.put(&room, Job::Append(append, answer))?;
        answered.await
    }

    async fn create(&self, create: Create) -> Result<bool> {
        self.shared.create(create).await
    }

    async fn change_membership(&self, change: Membership) -> Result<Option<Appended>> {
        let (answer, answered) = queue::answer();
        let room = change.room.clone();
        self.queue.put(&room, Job::Membership(change, answer))?;
        answered.await
    }

    async fn delete(&self, delete: Delete) -> Result<Deleted> {
        let (answer, answered) = queue::answer();
        let room = delete.room.clone();
        self.queue.put(&room, Job::Delete(delete, answer))?;
        answered.await
    }

    async fn members(&self, room: &RoomId, after: Option<&UserId>, limit: usize) -> Result<Vec<Member>> {
        self.shared.members(room, after, limit).await
    }

    async fn views(&self, rooms: &[RoomId], user: &UserId) -> Result<Vec<Option<View>>> {
        self.shared.views(rooms, user).await
    }

    async fn tail(&self, room: &RoomId, epoch: Epoch, seq: Seq, limit: usize, max_bytes: usize) -> Result<Tail> {
        self.shared.tail(room, epoch, seq, limit, max_bytes).await
    }

    async fn page(&self, room: &RoomId, slice: Slice, limit: usize) -> Result<Page> {
        self.shared.page(room, slice, limit).await
    }

    async fn heads(&self, rooms: &[RoomId]) -> Result<Vec<(Epoch, Seq)>> {
        self.shared.heads(rooms).await
    }

    async fn mark_read(&self, room: &RoomId, user: &UserId, seq: Seq) -> Result<ReadPosition> {
        self.shared.mark_read(room, user, seq).await
    }

    async fn signal(&self, room: &RoomId, signal: Signal) -> Result<()> {
        let call = self.shared.publish(room, Envelope::signal(&signal));
        // The same lane for the same room keeps its signals in order.
        reply::value(self.shared.client.call(Lane::Fixed(queue::place(room)), call).await).map(drop)
    }

    async fn user_rooms(&self, user: &UserId, after: Option<&RoomId>, limit: usize) -> Result<Vec<RoomId>> {
        self.shared.user_rooms(user, after, limit).await
    }

    async fn index_room(&self, users: &[UserId], room: &RoomId) -> Result<()> {
        self.shared.index_room(users, room).await
    }

    async fn invite(&self, user: &UserId, invitation: Invitation, max: usize) -> Result<bool> {
        self.shared.invite(user, &invitation, max).await
    }

    async fn invitations(&self, user: &UserId) -> Result<Vec<Invitation>> {
        self.shared.invitations(user).await
    }

    async fn uninvite(&self, user: &UserId, room: &RoomId) -> Result<bool> {
        self.shared.uninvite(user, room).await
    }

    async fn spend(&self, user: &UserId, what: &'static str, day: u64, amount: u64, limit: u64) -> Result<bool> {
        self.shared.spend(user, what, day, amount, limit).await
    }

    async fn unindex_room(&self, user: &UserId, room: &RoomId) -> Result<()> {
        self.shared.unindex_room(user, room).await
    }

    async fn node_beat(&self, node: &str, lease: Duration, connections: u64, counts: Counts) -> Result<bool> {
        self.shared.node_beat(node, lease, connections, counts).await
    }

    async fn node_gone(&self, node: &str) -> Result<()> {
        self.shared.node_gone(node).await
    }

    async fn nodes(&self) -> Result<Vec<(String, u64)>> {
        Ok(self.shared.leases().await?.living)
    }

    async fn online(&self, rooms: &[RoomId]) -> Result<Vec<u64>> {
        self.shared.online(rooms).await
    }

    async fn online_rooms(&self) -> Result<Vec<(RoomId, u64)>> {
        self.shared.online_rooms().await
    }

    async fn connected(&self, presence: Presence) -> Result<()> {
        self.shared.connected(presence).await
    }

    async fn disconnected(&self, ended: Ended) -> Result<()> {
        self.shared.disconnected(ended).await
    }

    async fn assert_presence(&self, node: &str, places: Range<u64>, named: Vec<Presence>) -> Result<Asserted> {
        self.shared.assert_presence(node, places, named).await
    }

    async fn presence(&self, users: &[UserId]) -> Result<Vec<(Vec<Presence>, u64)>> {
        self.shared.presence(users).await
    }

    async fn ban(&self, ban: Ban, max: usize) -> Result<bool> {
        self.shared.ban(&ban, max).await
    }

    async fn lift_ban(&self, id: &str) -> Result<bool> {
        self.shared.lift_ban(id).await
    }

    async fn forget_bans(&self) -> Result<usize> {
        self.shared.forget_bans().await
    }

    async fn bans(&self, ask: AskBans) -> Result<BanChanges> {
        self.shared.bans(ask).await
    }

    async fn grant_key(&self, proposed: Key) -> Result<Key> {
        self.shared.grant_key(proposed).await
    }

    async fn ping(&self) -> Result<()> {
        self.shared.ping().await
    }

    async fn close(&self) {
        self.queue.close().await;
    }
}
