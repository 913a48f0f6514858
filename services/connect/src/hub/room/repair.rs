//! The repair of a room's order, and its members' ways to its head: what the log is asked, and what its answers mean.

use std::sync::Arc;

use im_wire::ids::{RoomId, Seq};
use im_wire::native::Message;
use tokio::time::Instant;

use super::{Member, Repair, Room};
use crate::hub::catch_up::Step;
use crate::hub::{Answer, Asker, Counts, Effect, Failure, Item, Limits, LogPosition, Tries};

/// How often a room asks for what its pending events promise before it leaves them to the comparison of heads.
const FRUITLESS: u32 = 3;

impl Room {
    /// The bus carries the room: whatever was said between the head we know and now must be asked for.
    pub(in crate::hub) fn subscribed(&mut self, id: &RoomId, effects: &mut Vec<Effect>) {
        if self.repair != Repair::Asked {
            self.ask(id, effects);
        } else {
            // The answer under way may be older than the subscription.
            self.overflowed = true;
        }
    }

    fn ask(&mut self, id: &RoomId, effects: &mut Vec<Effect>) {
        self.repair = Repair::Asked;
        effects.push(Effect::Fetch {
            room: id.clone(),
            asker: Asker::Room,
            after: self.head,
        });
    }

    /// `left`: bytes that may still wait, of this and all other rooms.
    pub(in crate::hub) fn logged(
        &mut self,
        id: &RoomId,
        message: Arc<Message>,
        left: usize,
        limits: &Limits,
        counts: &mut Counts,
        effects: &mut Vec<Effect>,
    ) {
        if message.epoch == self.head.epoch && message.seq == self.head.seq + 1 {
            // Whatever else the room is waiting for: nothing is missing before this one.
            self.hand_out(message);
            if !self.pending.is_empty() {
                self.settle_pending(counts);
            }
            return;
        }
        if message.epoch == self.head.epoch && message.seq <= self.head.seq {
            counts.repeats += 1;
            return;
        }
        if matches!(self.repair, Repair::None | Repair::Suspects { .. }) {
            counts.gaps += 1;
            counts.repairs += 1;
            self.ask(id, effects);
        }
        let bytes = weight(&message);
        if self.pending.len() < limits.pending && bytes <= left {
            self.pending_bytes += bytes;
            self.pending.push(message);
        } else {
            counts.overflows += 1;
            self.overflowed = true;
        }
    }

    fn hand_out(&mut self, message: Arc<Message>) {
        self.head = LogPosition {
            epoch: message.epoch,
            seq: message.seq,
        };
        self.items.push(Item::Message(message));
    }

