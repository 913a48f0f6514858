//! What the clients of one worker saw in one phase: how many, how late, and what was wrong with the order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::histogram::{Histogram, Recorder};
use crate::plan::{Due, Phase};

/// How many numbers behind the latest a late message is still told from a repeated one.
const WINDOW: u32 = 64;

/// What one client has had from one sender.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Track {
    most: u32,
    /// Bit n: `most - n` was had.
    had: u64,
}

/// How a message fits into what was had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// The next, or one further ahead: what lies between may come yet.
    Ahead,
    /// Behind one that came later.
    Late,
    /// Had before.
    Repeated,
}

impl Track {
    pub(crate) fn take(&mut self, number: u32) -> Fit {
        if number > self.most {
            let step = number - self.most;
            self.had = if step >= WINDOW {
                1
            } else {
                self.had << step | 1
            };
            self.most = number;
            return Fit::Ahead;
        }
        let behind = self.most - number;
        if behind >= WINDOW || self.had & 1 << behind != 0 {
            return Fit::Repeated;
        }
        self.had |= 1 << behind;
        Fit::Late
    }
}

/// One second of the measured time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Second {
    pub(crate) deliveries: u64,
    pub(crate) worst_ms: f64,
}

/// One worker's figures of a phase, or the sum of several.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    /// Acknowledged while it was measured.
    pub(crate) acked_within: u64,
    pub(crate) refused: BTreeMap<String, u64>,
    /// Of the messages that were acknowledged, per room.
    pub(crate) acked_of_room: Vec<u64>,
    /// Different ones that arrived, over all of the room's clients.
    pub(crate) received_of_room: Vec<u64>,
    pub(crate) received: u64,
    /// Arrived while it was measured.
    pub(crate) received_within: u64,
    pub(crate) repeated: u64,
    pub(crate) reordered: u64,
    /// Jumps in the log's numbering, where the dialect shows it.
    pub(crate) gaps: u64,
    /// Messages that came to a client of another room, or that nobody sent.
    pub(crate) strays: u64,
    pub(crate) body_bytes: u64,
    pub(crate) wire_bytes_within: u64,
    /// From when a message was due until it was there; of those due while it was measured.
    pub(crate) latency: Histogram,
    /// From when it was due until it was acknowledged.
    pub(crate) acks: Histogram,
    /// From when it was due until the client sent it: the client's own fault.
    pub(crate) own_delay: Histogram,
    pub(crate) closed: BTreeMap<String, u64>,
    pub(crate) seconds: Vec<Second>,
}

impl Figures {
    pub(crate) fn add(&mut self, other: &Self) {
        let Self {
            sent,
            acked,
            acked_within,
            received,
            received_within,
            repeated,
            reordered,
            gaps,
            ..
        } = other;
        self.sent += sent;
        self.acked += acked;
        self.acked_within += acked_within;
        self.received += received;
        self.received_within += received_within;
        self.repeated += repeated;
        self.reordered += reordered;
        self.gaps += gaps;
        self.strays += other.strays;
        self.body_bytes += other.body_bytes;
        self.wire_bytes_within += other.wire_bytes_within;
        for (of, by) in [
            (&mut self.refused, &other.refused),
            (&mut self.closed, &other.closed),
        ] {
            by.iter()
                .for_each(|(why, count)| *of.entry(why.clone()).or_default() += count);
        }
        add_each(&mut self.acked_of_room, &other.acked_of_room);
        add_each(&mut self.received_of_room, &other.received_of_room);
        self.latency.add(&other.latency);
        self.acks.add(&other.acks);
        self.own_delay.add(&other.own_delay);
        self.seconds
            .resize_with(self.seconds.len().max(other.seconds.len()), Second::default);
        for (sum, one) in self.seconds.iter_mut().zip(&other.seconds) {
            sum.deliveries += one.deliveries;
            sum.worst_ms = sum.worst_ms.max(one.worst_ms);
        }
    }

    /// Deliveries that should have been and were not: of what was acknowledged, to each of the room's clients.
    pub(crate) fn lost(&self, members: u64) -> u64 {
        let rooms = self.acked_of_room.iter().zip(&self.received_of_room);
        rooms
            .map(|(acked, received)| (acked * members).saturating_sub(*received))
            .sum()
    }
}

fn add_each(sums: &mut Vec<u64>, others: &[u64]) {
    sums.resize(sums.len().max(others.len()), 0);
    sums.iter_mut()
        .zip(others)
        .for_each(|(sum, other)| *sum += other);
}

/// Counts while a phase runs.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) phase: Phase,
    pub(crate) figures: Figures,
    latency: Recorder,
    acks: Recorder,
    own_delay: Recorder,
}

