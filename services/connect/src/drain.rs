//! A node that leaves: it goes on accepting for a moment, only to say "move"; then it tells every client to move, in
//! random order and at a pace; it delivers and answers until each has gone; at the deadline it closes the rest with a
//! code that says "resume".

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use im_wire::code::CloseCode;
use im_wire::native::ServerOp;
use rand::seq::SliceRandom;
use serde_json::json;

use crate::connection::Connection;
use crate::shard::Shard;
use crate::{Handle, metrics};

/// How a drain goes, for one shard.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    /// Clients told per second.
    pub(crate) per_second: f64,
    /// How long new clients are still accepted.
    pub(crate) accept: Duration,
    /// When the rest is closed.
    pub(crate) deadline: Instant,
    /// Addresses to move to, best first.
    pub(crate) to: Arc<Vec<String>>,
}

/// A drain under way.
#[derive(Debug)]
pub(crate) struct Draining(Pace);

/// The whole node's drain, as people and operators see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Clients there were when it began.
    pub initial: usize,
    /// Clients there are.
    pub current: usize,
    /// Told to move per second.
    pub per_second: f64,
    /// Since when.
    pub since: Instant,
    /// When the rest is closed.
    pub deadline: Instant,
}

/// What `GET /drain` on the admin port answers, as docs/http-api.md says. Fields are only added within a version.
pub fn page(handle: &Handle) -> serde_json::Value {
    let Some(drain) = handle.draining() else {
        return json!({"version": 1, "phase": "serving", "connections": handle.connections()});
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = now.saturating_sub(drain.since.elapsed());
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

/// Begins on one shard; it goes on beside everything else.
pub(crate) fn begin(shard: &Rc<Shard>, pace: Pace) {
    if shard.draining.borrow_mut().replace(Draining(pace.clone())).is_some() {
        return;
    }
    tokio::task::spawn_local(drain(Rc::clone(shard), pace));
}

async fn drain(shard: Rc<Shard>, pace: Pace) {
    let begun = Instant::now();
    let mut everyone = shard.everyone();
    everyone.shuffle(&mut rand::rng());
    let closing = Rc::clone(&shard);
    let accept = pace.accept;
    tokio::task::spawn_local(async move {
        tokio::time::sleep(accept).await;
        closing.accepting.cancel();
    });
    for (number, connection) in everyone.iter().enumerate() {
        let due = begun + Duration::from_secs_f64(number as f64 / pace.per_second.max(1.0));
        tokio::time::sleep_until(due.into()).await;
        tell(connection, &pace);
    }
    tokio::time::sleep_until(pace.deadline.into()).await;
    for connection in shard.everyone() {
        connection.end(CloseCode::GoingAway, "the node ends: resume elsewhere");
    }
}

/// Tells one client to move. The foreign dialects have no word for it: their clients are closed, and come back.
fn tell(connection: &Connection, pace: &Pace) {
    if connection.user().is_none() || connection.moved.replace(true) || connection.ending().is_some() {
        return;
    }
    metrics::MOVED.inc();
    let left = pace.deadline.saturating_duration_since(Instant::now());
    if !connection.encoding.get().is_native() {
        connection.end(CloseCode::Moved, "the node ends: connect elsewhere");
        return;
    }
    let ms = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    let op = ServerOp::Move {
        after_ms: rand::random_range(0..500),
        deadline_ms: ms(left),
        to: pace.to.to_vec(),
        reason: "draining".to_owned(),
    };
    connection.write(&connection.encoding.get().response(0, op));
}

impl Shard {
    /// A client that came in while the node drains is told at once.
    pub(crate) fn greet_while_draining(&self, connection: &Connection) {
        if let Some(Draining(pace)) = &*self.draining.borrow() {
            tell(connection, pace);
        }
    }
}
