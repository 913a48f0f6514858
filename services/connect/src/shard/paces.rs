//! How fast one user may have logs read and rooms looked up, over all their connections on a shard. Whoever wants more
//! waits: it is work for logic and the store, and others are to notice as little of it as may be.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use im_proto::v1::Fault;
use im_runtime::limits::rate::{Bucket, Rate};
use im_wire::code::ErrorCode;
use im_wire::ids::UserId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::metrics;
use crate::options::Options;
use crate::translate;

/// Pages of history of one user that are read at once.
const CONCURRENT_PAGES: usize = 2;
/// How long a request waits for its turn until it is refused.
const TURN_TIMEOUT: Duration = Duration::from_secs(20);

/// See the module's top.
pub(crate) struct Paces {
    bytes: Rate,
    rooms: Rate,
    users: RefCell<HashMap<UserId, User>>,
}

struct User {
    bytes: Bucket,
    rooms: Bucket,
    pages: Arc<Semaphore>,
}

impl Paces {
    pub(crate) fn new(options: &Options) -> Self {
        let bytes = options.user_read_bytes_per_second as f64;
        let rooms = f64::from(options.user_rooms_per_second);
        Self {
            // Little at once: what comes in one piece is what others feel.
            bytes: Rate::new(bytes, bytes),
            rooms: Rate::new(rooms, rooms / 4.0),
            users: RefCell::default(),
        }
    }

    fn user<R>(&self, user: &UserId, of: impl FnOnce(&mut User) -> R) -> R {
        let mut users = self.users.borrow_mut();
        if let Some(known) = users.get_mut(user) {
            return of(known);
        }
        let now = Instant::now().into_std();
        let fresh = User {
            bytes: Bucket::full(self.bytes, now),
            rooms: Bucket::full(self.rooms, now),
            pages: Arc::new(Semaphore::new(CONCURRENT_PAGES)),
        };
        of(users.entry(user.clone()).or_insert(fresh))
    }

    /// Whether more may be read for the user now; otherwise how long that takes.
    fn reads_on(&self, user: &UserId) -> Result<(), Duration> {
        self.user(user, |user| {
            user.bytes.spend(self.bytes, 0, Instant::now().into_std())
        })
    }

    /// Whether another page may be asked for, for a connection that catches up.
    pub(crate) fn may_read(&self, user: &UserId) -> bool {
        self.reads_on(user).is_ok()
    }

    /// So many bytes were read for the user.
    pub(crate) fn has_read(&self, user: &UserId, bytes: usize) {
        self.user(user, |user| user.bytes.owe(bytes));
    }

    /// Waits for the turn to read a page; the next one's comes when it is dropped.
    ///
    /// # Errors
    /// It does not come in time.
    pub(crate) async fn turn(&self, user: &UserId) -> Result<Option<OwnedSemaphorePermit>, Fault> {
        let pages = self.user(user, |user| Arc::clone(&user.pages));
        let turn = async {
            let permit = pages.acquire_owned().await.ok();
            while let Err(wait) = self.reads_on(user) {
                tokio::time::sleep(wait).await;
            }
            permit
        };
        in_time(turn, "user_reads").await
    }

    /// Waits until so many more rooms may be looked up for the user.
    ///
    /// # Errors
    /// That takes too long.
    pub(crate) async fn rooms(&self, user: &UserId, rooms: usize) -> Result<(), Fault> {
        let paced = async {
            let spend = |user: &mut User| {
                user.rooms
                    .spend(self.rooms, rooms, Instant::now().into_std())
            };
            while let Err(wait) = self.user(user, spend) {
                tokio::time::sleep(wait).await;
            }
        };
        in_time(paced, "user_rooms").await
    }

    /// So many rooms more were looked up than was known before.
    pub(crate) fn has_looked_up(&self, user: &UserId, rooms: usize) {
        self.user(user, |user| user.rooms.owe(rooms));
    }

    pub(crate) fn forget_full(&self) {
        let now = Instant::now().into_std();
        let is_full = |user: &User| {
            let idle = Arc::strong_count(&user.pages) == 1;
            idle && user.bytes.is_full(self.bytes, now) && user.rooms.is_full(self.rooms, now)
        };
        self.users.borrow_mut().retain(|_, user| !is_full(user));
    }
}

async fn in_time<T>(waiting: impl Future<Output = T>, limit: &str) -> Result<T, Fault> {
    let mut waiting = std::pin::pin!(waiting);
    // Most need not wait, and are not counted.
    if let Some(done) = futures::FutureExt::now_or_never(waiting.as_mut()) {
        return Ok(done);
    }
    metrics::RATE_LIMITED.with_label_values(&[limit]).inc();
    tokio::time::timeout(TURN_TIMEOUT, waiting)
        .await
        .map_err(|_| {
            translate::retryable(
                ErrorCode::RateLimited,
                "too much is read for this user at the same time: ask again later",
            )
        })
}
