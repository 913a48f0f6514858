//! A node that leaves, as a whole: its shards share the clients to be told, see `shard/drain.rs` for what each does.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::metrics;
use crate::service::Handle;
pub use crate::service::Status;
use crate::shard::mailbox::{Command, DrainPlan};

/// What `GET /drain` on the admin port answers, as docs/http-api.md says. Fields are only added within a version.
pub fn page(handle: &Handle) -> serde_json::Value {
    let Some(drain) = handle.draining() else {
        return json!({"version": 1, "phase": "serving", "connections": handle.connections()});
    };
    let since = im_runtime::clock::unix().saturating_sub(drain.since.elapsed());
    let deadline = since + drain.deadline.saturating_duration_since(drain.since);
    json!({
        "version": 1,
        "phase": "draining",
        "connections": drain.current,
        "initial": drain.initial,
        "current": drain.current,
        "rate": drain.per_second,
        "since_ms": since.as_millis() as u64,
        "deadline_ms": deadline.as_millis() as u64,
    })
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Clients there were when it began.
    pub initial: usize,
    /// Closed at the deadline.
    pub forced: usize,
}

impl Handle {
    /// Begins or continues to leave, see [`crate::drain`]; returns when the last client has gone or the deadline is
    /// over. `to`: addresses for clients to move to.
    pub async fn drain(&self, deadline: Duration, to: Vec<String>) -> Drained {
        let status = self.begin_drain(deadline, to).await;
        let accepting = status.since + self.0.options.drain_accept.min(deadline);
        let ended = status.deadline + Duration::from_secs(3);
        let mut forced = 0;
        // Even an empty node goes on accepting for a moment: clients that are just coming are told where to go.
        while self.connections() > 0 && Instant::now() < ended || Instant::now() < accepting {
            if Instant::now() < status.deadline {
                forced = self.connections();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if Instant::now() < status.deadline {
            forced = 0;
        }
        self.0.heartbeats_end.cancel();
        self.0.send_heartbeat(true).await;
        Drained {
            initial: status.initial,
            forced,
        }
    }

    async fn begin_drain(&self, deadline: Duration, to: Vec<String>) -> Status {
        let now = Instant::now();
        let initial = self.connections();
        let options = &self.0.options;
        // The last clients shall have as long as a reconnect takes before the deadline.
        let telling = (deadline.saturating_sub(options.drain_accept))
            .as_secs_f64()
            .max(1.0)
            * 0.75;
        let per_second = (initial as f64 / telling).max(f64::from(options.drain_floor));
        let status = Status {
            initial,
            current: initial,
            per_second,
            since: now,
            deadline: now + deadline,
        };
        {
            let mut draining = self
                .0
                .draining
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(status) = &*draining {
                return status.clone();
            }
            *draining = Some(status.clone());
        }
        metrics::DRAINING.set(1);
        let shards = self.0.router.shards();
        let to = Arc::new(to);
        for shard in shards {
            let plan = DrainPlan {
                per_second: per_second / shards.len() as f64,
                accept: options.drain_accept,
                deadline: status.deadline,
                to: Arc::clone(&to),
            };
            let _ended = shard.commands.send(Command::Drain(plan)).await;
        }
        status
    }

    /// The drain under way, where there is one.
    pub fn draining(&self) -> Option<Status> {
        let status = self
            .0
            .draining
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()?;
        Some(Status {
            current: self.connections(),
            ..status
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;
    use crate::shard::mailbox;

    const DEADLINE: Duration = Duration::from_secs(60);

    fn options() -> Options {
        Options {
            drain_accept: Duration::from_secs(2),
            drain_floor: 1,
            ..Options::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn clients_are_told_within_three_quarters_of_the_time_and_those_left_at_the_deadline_are_forced()
     {
        let (shard, mut mailbox) = mailbox::open(8, 1 << 20);
        let (other, _mailbox) = mailbox::open(8, 1 << 20);
        let (node, admission) = Handle::without_sockets(options(), vec![shard, other]);
        let mut clients: Vec<_> = (0..90).map(|_| admission.enter(None).unwrap()).collect();
        let start = Instant::now();
        let draining = tokio::spawn({
            let node = node.clone();
            async move {
                node.drain(DEADLINE, vec!["elsewhere:3101".to_owned()])
                    .await
            }
        });
        let Some(Command::Drain(plan)) = mailbox.commands.recv().await else {
            panic!("the shard drains")
        };
        assert_eq!(
            (plan.accept, plan.deadline),
            (Duration::from_secs(2), start + DEADLINE)
        );
        assert_eq!(*plan.to, ["elsewhere:3101"]);
        let last_told = Duration::from_secs_f64(90.0 / 2.0 / plan.per_second);
        assert_eq!(
            last_told.as_millis(),
            43_500,
            "half of them by each of two shards"
        );
        tokio::time::sleep(Duration::from_secs(10)).await;
        clients.truncate(10);
        assert_eq!(
            node.draining()
                .map(|status| (status.initial, status.current)),
            Some((90, 10))
        );
        tokio::time::sleep_until(start + DEADLINE + Duration::from_millis(500)).await;
        clients.clear();
        assert_eq!(
            draining.await.unwrap(),
            Drained {
                initial: 90,
                forced: 10
            }
        );
        assert!(
            start.elapsed() < DEADLINE + Duration::from_secs(1),
            "{:?}",
            start.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_node_goes_on_accepting_for_a_moment_and_one_that_is_stuck_gives_up() {
        let (node, _) = Handle::without_sockets(options(), Vec::new());
        let start = Instant::now();
        assert_eq!(
            node.drain(DEADLINE, Vec::new()).await,
            Drained {
                initial: 0,
                forced: 0
            }
        );
        assert_eq!(start.elapsed().as_secs(), 2);

        let (node, admission) = Handle::without_sockets(options(), Vec::new());
        let _never_closed = admission.enter(None).unwrap();
        let start = Instant::now();
        assert_eq!(
            node.drain(DEADLINE, Vec::new()).await,
            Drained {
                initial: 1,
                forced: 1
            }
        );
        assert_eq!(start.elapsed().as_secs(), 63);
    }
}
