//! The store of a cluster: a room is a stream and a few hashes in one slot of redis, every change of it one script
//! (see `im_redis_bus` for keys, scripts, order and loss).
//!
//! Appends go through `queue` (bounded, batched, in order per room) and `batch`; everything else goes straight to redis.

mod bans;
mod batch;
mod grant_key;
mod index;
mod invitations;
mod job;
mod letters;
mod log;
mod metrics;
mod nodes;
mod presence;
mod queue;
mod quotas;
mod reply;
mod rooms;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use im_proto::v1::Signal;
use im_redis_bus::{Client, Envelope, Lane};
use im_runtime::tls::Tls;
use im_wire::ids::RoomId;

use super::{Append, Appended, Messages, Result, Retention};
use job::Job;
use queue::Queue;

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
            blocking: if options.wait_replicas > 0 {
                workers + 1
            } else {
                0
            },
            command_timeout: options.command_timeout,
            blocking_timeout: options.wait_timeout,
            connect_timeout: options.connect_timeout,
            ..im_redis_bus::Options::default()
        })?;
        let shared = Arc::new(Shared { client, options });
        let queue = Arc::new(Queue::start(&shared, workers));
        Ok(Self { shared, queue })
    }

    /// The way to redis, for a bus to the same servers.
    pub fn client(&self) -> &Client {
        &self.shared.client
    }

    /// Ends background work after everything accepted has been stored.
    pub async fn close(&self) {
        self.queue.close().await;
    }
}

#[async_trait]
impl Messages for RedisStore {
    async fn append(&self, append: Append) -> Result<Appended> {
        let place = queue::place(&append.room);
        self.queue
            .run(place, |answer| Job::Append(append, answer))
            .await
    }

    async fn signal(&self, room: &RoomId, signal: Signal) -> Result<()> {
        let call = self.shared.publish(room, Envelope::signal(&signal));
        // The same lane for the same room keeps its signals in order.
        reply::value(
            self.shared
                .client
                .call(Lane::Fixed(queue::place(room)), call)
                .await,
        )
        .map(drop)
    }
}
