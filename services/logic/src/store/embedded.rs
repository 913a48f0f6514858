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
mod file;
mod groups;
mod index;
mod invitations;
mod log;
mod metrics;
mod presence;
mod quotas;
mod rooms;
mod tables;
mod write;
mod writer;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use im_proto::bans::Book;
use im_proto::v1::Signal;
use im_wire::ids::{Epoch, RoomId};
use redb::{Database, ReadableDatabase};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};

use super::{Append, Appended, Error, GrantKey, GrantKeys, Messages, Publish, Result, Retention};
use presence::PresenceRegistry;
use quotas::DayCounts;
use write::{Done, Write};

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
type DbHandle = Arc<RwLock<Option<Database>>>;

/// See the module's top.
pub struct EmbeddedStore {
    handle: DbHandle,
    /// Of rooms for which none is noted, see [`epochs::Epochs::of_the_file`].
    epoch: Epoch,
    writes: mpsc::Sender<Write>,
    /// Ends a thread when it is dropped, see [`writer::start_aging`].
    _until_dropped: std::sync::mpsc::Sender<()>,
    readers: Arc<Semaphore>,
    presence: PresenceRegistry,
    quotas: DayCounts,
    bans: Arc<Mutex<Book>>,
    grant_key: OnceLock<GrantKey>,
    publish: Arc<dyn Publish>,
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedStore")
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// Opens or creates the database. What is appended is published through `publish` after it is stored.
    ///
    /// # Errors
    /// [`OpenError`] names the folder or file and what to do.
    pub fn open(
        options: Options,
        publish: Arc<dyn Publish>,
    ) -> std::result::Result<Self, OpenError> {
        Self::open_on(&Arc::default(), options, publish)
    }

    fn open_on(
        disk: &Arc<disk::Disk>,
        options: Options,
        publish: Arc<dyn Publish>,
    ) -> std::result::Result<Self, OpenError> {
        let (database, epochs, generations) = file::open(&options, disk)?;
        let epoch = epochs.of_the_file();
        let bans = Arc::new(Mutex::new(file::bans(&options, &database)?));
        let handle: DbHandle = Arc::new(RwLock::new(Some(database)));
        let (writes, queue) = mpsc::channel(options.queue.max(1));
        let readers = Arc::new(Semaphore::new(options.readers.max(1)));
        let file = (Arc::clone(&handle), Arc::clone(disk));
        let writer = writer::Writer::new(file, epochs, generations, options, Arc::clone(&publish));
        writer::start(writer, queue).map_err(OpenError::Thread)?;
        let until_dropped = writer::start_aging(writes.downgrade()).map_err(OpenError::Thread)?;
        Ok(Self {
            handle,
            epoch,
            writes,
            _until_dropped: until_dropped,
            readers,
            presence: PresenceRegistry::default(),
            quotas: DayCounts::default(),
            bans,
            grant_key: OnceLock::new(),
            publish,
        })
    }

    /// A store that forgets everything when it is dropped.
    ///
    /// # Errors
    /// [`OpenError::Thread`].
    pub fn in_memory(
        retention: Retention,
        publish: Arc<dyn Publish>,
    ) -> std::result::Result<Self, OpenError> {
        Self::open(
            Options {
                retention,
                ..Options::default()
            },
            publish,
        )
    }

