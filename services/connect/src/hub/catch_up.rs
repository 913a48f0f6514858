//! A member that has not come to its room's head: it asks the log page by page and becomes live where it meets the head.

use tokio::time::Instant;

use super::{Answer, Failure, Item, LogPosition, Tries};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    UnderWay,
    At(Instant),
    /// When the room has moved.
    OnRoom,
}

/// How a member goes on after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It has met the room's head.
    Arrived,
    /// It asks what follows.
    Ask(LogPosition),
    /// It has seen more than the room on this shard: the room catches up first.
    Wait,
    /// One of the two has not seen the newest epoch: the room asks for itself, then the member asks again.
    OtherEpoch,
    /// The log has more and does not give it.
    Stalled,
}

/// Asking again does not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GivenUp;

/// How far one member has come.
#[derive(Debug)]
pub(crate) struct CatchUp {
    position: LogPosition,
    ask: Ask,
    tries: Tries,
}

impl CatchUp {
    pub(super) fn asked(position: LogPosition) -> Self {
        Self {
            position,
            ask: Ask::UnderWay,
            tries: Tries::default(),
        }
    }

    pub(super) fn end_pause(&mut self, now: Instant) {
        if let Ask::At(at) = &mut self.ask {
            *at = now;
            self.tries.forget_passing();
        }
    }

    pub(super) fn ask_again(&mut self, now: Instant) -> Option<LogPosition> {
        matches!(self.ask, Ask::At(at) if at <= now).then(|| {
            self.ask = Ask::UnderWay;
            self.position
        })
    }

    /// The log answered: what the member is told, up to the room's `head`, and how it goes on. `None`: that was not asked.
    pub(super) fn answered(
        &mut self,
        asked: LogPosition,
        answer: &Answer,
        head: LogPosition,
    ) -> Option<(Vec<Item>, Step)> {
        if self.position != asked || self.ask != Ask::UnderWay {
            return None;
        }
        let mut items = Vec::new();
        if answer.head.epoch != head.epoch {
            self.ask = Ask::OnRoom;
            return Some((items, Step::OtherEpoch));
        }
        answer.advance(&mut self.position, head.seq, &mut items);
        let step = if self.position == head {
            Step::Arrived
        } else if self.position.seq > head.seq {
            self.ask = Ask::OnRoom;
            Step::Wait
        } else if self.position == asked {
            Step::Stalled
        } else {
            self.tries = Tries::default();
            Step::Ask(self.position)
        };
        Some((items, step))
    }

    /// The log did not answer: it is asked again at the time that `at` gives. `Err`: it has failed for good.
    pub(super) fn failed(
        &mut self,
        failure: Failure,
        at: impl FnOnce(Tries) -> Instant,
    ) -> Result<(), GivenUp> {
        self.tries.failed(failure);
        if self.tries.is_over() {
            return Err(GivenUp);
        }
        self.ask = Ask::At(at(self.tries));
        Ok(())
    }

    /// The room has moved: where a member that waited for it asks from.
    pub(super) fn room_moved(&mut self) -> Option<LogPosition> {
        (self.ask == Ask::OnRoom).then(|| {
            self.ask = Ask::UnderWay;
            self.position
        })
    }
}
