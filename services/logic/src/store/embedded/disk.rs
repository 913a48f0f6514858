//! The file under the database, watched. After a sync that failed nobody knows what is on the disk: the system has
//! dropped what it could not write, and a file that is opened again shows it all the same, out of its cache. Whatever is
//! written on top of that may not be there after a power cut although it was synced. So a failed sync is for good: the
//! store takes no writes any more until somebody has looked after the disk.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

/// What is known of the disk.
#[derive(Debug, Default)]
pub(super) struct Disk {
    failed: AtomicBool,
    /// What a disk does that is about to die.
    #[cfg(test)]
    pub(super) fails_to_sync: AtomicBool,
}

impl Disk {
    /// Whether a sync has ever failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// A database's way to a file on this disk.
    pub(super) fn watch(self: &Arc<Self>, file: File) -> Result<Watched, redb::DatabaseError> {
        Ok(Watched {
            file: FileBackend::new(file)?,
            disk: Arc::clone(self),
        })
    }

    fn sync(&self, file: &FileBackend) -> io::Result<()> {
        #[cfg(test)]
        if self.fails_to_sync.load(Ordering::Acquire) {
            return Err(io::Error::from_raw_os_error(5));
        }
        file.sync_data()
    }
}

/// See the module's top.
#[derive(Debug)]
pub(super) struct Watched {
    file: FileBackend,
    disk: Arc<Disk>,
}

type Range = Bound<u64>;

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = self.disk.sync(&self.file);
        if synced.is_err() {
            self.disk.failed.store(true, Ordering::Release);
        }
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Range, end: Range) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Range, end: Range) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Range, end: Range) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn lock_range(&self, start: Range, end: Range) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Range, end: Range) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn query_lock_range(&self, start: Range, end: Range) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
