//! The end of a process: SIGTERM or SIGINT begins the drain, which has a deadline. A second signal ends it at once.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long past its deadline a drain may take before the process is ended by force.
const RESERVE: Duration = Duration::from_secs(10);

/// The exit code of a process that did not end in time or was told twice.
const FORCED: i32 = 70;

/// Says when the drain has begun and how long it may take. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown {
    grace: Duration,
    begun: CancellationToken,
    deadline: Arc<OnceLock<Instant>>,
}

impl Shutdown {
    /// One that begins when [`Shutdown::begin`] is called.
    pub fn new(grace: Duration) -> Self {
        Self {
            grace,
            begun: CancellationToken::new(),
            deadline: Arc::new(OnceLock::new()),
        }
    }

    /// Begins the drain at SIGTERM and SIGINT. A second one, or a drain that takes 10 s longer than its deadline, ends
    /// the process at once; where the drain has begun by itself, the first signal is as good as its beginning. Called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// The signals cannot be listened for.
    pub fn on_signals(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let own = self.clone();
        tokio::spawn(async move {
            let told = tokio::select! {
                name = either(&mut terminate, &mut interrupt) => {
                    own.begin(name);
                    true
                }
                () = own.begun() => false,
            };
            let second = tokio::time::timeout(own.grace + RESERVE, async {
                if !told {
                    either(&mut terminate, &mut interrupt).await;
                }
                either(&mut terminate, &mut interrupt).await
            });
            let second = second.await;
            match second {
                Ok(name) => tracing::error!("{name} again: ending at once"),
                Err(_) => tracing::error!("not drained long past the deadline: ending by force"),
            }
            std::process::exit(FORCED);
        });
        Ok(())
    }

    /// Begins the drain, once; later calls change nothing.
    pub fn begin(&self, why: &str) {
        let mut first = false;
        self.deadline.get_or_init(|| {
            first = true;
            Instant::now() + self.grace
        });
        if first {
            tracing::info!(grace_seconds = self.grace.as_secs_f64(), "{why}: draining");
            self.begun.cancel();
        }
    }

    /// Returns once the drain has begun; at once where it has.
    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Whether the drain has begun.
    pub fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// A token that is cancelled when the drain begins.
    pub fn token(&self) -> CancellationToken {
        self.begun.clone()
    }

    /// How long a drain may take in all.
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// When the drain must be over; were it to begin now, if it has not.
    pub fn deadline(&self) -> Instant {
        self.deadline
            .get()
            .copied()
            .unwrap_or_else(|| Instant::now() + self.grace)
    }

    /// What is left until the deadline.
    pub fn remaining(&self) -> Duration {
        self.deadline().saturating_duration_since(Instant::now())
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_deadline_counts_from_the_first_beginning() {
        let shutdown = Shutdown::new(Duration::from_secs(10));
        assert!(!shutdown.has_begun());
        assert_eq!(shutdown.remaining(), Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(shutdown.remaining(), Duration::from_secs(10));
        shutdown.begin("test");
        tokio::time::advance(Duration::from_secs(4)).await;
        shutdown.begin("again");
        shutdown.begun().await;
        assert_eq!(shutdown.remaining(), Duration::from_secs(6));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(shutdown.remaining(), Duration::ZERO);
    }
}
