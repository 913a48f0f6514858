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
    shutdown: Shutdown,
}

impl Tasks {
    /// Tasks may end once `shutdown` has begun.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { running: TaskTracker::new(), first: watch::Sender::new(None), shutdown }
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
    pub fn supervise<E: Display + Send + 'static>(&self, task: &'static str, handle: JoinHandle<Result<(), E>>) {
        let (first, shutdown) = (self.first.clone(), self.shutdown.clone());
        self.running.spawn(async move {
            let why = match handle.await {
                Ok(Ok(())) => "it returned".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) if error.is_panic() => "it panicked".to_owned(),
                Err(_) => "it was cancelled".to_owned(),
            };
            if !shutdown.has_begun() {
                first.send_if_modified(|first| match first {
                    Some(_) => false,
                    None => {
                        *first = Some(Ended { task, why });
                        true
                    }
                });
            }
        });
    }

    /// Returns when the first task has ended too early; never otherwise.
    pub async fn ended(&self) -> Ended {
        let mut first = self.first.subscribe();
        match first.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone()) {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_early_is_named_with_its_reason() {
        let tasks = Tasks::new(Shutdown::new(Duration::from_secs(1)));
        tasks.spawn("idle", std::future::pending::<Result<(), String>>());
        tasks.spawn("downlink", async { Err("no bus") });
        assert_eq!(tasks.ended().await, Ended { task: "downlink", why: "no bus".to_owned() });
    }

    #[tokio::test]
    async fn a_panic_is_an_end() {
        let tasks = Tasks::new(Shutdown::new(Duration::from_secs(1)));
        tasks.spawn::<String>("shard", async { panic!("a defect") });
        assert_eq!(tasks.ended().await.why, "it panicked");
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
        assert!(tokio::time::timeout(Duration::from_secs(60), tasks.ended()).await.is_err());
    }
}
