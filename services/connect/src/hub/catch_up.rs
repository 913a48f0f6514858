//! A member that has not come to its room's head: it asks the log page by page and becomes live where it meets the head.

use std::sync::Arc;
use std::time::Instant;

use im_wire::ids::RoomId;

use super::room::{Member, Room};
use super::{Answer, Asker, Counts, Effect, Failure, Item, Limits, Place, Tries};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    UnderWay,
    At(Instant),
    /// When the room has moved.
    OnRoom,
}

/// How far one member has come.
#[derive(Debug)]
pub(crate) struct CatchUp {
    place: Place,
    ask: Ask,
    tries: Tries,
}

impl CatchUp {
    pub(super) fn asked(place: Place) -> Self {
        Self { place, ask: Ask::UnderWay, tries: Tries::default() }
    }

    pub(super) fn end_pause(&mut self, now: Instant) {
        if let Ask::At(at) = &mut self.ask {
            *at = now;
            self.tries.forget_passing();
        }
    }

    pub(super) fn ask_again(&mut self, now: Instant) -> Option<Place> {
        matches!(self.ask, Ask::At(at) if at <= now).then(|| {
            self.ask = Ask::UnderWay;
            self.place
        })
    }
}

impl Room {
    /// The log answered a member. It is told what lies up to the room's head; what lies beyond is the room's to deliver.
    #[allow(clippy::too_many_arguments, reason = "one call site; a struct would only rename them")]
    pub(super) fn caught_up(
        &mut self,
        id: &RoomId,
        member: Member,
        asked: Place,
        answer: Answer,
        now: Instant,
        limits: &Limits,
        counts: &mut Counts,
        effects: &mut Vec<Effect>,
    ) {
        let head = self.head();
        let Some(catch_up) = self.behind().get_mut(&member) else { return };
        if catch_up.place != asked || catch_up.ask != Ask::UnderWay {
            return;
        }
        if answer.head.epoch != head.epoch {
            // One of the two has not seen the newest epoch: the room asks for itself, then the member asks again.
            catch_up.ask = Ask::OnRoom;
            self.suspect(now, answer.head);
            return;
        }
        let mut items = Vec::new();
        let place = &mut catch_up.place;
        if let Some(stands) = answer.reset_to
            && stands < place.seq
        {
            place.seq = stands;
            items.push(Item::Reset(Place { epoch: answer.head.epoch, seq: stands }));
        }
        place.epoch = answer.head.epoch;
        if let Some((from, to)) = answer.truncated
            && to > place.seq
        {
            place.seq = to;
            items.push(Item::Truncated { from, to });
        }
        for message in &answer.entries {
            if message.seq == place.seq + 1 && message.seq <= head.seq {
                place.seq = message.seq;
                items.push(Item::Message(Arc::clone(message)));
            }
        }
        let (reached, stalled) = (*place, *place == asked);
        if !items.is_empty() {
            // Before the next page is asked for: whether the client can take one shows after this.
            effects.push(Effect::Tell { room: id.clone(), member, items });
        }
        if reached == head {
            self.behind().remove(&member);
            self.make_live(member);
        } else if reached.seq > head.seq {
            // The member has seen more than the room on this shard: the room catches up first.
            catch_up.ask = Ask::OnRoom;
        } else {
            if stalled {
                // The log has more and does not give it.
                self.member_failed(id, member, Failure::Lasting, now, limits, counts, effects);
            } else {
                (catch_up.ask, catch_up.tries) = (Ask::UnderWay, Tries::default());
                effects.push(Effect::Fetch { room: id.clone(), asker: Asker::Member(member), after: reached });
            }
        }
        if answer.head.seq > head.seq {
            self.suspect(now + limits.retry, answer.head);
        }
    }

    /// The log did not answer a member: it is asked again after a pause that grows, and no more where it fails for good.
    #[allow(clippy::too_many_arguments, reason = "one call site; a struct would only rename them")]
    pub(super) fn member_failed(
        &mut self,
        id: &RoomId,
        member: Member,
        failure: Failure,
        now: Instant,
        limits: &Limits,
        counts: &mut Counts,
        effects: &mut Vec<Effect>,
    ) {
        let Some(catch_up) = self.behind().get_mut(&member) else { return };
        catch_up.tries.failed(failure);
        if catch_up.tries.is_over() {
            counts.given_up += 1;
            effects.push(Effect::GiveUp { room: id.clone(), member });
        } else {
            catch_up.ask = Ask::At(now + limits.pause(id, catch_up.tries));
        }
    }

    /// After the room has moved: members that waited for it ask again or are there.
    pub(super) fn wake_members(&mut self, id: &RoomId, effects: &mut Vec<Effect>) {
        for (member, catch_up) in self.behind() {
            if catch_up.ask == Ask::OnRoom {
                catch_up.ask = Ask::UnderWay;
                effects.push(Effect::Fetch { room: id.clone(), asker: Asker::Member(*member), after: catch_up.place });
            }
        }
    }
}
