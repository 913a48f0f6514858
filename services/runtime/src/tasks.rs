//! Supervised tasks: work without which the process is of no use. If one ends before the drain, the process ends.

use std::fmt::Display;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::Shutdown;

/// A supervised task ended before it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{task} ended: {why}")]
pub struct Ended {
    /// Which.
    pub task: &'static str,
    /// An error, a panic, or nothing that it said.
    pub why: String,
}

/// Starts supervised tasks and tells when one ended too early. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tasks {
    running: TaskTracker,
    first: watch::Sender<Option<Ended>>,
    /// The first that ended too early, also where the rest is drained because of it.
    failure: watch::Sender<Option<Ended>>,
    shutdown: Shutdown,
}

/// What the early end of a task means for the rest of the process.
#[derive(Debug, Clone, Copy)]
enum Then {
    End,
    Drain,
}

impl Tasks {
    /// Tasks may end once `shutdown` has begun.
    pub fn new(shutdown: Shutdown) -> Self {
        Self {
            running: TaskTracker::new(),
            first: watch::Sender::new(None),
            failure: watch::Sender::new(None),
            shutdown,
        }
    }

    /// Starts a task that must not end before the drain.
    pub fn spawn<E: Display + Send + 'static>(
        &self,
        task: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.supervise(task, tokio::spawn(work));
    }

    /// Takes a task that runs already under supervision.
    pub fn supervise<E: Display + Send + 'static>(
        &self,
        task: &'static str,
        handle: JoinHandle<Result<(), E>>,
    ) {
        self.watch(task, handle, Then::End);
    }

    /// The same for a task that is a part of several: when it ends too early the rest is drained first, and then the
    /// process ends as failed.
    pub fn drain_after<E: Display + Send + 'static>(
        &self,
        task: &'static str,
        handle: JoinHandle<Result<(), E>>,
    ) {
        self.watch(task, handle, Then::Drain);
    }

    fn watch<E: Display + Send + 'static>(
        &self,
        task: &'static str,
        handle: JoinHandle<Result<(), E>>,
        then: Then,
    ) {
        let first = self.first.clone();
        let failure = self.failure.clone();
        let shutdown = self.shutdown.clone();
        self.running.spawn(async move {
            let why = match handle.await {
                Ok(Ok(())) => "it returned".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) if error.is_panic() => "it panicked".to_owned(),
                Err(_) => "it was cancelled".to_owned(),
            };
            if shutdown.has_begun() {
                return;
            }
            let ended = Ended { task, why };
            set_once(&failure, ended.clone());
            match then {
                Then::End => set_once(&first, ended),
                Then::Drain => {
                    tracing::error!(%ended, "a part of the process is lost: the rest is drained");
                    shutdown.begin(&ended.to_string());
                }
            }
        });
    }

    /// The first task that ended too early, where one has: the process has failed, however orderly it ends.
    pub fn failure(&self) -> Option<Ended> {
        self.failure.borrow().clone()
    }

    /// Returns when the first task has ended too early; never otherwise.
    pub async fn ended(&self) -> Ended {
        let mut first = self.first.subscribe();
        match first
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|ended| ended.clone())
        {
            Some(ended) => ended,
            None => std::future::pending().await,
        }
    }

    /// Returns when all tasks have ended.
    pub async fn finished(&self) {
        self.running.close();
        self.running.wait().await;
    }
}

fn set_once(cell: &watch::Sender<Option<Ended>>, ended: Ended) {
    cell.send_if_modified(|first| {
        let unset = first.is_none();
        if unset {
            *first = Some(ended);
        }
        unset
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_early_is_named_with_its_reason() {
        let tasks = Tasks::new(Shutdown::new(Duration::from_secs(1)));
        tasks.spawn("idle", std::future::pending::<Result<(), String>>());
        tasks.spawn("downlink", async { Err("no bus") });
        assert_eq!(
            tasks.ended().await,
            Ended {
                task: "downlink",
                why: "no bus".to_owned()
            }
        );
    }

    #[tokio::test]
    async fn a_panic_is_an_end() {
        let tasks = Tasks::new(Shutdown::new(Duration::from_secs(1)));
        tasks.spawn::<String>("shard", async { panic!("a defect") });
        assert_eq!(tasks.ended().await.why, "it panicked");
    }

    #[tokio::test]
    async fn the_rest_is_drained_after_the_end_of_a_part_and_the_reason_is_kept() {
        let shutdown = Shutdown::new(Duration::from_secs(1));
        let tasks = Tasks::new(shutdown.clone());
        tasks.drain_after(
            "shard",
            tokio::spawn(async { Err("number 1: its inbox panicked") }),
        );
        shutdown.begun().await;
        let ended = Ended {
            task: "shard",
            why: "number 1: its inbox panicked".to_owned(),
        };
        assert_eq!(tasks.failure(), Some(ended));
        tasks.spawn::<String>("later", async { panic!("a defect in the drain") });
        tasks.finished().await;
        assert_eq!(tasks.failure().map(|ended| ended.task), Some("shard"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_may_end_once_the_drain_has_begun() {
        let shutdown = Shutdown::new(Duration::from_secs(1));
        let tasks = Tasks::new(shutdown.clone());
        let token = shutdown.token();
        tasks.spawn("listener", async move {
            token.cancelled().await;
            Ok::<_, String>(())
        });
        shutdown.begin("test");
        tasks.finished().await;
        assert!(
            tokio::time::timeout(Duration::from_secs(60), tasks.ended())
                .await
                .is_err()
        );
    }
}
