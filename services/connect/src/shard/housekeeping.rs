//! What a shard does by the clock: retries, heartbeats, expired tokens, handshakes that take too long, heads compared a
//! few at a time. One coarse tick per shard; no timer per connection.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use im_runtime::admin::Pulse;
use im_runtime::clock::unix_ms;
use im_wire::code::CloseCode;
use im_wire::ids::RoomId;
use tokio::time::{Instant, MissedTickBehavior};

use super::Shard;
use crate::connection::Connection;
use crate::metrics;

/// How often retries and held pages are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How many ticks pass between looks at every connection.
const SLOW: u64 = 10;

impl Shard {
    /// Runs as long as the shard, and shows by the pulse that it turns.
    pub(crate) async fn housekeeping(self: Rc<Self>, pulse: Pulse) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for count in 0_u64.. {
            tick.tick().await;
            pulse.beat();
            #[cfg(test)]
            crate::planted::pass(&self.options.node, self.number, "housekeeping");
            self.retry();
            if count % SLOW == 0 {
                self.check_connections();
                self.compare_some();
                self.compare_lists();
                self.rates.forget_full();
                self.paces.forget_full();
                self.publish_metrics();
            }
        }
    }

    fn retry(self: &Rc<Self>) {
        let mut effects = Vec::new();
        let now = Instant::now();
        if self.questions.borrow_mut().has_recovered() {
            self.hub.borrow_mut().end_pauses(now);
        }
        self.hub.borrow_mut().tick(now, &mut effects);
        self.apply(effects);
        self.ask_those_that_waited();
    }

    pub(super) fn check_connections(&self) {
        let now = Instant::now();
        let now_ms = unix_ms();
        for (_, connection) in self.connections.borrow().iter() {
            self.check(connection, now, now_ms);
        }
    }

    fn check(&self, connection: &Connection, now: Instant, now_ms: u64) {
        let silent = now.saturating_duration_since(connection.last_heard.get());
        let Some(identity) = connection.authenticated() else {
            if now.saturating_duration_since(connection.since) > self.options.handshake_timeout {
                connection.end(CloseCode::HandshakeTimeout, "no auth in time");
            }
            return;
        };
        let expires_ms = identity.expires_ms.get();
        if silent > self.options.heartbeat_timeout {
            connection.end(
                CloseCode::HeartbeatTimeout,
                "nothing heard in time: send a ping more often",
            );
        } else if (1..=now_ms).contains(&expires_ms) {
            connection.end(
                CloseCode::TokenExpired,
                "the token's time is over: connect with a newer one",
            );
        }
    }

    /// A part of the rooms each second, so that every room's turn comes once in `head_compare`.
    fn compare_some(self: &Rc<Self>) {
        let parts = self.options.head_compare.as_secs().max(1);
        let part = self.compare_step.get() % parts;
        self.compare_step.set(part + 1);
        let hub = self.hub.borrow();
        let due: Vec<RoomId> = hub
            .heads()
            .map(|(room, _)| room)
            .filter(|room| part_of(room, parts) == part)
            .cloned()
            .collect();
        drop(hub);
        if !due.is_empty() {
            self.compare(due);
        }
    }

    fn publish_metrics(&self) {
        metrics::publish_writes();
        let shard = self.number.to_string();
        metrics::ENDS_WAITING
            .with_label_values(&[&shard])
            .set(self.ends.len() as i64);
        metrics::OUTBOX_BYTES
            .with_label_values(&[&shard])
            .set(self.outboxes.held() as i64);
        let mut hub = self.hub.borrow_mut();
        metrics::ROOMS
            .with_label_values(&[&shard])
            .set(hub.len() as i64);
        metrics::PENDING_BYTES
            .with_label_values(&[&shard])
            .set(hub.pending_bytes() as i64);
        let counts = std::mem::take(&mut hub.counts);
        metrics::REPEATS.inc_by(counts.repeats);
        metrics::GAPS.inc_by(counts.gaps);
        metrics::RESETS.inc_by(counts.resets);
        metrics::REPAIRS.inc_by(counts.repairs);
        metrics::PENDING_OVERFLOWS.inc_by(counts.overflows);
        metrics::HELD.inc_by(counts.held);
        metrics::GIVEN_UP.inc_by(counts.given_up);
        metrics::SIGNALS_DROPPED.inc_by(counts.signals_dropped);
        let waiting = self.questions.borrow().waiting();
        metrics::PUSHES_WAITING
            .with_label_values(&[&shard])
            .set(self.pushes_waiting() as i64);
        metrics::QUESTIONS
            .with_label_values(&[&shard])
            .set(waiting as i64);
        let share = self.load.borrow_mut().share(Instant::now());
        metrics::FAN_OUT_SHARE
            .with_label_values(&[&shard])
            .set(share);
    }
}

fn part_of(room: &RoomId, parts: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    room.as_str().hash(&mut hasher);
    hasher.finish() % parts
}