impl Tally {
    pub(crate) fn new(phase: Phase, rooms: usize) -> Self {
        let seconds = (phase.to - phase.from).div_ceil(1_000_000_000) as usize;
        let figures = Figures {
            acked_of_room: vec![0; rooms],
            received_of_room: vec![0; rooms],
            seconds: vec![Second::default(); seconds],
            ..Figures::default()
        };
        let latency = Recorder::default();
        let acks = Recorder::default();
        let own_delay = Recorder::default();
        Self {
            phase,
            figures,
            latency,
            acks,
            own_delay,
        }
    }

    fn measures(&self, at: u64) -> bool {
        (self.phase.from..self.phase.to).contains(&at)
    }

    pub(crate) fn sent(&mut self, due: u64, now: u64) {
        self.figures.sent += 1;
        if self.measures(due) {
            self.own_delay.record(now.saturating_sub(due));
        }
    }

    pub(crate) fn acked(&mut self, room: usize, due: u64, now: u64) {
        self.figures.acked += 1;
        self.figures.acked_of_room[room] += 1;
        self.figures.acked_within += u64::from(self.measures(now));
        if self.measures(due) {
            self.acks.record(now.saturating_sub(due));
        }
    }

    pub(crate) fn refused(&mut self, why: String) {
        *self.figures.refused.entry(why).or_default() += 1;
    }

    pub(crate) fn closed(&mut self, why: &str) {
        *self.figures.closed.entry(why.to_owned()).or_default() += 1;
    }

    pub(crate) fn read(&mut self, bytes: usize, now: u64) {
        if self.measures(now) {
            self.figures.wire_bytes_within += bytes as u64;
        }
    }

    /// A message arrived at a client of its room.
    pub(crate) fn received(&mut self, due: Due, body: usize, track: &mut Track, now: u64) {
        let Due {
            at, room, number, ..
        } = due;
        let figures = &mut self.figures;
        figures.received += 1;
        figures.body_bytes += body as u64;
        match track.take(number) {
            Fit::Ahead => figures.received_of_room[room] += 1,
            Fit::Late => {
                figures.received_of_room[room] += 1;
                figures.reordered += 1;
            }
            Fit::Repeated => figures.repeated += 1,
        }
        let late = now.saturating_sub(at);
        if (self.phase.from..self.phase.to).contains(&at) {
            self.latency.record(late);
        }
        if let Some(second) = now
            .checked_sub(self.phase.from)
            .map(|since| (since / 1_000_000_000) as usize)
            && now < self.phase.to
            && let Some(second) = figures.seconds.get_mut(second)
        {
            figures.received_within += 1;
            second.deliveries += 1;
            second.worst_ms = second.worst_ms.max(late as f64 / 1e6);
        }
    }

    pub(crate) fn finish(self) -> Figures {
        Figures {
            latency: self.latency.histogram(),
            acks: self.acks.histogram(),
            own_delay: self.own_delay.histogram(),
            ..self.figures
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_late_and_repeated_are_told_apart() {
        let mut track = Track::default();
        let fits: Vec<Fit> = [1, 2, 4, 3, 3, 4, 5, 100, 99, 5]
            .into_iter()
            .map(|number| track.take(number))
            .collect();
        use Fit::{Ahead, Late, Repeated};
        assert_eq!(
            fits,
            [
                Ahead, Ahead, Ahead, Late, Repeated, Repeated, Ahead, Ahead, Late, Repeated
            ]
        );
    }

    #[test]
    fn what_was_acknowledged_and_did_not_arrive_is_lost() {
        let phase = Phase {
            number: 1,
            rate: 1.0,
            begin: 0,
            from: 0,
            to: 3_000_000_000,
            senders: 1,
        };
        let mut tally = Tally::new(phase, 2);
        let mut tracks = [Track::default(); 3];
        let due = |number| Due {
            message: 0,
            at: 0,
            room: 0,
            sender: 0,
            number,
        };
        for number in 1..=2 {
            tally.acked(0, 0, 1);
            tally.received(due(number), 100, &mut tracks[0], 5);
            tally.received(due(number), 100, &mut tracks[1], 2_000_000_000);
        }
        tally.received(due(1), 100, &mut tracks[2], 5);
        tally.received(due(1), 100, &mut tracks[2], 5);
        let figures = tally.finish();
        assert_eq!(
            (
                figures.lost(3),
                figures.repeated,
                figures.received,
                figures.body_bytes
            ),
            (1, 1, 6, 600)
        );
        assert_eq!(
            (figures.seconds[0].deliveries, figures.seconds[2].deliveries),
            (4, 2)
        );
        assert_eq!(figures.seconds[2].worst_ms, 2_000.0);
    }
}
