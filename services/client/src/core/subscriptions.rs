//! Which rooms are asked for on which connection, in frames of bounded size, and who waits for the answers.

use std::collections::VecDeque;

use im_wire::ids::RoomId;
use im_wire::native::{ClientOp, Error, Position, SubscribedRoom};
use tokio::time::Instant;

use super::{Asked, Core, SubscribeReply, Waiter};
use crate::answer::RequestError;
use crate::event::Event;
use crate::rooms::{Slot, Standing};

/// About what a position costs beside its room's name, in either encoding.
const POSITION_BYTES: usize = 48;

/// What one frame asks for.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) positions: Vec<Position>,
    pub(super) all: bool,
}

impl Core {
    /// Everything that is not asked for on a slot yet: for the auth, and for the frames that follow it. "All rooms" comes
    /// last, so that the rooms with a position are not begun at their heads.
    pub(super) fn chunks(&mut self, slot: Slot) -> (Chunk, VecDeque<Chunk>) {
        let all_asked = self.slots[slot.index()]
            .as_ref()
            .is_some_and(|connection| connection.all_asked);
        let mut chunks = VecDeque::new();
        let mut chunk = Chunk::default();
        let mut bytes = 0;
        for position in self.rooms.ask(slot) {
            let size = position.room.as_str().len() + POSITION_BYTES;
            if bytes + size > self.options.max_subscribe_bytes && !chunk.positions.is_empty() {
                chunks.push_back(std::mem::take(&mut chunk));
                bytes = 0;
            }
            bytes += size;
            chunk.positions.push(position);
        }
        chunk.all = self.rooms.all() && !all_asked;
        chunks.push_back(chunk);
        let first = chunks.pop_front().unwrap_or_default();
        (first, chunks)
    }

    /// Keeps what did not fit into the auth until the connection stands.
    pub(super) fn postpone(&mut self, slot: Slot, rest: VecDeque<Chunk>) {
        for chunk in rest {
            self.rooms
                .not_asked(slot, chunk.positions.iter().map(|position| &position.room));
        }
    }

    /// Asks for everything that is not asked for yet.
    pub(super) fn subscribe_rest(&mut self, slot: Slot) {
        if !self.is_up(slot) {
            return;
        }
        let (first, rest) = self.chunks(slot);
        for chunk in std::iter::once(first).chain(rest) {
            self.subscribe_chunk(slot, chunk);
        }
    }

    fn subscribe_chunk(&mut self, slot: Slot, Chunk { positions, all }: Chunk) {
        if positions.is_empty() && !all {
            return;
        }
        let asked = Asked::new(&positions, all);
        let req = self.write(
            slot,
            ClientOp::Subscribe {
                rooms: positions,
                all,
            },
        );
        if let Some(connection) = &mut self.slots[slot.index()] {
            connection.all_asked |= all;
            connection.subscribing.insert(req, asked);
        }
    }

    /// Asks for one room again from where it stands. A subscription that stands already would go on as it is.
    pub(super) fn repair(&mut self, slot: Slot, room: &RoomId) {
        if let Some(position) = self.rooms.ask_again(slot, room) {
            self.write(
                slot,
                ClientOp::Unsubscribe {
                    rooms: vec![room.clone()],
                },
            );
            self.subscribe_chunk(
                slot,
                Chunk {
                    positions: vec![position],
                    all: false,
                },
            );
        }
    }

    /// The application wants rooms.
    pub(super) fn subscribe(
        &mut self,
        positions: Vec<Position>,
        all: bool,
        deadline: Instant,
        reply: SubscribeReply,
    ) {
        let rooms = positions
            .iter()
            .map(|position| position.room.clone())
            .collect();
        positions
            .into_iter()
            .for_each(|position| self.rooms.want(position));
        if all {
            self.rooms.want_all();
            self.slots
                .iter_mut()
                .flatten()
                .for_each(|connection| connection.all_asked = false);
        }
        self.waiters.push(Waiter {
            rooms,
            all,
            results: Vec::new(),
            deadline,
            reply,
        });
        self.answer_waiters();
        Slot::BOTH
            .into_iter()
            .for_each(|slot| self.subscribe_rest(slot));
    }

