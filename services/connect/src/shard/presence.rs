//! Presence, as this shard answers for it. Ends are told until they are answered, and one part after the other is asserted,
//! all of them within a lease: what the store has lost comes back, what it has kept too long goes. So whatever is not told
//! (too many ends wait, an auth was never answered) is put right by the next round.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use im_proto::v1::{AssertPresence, Disconnected, Held, PresenceAsserted, call, reply};
use im_runtime::clock::unix_ms;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Shard;
use crate::connection::Connection;
use crate::metrics;

/// Connections named in one assertion at most.
const PART_CONNECTIONS: usize = 500;
/// Places looked at for one assertion at most, taken or not.
const PART_PLACES: u32 = 8_192;
/// Ends that may wait to be told, and their bytes; those beyond are found by the next round.
const MAX_ENDS: usize = 16_384;
const MAX_END_BYTES: usize = 4 << 20;
/// Ends told at the same time.
const CONCURRENCY: usize = 64;
/// The pause after something could not be told; later ones double.
const PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// A connection that is gone, and that logic may not know to be gone.
struct End {
    conn: String,
    grant: Bytes,
    user: String,
    place: u64,
    at: Instant,
}

impl End {
    fn size(&self) -> usize {
        size_of::<Self>() + self.conn.len() + self.grant.len() + self.user.len()
    }
}

#[derive(Default)]
struct Waiting {
    ends: VecDeque<End>,
    bytes: usize,
}

/// Ends that wait to be told.
#[derive(Default)]
pub(super) struct Ends {
    waiting: RefCell<Waiting>,
    any: Notify,
}

impl Ends {
    fn put(&self, end: End) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.ends.len() >= MAX_ENDS || waiting.bytes + end.size() > MAX_END_BYTES {
            metrics::ENDS_DROPPED.inc();
            return;
        }
        waiting.bytes += end.size();
        waiting.ends.push_back(end);
        self.any.notify_one();
    }

    async fn take(&self) -> Vec<End> {
        loop {
            {
                let mut waiting = self.waiting.borrow_mut();
                let some = waiting.ends.len().min(CONCURRENCY);
                if some > 0 {
                    let ends: Vec<End> = waiting.ends.drain(..some).collect();
                    waiting.bytes -= ends.iter().map(End::size).sum::<usize>();
                    if waiting.ends.is_empty() {
                        waiting.ends.shrink_to(CONCURRENCY);
                    }
                    return ends;
                }
            }
            self.any.notified().await;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.borrow().ends.len()
    }
}

/// Some of a shard's places, with who is there.
struct Part {
    keys: Range<u32>,
    held: Vec<Held>,
    is_last: bool,
}

impl Shard {
    /// Where the node keeps a connection, see `imcluster.v1.Authenticate`.
    pub(crate) fn place(&self, key: u32) -> u64 {
        ((self.number as u64) << 32 | u64::from(key)) + 1
    }

    /// An authenticated connection has ended.
    pub(crate) fn ended(&self, connection: &Connection) {
        let Some(identity) = connection.authenticated() else {
            return;
        };
        self.ends.put(End {
            conn: connection.id.clone(),
            grant: identity.grant.borrow().clone(),
            user: identity.user.to_string(),
            place: self.place(connection.key),
            at: Instant::now(),
        });
    }

    /// A connection is not let in, and logic may have noted it all the same: the answer to its auth did not come.
    pub(crate) fn never_began(&self, connection: &Connection) {
        self.gone(
            connection.id.clone(),
            String::new(),
            self.place(connection.key),
        );
    }

    fn gone(&self, conn: String, user: String, place: u64) {
        self.ends.put(End {
            conn,
            grant: Bytes::new(),
            user,
            place,
            at: Instant::now(),
        });
    }

