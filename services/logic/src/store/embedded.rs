//! The embedded store: one file, one writer. Everything that waits to be written goes into one transaction, which is
//! synced to disk once and only then published and answered: many small appends share one sync. Readers work on
//! snapshots beside it.
//!
//! The file is a [`redb`] database: pure Rust, copy-on-write B-trees, every page checksummed. The alternative compared
//! with it was fjall 3 (a log-structured tree), on this store's writes (entry, client id and room for each of 256
//! messages to 500 rooms per transaction) in the same runs: fjall stores 3 to 3.7 times as many messages per second.
//! redb reads a range of 50 entries in a quarter of the time, opens after a crash in milliseconds where fjall replays its
//! journal for seconds, and does not care where a power cut tears the last write, after which fjall 3.1 refuses to open
//! (its journal's last batch fails the checksum). What a restart after a bad night costs counts more here than a write
//! rate beyond ten thousand a second.
//!
//! Presence and node leases are kept in memory: they are void when the process ends.

mod aging;
mod apply;
mod bans;
mod dedupe;
mod deleting;
mod disk;
mod epochs;
mod groups;
mod invitations;
mod log;
mod metrics;
mod presence;
mod quotas;
mod read;
mod tables;
mod writer;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use im_proto::bans::Book;
use im_proto::v1::{AskBans, Ban, BanChanges, Signal};
use im_wire::ids::{Epoch, RoomId, Seq, UserId};
use redb::{Database, ReadableDatabase};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};

use super::{
    Append, Appended, Asserted, Counts, Create, Delete, Deleted, Ended, Error, Invitation, Member, Membership, Page,
    Presence, Publish, ReadPosition, Result, Retention, Slice, Store, Tail, View,
};
use crate::auth::seal::Key;
use bans::Wish;
use presence::PresenceBook;
use quotas::Quotas;
use writer::{Done, Write};

/// Where and how the store keeps things.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of the database file; `None`: in memory, for tests. Created where it does not exist.
    pub folder: Option<PathBuf>,
    /// Writes that may wait; beyond it they are refused. Default 16,384.
    pub queue: usize,
    /// Writes in one transaction at most. Default 1,024.
    pub batch: usize,
    /// Reads that run at the same time; others wait. Default 16.
    pub readers: usize,
    /// Memory for the database's cache, in bytes. Default 128 MiB.
    pub cache_bytes: usize,
    /// How much of a log is kept.
    pub retention: Retention,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            folder: None,
            queue: 16_384,
            batch: 1_024,
            readers: 16,
            cache_bytes: 128 << 20,
            retention: Retention::default(),
        }
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
    /// Of rooms for which none is noted, see [`epochs::Epochs::of_the_file`].
    epoch: Epoch,
    writes: mpsc::Sender<Write>,
    /// Ends a thread when it is dropped, see [`writer::start_aging`].
    _until_dropped: std::sync::mpsc::Sender<()>,
    readers: Arc<Semaphore>,
    presence: PresenceBook,
    quotas: Quotas,
    bans: Arc<Mutex<Book>>,
    grant_key: OnceLock<Key>,
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
        Self::open_on(&Arc::default(), options, publish)
    }

    fn open_on(
        disk: &Arc<disk::Disk>,
        options: Options,
        publish: Arc<dyn Publish>,
    ) -> std::result::Result<Self, OpenError> {
        let (database, epochs, generations) = tables::open(&options, disk)?;
        let epoch = epochs.of_the_file();
        let bans = Arc::new(Mutex::new(tables::bans(&options, &database)?));
        let shelf: Shelf = Arc::new(RwLock::new(Some(database)));
        let (writes, queue) = mpsc::channel(options.queue.max(1));
        let readers = Arc::new(Semaphore::new(options.readers.max(1)));
        let file = (Arc::clone(&shelf), Arc::clone(disk));
        let writer = writer::Writer::new(file, epochs, generations, options, Arc::clone(&publish));
        writer::start(writer, queue).map_err(OpenError::Thread)?;
        let until_dropped = writer::start_aging(writes.downgrade()).map_err(OpenError::Thread)?;
        Ok(Self {
            shelf,
            epoch,
            writes,
            _until_dropped: until_dropped,
            readers,
            presence: PresenceBook::default(),
            quotas: Quotas::default(),
            bans,
            grant_key: OnceLock::new(),
            publish,
        })
    }

    /// A store that forgets everything when it is dropped.
    ///
    /// # Errors
    /// [`OpenError::Thread`].
    pub fn in_memory(retention: Retention, publish: Arc<dyn Publish>) -> std::result::Result<Self, OpenError> {
        Self::open(Options { retention, ..Options::default() }, publish)
    }

    /// Queues a write and waits for its commit. Queued when first polled: that is the order.
    async fn write<T>(&self, make: impl FnOnce(Done<T>) -> Write) -> Result<T> {
        queued(&self.writes, make).await
    }

    /// Reads on a snapshot, on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&redb::ReadTransaction) -> Plain<T> + Send + 'static,
    ) -> Result<T> {
        let closed = || Error::Unavailable(CLOSED.to_owned());
        let _counted = Counted::one();
        let turn = Arc::clone(&self.readers).acquire_owned().await.map_err(|_| closed())?;
        let shelf = Arc::clone(&self.shelf);
        let task = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let shelf = shelf.read().unwrap_or_else(PoisonError::into_inner);
            let database = shelf.as_ref().ok_or_else(closed)?;
            let snapshot = database.begin_read().map_err(|error| failed(error.into()))?;
            read(&snapshot).map_err(failed)
        });
        task.await.unwrap_or_else(|_| Err(Error::Unavailable("a read has failed".to_owned())))
    }
}

