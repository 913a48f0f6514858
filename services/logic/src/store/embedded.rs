//! The embedded store: one file, one writer. Everything that waits to be written goes into one transaction, which is
//! synced to disk once and only then answered: many small appends share one sync. Readers work on snapshots beside it.
//!
//! The file is a redb database: pure Rust, copy-on-write B-trees, crash-safe by its own checksums and two commit slots.
//! Presence, node leases and "last seen" are kept in memory: they are void when the process ends.

mod apply;
mod log;
mod presence;
mod read;
mod tables;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use im_proto::v1::Signal;
use im_wire::ids::{Epoch, RoomId, Seq, UserId};
use redb::{Database, ReadableDatabase};
use tokio::sync::{mpsc, oneshot};

use super::{
    Append, Appended, Create, Error, Member, Membership, Page, Presence, Publish, ReadPosition, Result, Retention,
    Slice, Store, Tail, View,
};
use presence::PresenceBook;
use writer::{Job, Write};

/// Where and how the store keeps things.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of the database file; `None`: in memory, for tests. Created where it does not exist.
    pub folder: Option<PathBuf>,
    /// Writes that may wait; beyond it they are refused. Default 16,384.
    pub queue: usize,
    /// Writes in one transaction at most. Default 1,024.
    pub batch: usize,
    /// Memory for the database's cache, in bytes. Default 128 MiB.
    pub cache_bytes: usize,
    /// How much of a log is kept.
    pub retention: Retention,
}

impl Default for Options {
    fn default() -> Self {
        Self { folder: None, queue: 16_384, batch: 1_024, cache_bytes: 128 << 20, retention: Retention::default() }
    }
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be made or written.
    #[error("data_dir {}: {error}: name a folder that this process may write", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// Another process has it open.
    #[error("data_dir {}: another process uses it: end that one or name another folder", folder.display())]
    InUse {
        /// Which.
        folder: PathBuf,
    },
    /// The file is not ours, is damaged, or is of another version.
    #[error("{}: {problem}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What is wrong and what can be done.
        problem: String,
    },
    /// The writer's thread cannot be started.
    #[error("the store's thread cannot be started: {0}")]
    Thread(std::io::Error),
}

/// The database, which is opened anew after a failure of the disk.
type Shelf = Arc<RwLock<Option<Database>>>;

/// See the module's top.
pub struct EmbeddedStore {
    shelf: Shelf,
    epoch: Epoch,
    jobs: mpsc::Sender<Job>,
    presence: PresenceBook,
    publish: Arc<dyn Publish>,
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedStore").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// Opens or creates the database. What is appended is published through `publish` after it is stored.
    ///
    /// # Errors
    /// [`OpenError`] names the folder or file and what to do.
    pub fn open(options: Options, publish: Arc<dyn Publish>) -> std::result::Result<Self, OpenError> {
        let (database, epoch) = tables::open(&options)?;
        let shelf: Shelf = Arc::new(RwLock::new(Some(database)));
        let (jobs, queue) = mpsc::channel(options.queue);
        writer::start(writer::Writer::new(Arc::clone(&shelf), epoch, options, Arc::clone(&publish)), queue)
            .map_err(OpenError::Thread)?;
        Ok(Self { shelf, epoch, jobs, presence: PresenceBook::default(), publish })
    }

    /// A store that forgets everything when it is dropped.
    ///
    /// # Errors
    /// [`OpenError::Thread`].
    pub fn in_memory(retention: Retention, publish: Arc<dyn Publish>) -> std::result::Result<Self, OpenError> {
        Self::open(Options { retention, ..Options::default() }, publish)
    }

    /// Queues a write and waits for its commit. Queued when first polled: that is the order.
    async fn write<T>(&self, make: impl FnOnce(oneshot::Sender<Result<T>>) -> Write) -> Result<T> {
        let (done, answer) = oneshot::channel();
        let job = Job { write: make(done) };
        if let Err(refused) = self.jobs.try_send(job) {
            writer::REJECTED.inc();
            let why = match refused {
                mpsc::error::TrySendError::Full(_) => "too many writes wait",
                mpsc::error::TrySendError::Closed(_) => "the store is closed",
            };
            return Err(Error::Unavailable(why.to_owned()));
        }
        writer::QUEUE.set((self.jobs.max_capacity() - self.jobs.capacity()) as i64);
        answer.await.unwrap_or_else(|_| Err(Error::Unavailable("the store is closed".to_owned())))
    }

    /// Reads on a snapshot, on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&redb::ReadTransaction) -> Reading<T> + Send + 'static,
    ) -> Result<T> {
        let shelf = Arc::clone(&self.shelf);
        let task = tokio::task::spawn_blocking(move || {
            let shelf = shelf.read().map_err(|_| Error::Unavailable("the store has failed".to_owned()))?;
            let database =
                shelf.as_ref().ok_or_else(|| Error::Unavailable("the store is being opened again".to_owned()))?;
            let snapshot = database.begin_read().map_err(|error| failed(error.into()))?;
            read(&snapshot).map_err(failed)
        });
        task.await.unwrap_or_else(|_| Err(Error::Unavailable("a read has failed".to_owned())))
    }
}

type Reading<T> = std::result::Result<T, redb::Error>;

