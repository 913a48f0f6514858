//! Going elsewhere at the server's wish: the new connection first, then the end of the old one.

use std::time::Duration;

use tokio::time::Instant;

use super::{Action, Core, Move};
use crate::event::Event;
use crate::rooms::Slot;
use crate::stats::count;

impl Core {
    /// The server of a slot asks to go elsewhere.
    pub(super) fn asked_to_move(
        &mut self,
        slot: Slot,
        after: Duration,
        to: &[String],
        reason: String,
        now: Instant,
    ) {
        if self.active != Some(slot) || self.moving.is_some() {
            // The slot that is being moved to, or a second hint about a move that is under way: should the first come to
            // nothing, the server closes and the client resumes.
            return;
        }
        if let Some(connection) = &self.slots[slot.index()] {
            self.addresses.hint(to, &connection.address);
        }
        self.moving = Some(Move::Planned {
            at: now + after,
            attempts: 0,
        });
        self.events.push_back(Event::Moving { reason, after });
    }

    pub(super) fn move_timer(&self) -> Option<Instant> {
        match self.moving.as_ref()? {
            Move::Planned { at, .. } | Move::Switching { until: at } => Some(*at),
            Move::Underway { .. } => None,
        }
    }

    pub(super) fn tick_move(&mut self, now: Instant) {
        let Some(active) = self.active else { return };
        match self.moving {
            Some(Move::Planned { at, attempts }) if at <= now => {
                let avoid = self.slots[active.index()]
                    .as_ref()
                    .map(|connection| connection.address.clone());
                self.moving = Some(Move::Underway { attempts });
                self.dial(active.other(), avoid.as_ref());
            }
            Some(Move::Switching { until }) if until <= now => self.finish_move(active, now),
            _ => {}
        }
    }

    /// The new connection came to nothing; the old one goes on, and another attempt is made.
    pub(super) fn move_failed(&mut self, reason: &str, now: Instant) {
        count(&self.counters.failed_attempts);
        tracing::debug!(reason, "the move came to nothing yet");
        let attempts = match self.moving {
            Some(Move::Planned { attempts, .. } | Move::Underway { attempts }) => attempts,
            _ => 0,
        };
        let at = now + self.delay(attempts);
        self.moving = Some(Move::Planned {
            at,
            attempts: attempts.saturating_add(1),
        });
    }

    /// The new connection has everything: no more is written to the old one, and once its answers are in, it ends.
    pub(super) fn caught_up(&mut self, slot: Slot, now: Instant) {
        if self.active == Some(slot) || !matches!(self.moving, Some(Move::Underway { .. })) {
            return;
        }
        self.moving = Some(Move::Switching {
            until: now + self.options.move_grace,
        });
        self.settle_move(now);
    }

    /// Ends the move as soon as the old connection owes no answer.
    pub(super) fn settle_move(&mut self, now: Instant) {
        if let (Some(Move::Switching { .. }), Some(old)) = (&self.moving, self.active)
            && self.outbox.in_flight() == 0
            && self.requests.in_flight() == 0
        {
            self.finish_move(old, now);
        }
    }

    fn finish_move(&mut self, old: Slot, now: Instant) {
        self.slots[old.index()] = None;
        self.actions.push_back(Action::Hangup { slot: old });
        self.take_over(old.other(), now);
    }

    /// The other connection becomes the one that is written to.
    pub(super) fn take_over(&mut self, slot: Slot, now: Instant) {
        self.outbox.disconnected();
        self.forget_requests();
        self.active = Some(slot);
        self.moving = None;
        self.addresses.forget_hints();
        count(&self.counters.moves);
        if let Some(connection) = &mut self.slots[slot.index()] {
            let address = connection.address.to_string();
            let node = connection
                .up()
                .map(|up| up.node.clone())
                .unwrap_or_default();
            self.events.push_back(Event::Moved { node, address });
        }
        self.pump(now);
    }
}
