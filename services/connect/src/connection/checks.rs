//! What happens to a connection's memberships while logic checks what its user may hear: the answer may be older than that.

use std::collections::HashMap;

use im_wire::ids::{RoomId, Seq};

use super::Connection;

/// Ended memberships remembered per connection; beyond it every answer under way is asked for again.
const REMEMBERED: usize = 1_024;

/// The checks under way for a connection, and what happened to its rooms since they began.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// How many there are, and how many of them are for all of the user's rooms.
    open: u32,
    open_for_all: u32,
    /// Grows with each thing that happens.
    clock: u64,
    /// Memberships that ended: where in the room's log, and when by the clock.
    ended: HashMap<RoomId, (Seq, u64)>,
    /// What happened up to here is not remembered one by one.
    forgotten: u64,
    /// Rooms that the user became a member of while all of them are asked for.
    added: Vec<RoomId>,
}

impl Checks {
    fn note_end(&mut self, room: &RoomId, seq: Seq) {
        self.clock += 1;
        if self.ended.len() >= REMEMBERED && !self.ended.contains_key(room) {
            self.ended.clear();
            self.forgotten = self.clock;
        }
        let last = self.ended.entry(room.clone()).or_default();
        *last = (last.0.max(seq), self.clock);
    }

    /// Whether the user's membership has ended behind `head`, as far as is known, since the clock stood at `asked`.
    fn ended_since(&self, room: &RoomId, head: Seq, asked: u64) -> bool {
        self.forgotten > asked
            || self
                .ended
                .get(room)
                .is_some_and(|(seq, at)| *at > asked && *seq > head)
    }
}

/// A check under way. What it may miss is remembered as long as it lives.
pub(crate) struct Check<'c> {
    connection: &'c Connection,
    all: bool,
}

impl<'c> Check<'c> {
    pub(crate) fn new(connection: &'c Connection, all: bool) -> Self {
        let mut checks = connection.checks.borrow_mut();
        let checks = checks.get_or_insert_default();
        checks.open += 1;
        checks.open_for_all += u32::from(all);
        Self { connection, all }
    }

    pub(crate) fn clock(&self) -> u64 {
        self.connection
            .checks
            .borrow()
            .as_ref()
            .map_or(0, |checks| checks.clock)
    }

    pub(crate) fn take_additions(&self) -> Vec<RoomId> {
        let mut checks = self.connection.checks.borrow_mut();
        checks
            .as_mut()
            .map(|checks| std::mem::take(&mut checks.added))
            .unwrap_or_default()
    }

    pub(crate) fn ended_since(&self, room: &RoomId, head: Seq, asked: u64) -> bool {
        self.connection
            .checks
            .borrow()
            .as_ref()
            .is_some_and(|checks| checks.ended_since(room, head, asked))
    }
}

impl Drop for Check<'_> {
    fn drop(&mut self) {
        let mut checks = self.connection.checks.borrow_mut();
        if let Some(open) = checks.as_mut() {
            open.open -= 1;
            open.open_for_all -= u32::from(self.all);
            if open.open == 0 {
                *checks = None;
            }
        }
    }
}

impl Connection {
    /// A membership of the user ended at `seq` of the room's log.
    pub(crate) fn note_end(&self, room: &RoomId, seq: Seq) {
        if let Some(checks) = self.checks.borrow_mut().as_mut() {
            checks.note_end(room, seq);
        }
    }

    /// The user has a new room. `true`: all of them are being asked for, and it is looked at with the answer.
    pub(crate) fn note_addition(&self, room: &RoomId) -> bool {
        let mut checks = self.checks.borrow_mut();
        let Some(checks) = checks.as_mut().filter(|checks| checks.open_for_all > 0) else {
            return false;
        };
        if checks.added.len() < REMEMBERED {
            checks.added.push(room.clone());
        } else {
            // The next comparison of the list finds it.
            self.list_digest.set(0);
        }
        true
    }
}
