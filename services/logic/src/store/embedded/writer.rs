//! The one writer: takes everything that waits, writes it in one transaction, and answers and publishes after the commit.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use im_proto::v1::Entry;
use im_wire::ids::{Epoch, RoomId, Seq, UserId};
use prometheus::{
    Histogram, IntCounter, IntGauge, exponential_buckets, histogram_opts, register_histogram, register_int_counter,
    register_int_gauge,
};
use tokio::sync::{mpsc, oneshot};

use super::apply::Sheets;
use super::{Options, Shelf, failed, tables};
use crate::store::{Append, Appended, Create, Error, Membership, Publish, ReadPosition, Result};

/// How long the writer waits between attempts to open the file again after the disk has failed.
const REOPEN: Duration = Duration::from_millis(500);

pub(super) static QUEUE: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("im_store_queue", "Writes that wait for the embedded store.").expect("registered once")
});
pub(super) static REJECTED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!("im_store_rejected_total", "Writes refused because too many wait.").expect("registered once")
});
static COMMIT: LazyLock<Histogram> = LazyLock::new(|| {
    register_histogram!("im_store_commit_seconds", "From the first write of a batch until it is on disk.")
        .expect("registered once")
});
static BATCH: LazyLock<Histogram> = LazyLock::new(|| {
    let buckets = exponential_buckets(1.0, 2.0, 11).expect("a valid series");
    register_histogram!(histogram_opts!("im_store_batch_writes", "Writes in one transaction.", buckets))
        .expect("registered once")
});

/// One thing to write, and whom to tell.
pub(super) enum Write {
    Append(Append, oneshot::Sender<Result<Appended>>),
    Create(Create, oneshot::Sender<Result<bool>>),
    Membership(Membership, oneshot::Sender<Result<Option<Appended>>>),
    Read { room: RoomId, user: UserId, seq: Seq, done: oneshot::Sender<Result<ReadPosition>> },
    Index { users: Vec<UserId>, room: RoomId, done: oneshot::Sender<Result<()>> },
    Unindex { user: UserId, room: RoomId, done: oneshot::Sender<Result<()>> },
    Close(oneshot::Sender<Result<()>>),
}

/// A write in the queue.
pub(super) struct Job {
    pub(super) write: Write,
}

/// What is published once it is on disk.
pub(super) struct Publication {
    pub(super) room: RoomId,
    pub(super) seq: Seq,
    pub(super) entry: Entry,
}

/// The outcome of one write inside the transaction, and how to answer it.
type Answer = Box<dyn FnOnce(std::result::Result<(), Error>) + Send>;

pub(super) struct Writer {
    shelf: Shelf,
    epoch: Epoch,
    options: Options,
    publish: Arc<dyn Publish>,
}

/// Starts the writer's thread; it ends when it is told to close or the store is dropped.
pub(super) fn start(writer: Writer, queue: mpsc::Receiver<Job>) -> std::io::Result<()> {
    std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.run(queue)).map(drop)
}

impl Writer {
    pub(super) fn new(shelf: Shelf, epoch: Epoch, options: Options, publish: Arc<dyn Publish>) -> Self {
        Self { shelf, epoch, options, publish }
    }

    fn run(self, mut queue: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(self.options.batch);
        while queue.blocking_recv_many(&mut batch, self.options.batch) > 0 {
            QUEUE.set(queue.len() as i64);
            let mut closing = None;
            let mut writes = Vec::with_capacity(batch.len());
            for Job { write } in batch.drain(..) {
                match write {
                    Write::Close(done) => closing = Some(done),
                    write => writes.push(write),
                }
            }
            if !writes.is_empty() {
                self.commit(writes);
            }
            if let Some(done) = closing {
                if let Ok(mut shelf) = self.shelf.write() {
                    shelf.take();
                }
                let _caller_gone = done.send(Ok(()));
                return;
            }
        }
    }