    /// The application no longer wants rooms; the number of the request to the connection in charge, where there is one.
    pub(super) fn unsubscribe(&mut self, rooms: &[RoomId]) -> Option<u32> {
        let mut asked = None;
        for room in rooms {
            self.rooms.unwant(room);
            self.ask_again.remove(room);
            self.events
                .push_back(Event::Unsubscribed { room: room.clone() });
        }
        for slot in Slot::BOTH {
            match &mut self.slots[slot.index()] {
                Some(connection) if !connection.is_up() => {
                    connection.given_up.extend(rooms.iter().cloned())
                }
                Some(connection) => {
                    connection
                        .up()
                        .into_iter()
                        .for_each(|up| up.behind.retain(|room, _| !rooms.contains(room)));
                    let req = self.write(
                        slot,
                        ClientOp::Unsubscribe {
                            rooms: rooms.to_vec(),
                        },
                    );
                    if self.active == Some(slot) {
                        asked = Some(req);
                    }
                }
                None => {}
            }
        }
        asked
    }

    /// An answer to a subscription, or to the auth that carried one.
    pub(super) fn subscribed(
        &mut self,
        slot: Slot,
        req: u32,
        results: Vec<SubscribedRoom>,
        now: Instant,
    ) {
        let Some(connection) = &mut self.slots[slot.index()] else {
            return;
        };
        let asked = connection.subscribing.remove(&req).unwrap_or_default();
        let late = self.all_known;
        for result in &results {
            match result {
                SubscribedRoom::Ok { room, .. } => {
                    self.heard_room(slot, late, result, asked.positions.get(room))
                }
                SubscribedRoom::Refused { room, error } => {
                    self.refused_room(room, error.clone(), now)
                }
            }
        }
        self.all_known |= asked.all;
        if asked.all {
            // Their end was not told, as nobody knew that the client would come back.
            let ended = self.rooms.missing().into_iter();
            self.events.extend(ended.map(|room| Event::RoomChanged {
                room,
                subscribed: false,
                reason: "left".to_owned(),
            }));
        }
        self.tell_waiters(&results, asked.all);
        self.check_resumed(slot, now);
    }

    fn heard_room(
        &mut self,
        slot: Slot,
        late: bool,
        result: &SubscribedRoom,
        asked: Option<&Position>,
    ) {
        let SubscribedRoom::Ok {
            room,
            kind,
            epoch,
            head,
            read,
            joined,
        } = result
        else {
            return;
        };
        let epoch = *epoch;
        let head = *head;
        let read = *read;
        let joined = *joined;
        let heard = self.rooms.subscribed(
            slot,
            late,
            room,
            Standing {
                epoch,
                head,
                joined,
            },
            asked,
        );
        if heard.unwanted {
            self.write(
                slot,
                ClientOp::Unsubscribe {
                    rooms: vec![room.clone()],
                },
            );
            return;
        }
        self.ask_again.remove(room);
        // Beyond the head, with no other connection that could have gone on: a reset follows.
        let beyond = heard.after > head && self.alone(slot);
        if (heard.after < head || beyond)
            && let Some(up) = self.up(slot)
        {
            up.behind.insert(room.clone(), (epoch, head));
        }
        let room_id = room.clone();
        let kind = kind.clone();
        self.events.push_back(Event::Subscribed {
            room: room_id,
            kind,
            epoch,
            head,
            read,
            joined,
            after: heard.after,
        });
        if heard.fetch {
            self.repair(slot, room);
        }
    }

    fn refused_room(&mut self, room: &RoomId, error: Error, now: Instant) {
        if error.retryable {
            self.ask_later(room.clone(), now);
        } else {
            self.rooms.leave(room);
        }
        self.events.push_back(Event::Refused {
            room: room.clone(),
            error,
        });
    }

    fn ask_later(&mut self, room: RoomId, now: Instant) {
        self.ask_again.insert(room);
        self.ask_soon(now);
    }