    /// What the log says follows the head.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call site; a struct would only rename them"
    )]
    pub(in crate::hub) fn repaired(
        &mut self,
        id: &RoomId,
        asked: LogPosition,
        answer: Answer,
        now: Instant,
        limits: &Limits,
        counts: &mut Counts,
        effects: &mut Vec<Effect>,
    ) {
        let continues = asked.epoch == self.head.epoch
            && answer.head.epoch == self.head.epoch
            && asked.seq <= self.head.seq;
        if asked != self.head && !continues {
            // Something else moved the head meanwhile; what follows it is asked anew.
            self.ask(id, effects);
            return;
        }
        let before = self.head;
        self.apply(&answer, counts);
        self.repair = Repair::None;
        let more = self.head.seq < answer.head.seq;
        self.settle_pending(counts);
        if (more && self.head != before) || std::mem::take(&mut self.overflowed) {
            (self.fruitless, self.tries) = (0, Tries::default());
            self.ask(id, effects);
        } else if more {
            // The log says that there is more and does not give it.
            self.failed(id, now, Failure::Lasting, limits, counts);
        } else if self.pending.is_empty() {
            (self.fruitless, self.tries) = (0, Tries::default());
        } else if self.head == before && self.fruitless >= FRUITLESS {
            self.fruitless = 0;
            self.drop_pending();
        } else {
            self.fruitless = if self.head == before {
                self.fruitless + 1
            } else {
                0
            };
            self.repair = Repair::Retry(now + limits.retry * self.fruitless);
        }
        self.wake_members(id, effects);
    }

    /// The room is asked about again after a pause that grows. What fails for good is left out: who hears the room is told
    /// that there is something that cannot be had, and goes on.
    fn failed(
        &mut self,
        id: &RoomId,
        now: Instant,
        failure: Failure,
        limits: &Limits,
        counts: &mut Counts,
    ) {
        self.tries.failed(failure);
        if !self.tries.is_over() {
            self.repair = Repair::Retry(now + limits.pause(id, self.tries));
            return;
        }
        counts.given_up += 1;
        self.tries = Tries::default();
        self.repair = Repair::None;
        let first = self
            .pending
            .iter()
            .filter(|message| message.epoch == self.head.epoch)
            .map(|message| message.seq)
            .min();
        if let Some(first) = first.filter(|first| *first > self.head.seq + 1) {
            self.items.push(Item::Truncated {
                from: self.head.seq + 1,
                to: first - 1,
            });
            self.head.seq = first - 1;
        }
        self.settle_pending(counts);
        // Of another epoch: what stands before them can only be told by the log.
        self.drop_pending();
    }

    fn drop_pending(&mut self) {
        self.pending.clear();
        self.pending_bytes = 0;
    }

    fn apply(&mut self, answer: &Answer, counts: &mut Counts) {
        let was_reset = answer.advance(&mut self.head, Seq::MAX, &mut self.items);
        counts.resets += u64::from(was_reset);
    }

    /// Delivers what has been waiting as far as it continues the head; keeps what still has a gap before it.
    fn settle_pending(&mut self, counts: &mut Counts) {
        let mut pending = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        pending.sort_by_key(|message| (message.epoch, message.seq));
        for message in pending {
            if message.epoch == self.head.epoch && message.seq == self.head.seq + 1 {
                self.hand_out(message);
            } else if message.epoch > self.head.epoch
                || (message.epoch == self.head.epoch && message.seq > self.head.seq)
            {
                self.pending_bytes += weight(&message);
                self.pending.push(message);
            } else {
                counts.repeats += 1;
            }
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one call site; a struct would only rename them"
    )]
    pub(in crate::hub) fn fetch_failed(
        &mut self,
        id: &RoomId,
        asker: Asker,
        failure: Failure,
        now: Instant,
        limits: &Limits,
        counts: &mut Counts,
        effects: &mut Vec<Effect>,
    ) {
        match asker {
            Asker::Room => {
                self.failed(id, now, failure, limits, counts);
                if self.repair == Repair::None {
                    self.wake_members(id, effects);
                }
            }
            Asker::Member(member) => {
                self.member_failed(id, member, failure, now, limits, counts, effects)
            }
        }
    }

    pub(in crate::hub) fn retry(&mut self, id: &RoomId, now: Instant, effects: &mut Vec<Effect>) {
        match self.repair {
            Repair::Retry(at) if at <= now => self.ask(id, effects),
            Repair::Suspects { at, seen } if at <= now => {
                if self.head.epoch == seen.epoch && self.head.seq >= seen.seq {
                    self.repair = Repair::None;
                    self.wake_members(id, effects);
                } else {
                    self.ask(id, effects);
                }
            }
            _ => {}
        }
        for (member, catch_up) in &mut self.behind {
            if let Some(after) = catch_up.ask_again(now) {
                effects.push(Effect::Fetch {
                    room: id.clone(),
                    asker: Asker::Member(*member),
                    after,
                });
            }
        }
    }

    pub(in crate::hub) fn end_pauses(&mut self, now: Instant) {
        if let Repair::Retry(at) = &mut self.repair {
            *at = now;
            self.tries.forget_passing();
        }
        self.behind
            .values_mut()
            .for_each(|catch_up| catch_up.end_pause(now));
    }

    pub(in crate::hub) fn compared(
        &mut self,
        id: &RoomId,
        stood: LogPosition,
        head: LogPosition,
        counts: &mut Counts,
        effects: &mut Vec<Effect>,
    ) {
        // What has moved since is in order; the next comparison sees it. A room that the bus does not carry yet may wait for
        // that for long, and must not wait for what the log has.
        let idle = matches!(self.repair, Repair::None | Repair::AwaitsBus);
        if idle && self.head == stood && self.head != head {
            counts.repairs += 1;
            self.ask(id, effects);
        }
    }

    /// Asks the room's own question at that time, where a member found the log further than the room.
    pub(in crate::hub) fn suspect(&mut self, at: Instant, seen: LogPosition) {
        if self.repair == Repair::None {
            self.repair = Repair::Suspects { at, seen };
        }
    }

    /// The log answered a member. It is told what lies up to the room's head; what lies beyond is the room's to deliver.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call site; a struct would only rename them"
    )]
    pub(in crate::hub) fn caught_up(
        &mut self,
        id: &RoomId,
        member: Member,
        asked: LogPosition,
        answer: Answer,
        now: Instant,
        limits: &Limits,
        counts: &mut Counts,
        effects: &mut Vec<Effect>,
    ) {
        let head = self.head;
        let Some(catch_up) = self.behind.get_mut(&member) else {
            return;
        };
        let Some((items, step)) = catch_up.answered(asked, &answer, head) else {
            return;
        };
        if !items.is_empty() {
            // Before the next page is asked for: whether the client can take one shows after this.
            effects.push(Effect::Tell {
                room: id.clone(),
                member,
                items,
            });
        }
        match step {
            Step::Arrived => {
                self.behind.remove(&member);
                self.make_live(member);
            }
            Step::Wait => {}
            Step::OtherEpoch => return self.suspect(now, answer.head),
            Step::Stalled => {
                self.member_failed(id, member, Failure::Lasting, now, limits, counts, effects)
            }
            Step::Ask(after) => {
                effects.push(Effect::Fetch {
                    room: id.clone(),
                    asker: Asker::Member(member),
                    after,
                });
            }
        }
        if answer.head.seq > head.seq {
            self.suspect(now + limits.retry, answer.head);
        }
    }

    /// The log did not answer a member: it is asked again after a pause that grows, and no more where it fails for good.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call site; a struct would only rename them"
    )]
    fn member_failed(
        &mut self,
        id: &RoomId,
        member: Member,
        failure: Failure,
        now: Instant,
        limits: &Limits,
        counts: &mut Counts,
        effects: &mut Vec<Effect>,
    ) {
        let Some(catch_up) = self.behind.get_mut(&member) else {
            return;
        };
        if catch_up
            .failed(failure, |tries| now + limits.pause(id, tries))
            .is_err()
        {
            counts.given_up += 1;
            effects.push(Effect::GiveUp {
                room: id.clone(),
                member,
            });
        }
    }

    /// After the room has moved: members that waited for it ask again or are there.
    fn wake_members(&mut self, id: &RoomId, effects: &mut Vec<Effect>) {
        for (member, catch_up) in &mut self.behind {
            if let Some(after) = catch_up.room_moved() {
                effects.push(Effect::Fetch {
                    room: id.clone(),
                    asker: Asker::Member(*member),
                    after,
                });
            }
        }
    }
}

/// What an event takes while it waits.
fn weight(message: &Message) -> usize {
    /// Names, numbers and the place among the others.
    const AROUND: usize = 256;
    AROUND + message.body.bytes().len()
}
