//! The one writer: takes everything that waits, writes it in one transaction, and publishes and answers after the commit.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use im_runtime::clock;
use redb::{Database, ReadableDatabase};
use tokio::sync::mpsc;

use super::aging::{self, Due};
use super::apply::{Publication, Tables, Written};
use super::dedupe::Generations;
use super::disk::Disk;
use super::epochs::Epochs;
use super::write::{Done, Write};
use super::{DbHandle, DbResult, OpenError, Options, failed, file, metrics};
use crate::store::{Error, Publish, Result};

/// How long the writer waits between attempts to open the file again after the disk has failed.
const REOPEN: Duration = Duration::from_millis(200);
/// How often the log says again that the disk has failed, while writes are asked for.
const REMIND: Duration = Duration::from_secs(60);

/// Answers a write: with its outcome where the transaction is on disk, with the error where it is not.
type Answer = Box<dyn FnOnce(Option<Error>) + Send>;

pub(super) struct Writer {
    handle: DbHandle,
    disk: Arc<Disk>,
    epochs: Epochs,
    generations: Generations,
    options: Options,
    publish: Arc<dyn Publish>,
    /// While the file cannot be opened: since the last attempt, and why.
    failing: Option<(Instant, Error)>,
    /// The room at which the next look at what time has done begins.
    cursor: String,
}

