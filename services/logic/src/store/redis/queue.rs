//! Where appends wait for their turn: a few bounded queues, each with a worker that takes all that waits (up to a batch)
//! and has one batch on its way at a time. A room always uses the same queue, so its appends keep their order, whatever
//! becomes of a batch; batches form by themselves while the one before is on its way.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::Mutex;

use im_wire::ids::RoomId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::batch::{Batcher, Confirmed};
use super::job::{Answer, Job};
use super::{Shared, metrics};
use crate::store::{Error, Result};

/// The queues. Dropping it ends the workers at once; [`Queue::close`] lets them finish.
#[derive(Debug)]
pub(super) struct Queue {
    workers: Mutex<Vec<mpsc::Sender<Job>>>,
    count: usize,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

/// A number that is the same for the same room.
pub(super) fn place(room: &RoomId) -> usize {
    let mut hasher = DefaultHasher::new();
    room.hash(&mut hasher);
    // Cut to what fits: any part of a hash is a hash.
    hasher.finish() as usize
}

impl Queue {
    /// Starts the workers in the current tokio runtime.
    pub(super) fn start(shared: &Arc<Shared>, count: usize) -> Self {
        let mut tasks = JoinSet::new();
        let workers = (0..count).map(|number| {
            let (sender, receiver) = mpsc::channel(shared.options.queue.max(1));
            tasks.spawn(work(
                Batcher::new(Arc::clone(shared), number),
                receiver,
                shared.options.batch.max(1),
            ));
            sender
        });
        let workers = Mutex::new(workers.collect());
        Self {
            workers,
            count,
            tasks: tokio::sync::Mutex::new(tasks),
        }
    }

    /// Puts a job into the queue of its room's [`place`], and waits for its answer.
    ///
    /// # Errors
    /// [`Error::Unavailable`] at once where the queue is full or closed.
    pub(super) async fn run<T: Send>(
        &self,
        place: usize,
        job: impl FnOnce(Answer<T>) -> Job,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.put(place, job(answer))?;
        answered.await.unwrap_or_else(|_| Err(closed()))
    }

    fn put(&self, place: usize, job: Job) -> Result<()> {
        let workers = self
            .workers
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let worker = workers.get(place % self.count).ok_or_else(closed)?;
        match worker.try_send(job) {
            Ok(()) => {
                metrics::QUEUED.inc();
                Ok(())
            }
            Err(_) => {
                metrics::QUEUE_FULL.inc();
                Err(Error::Unavailable(
                    "too many messages wait to be stored".to_owned(),
                ))
            }
        }
    }

    /// Takes no more and waits until all that waits is done.
    pub(super) async fn close(&self) {
        self.workers
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clear();
        let mut tasks = self.tasks.lock().await;
        while tasks.join_next().await.is_some() {}
    }
}

fn closed() -> Error {
    Error::Unavailable("the store has been closed".to_owned())
}

async fn work(batcher: Batcher, mut queue: mpsc::Receiver<Job>, batch: usize) {
    // What is stored and confirmed is published while the next batch is on its way already.
    let mut confirmed = Confirmed::default();
    loop {
        let next = async {
            let mut jobs = Vec::with_capacity(batch);
            let taken = queue.recv_many(&mut jobs, batch).await;
            metrics::QUEUED.sub(i64::try_from(taken).unwrap_or(i64::MAX));
            // Whoever has gone while it waited here will come again if it matters, and under the same client id: after an
            // overload, work that nobody waits for would only keep those waiting who do.
            jobs.retain(Job::is_awaited);
            metrics::ABANDONED.inc_by((taken - jobs.len()) as u64);
            if taken == 0 {
                None
            } else {
                Some(batcher.store(jobs).await)
            }
        };
        let ((), next) = tokio::join!(batcher.publish(confirmed), next);
        let Some(next) = next else { return };
        confirmed = next;
    }
}