/// A failure of the database, as callers see it.
fn failed(error: redb::Error) -> Error {
    use std::io::ErrorKind;
    match &error {
        redb::Error::Io(io)
            if matches!(
                io.kind(),
                ErrorKind::StorageFull
                    | ErrorKind::FileTooLarge
                    | ErrorKind::QuotaExceeded
                    | ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            Error::Full(error.to_string())
        }
        redb::Error::Corrupted(_) | redb::Error::TableTypeMismatch { .. } => Error::Corrupt(error.to_string()),
        _ => Error::Unavailable(error.to_string()),
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn append(&self, append: Append) -> Result<Appended> {
        self.write(|done| Write::Append(append, done)).await
    }

    async fn create(&self, create: Create) -> Result<bool> {
        self.write(|done| Write::Create(create, done)).await
    }

    async fn change_membership(&self, change: Membership) -> Result<Option<Appended>> {
        self.write(|done| Write::Membership(change, done)).await
    }

    async fn members(&self, room: &RoomId, after: Option<&UserId>, limit: usize) -> Result<Vec<Member>> {
        let (room, after) = (room.clone(), after.cloned());
        self.read(move |snapshot| read::members(snapshot, &room, after.as_ref(), limit)).await
    }

    async fn views(&self, rooms: &[RoomId], user: &UserId) -> Result<Vec<Option<View>>> {
        let (rooms, user, epoch) = (rooms.to_vec(), user.clone(), self.epoch);
        self.read(move |snapshot| rooms.iter().map(|room| read::view(snapshot, room, &user, epoch)).collect()).await
    }

    async fn tail(&self, room: &RoomId, epoch: Epoch, seq: Seq, limit: usize, max_bytes: usize) -> Result<Tail> {
        let (room, own) = (room.clone(), self.epoch);
        self.read(move |snapshot| log::tail(snapshot, &room, own, (epoch, seq), limit, max_bytes)).await
    }

    async fn page(&self, room: &RoomId, slice: Slice, limit: usize) -> Result<Page> {
        let (room, epoch) = (room.clone(), self.epoch);
        self.read(move |snapshot| log::page(snapshot, &room, epoch, slice, limit)).await
    }

    async fn heads(&self, rooms: &[RoomId]) -> Result<Vec<(Epoch, Seq)>> {
        let (rooms, epoch) = (rooms.to_vec(), self.epoch);
        self.read(move |snapshot| rooms.iter().map(|room| read::head(snapshot, room, epoch)).collect()).await
    }

    async fn mark_read(&self, room: &RoomId, user: &UserId, seq: Seq) -> Result<ReadPosition> {
        let (room, user) = (room.clone(), user.clone());
        self.write(|done| Write::Read { room, user, seq, done }).await
    }

    async fn signal(&self, room: &RoomId, signal: Signal) -> Result<()> {
        self.publish.signal(room, &signal);
        Ok(())
    }

    async fn user_rooms(&self, user: &UserId, after: Option<&RoomId>, limit: usize) -> Result<Vec<RoomId>> {
        let (user, after) = (user.clone(), after.cloned());
        self.read(move |snapshot| read::user_rooms(snapshot, &user, after.as_ref(), limit)).await
    }

    async fn index_room(&self, users: &[UserId], room: &RoomId) -> Result<()> {
        let (users, room) = (users.to_vec(), room.clone());
        self.write(|done| Write::Index { users, room, done }).await
    }

    async fn unindex_room(&self, user: &UserId, room: &RoomId) -> Result<()> {
        let (user, room) = (user.clone(), room.clone());
        self.write(|done| Write::Unindex { user, room, done }).await
    }

    async fn node_beat(&self, node: &str, lease: Duration, connections: u64, online: Vec<(RoomId, u64)>) -> Result<()> {
        self.presence.beat(node, lease, connections, online);
        Ok(())
    }

    async fn node_gone(&self, node: &str) -> Result<()> {
        self.presence.gone(node);
        Ok(())
    }

    async fn nodes(&self) -> Result<Vec<(String, u64)>> {
        Ok(self.presence.nodes())
    }

    async fn online(&self, rooms: &[RoomId]) -> Result<Vec<u64>> {
        let all = self.presence.online();
        Ok(rooms.iter().map(|room| all.get(room).copied().unwrap_or(0)).collect())
    }

    async fn online_rooms(&self) -> Result<Vec<(RoomId, u64)>> {
        Ok(self.presence.online().into_iter().collect())
    }

    async fn connected(&self, presence: Presence) -> Result<()> {
        self.presence.connected(presence);
        Ok(())
    }

    async fn disconnected(&self, user: &UserId, conn: &str, now_ms: u64) -> Result<()> {
        self.presence.disconnected(user, conn, now_ms);
        Ok(())
    }

    async fn presence(&self, users: &[UserId]) -> Result<Vec<(Vec<Presence>, u64)>> {
        Ok(users.iter().map(|user| self.presence.of(user)).collect())
    }

    async fn ping(&self) -> Result<()> {
        self.read(|_| Ok(())).await
    }

    async fn close(&self) {
        // Everything queued before this has been written when it is answered.
        let _closed_already = self.write(Write::Close).await;
    }
}
