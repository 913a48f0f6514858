//! The tables of the file, its version, and how it is opened.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use im_wire::ids::{Epoch, Seq};
use redb::backends::InMemoryBackend;
use redb::{Database, DatabaseError, ReadableTable, TableDefinition};

use super::{OpenError, Options};
use crate::store::{Kind, Role};

/// Facts about the file itself.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Room → what it is.
pub(super) const ROOMS: TableDefinition<'_, &str, RoomRow> = TableDefinition::new("rooms");
/// (room, seq) → the entry as protobuf.
pub(super) const LOG: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("log");
/// (room, sender, client id) → seq and when it was stored.
pub(super) const DEDUPE: TableDefinition<'_, (&str, &str, &str), (u64, u64)> = TableDefinition::new("dedupe");
/// (when it was stored, number) → the key in `DEDUPE`: the oldest first, to be forgotten.
pub(super) const DEDUPE_AGE: TableDefinition<'_, (u64, u64), (&str, &str, &str)> = TableDefinition::new("dedupe_age");
/// (room, user) → role and the head at joining.
pub(super) const MEMBERS: TableDefinition<'_, (&str, &str), (u8, u64)> = TableDefinition::new("members");
/// (room, user) → read position.
pub(super) const READS: TableDefinition<'_, (&str, &str), u64> = TableDefinition::new("reads");
/// (user, room): the user's index.
pub(super) const USER_ROOMS: TableDefinition<'_, (&str, &str), ()> = TableDefinition::new("user_rooms");

/// (kind, created, head, first, members).
pub(super) type RoomRow = (u8, u64, u64, u64, u64);

/// The version of the file's layout.
const FORMAT: u64 = 1;
const FILE: &str = "im.redb";

/// What a room is, read from its row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) kind: Kind,
    pub(super) created_ms: u64,
    pub(super) head: Seq,
    pub(super) first: Seq,
    pub(super) members: u64,
}

impl Room {
    pub(super) fn new(kind: Kind, created_ms: u64) -> Self {
        Self { kind, created_ms, head: 0, first: 1, members: 0 }
    }

    pub(super) fn row(&self) -> RoomRow {
        let kind = match self.kind {
            Kind::Direct => 0,
            Kind::Group => 1,
            Kind::Open => 2,
        };
        (kind, self.created_ms, self.head, self.first, self.members)
    }
}

impl From<RoomRow> for Room {
    fn from((kind, created_ms, head, first, members): RoomRow) -> Self {
        let kind = match kind {
            0 => Kind::Direct,
            1 => Kind::Group,
            _ => Kind::Open,
        };
        Self { kind, created_ms, head, first, members }
    }
}

pub(super) fn role_number(role: Role) -> u8 {
    match role {
        Role::Member => 0,
        Role::Admin => 1,
        Role::Owner => 2,
    }
}

pub(super) fn role(number: u8) -> Role {
    match number {
        2 => Role::Owner,
        1 => Role::Admin,
        _ => Role::Member,
    }
}

/// Opens or creates the database, and reads or makes its epoch.
pub(super) fn open(options: &Options) -> Result<(Database, Epoch), OpenError> {
    let database = create(options)?;
    let prepared = prepare(&database);
    let file = options.folder.as_deref().map(|folder| folder.join(FILE)).unwrap_or_default();
    match prepared {
        Ok((FORMAT, epoch)) => Ok((database, epoch)),
        Ok((other, _)) => {
            let problem = format!(
                "layout {other}, this program reads {FORMAT}: use the release that wrote it, or another data_dir"
            );
            Err(OpenError::File { file, problem })
        }
        Err(error) => Err(OpenError::File { file, problem: error.to_string() }),
    }
}

/// Opens the file again after the disk has failed.
pub(super) fn create(options: &Options) -> Result<Database, OpenError> {
    let mut builder = Database::builder();
    builder.set_cache_size(options.cache_bytes);
    let Some(folder) = &options.folder else {
        let file = Path::new("(memory)").to_owned();
        let made = builder.create_with_backend(InMemoryBackend::new());
        return made.map_err(|error| OpenError::File { file, problem: error.to_string() });
    };
    let folder_error = |error| OpenError::Folder { folder: folder.clone(), error };
    std::fs::create_dir_all(folder).map_err(folder_error)?;
    let file = folder.join(FILE);
    builder.create(&file).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { folder: folder.clone() },
        DatabaseError::Storage(redb::StorageError::Io(error)) if error.kind() != std::io::ErrorKind::InvalidData => {
            OpenError::Folder { folder: folder.clone(), error }
        }
        error => OpenError::File {
            file,
            problem: format!("{error}: it is no database of this store, or damaged: move it away"),
        },
    })
}

fn prepare(database: &Database) -> Result<(u64, Epoch), redb::Error> {
    let transaction = database.begin_write()?;
    let facts = {
        let mut meta = transaction.open_table(META)?;
        let format = meta.get("format")?.map(|value| value.value());
        let epoch = meta.get("epoch")?.map(|value| value.value());
        let format = match format {
            Some(format) => format,
            None => {
                meta.insert("format", FORMAT)?;
                FORMAT
            }
        };
        let epoch = match epoch {
            Some(epoch) => epoch,
            None => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis());
                let epoch = u64::try_from(now).unwrap_or(1).max(1);
                meta.insert("epoch", epoch)?;
                epoch
            }
        };
        if format == FORMAT {
            transaction.open_table(ROOMS)?;
            transaction.open_table(LOG)?;
            transaction.open_table(DEDUPE)?;
            transaction.open_table(DEDUPE_AGE)?;
            transaction.open_table(MEMBERS)?;
            transaction.open_table(READS)?;
            transaction.open_table(USER_ROOMS)?;
        }
        (format, epoch)
    };
    transaction.commit()?;
    Ok(facts)
}