    /// Tells ends; runs as long as the shard.
    pub(crate) async fn tell_ends(self: Rc<Self>) {
        let mut pause = PAUSE;
        loop {
            let ends = self.ends.take().await;
            let told =
                futures::future::join_all(ends.into_iter().map(|end| self.tell_end(end))).await;
            let untold: Vec<End> = told.into_iter().flatten().collect();
            if untold.is_empty() {
                pause = PAUSE;
                continue;
            }
            untold.into_iter().for_each(|end| self.ends.put(end));
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// The end again, where it has to be told again.
    async fn tell_end(&self, end: End) -> Option<End> {
        let gone = Disconnected {
            node: self.options.node.clone(),
            place: end.place,
            user: end.user.clone(),
            ago_ms: u64::try_from(end.at.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let told = self
            .logic
            .call(end.grant.clone(), &end.conn, call::Op::Disconnected(gone))
            .await;
        told.is_err_and(|fault| fault.retryable).then_some(end)
    }

    /// Asserts one part after the other; runs as long as the shard.
    pub(crate) async fn assert_presence(self: Rc<Self>) {
        let mut from = 0;
        let mut failures = 0_u32;
        loop {
            tokio::time::sleep(self.until_next_part(failures)).await;
            let part = self.part(from);
            if self.by_user.borrow().is_empty() && self.draining.borrow().is_some() {
                // The node leaves, or has left: nothing of it is to be put back.
                continue;
            }
            let next = if part.is_last { 0 } else { part.keys.end };
            let node = self.options.node.clone();
            let from_place = self.place(part.keys.start);
            let to = self.end_of(&part);
            let ask = AssertPresence {
                node,
                from: from_place,
                to,
                held: part.held.clone(),
            };
            let answer = self
                .logic
                .call(Bytes::new(), "", call::Op::AssertPresence(ask))
                .await;
            match answer {
                Err(fault) if fault.retryable => {
                    failures = failures.saturating_add(1);
                    continue;
                }
                Ok(reply::Result::PresenceAsserted(asserted)) => self.settle(&part, asserted),
                // A process of an earlier release knows no assertions.
                Ok(_) | Err(_) => {}
            }
            (from, failures) = (next, 0);
        }
    }

    /// A round takes a lease or a little less; what fails is tried again soon, and then less often.
    fn until_next_part(&self, failures: u32) -> Duration {
        let lease = self.options.lease;
        let pause = match failures {
            0 => {
                let connections = self.connections.borrow();
                // A part ends where it names enough connections or has looked at enough places.
                let parts = connections.len() / PART_CONNECTIONS
                    + connections.capacity() / PART_PLACES as usize
                    + 1;
                lease / u32::try_from(parts).unwrap_or(u32::MAX)
            }
            _ => (PAUSE * 2_u32.saturating_pow(failures.min(8)))
                .min(lease / 3)
                .min(MAX_PAUSE),
        };
        pause.mul_f64(rand::random_range(0.8..1.0))
    }

    fn part(&self, from: u32) -> Part {
        let connections = self.connections.borrow();
        let now = Instant::now();
        let now_ms = unix_ms();
        // No place is taken beyond.
        let bound = u32::try_from(connections.capacity()).unwrap_or(u32::MAX);
        let mut key = from;
        let mut held = Vec::new();
        while key < bound && held.len() < PART_CONNECTIONS && key - from < PART_PLACES {
            if let Some(connection) = connections.get(key as usize)
                && let Some(identity) = connection.authenticated()
            {
                let age = now.saturating_duration_since(connection.since).as_millis();
                held.push(Held {
                    place: self.place(key),
                    conn: connection.id.clone(),
                    user: identity.user.to_string(),
                    device: identity.device.clone(),
                    since_ms: now_ms.saturating_sub(u64::try_from(age).unwrap_or(u64::MAX)),
                });
            }
            key += 1;
        }
        Part {
            keys: from..key,
            held,
            is_last: key >= bound,
        }
    }

    /// The last part reaches to the shard's end: places that are no longer used lie there.
    fn end_of(&self, part: &Part) -> u64 {
        if part.is_last {
            ((self.number as u64 + 1) << 32) + 1
        } else {
            self.place(part.keys.end)
        }
    }

    /// Ends what the store has and the shard has not: now, as something may have begun or ended meanwhile.
    fn settle(&self, part: &Part, asserted: PresenceAsserted) {
        if asserted.restored.is_empty() && asserted.strays.is_empty() {
            return;
        }
        metrics::PRESENCE_CORRECTED
            .with_label_values(&["restored"])
            .inc_by(asserted.restored.len() as u64);
        let here: HashSet<String> = {
            let connections = self.connections.borrow();
            let beyond = u32::try_from(connections.capacity()).unwrap_or(u32::MAX);
            let end = if part.is_last { beyond } else { part.keys.end };
            let present = (part.keys.start..end).filter_map(|key| connections.get(key as usize));
            present.map(|connection| connection.id.clone()).collect()
        };
        for stray in asserted.restored.into_iter().chain(asserted.strays) {
            if !here.contains(&stray.conn) {
                metrics::PRESENCE_CORRECTED
                    .with_label_values(&["ended"])
                    .inc();
                self.gone(stray.conn, stray.user, 0);
            }
        }
    }
}
