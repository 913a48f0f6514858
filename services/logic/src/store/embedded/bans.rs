//! The list of bans: on disk for the next start, in memory for everything else.

use std::sync::Arc;

use async_trait::async_trait;
use im_proto::bans::Book;
use im_proto::v1::{AskBans, Ban, BanChanges};
use im_runtime::clock;
use prost::Message as _;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use tokio::sync::{Mutex, mpsc};

use super::apply::{Tables, Written};
use super::write::{BansWrite, Write};
use super::{DbResult, EmbeddedStore, queued};
use crate::store::{Bans, Error, FORGET_BATCH, Result};

/// Id → the ban as protobuf.
const BANS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("bans");

/// What the file has.
pub(super) fn read(database: &Database) -> DbResult<Book> {
    let snapshot = database.begin_read()?;
    let table = match snapshot.open_table(BANS) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Book::default()),
        Err(error) => return Err(error.into()),
    };
    let mut bans = Vec::new();
    for row in table.iter()? {
        let ban = Ban::decode(row?.1.value());
        bans.push(ban.map_err(|error| redb::Error::Corrupted(format!("a ban: {error}")))?);
    }
    let version = bans.iter().map(|ban| ban.version).max().unwrap_or(0);
    Ok(Book::restored(version, bans))
}

impl Tables<'_> {
    pub(super) fn bans(&mut self, change: BansWrite) -> Written<()> {
        let mut table = self.transaction.open_table(BANS)?;
        for id in &change.remove {
            table.remove(id.as_str())?;
        }
        if let Some(ban) = change.put {
            table.insert(ban.id.as_str(), ban.encode_to_vec().as_slice())?;
        }
        Ok(Ok(()))
    }
}

/// What is to happen to the list.
enum BanChange {
    Put(Ban, usize),
    Lift(String),
    Forget,
}

#[async_trait]
impl Bans for EmbeddedStore {
    async fn ban(&self, ban: Ban, max: usize) -> Result<bool> {
        Ok(self.change_bans(BanChange::Put(ban, max)).await? >= 0)
    }

    async fn lift_ban(&self, id: &str) -> Result<bool> {
        Ok(self.change_bans(BanChange::Lift(id.to_owned())).await? > 0)
    }

    async fn forget_bans(&self) -> Result<usize> {
        Ok(usize::try_from(self.change_bans(BanChange::Forget).await?).unwrap_or(0))
    }

    async fn bans(&self, ask: AskBans) -> Result<BanChanges> {
        Ok(self.bans.lock().await.since(&ask))
    }
}

impl EmbeddedStore {
    /// Changes the file and then the list, one change after the other. What it did: 1, nothing: 0, refused: −1; forgotten:
    /// how many.
    async fn change_bans(&self, wish: BanChange) -> Result<i64> {
        let writes = self.writes.clone();
        let book = Arc::clone(&self.bans);
        // Goes on to its end where the caller does not wait for it: list and file must not part.
        let changing = tokio::spawn(async move { changed(&writes, &book, wish).await });
        changing.await.unwrap_or_else(|_| {
            Err(Error::Unavailable(
                "the list of bans was not changed".to_owned(),
            ))
        })
    }
}

async fn changed(writes: &mpsc::Sender<Write>, book: &Mutex<Book>, wish: BanChange) -> Result<i64> {
    let mut book = book.lock().await;
    let now = clock::unix_ms();
    let is_over = |ban: &&Ban| ban.until_ms > 0 && ban.until_ms <= now;
    let mut remove: Vec<String> = book
        .after(0)
        .filter(is_over)
        .take(FORGET_BATCH)
        .map(|ban| ban.id.clone())
        .collect();
    let over = remove.len();
    let mut version = book.version().max(now.saturating_mul(1_000));
    let mut put = None;
    let mut outcome = 1;
    match wish {
        BanChange::Forget => outcome = i64::try_from(over).unwrap_or(i64::MAX),
        BanChange::Lift(id) if book.get(&id).is_some() => {
            if !remove.contains(&id) {
                remove.push(id);
            }
        }
        BanChange::Lift(_) => outcome = 0,
        BanChange::Put(ban, max) if book.get(&ban.id).is_none() && book.len() - over >= max => {
            outcome = -1
        }
        BanChange::Put(ban, _) => {
            remove.retain(|id| *id != ban.id);
            put = Some(ban);
        }
    }
    let removed: Vec<(String, u64)> = remove
        .iter()
        .map(|id| (id.clone(), following(&mut version)))
        .collect();
    let put = put.map(|ban| Ban {
        version: following(&mut version),
        ..ban
    });
    if put.is_some() || !remove.is_empty() {
        let change = BansWrite {
            put: put.clone(),
            remove,
        };
        queued(writes, |done| Write::Bans(change, done)).await?;
        removed
            .iter()
            .for_each(|(id, version)| _ = book.lift(id, *version));
        put.into_iter().for_each(|ban| book.put(ban));
    }
    Ok(outcome)
}

fn following(version: &mut u64) -> u64 {
    *version += 1;
    *version
}
