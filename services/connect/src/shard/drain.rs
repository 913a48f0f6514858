//! One shard's part of a drain: it goes on accepting for a moment, only to say "move"; then it tells every client to move, in
//! random order and at a pace; it delivers and answers until each has gone; at the deadline it closes the rest with a code
//! that says "resume".

use std::rc::Rc;
use std::time::Duration;

use im_wire::code::CloseCode;
use im_wire::native::ServerOp;
use rand::seq::SliceRandom;
use tokio::time::Instant;

use super::Shard;
use super::mailbox::DrainPlan;
use crate::connection::Connection;
use crate::metrics;

async fn drain(shard: Rc<Shard>, plan: DrainPlan) {
    let begun = Instant::now();
    let mut everyone = shard.everyone();
    everyone.shuffle(&mut rand::rng());
    let closing = Rc::clone(&shard);
    let accept = plan.accept;
    tokio::task::spawn_local(async move {
        tokio::time::sleep(accept).await;
        closing.accepting.cancel();
    });
    for (number, connection) in everyone.iter().enumerate() {
        let due = begun + Duration::from_secs_f64(number as f64 / plan.per_second.max(1.0));
        tokio::time::sleep_until(due).await;
        tell(connection, &plan);
    }
    tokio::time::sleep_until(plan.deadline).await;
    for connection in shard.everyone() {
        connection.end(CloseCode::GoingAway, "the node ends: resume elsewhere");
    }
}

/// Tells one client to move. The compatible dialects have no word for it: their clients are closed, and come back.
fn tell(connection: &Connection, plan: &DrainPlan) {
    if connection.authenticated().is_none()
        || connection.moved.replace(true)
        || connection.ending().is_some()
    {
        return;
    }
    metrics::MOVED.inc();
    let left = plan.deadline.saturating_duration_since(Instant::now());
    if !connection.encoding.get().is_native() {
        connection.end(CloseCode::Moved, "the node ends: connect elsewhere");
        return;
    }
    let ms = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    let op = ServerOp::Move {
        after_ms: rand::random_range(0..500),
        deadline_ms: ms(left),
        to: plan.to.to_vec(),
        reason: "draining".to_owned(),
    };
    connection.write(&connection.encoding.get().response(0, op));
}

impl Shard {
    /// Begins; it goes on beside everything else.
    pub(crate) fn begin_drain(self: &Rc<Self>, plan: DrainPlan) {
        if self.draining.borrow_mut().replace(plan.clone()).is_some() {
            return;
        }
        tokio::task::spawn_local(drain(Rc::clone(self), plan));
    }

    /// A client that came in while the node drains is told at once.
    pub(crate) fn greet_while_draining(&self, connection: &Connection) {
        if let Some(plan) = &*self.draining.borrow() {
            tell(connection, plan);
        }
    }
}
