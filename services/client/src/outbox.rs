//! Sends on their way: in order per room, several in flight, and written again under the same client id until they are
//! acknowledged, refused or out of time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use im_wire::code::ErrorCode;
use im_wire::ids::RoomId;
use im_wire::native::{Body, ClientOp, Error};
use tokio::time::Instant;

use crate::backoff::Backoff;

/// How many sends may be in flight, and how long one may stay unanswered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) in_flight: usize,
    pub(crate) in_flight_per_room: usize,
    pub(crate) attempt_timeout: Duration,
    pub(crate) backoff: Backoff,
}

/// What is sent.
#[derive(Debug, Clone)]
pub(crate) struct PendingSend {
    pub(crate) room: RoomId,
    pub(crate) client_id: String,
    pub(crate) kind: String,
    pub(crate) body: Body,
}

/// How a send ended that was neither acknowledged nor refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// It may have been stored: it was written, and no answer said otherwise; the last error answer to another attempt.
    Unknown(Option<Error>),
    /// It was never written, or every answer said that it was not stored; the last of these.
    NotStored(Option<Error>),
}

/// What an error answer means for a send.
#[derive(Debug)]
pub(crate) enum Refusal<R> {
    /// It ends the send, which is not stored.
    Final(R, Error),
    /// It ends the send, of which an earlier attempt may have been stored.
    Unsure(R, Error),
    /// It will be written again.
    Retried,
    /// No send has this number.
    NotASend,
}

/// `R`: what the caller is answered with.
#[derive(Debug)]
struct Entry<R> {
    send: PendingSend,
    deadline: Instant,
    reply: R,
    attempts: u32,
    /// An attempt may have been stored.
    uncertain: bool,
    last_error: Option<Error>,
}

impl<R> Entry<R> {
    fn end(self) -> (R, Unanswered) {
        let Self {
            reply,
            uncertain,
            last_error,
            ..
        } = self;
        (
            reply,
            if uncertain {
                Unanswered::Unknown(last_error)
            } else {
                Unanswered::NotStored(last_error)
            },
        )
    }
}

#[derive(Debug)]
struct Flight<R> {
    order: u64,
    entry: Entry<R>,
    /// When the attempt counts as lost.
    lost_at: Instant,
}

/// Sends that have not ended. All orders come from one counter, so a map by order is the order of the caller.
#[derive(Debug)]
pub(crate) struct Outbox<R> {
    limits: Limits,
    next_order: u64,
    waiting: BTreeMap<u64, Entry<R>>,
    flights: HashMap<u32, Flight<R>>,
    per_room: HashMap<RoomId, usize>,
    /// Rooms in which an attempt failed: nothing is written to them before this time and before everything in flight
    /// there is answered, so that order survives the retry.
    held: HashMap<RoomId, Instant>,
    /// Rooms in which an attempt failed and that have not caught up since: one send at a time, so that none overtakes.
    careful: HashSet<RoomId>,
    /// Not later than the first deadline or lost attempt.
    check_at: Option<Instant>,
    retries: u64,
}

