//! What sockets that nobody has put a name to yet may take together on a shard: places, and bytes that they have sent. A
//! flood of them costs a bounded part of the memory, and those who come to be authenticated are let in beside it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use im_wire::code::CloseCode;
use tokio::time::Instant;

use super::Shard;
use crate::connection::Connection;
use crate::metrics;

/// What each may have sent before it draws on what all have together: an upgrade, or an auth with a token and some rooms.
pub(crate) const FREE: usize = 8 << 10;

/// See the module's top.
pub(crate) struct Early {
    most: usize,
    count: Cell<usize>,
    /// Bytes that may still be sent.
    bytes: Cell<usize>,
    /// In the order in which they came, and perhaps some that have gone or have been named meanwhile.
    silent: RefCell<VecDeque<(u32, Instant)>>,
}

impl Early {
    pub(crate) fn new(most: usize, bytes: usize) -> Self {
        Self {
            most: most.max(1),
            count: Cell::new(0),
            bytes: Cell::new(bytes),
            silent: RefCell::default(),
        }
    }

    /// Takes from what all have together. `false`: it is used up.
    pub(crate) fn take_bytes(&self, bytes: usize) -> bool {
        let left = self.bytes.get().checked_sub(bytes);
        left.map(|left| self.bytes.set(left)).is_some()
    }

    pub(crate) fn give_bytes(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes);
    }

    /// One has been named, or has gone.
    pub(crate) fn leave(&self) {
        self.count.set(self.count.get() - 1);
        metrics::UNIDENTIFIED.dec();
    }
}

impl Shard {
    /// One more. Where they are too many, the one that has said nothing for longest goes; where all have asked to be let
    /// in, the newcomer does.
    pub(crate) fn enter_early(&self, connection: &Connection) {
        let early = &self.early;
        early.count.set(early.count.get() + 1);
        metrics::UNIDENTIFIED.inc();
        let is_silent = |(key, since): &(u32, Instant)| {
            self.connection(*key)
                .filter(|one| one.since == *since && !one.has_asked.get() && one.ending().is_none())
        };
        let mut silent = early.silent.borrow_mut();
        while silent
            .front()
            .is_some_and(|front| is_silent(front).is_none())
        {
            silent.pop_front();
        }
        silent.push_back((connection.key, connection.since));
        if early.count.get() <= early.most {
            return;
        }
        metrics::REFUSED.with_label_values(&["unidentified"]).inc();
        let oldest = silent
            .front()
            .filter(|(key, _)| *key != connection.key)
            .and_then(is_silent);
        match oldest {
            Some(oldest) => oldest.end(
                CloseCode::HandshakeTimeout,
                "too many wait at the door, and this said nothing",
            ),
            None => connection.end_after(
                CloseCode::TooManyConnections,
                "too many are being let in just now",
                5_000,
            ),
        }
    }
}