    /// One transaction: all of it is on disk before anybody hears of it, or none of it is.
    fn commit(&self, writes: Vec<Write>) {
        let begun = Instant::now();
        BATCH.observe(writes.len() as f64);
        let mut answers: Vec<Answer> = Vec::with_capacity(writes.len());
        let mut publications = Vec::new();
        match self.transact(writes, &mut answers, &mut publications) {
            Ok(()) => {
                COMMIT.observe(begun.elapsed().as_secs_f64());
                for Publication { room, seq, entry } in publications {
                    self.publish.logged(&room, self.epoch, seq, &entry);
                }
                answers.into_iter().for_each(|answer| answer(Ok(())));
            }
            Err(error) => {
                let error = failed(error);
                tracing::error!(%error, writes = answers.len(), "a transaction was not stored");
                answers.into_iter().for_each(|answer| answer(Err(error.clone())));
                self.reopen();
            }
        }
    }

    fn transact(
        &self,
        writes: Vec<Write>,
        answers: &mut Vec<Answer>,
        publications: &mut Vec<Publication>,
    ) -> std::result::Result<(), redb::Error> {
        let shelf = self.shelf.read().map_err(|_| redb::Error::PreviousIo)?;
        let mut failure = None;
        match shelf.as_ref().ok_or(redb::Error::DatabaseClosed).and_then(|database| Ok(database.begin_write()?)) {
            Ok(transaction) => {
                let mut sheets = match Sheets::open(&transaction, self.epoch, &self.options.retention) {
                    Ok(sheets) => Some(sheets),
                    Err(error) => {
                        failure = Some(error);
                        None
                    }
                };
                for write in writes {
                    let (answer, error) = one(sheets.as_mut().filter(|_| failure.is_none()), write, publications);
                    answers.push(answer);
                    failure = failure.or(error);
                }
                if let (None, Some(sheets)) = (&failure, sheets.as_mut())
                    && let Err(error) = sheets.forget_old()
                {
                    failure = Some(error);
                }
                drop(sheets);
                match failure {
                    None => Ok(transaction.commit()?),
                    Some(error) => Err(error),
                }
            }
            Err(error) => {
                answers.extend(writes.into_iter().map(|write| one(None, write, publications).0));
                Err(error)
            }
        }
    }

    /// After the disk has failed the database takes nothing until it is opened anew, which also shows what it holds.
    fn reopen(&self) {
        if self.options.folder.is_none() {
            return;
        }
        let Ok(mut shelf) = self.shelf.write() else { return };
        shelf.take();
        match tables::create(&self.options) {
            Ok(database) => *shelf = Some(database),
            Err(error) => {
                tracing::error!(%error, "the store cannot be opened again; the next write tries");
                std::thread::sleep(REOPEN);
            }
        }
    }
}

/// Applies one write. `None` for the sheets: the transaction has failed already, and so does this.
fn one(
    sheets: Option<&mut Sheets<'_>>,
    write: Write,
    publications: &mut Vec<Publication>,
) -> (Answer, Option<redb::Error>) {
    match write {
        Write::Append(append, done) => run(sheets, done, |sheets| sheets.append(append, publications)),
        Write::Create(create, done) => run(sheets, done, |sheets| sheets.create(&create)),
        Write::Membership(change, done) => run(sheets, done, |sheets| sheets.change_membership(change, publications)),
        Write::Read { room, user, seq, done } => run(sheets, done, |sheets| sheets.mark_read(&room, &user, seq)),
        Write::Index { users, room, done } => run(sheets, done, |sheets| sheets.index(&users, &room)),
        Write::Unindex { user, room, done } => run(sheets, done, |sheets| sheets.unindex(&user, &room)),
        Write::Close(done) => run(sheets, done, |_| Ok(Ok(()))),
    }
}

fn run<T: Send + 'static>(
    sheets: Option<&mut Sheets<'_>>,
    done: oneshot::Sender<Result<T>>,
    apply: impl FnOnce(&mut Sheets<'_>) -> std::result::Result<Result<T>, redb::Error>,
) -> (Answer, Option<redb::Error>) {
    let (outcome, error) = match sheets.map(apply) {
        Some(Ok(outcome)) => (Some(outcome), None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    };
    let answer = move |committed: std::result::Result<(), Error>| {
        let said = match (committed, outcome) {
            (Ok(()), Some(outcome)) => outcome,
            (Ok(()), None) => Err(Error::Unavailable("not stored".to_owned())),
            (Err(error), _) => Err(error),
        };
        // The caller may have stopped waiting; what is stored stays stored.
        let _caller_gone = done.send(said);
    };
    (Box::new(answer), error)
}