/// Asks the writer now and then to look what time has done, until the store is dropped or closed. What has to wait for long
/// is not asked for twice.
pub(super) fn start_aging(
    queue: mpsc::WeakSender<Write>,
) -> std::io::Result<std::sync::mpsc::Sender<()>> {
    /// Between two looks.
    const EVERY: Duration = Duration::from_secs(1);
    let (until_dropped, dropped) = std::sync::mpsc::channel();
    let run = move || {
        while dropped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
            let Some(queue) = queue.upgrade() else { return };
            if let Err(mpsc::error::TrySendError::Closed(_)) =
                queue.try_send(Write::Age(Due::default()))
            {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("store-aging".to_owned())
        .spawn(run)?;
    Ok(until_dropped)
}

/// Starts the writer's thread; it ends when it is told to close or the store is dropped.
pub(super) fn start(writer: Writer, queue: mpsc::Receiver<Write>) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("store-writer".to_owned())
        .spawn(move || writer.run(queue))
        .map(drop)
}

impl Writer {
    pub(super) fn new(
        (handle, disk): (DbHandle, Arc<Disk>),
        epochs: Epochs,
        generations: Generations,
        options: Options,
        publish: Arc<dyn Publish>,
    ) -> Self {
        Self {
            handle,
            disk,
            epochs,
            generations,
            options,
            publish,
            failing: None,
            cursor: String::new(),
        }
    }

    fn run(mut self, mut queue: mpsc::Receiver<Write>) {
        let limit = self.options.batch.max(1);
        let mut batch = Vec::with_capacity(limit);
        let mut closing = Vec::new();
        while queue.blocking_recv_many(&mut batch, limit) > 0 {
            metrics::QUEUE.set(i64::try_from(queue.len()).unwrap_or(i64::MAX));
            let mut writes = Vec::with_capacity(batch.len());
            let mut looks = false;
            for write in batch.drain(..) {
                match write {
                    Write::Close(done) => closing.push(done),
                    Write::Age(_) => looks = true,
                    // Whoever has gone while it waited will come again if it matters, and under the same client id.
                    write if write.is_abandoned() => metrics::ABANDONED.inc(),
                    write => writes.push(write),
                }
            }
            if !closing.is_empty() {
                // Takes no more; what waits is still written.
                queue.close();
            }
            if looks {
                writes.extend(self.look());
            }
            if !writes.is_empty() {
                self.commit(writes);
            }
        }
        self.put(None);
        for done in closing {
            let _caller_gone = done.send(Ok(()));
        }
    }

    /// What time has done to some rooms, where there is something to do.
    fn look(&mut self) -> Option<Write> {
        if self.failing.is_some() {
            return None;
        }
        let handle = self
            .handle
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let snapshot = handle.as_ref()?.begin_read().map_err(redb::Error::from);
        let cursor = &mut self.cursor;
        let retention = &self.options.retention;
        let look = || {
            snapshot
                .and_then(|snapshot| aging::look(&snapshot, cursor, retention, clock::unix_ms()))
        };
        let looked = std::panic::catch_unwind(AssertUnwindSafe(look)).unwrap_or_else(|_| {
            Err(redb::Error::Corrupted(
                "the database has panicked".to_owned(),
            ))
        });
        match looked {
            Ok(due) => (!due.is_empty()).then_some(Write::Age(due)),
            Err(error) => {
                tracing::warn!(%error, "retention scan failed, will retry");
                None
            }
        }
    }

    /// One transaction: all of it is on disk before anybody hears of it, or none of it is acknowledged.
    fn commit(&mut self, writes: Vec<Write>) {
        let begun = Instant::now();
        metrics::BATCH.observe(writes.len() as f64);
        let mut answers = Vec::with_capacity(writes.len());
        let mut publications = Vec::new();
        let mut writes = writes.into_iter();
        let outcome = self.recover().and_then(|()| {
            // A defect of the database must not leave a process behind that takes connections and stores nothing.
            let transact =
                AssertUnwindSafe(|| self.transact(&mut writes, &mut answers, &mut publications));
            std::panic::catch_unwind(transact)
                .unwrap_or_else(|_| {
                    Err(redb::Error::Corrupted(
                        "the database has panicked".to_owned(),
                    ))
                })
                .map_err(failed)
        });
        let Err(error) = outcome else {
            metrics::COMMIT.observe(begun.elapsed().as_secs_f64());
            for Publication {
                room,
                epoch,
                seq,
                entry,
            } in publications
            {
                self.publish.logged(&room, epoch, seq, &entry);
            }
            return answers.into_iter().for_each(|answer: Answer| answer(None));
        };
        metrics::FAILED.inc();
        self.epochs.look_again();
        let error = if self.disk.has_failed() {
            self.refuse(&error)
        } else {
            if self.failing.is_none() {
                tracing::error!(%error, "transaction failed, nothing of it is stored");
                self.reopen(&error);
            }
            error
        };
        answers.extend(writes.map(|write| apply(None, write, &mut publications).0));
        answers
            .into_iter()
            .for_each(|answer| answer(Some(error.clone())));
    }

    fn transact(
        &mut self,
        writes: &mut impl Iterator<Item = Write>,
        answers: &mut Vec<Answer>,
        publications: &mut Vec<Publication>,
    ) -> DbResult<()> {
        let handle = self
            .handle
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut transaction = handle
            .as_ref()
            .ok_or(redb::Error::DatabaseClosed)?
            .begin_write()?;
        // Notes the free pages with each commit: a file that was not closed opens at once instead of being walked through.
        transaction.set_quick_repair(true);
        let now_ms = clock::unix_ms();
        let mut tables = Tables::open(
            &transaction,
            &mut self.epochs,
            &self.options.retention,
            &mut self.generations,
            now_ms,
        )?;
        for write in writes {
            let (answer, failure) = apply(Some(&mut tables), write, publications);
            answers.push(answer);
            failure.map_or(Ok(()), Err)?;
        }
        let forgotten = match self.generations.dead(now_ms) {
            Some(generation) => tables.forget(generation)?,
            None => false,
        };
        drop(tables);
        transaction.commit()?;
        if forgotten {
            self.generations.forget_oldest();
        }
        Ok(())
    }

    /// After a failed sync: nothing is written any more, see [`super::disk`].
    fn refuse(&mut self, error: &Error) -> Error {
        metrics::DISK_FAILED.set(1);
        if let Some((since, why)) = &self.failing
            && since.elapsed() < REMIND
        {
            return why.clone();
        }
        tracing::error!(
            %error,
            "the disk did not keep what was written, and nothing is stored any more: look after the disk, restart the \
             machine (the system's cache may show what is not on the disk), and restore a backup if the file is damaged"
        );
        let why = Error::Unavailable(
            "the disk has failed to keep what was written: nothing is stored".to_owned(),
        );
        self.failing = Some((Instant::now(), why.clone()));
        why
    }

    /// After a failure the database takes nothing until its file is opened anew, which also shows what it holds.
    fn reopen(&mut self, why: &Error) {
        if self.options.folder.is_none() {
            return;
        }
        self.put(None);
        match file::create(&self.options, &self.disk) {
            Ok(database) => {
                self.put(Some(database));
                self.failing = None;
            }
            Err(error) => {
                tracing::error!(%error, "failed to reopen the store; will retry with a later write");
                let why = match error {
                    OpenError::Folder { error, .. } => failed(redb::Error::Io(error)),
                    _ => why.clone(),
                };
                self.failing = Some((Instant::now(), why));
            }
        }
    }

    /// Tries to open the file where that has failed, now and then; in between the last error holds.
    fn recover(&mut self) -> Result<()> {
        let Some((since, error)) = self.failing.clone() else {
            return Ok(());
        };
        if self.disk.has_failed() {
            return Err(error);
        }
        if since.elapsed() >= REOPEN {
            self.reopen(&error);
        }
        self.failing
            .as_ref()
            .map_or(Ok(()), |(_, error)| Err(error.clone()))
    }

    /// Waits for the reads that run.
    fn put(&self, database: Option<Database>) {
        *self
            .handle
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = database;
    }
}

/// Applies one write. `None` for the tables: the transaction has failed already, and so does this.
fn apply(
    tables: Option<&mut Tables<'_>>,
    write: Write,
    publications: &mut Vec<Publication>,
) -> (Answer, Option<redb::Error>) {
    match write {
        Write::Append(append, done) => {
            settle(tables, done, |tables| tables.append(append, publications))
        }
        Write::Create(create, done) => settle(tables, done, |tables| tables.create(&create)),
        Write::Membership(change, done) => settle(tables, done, |tables| {
            tables.change_membership(change, publications)
        }),
        Write::Read {
            room,
            user,
            seq,
            done,
        } => settle(tables, done, |tables| tables.mark_read(&room, &user, seq)),
        Write::Index { users, room, done } => {
            settle(tables, done, |tables| tables.index(&users, &room))
        }
        Write::Unindex { user, room, done } => {
            settle(tables, done, |tables| tables.unindex(&user, &room))
        }
        Write::Invite {
            user,
            invitation,
            max,
            done,
        } => settle(tables, done, |tables| {
            tables.invite(&user, &invitation, max)
        }),
        Write::Uninvite { user, room, done } => {
            settle(tables, done, |tables| tables.uninvite(&user, &room))
        }
        Write::Seen { user, at_ms, done } => {
            settle(tables, done, |tables| tables.note_seen(&user, at_ms))
        }
        Write::Bans(change, done) => settle(tables, done, |tables| tables.bans(change)),
        Write::Delete(delete, done) => {
            settle(tables, done, |tables| tables.delete(delete, publications))
        }
        Write::Age(due) => {
            let failure = tables.and_then(|tables| tables.age(&due).err());
            (Box::new(|_| ()), failure)
        }
        Write::Close(done) => settle(tables, done, |_| Ok(Ok(()))),
    }
}

fn settle<T: Send + 'static>(
    tables: Option<&mut Tables<'_>>,
    done: Done<T>,
    apply: impl FnOnce(&mut Tables<'_>) -> Written<T>,
) -> (Answer, Option<redb::Error>) {
    let (outcome, failure) = match tables.map(apply) {
        Some(Ok(outcome)) => (outcome, None),
        Some(Err(failure)) => (
            Err(Error::Unavailable("not stored".to_owned())),
            Some(failure),
        ),
        None => (Err(Error::Unavailable("not stored".to_owned())), None),
    };
    let answer = move |failed: Option<Error>| {
        // The caller may have stopped waiting; what is stored stays stored.
        let _caller_gone = done.send(failed.map_or(outcome, Err));
    };
    (Box::new(answer), failure)
}