    fn ask_soon(&mut self, now: Instant) {
        if self.ask_again_at.is_none() {
            let wait = self.delay(self.ask_again_attempts);
            self.ask_again_attempts = self.ask_again_attempts.saturating_add(1);
            self.ask_again_at = Some(now + wait);
        }
    }

    /// A subscription was answered with an error as a whole.
    pub(super) fn subscribe_refused(
        &mut self,
        slot: Slot,
        asked: Asked,
        error: &Error,
        now: Instant,
    ) {
        if asked.all
            && let Some(connection) = &mut self.slots[slot.index()]
        {
            connection.all_asked = !error.retryable;
        }
        if asked.all && error.retryable {
            self.ask_soon(now);
        }
        let refuse = |room: RoomId| SubscribedRoom::Refused {
            room,
            error: error.clone(),
        };
        let results: Vec<_> = asked.positions.into_keys().map(refuse).collect();
        for result in &results {
            if let SubscribedRoom::Refused { room, error } = result {
                self.refused_room(room, error.clone(), now);
            }
        }
        if asked.all {
            let (failed, others) = std::mem::take(&mut self.waiters)
                .into_iter()
                .partition(|waiter: &Waiter| waiter.all);
            self.waiters = others;
            let fail =
                |waiter: Waiter| drop(waiter.reply.send(Err(RequestError::Refused(error.clone()))));
            Vec::into_iter(failed).for_each(fail);
        }
        self.tell_waiters(&results, false);
        self.check_resumed(slot, now);
    }

    fn tell_waiters(&mut self, results: &[SubscribedRoom], all: bool) {
        for waiter in &mut self.waiters {
            for result in results {
                let (SubscribedRoom::Ok { room, .. } | SubscribedRoom::Refused { room, .. }) =
                    result;
                if waiter.rooms.remove(room) || (waiter.all && all) {
                    waiter.results.push(result.clone());
                }
            }
            waiter.all &= !all;
        }
        self.answer_waiters();
    }

    fn answer_waiters(&mut self) {
        let done = |waiter: &Waiter| waiter.rooms.is_empty() && !waiter.all;
        let (answered, others) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(done);
        self.waiters = others;
        let answer = |waiter: Waiter| drop(waiter.reply.send(Ok(waiter.results)));
        Vec::into_iter(answered).for_each(answer);
    }

    pub(super) fn tick_subscriptions(&mut self, now: Instant) {
        if self.waiters.iter().any(|waiter| waiter.deadline <= now) {
            let (late, others) = std::mem::take(&mut self.waiters)
                .into_iter()
                .partition(|waiter: &Waiter| waiter.deadline <= now);
            self.waiters = others;
            let answer = |waiter: Waiter| drop(waiter.reply.send(Err(RequestError::TimedOut)));
            Vec::into_iter(late).for_each(answer);
        }
        if self.ask_again_at.is_none_or(|at| at > now) {
            return;
        }
        self.ask_again_at = None;
        let rooms: Vec<_> = self.ask_again.drain().collect();
        for slot in Slot::BOTH {
            self.rooms.not_asked(slot, rooms.iter());
            self.subscribe_rest(slot);
        }
    }

    /// Whether a slot has everything that was missed: nothing asked is unanswered, no room is behind.
    pub(super) fn check_resumed(&mut self, slot: Slot, now: Instant) {
        let Some(connection) = &mut self.slots[slot.index()] else {
            return;
        };
        if !connection.subscribing.is_empty() {
            return;
        }
        let Some(up) = connection.up() else { return };
        if up.resumed || !up.behind.is_empty() {
            return;
        }
        up.resumed = true;
        self.ask_again_attempts = 0;
        if self.active == Some(slot) {
            let away = self.lost_at.take().map(|at| now.duration_since(at));
            away.into_iter().for_each(|away| self.counters.outage(away));
            self.events.push_back(Event::Resumed { away });
        } else {
            self.caught_up(slot, now);
        }
    }
}
