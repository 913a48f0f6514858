//! How the file is opened or made, and what is read from it at the start.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

use im_proto::bans::Book;
use im_runtime::clock;
use im_runtime::private;
use redb::backends::InMemoryBackend;
use redb::{Database, DatabaseError, ReadableTable, StorageError, TableHandle};

use super::dedupe::Generations;
use super::disk::Disk;
use super::epochs::Epochs;
use super::tables::{
    DEDUPE, EPOCHS, GONE, INVITATIONS, LOG, MEMBERS, META, OPENED, READS, ROOMS, SEEN, USER_ROOMS,
};
use super::{DbResult, OpenError, Options, bans, milliseconds};
use crate::store::verdict::next_epoch;

/// The version of the file's layout.
const FORMAT: u64 = 1;
const FILE: &str = "im.redb";

/// The database, its epochs, and the generations of client ids that it holds.
pub(super) type Opened = (Database, Epochs, Generations);

/// Opens or creates the database.
pub(super) fn open(options: &Options, disk: &Arc<Disk>) -> Result<Opened, OpenError> {
    let database = create(options, disk)?;
    let file = options.folder.as_deref().map_or_else(
        || Path::new("(memory)").to_owned(),
        |folder| folder.join(FILE),
    );
    let window = milliseconds(options.retention.dedupe_window);
    let prepared = std::panic::catch_unwind(AssertUnwindSafe(|| prepare(&database, window)));
    let problem = match prepared
        .unwrap_or_else(|_| Err(redb::Error::Corrupted("it is damaged".to_owned())))
    {
        Ok(Facts::Ours(epochs, generations)) => return Ok((database, epochs, generations)),
        Ok(Facts::OtherLayout(other)) => format!(
            "has layout {other}, and this program reads {FORMAT}: use the release that wrote it, or another data_dir"
        ),
        Ok(Facts::Foreign) => "is a database of another program: name another data_dir".to_owned(),
        Err(error) => format!("cannot be read: {error}: restore it from a backup, or move it away"),
    };
    Err(OpenError::File { file, problem })
}

/// The list of bans that the file has.
pub(super) fn bans(options: &Options, database: &Database) -> Result<Book, OpenError> {
    bans::read(database).map_err(|error| {
        let file = options
            .folder
            .as_deref()
            .unwrap_or(Path::new("(memory)"))
            .join(FILE);
        let problem = format!("its list of bans cannot be read: {error}: restore it from a backup");
        OpenError::File { file, problem }
    })
}

/// Opens the file only, as after the disk has failed.
pub(super) fn create(options: &Options, disk: &Arc<Disk>) -> Result<Database, OpenError> {
    let mut builder = Database::builder();
    builder.set_cache_size(options.cache_bytes);
    let Some(folder) = &options.folder else {
        let file = Path::new("(memory)").to_owned();
        let made = builder.create_with_backend(InMemoryBackend::new());
        return made.map_err(|error| OpenError::File {
            file,
            problem: error.to_string(),
        });
    };
    let folder_error = |error| OpenError::Folder {
        folder: folder.clone(),
        error,
    };
    std::fs::create_dir_all(folder).map_err(folder_error)?;
    let file = folder.join(FILE);
    let opened = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&file);
    let opened = opened.map_err(folder_error)?;
    private::keep(&file, "the rooms").map_err(folder_error)?;
    // What a damaged file makes the database trip over is told like any other damage.
    let opened = std::panic::catch_unwind(AssertUnwindSafe(|| {
        builder.create_with_backend(disk.watch(opened)?)
    }));
    let damaged = |why: String| OpenError::File {
        file: file.clone(),
        problem: format!(
            "is no database of this store, or damaged ({why}): restore it from a backup, or move it away"
        ),
    };
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => Err(OpenError::InUse {
            folder: folder.clone(),
        }),
        Ok(Err(DatabaseError::Storage(StorageError::Io(error))))
            if error.kind() != ErrorKind::InvalidData =>
        {
            Err(folder_error(error))
        }
        Ok(Err(error)) => Err(damaged(error.to_string())),
        Err(_) => Err(damaged("it cannot be walked through".to_owned())),
    }
}

/// What a database turns out to be.
enum Facts {
    Ours(Epochs, Generations),
    OtherLayout(u64),
    Foreign,
}

fn prepare(database: &Database, window: u64) -> DbResult<Facts> {
    let transaction = database.begin_write()?;
    let is_new = transaction.list_tables()?.next().is_none();
    if !is_new
        && !transaction
            .list_tables()?
            .any(|table| table.name() == META.name())
    {
        return Ok(Facts::Foreign);
    }
    let (epochs, generations) = {
        let mut meta = transaction.open_table(META)?;
        let fact = |meta: &redb::Table<'_, &str, u64>, name| {
            Ok::<_, redb::Error>(meta.get(name)?.map(|value| value.value()))
        };
        let last = fact(&meta, OPENED)?.or(fact(&meta, "epoch")?).unwrap_or(0);
        let opening = next_epoch(last, clock::unix_ms(), rand::random());
        if is_new {
            meta.insert("format", FORMAT)?;
            meta.insert("epoch", opening)?;
        }
        let format = fact(&meta, "format")?;
        let file = fact(&meta, "epoch")?;
        let (Some(FORMAT), Some(file)) = (format, file) else {
            return Ok(format.map_or(Facts::Foreign, Facts::OtherLayout));
        };
        meta.insert(OPENED, opening)?;
        // Readers expect the tables to be there.
        transaction.open_table(ROOMS)?;
        transaction.open_table(LOG)?;
        transaction.open_table(EPOCHS)?;
        transaction.open_table(MEMBERS)?;
        transaction.open_table(READS)?;
        transaction.open_table(USER_ROOMS)?;
        transaction.open_table(INVITATIONS)?;
        transaction.open_table(GONE)?;
        transaction.open_table(SEEN)?;
        (
            Epochs::new(file, opening),
            Generations::read(&transaction.open_table(DEDUPE)?, window)?,
        )
    };
    transaction.commit()?;
    Ok(Facts::Ours(epochs, generations))
}