/// Queues a write when first polled, and waits for its commit.
async fn queued<T>(writes: &mpsc::Sender<Write>, make: impl FnOnce(Done<T>) -> Write) -> Result<T> {
    let (done, answer) = oneshot::channel();
    if let Err(refused) = writes.try_send(make(done)) {
        let why = match refused {
            mpsc::error::TrySendError::Full(_) => {
                metrics::REJECTED.inc();
                "too many writes wait"
            }
            mpsc::error::TrySendError::Closed(_) => CLOSED,
        };
        return Err(Error::Unavailable(why.to_owned()));
    }
    answer.await.unwrap_or_else(|_| Err(Error::Unavailable(CLOSED.to_owned())))
}

/// A read in the gauge.
struct Counted;

impl Counted {
    fn one() -> Self {
        metrics::READING.inc();
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::READING.dec();
    }
}

const CLOSED: &str = "the store is closed, or waits for its disk";

/// What the database says, before anybody looks at what it means to callers.
type Plain<T> = std::result::Result<T, redb::Error>;

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

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

    async fn delete(&self, delete: Delete) -> Result<Deleted> {
        self.write(|done| Write::Delete(delete, done)).await
    }

    async fn members(&self, room: &RoomId, after: Option<&UserId>, limit: usize) -> Result<Vec<Member>> {
        let (asked, after) = (room.clone(), after.cloned());
        let members = self.read(move |snapshot| read::members(snapshot, &asked, after.as_ref(), limit)).await?;
        members.ok_or_else(|| Error::NoSuchRoom(room.clone()))
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

    async fn invite(&self, user: &UserId, invitation: Invitation, max: usize) -> Result<bool> {
        let user = user.clone();
        self.write(|done| Write::Invite { user, invitation, max, done }).await
    }

    async fn invitations(&self, user: &UserId) -> Result<Vec<Invitation>> {
        let user = user.clone();
        self.read(move |snapshot| invitations::of(snapshot, &user)).await
    }

    async fn uninvite(&self, user: &UserId, room: &RoomId) -> Result<bool> {
        let (user, room) = (user.clone(), room.clone());
        self.write(|done| Write::Uninvite { user, room, done }).await
    }

    async fn spend(&self, user: &UserId, what: &'static str, day: u64, amount: u64, limit: u64) -> Result<bool> {
        Ok(self.quotas.spend(user, what, day, amount, limit))
    }

    async fn unindex_room(&self, user: &UserId, room: &RoomId) -> Result<()> {
        let (user, room) = (user.clone(), room.clone());
        self.write(|done| Write::Unindex { user, room, done }).await
    }

    async fn node_beat(&self, node: &str, lease: Duration, connections: u64, counts: Counts) -> Result<bool> {
        Ok(self.presence.beat(node, lease, connections, counts))
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
        let mut rooms: Vec<_> = self.presence.online().into_iter().filter(|(_, count)| *count > 0).collect();
        rooms.sort();
        Ok(rooms)
    }

    async fn connected(&self, presence: Presence) -> Result<()> {
        self.presence.connected(presence);
        Ok(())
    }

    async fn disconnected(&self, ended: Ended) -> Result<()> {
        let at_ms = ended.at_ms;
        match self.presence.disconnected(ended) {
            Some(user) => self.write(|done| Write::Seen { user, at_ms, done }).await,
            None => Ok(()),
        }
    }

    async fn assert_presence(&self, node: &str, places: Range<u64>, named: Vec<Presence>) -> Result<Asserted> {
        Ok(self.presence.assert(node, places, named))
    }

    async fn presence(&self, users: &[UserId]) -> Result<Vec<(Vec<Presence>, u64)>> {
        let asked = users.to_vec();
        let seen = self.read(move |snapshot| read::seen(snapshot, &asked)).await?;
        Ok(users.iter().map(|user| self.presence.of(user)).zip(seen).collect())
    }

    async fn ban(&self, ban: Ban, max: usize) -> Result<bool> {
        Ok(self.change_bans(Wish::Put(ban, max)).await? >= 0)
    }

    async fn lift_ban(&self, id: &str) -> Result<bool> {
        Ok(self.change_bans(Wish::Lift(id.to_owned())).await? > 0)
    }

    async fn forget_bans(&self) -> Result<usize> {
        Ok(usize::try_from(self.change_bans(Wish::Forget).await?).unwrap_or(0))
    }

    async fn bans(&self, ask: AskBans) -> Result<BanChanges> {
        Ok(self.bans_since(&ask).await)
    }

    /// Grants end with the connections of the process: the key need not outlive it.
    async fn grant_key(&self, proposed: Key) -> Result<Key> {
        Ok(*self.grant_key.get_or_init(|| proposed))
    }

    async fn ping(&self) -> Result<()> {
        self.read(|_| Ok(())).await
    }

    async fn close(&self) {
        let (done, closed) = oneshot::channel();
        // Everything queued before this has been written when it is answered. Closed already: nothing to wait for.
        if self.writes.send(Write::Close(done)).await.is_ok() {
            let _closed_already = closed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use im_proto::v1::Entry;
    use im_wire::ids::ClientId;

    use super::*;
    use crate::store::Access;

    struct Silent;

    impl Publish for Silent {
        fn logged(&self, _: &RoomId, _: Epoch, _: Seq, _: &Entry) {}

        fn signal(&self, _: &RoomId, _: &Signal) {}
    }

    fn message(client_id: &str) -> Append {
        let user = UserId::new("ann").expect("a good id");
        let access = Access { user, direct: false, open: true, system: false };
        let entry = Entry { id: client_id.to_owned(), ..Entry::default() };
        let room = RoomId::new("lobby").expect("a good id");
        Append { room, access, client_id: ClientId::new(client_id).expect("a good id"), entry, index: Vec::new() }
    }

    #[tokio::test]
    async fn after_a_sync_that_failed_nothing_is_acknowledged_any_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options { folder: Some(folder.path().to_owned()), ..Options::default() };
        let disk = Arc::new(disk::Disk::default());
        let store = EmbeddedStore::open_on(&disk, options.clone(), Arc::new(Silent)).expect("a new store");
        assert_eq!(store.append(message("one")).await.expect("stored").seq, 1);
        disk.fails_to_sync.store(true, Ordering::Release);
        let refused = store.append(message("two")).await;
        assert!(matches!(&refused, Err(Error::Unavailable(why)) if why.contains("disk")), "{refused:?}");
        // The disk seems to be well again. What it dropped meanwhile nobody knows.
        disk.fails_to_sync.store(false, Ordering::Release);
        for id in ["three", "one", "two"] {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let refused = store.append(message(id)).await;
            assert!(matches!(&refused, Err(Error::Unavailable(why)) if why.contains("disk")), "{refused:?}");
        }
        assert_eq!(metrics::DISK_FAILED.get(), 1);
        store.close().await;
        drop(store);
        let store = EmbeddedStore::open(options, Arc::new(Silent)).expect("the file as it was");
        assert!(store.append(message("one")).await.expect("stored").duplicate);
    }
}