impl<R> Outbox<R> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            next_order: 0,
            waiting: BTreeMap::new(),
            flights: HashMap::new(),
            per_room: HashMap::new(),
            held: HashMap::new(),
            careful: HashSet::new(),
            check_at: None,
            retries: 0,
        }
    }

    pub(crate) fn push(&mut self, send: PendingSend, deadline: Instant, reply: R) {
        let entry = Entry {
            send,
            deadline,
            reply,
            attempts: 0,
            uncertain: false,
            last_error: None,
        };
        self.waiting.insert(self.next_order, entry);
        self.next_order += 1;
        self.check_by(deadline);
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// How often a send was written again.
    pub(crate) fn retries(&self) -> u64 {
        self.retries
    }

    /// The next send to write, under the request number that `req` gives; `None`: nothing may be written now.
    pub(crate) fn next(
        &mut self,
        now: Instant,
        req: impl FnOnce() -> u32,
    ) -> Option<(u32, ClientOp)> {
        if self.flights.len() >= self.limits.in_flight {
            return None;
        }
        let order = self.first_writable(now)?;
        let mut entry = self.waiting.remove(&order)?;
        self.retries += u64::from(entry.attempts > 0);
        entry.attempts = entry.attempts.saturating_add(1);
        let PendingSend {
            room,
            client_id,
            kind,
            body,
        } = entry.send.clone();
        *self.per_room.entry(room.clone()).or_default() += 1;
        let lost_at = now + self.limits.attempt_timeout;
        self.check_by(lost_at);
        let req = req();
        self.flights.insert(
            req,
            Flight {
                order,
                entry,
                lost_at,
            },
        );
        Some((
            req,
            ClientOp::Send {
                room,
                client_id,
                kind,
                body,
            },
        ))
    }

    /// Rooms whose wait is over and in which nothing is in flight any more may be written to again.
    fn release(&mut self, now: Instant) {
        let Self { held, per_room, .. } = self;
        held.retain(|room, until| *until > now || per_room.contains_key(room));
    }

    fn first_writable(&mut self, now: Instant) -> Option<u64> {
        self.release(now);
        let Self {
            waiting,
            held,
            careful,
            per_room,
            limits,
            ..
        } = self;
        let limit = |room: &RoomId| {
            if careful.contains(room) {
                1
            } else {
                limits.in_flight_per_room
            }
        };
        let full = |room: &RoomId| {
            per_room
                .get(room)
                .is_some_and(|count| *count >= limit(room))
        };
        let mut writable = waiting
            .iter()
            .filter(|(_, entry)| !held.contains_key(&entry.send.room) && !full(&entry.send.room));
        writable.next().map(|(order, _)| *order)
    }

    /// An acknowledgement, matched by request number, or by room and client id where it answers an attempt that counted as
    /// lost: a client id is one message's in its room only.
    pub(crate) fn acked(&mut self, req: u32, room: &RoomId, client_id: &str) -> Option<R> {
        if let Some(flight) = self.land(req) {
            return Some(flight.entry.reply);
        }
        let late = |entry: &Entry<R>| {
            entry.attempts > 0 && entry.send.client_id == client_id && entry.send.room == *room
        };
        if let Some(order) = self
            .waiting
            .iter()
            .find(|(_, entry)| late(entry))
            .map(|(order, _)| *order)
        {
            return self.waiting.remove(&order).map(|entry| entry.reply);
        }
        let req = *self
            .flights
            .iter()
            .find(|(_, flight)| late(&flight.entry) && flight.entry.attempts > 1)?
            .0;
        self.land(req).map(|flight| flight.entry.reply)
    }

    /// An error answer; `random` is uniform in `0.0..1.0`.
    pub(crate) fn refused(
        &mut self,
        req: u32,
        error: Error,
        now: Instant,
        random: f64,
    ) -> Refusal<R> {
        let Some(Flight {
            order, mut entry, ..
        }) = self.land(req)
        else {
            return Refusal::NotASend;
        };
        if !error.retryable {
            // What an answer says is true of its own attempt only: an earlier one may be stored, whatever ended since.
            let ended = if entry.uncertain {
                Refusal::Unsure
            } else {
                Refusal::Final
            };
            return ended(entry.reply, error);
        }
        entry.uncertain |= may_be_stored(error.code);
        entry.last_error = Some(error);
        self.hold(order, entry, now, random);
        Refusal::Retried
    }

    fn hold(&mut self, order: u64, entry: Entry<R>, now: Instant, random: f64) {
        let until = now
            + self
                .limits
                .backoff
                .delay(entry.attempts.saturating_sub(1), random);
        let hold = self.held.entry(entry.send.room.clone()).or_insert(until);
        *hold = (*hold).max(until);
        self.careful.insert(entry.send.room.clone());
        self.waiting.insert(order, entry);
    }

    fn land(&mut self, req: u32) -> Option<Flight<R>> {
        let flight = self.flights.remove(&req)?;
        if let Some(count) = self.per_room.get_mut(&flight.entry.send.room) {
            *count -= 1;
            if *count == 0 {
                let room = &flight.entry.send.room;
                self.per_room.remove(room);
                if self.careful.contains(room)
                    && !self.waiting.values().any(|entry| entry.send.room == *room)
                {
                    self.careful.remove(room);
                }
            }
        }
        Some(flight)
    }

    /// The connection is gone: what was in flight is to be written again, in order.
    pub(crate) fn disconnected(&mut self) {
        for (_, mut flight) in self.flights.drain() {
            flight.entry.uncertain = true;
            self.waiting.insert(flight.order, flight.entry);
        }
        self.per_room.clear();
        self.held.clear();
    }

    /// Ends what is out of time, and takes attempts back that nobody answered.
    pub(crate) fn tick(&mut self, now: Instant, random: f64) -> Vec<(R, Unanswered)> {
        self.release(now);
        if self.check_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let mut ended = Vec::new();
        let lost: Vec<u32> = self
            .flights
            .iter()
            .filter(|(_, flight)| flight.lost_at <= now || flight.entry.deadline <= now)
            .map(|(req, _)| *req)
            .collect();
        for req in lost {
            let Some(Flight {
                order, mut entry, ..
            }) = self.land(req)
            else {
                continue;
            };
            entry.uncertain = true;
            self.hold(order, entry, now, random);
        }
        let over: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, entry)| entry.deadline <= now)
            .map(|(order, _)| *order)
            .collect();
        ended.extend(
            over.iter()
                .filter_map(|order| self.waiting.remove(order))
                .map(Entry::end),
        );
        let deadlines = self.waiting.values().map(|entry| entry.deadline);
        self.check_at = deadlines
            .chain(
                self.flights
                    .values()
                    .map(|flight| flight.lost_at.min(flight.entry.deadline)),
            )
            .min();
        ended
    }

    /// When [`Self::tick`] or [`Self::next`] may have something to do.
    pub(crate) fn timer(&self) -> Option<Instant> {
        let released = self
            .held
            .iter()
            .filter(|(room, _)| !self.per_room.contains_key(*room))
            .map(|(_, until)| *until);
        released.chain(self.check_at).min()
    }

    /// Everything ends now.
    pub(crate) fn end(&mut self) -> Vec<(R, Unanswered)> {
        self.disconnected();
        std::mem::take(&mut self.waiting)
            .into_values()
            .map(Entry::end)
            .collect()
    }

    fn check_by(&mut self, at: Instant) {
        self.check_at = Some(self.check_at.map_or(at, |check| check.min(at)));
    }
}

/// Whether a send that was answered with this error may be in the log all the same.
fn may_be_stored(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::Unavailable | ErrorCode::NotReplicated | ErrorCode::Internal
    )
}

#[cfg(test)]
mod tests;