    /// Ends background work after everything accepted has been stored.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        // Everything queued before this has been written when it is answered. Closed already: nothing to wait for.
        if self.writes.send(Write::Close(done)).await.is_ok() {
            let _closed_already = closed.await;
        }
    }

    /// Queues a write and waits for its commit. Queued when first polled: that is the order.
    async fn write<T>(&self, make: impl FnOnce(Done<T>) -> Write) -> Result<T> {
        queued(&self.writes, make).await
    }

    /// Reads on a snapshot, on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&redb::ReadTransaction) -> DbResult<T> + Send + 'static,
    ) -> Result<T> {
        let closed = || Error::Unavailable(CLOSED.to_owned());
        let _counted = Counted::one();
        let turn = Arc::clone(&self.readers)
            .acquire_owned()
            .await
            .map_err(|_| closed())?;
        let handle = Arc::clone(&self.handle);
        let task = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let handle = handle.read().unwrap_or_else(PoisonError::into_inner);
            let database = handle.as_ref().ok_or_else(closed)?;
            let snapshot = database
                .begin_read()
                .map_err(|error| failed(error.into()))?;
            read(&snapshot).map_err(failed)
        });
        task.await
            .unwrap_or_else(|_| Err(Error::Unavailable("a read has failed".to_owned())))
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
    answer
        .await
        .unwrap_or_else(|_| Err(Error::Unavailable(CLOSED.to_owned())))
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
type DbResult<T> = std::result::Result<T, redb::Error>;

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
        redb::Error::Corrupted(_) | redb::Error::TableTypeMismatch { .. } => {
            Error::Corrupt(error.to_string())
        }
        _ => Error::Unavailable(error.to_string()),
    }
}

#[async_trait]
impl Messages for EmbeddedStore {
    async fn append(&self, append: Append) -> Result<Appended> {
        self.write(|done| Write::Append(append, done)).await
    }

    async fn signal(&self, room: &RoomId, signal: Signal) -> Result<()> {
        self.publish.signal(room, &signal);
        Ok(())
    }
}

#[async_trait]
impl GrantKeys for EmbeddedStore {
    /// Grants end with the connections of the process: the key need not outlive it.
    async fn grant_key(&self, proposed: GrantKey) -> Result<GrantKey> {
        Ok(*self.grant_key.get_or_init(|| proposed))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use im_proto::v1::Entry;
    use im_wire::ids::{ClientId, Seq, UserId};

    use super::*;
    use crate::store::Access;

    struct Silent;

    impl Publish for Silent {
        fn logged(&self, _: &RoomId, _: Epoch, _: Seq, _: &Entry) {}

        fn signal(&self, _: &RoomId, _: &Signal) {}
    }

    fn message(client_id: &str) -> Append {
        let user = UserId::new("ann").expect("a good id");
        let access = Access {
            user,
            direct: false,
            open: true,
            system: false,
        };
        let entry = Entry {
            id: client_id.to_owned(),
            ..Entry::default()
        };
        let room = RoomId::new("lobby").expect("a good id");
        Append {
            room,
            access,
            client_id: ClientId::new(client_id).expect("a good id"),
            entry,
            index: Vec::new(),
        }
    }

    #[tokio::test]
    async fn after_a_sync_that_failed_nothing_is_acknowledged_any_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options {
            folder: Some(folder.path().to_owned()),
            ..Options::default()
        };
        let disk = Arc::new(disk::Disk::default());
        let store =
            EmbeddedStore::open_on(&disk, options.clone(), Arc::new(Silent)).expect("a new store");
        assert_eq!(store.append(message("one")).await.expect("stored").seq, 1);
        disk.fails_to_sync.store(true, Ordering::Release);
        let refused = store.append(message("two")).await;
        assert!(
            matches!(&refused, Err(Error::Unavailable(why)) if why.contains("disk")),
            "{refused:?}"
        );
        // The disk seems to be well again. What it dropped meanwhile nobody knows.
        disk.fails_to_sync.store(false, Ordering::Release);
        for id in ["three", "one", "two"] {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let refused = store.append(message(id)).await;
            assert!(
                matches!(&refused, Err(Error::Unavailable(why)) if why.contains("disk")),
                "{refused:?}"
            );
        }
        assert_eq!(metrics::DISK_FAILED.get(), 1);
        store.close().await;
        drop(store);
        let store = EmbeddedStore::open(options, Arc::new(Silent)).expect("the file as it was");
        assert!(
            store
                .append(message("one"))
                .await
                .expect("stored")
                .duplicate
        );
    }
}
