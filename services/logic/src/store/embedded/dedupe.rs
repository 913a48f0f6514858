//! Which client ids are remembered. They are kept by generation: each takes what is stored during one window, and is
//! removed as a whole, a piece with each transaction, when all in it is older than a window. A retry is thus recognised
//! for one window at least and two at most, at the price of one row per message.

use redb::{ReadableTable, Table};

use super::DbResult;
use super::tables::DedupeKey;

/// (generation, room, sender, client id) → seq, time and id of the entry.
pub(super) type DedupeTable<'t> = Table<'t, DedupeKey<'static>, (u64, u64, &'static str)>;

/// The generations that may hold something, oldest first; each is named by the unix milliseconds of its beginning.
#[derive(Debug, Clone)]
pub(super) struct Generations {
    window: u64,
    begun: Vec<u64>,
}

impl Generations {
    /// Those that stand in the table.
    pub(super) fn read(
        table: &impl ReadableTable<DedupeKey<'static>, (u64, u64, &'static str)>,
        window: u64,
    ) -> DbResult<Self> {
        let mut begun = Vec::new();
        let mut from = 0;
        while let Some(row) = table.range((from, "", "", "")..)?.next() {
            let generation = row?.0.value().0;
            begun.push(generation);
            let Some(next) = generation.checked_add(1) else {
                break;
            };
            from = next;
        }
        Ok(Self {
            window: window.max(1),
            begun,
        })
    }

    /// The one that takes what is stored now. A clock that was set back makes the newest last longer.
    pub(super) fn current(&mut self, now_ms: u64) -> u64 {
        match self.begun.last() {
            Some(newest) if now_ms < newest.saturating_add(self.window) => *newest,
            _ => {
                self.begun.push(now_ms);
                now_ms
            }
        }
    }

    /// Those in which a client id may still count, newest first.
    pub(super) fn living(&self, now_ms: u64) -> Vec<u64> {
        let dead = self
            .begun
            .windows(2)
            .filter(|pair| self.is_over(pair[1], now_ms))
            .count();
        self.begun[dead..].iter().rev().copied().collect()
    }

    /// Those that have rows, or may have.
    pub(super) fn all(&self) -> Vec<u64> {
        self.begun.clone()
    }

    /// The oldest, where all in it may be forgotten.
    pub(super) fn dead(&self, now_ms: u64) -> Option<u64> {
        let [oldest, next, ..] = self.begun.as_slice() else {
            return None;
        };
        self.is_over(*next, now_ms).then_some(*oldest)
    }

    /// The oldest is empty.
    pub(super) fn forget_oldest(&mut self) {
        self.begun.remove(0);
    }

    /// What was stored before `next` began is older than a window.
    fn is_over(&self, next: u64, now_ms: u64) -> bool {
        next.saturating_add(self.window) <= now_ms
    }
}

/// Removes up to `most` rows of a generation. Returns whether nothing is left of it.
pub(super) fn sweep(dedupe: &mut DedupeTable<'_>, generation: u64, most: usize) -> DbResult<bool> {
    let range = (generation, "", "", "")..(generation.saturating_add(1), "", "", "");
    let mut removed = 0;
    for row in dedupe.extract_from_if(range, |_, _| true)?.take(most) {
        row?;
        removed += 1;
    }
    Ok(removed < most)
}

#[cfg(test)]
mod tests {
    use super::Generations;

    #[test]
    fn what_was_stored_counts_for_a_window_at_least_and_two_at_most() {
        let mut generations = Generations {
            window: 100,
            begun: Vec::new(),
        };
        assert_eq!(generations.current(1_000), 1_000);
        assert_eq!(generations.current(1_099), 1_000);
        assert_eq!(generations.current(1_100), 1_100);
        // Stored at 1,099: counts until 1,199 at least.
        assert_eq!(generations.living(1_199), [1_100, 1_000]);
        assert_eq!(generations.dead(1_199), None);
        assert_eq!(generations.living(1_200), [1_100]);
        assert_eq!(generations.dead(1_200), Some(1_000));
        generations.forget_oldest();
        assert_eq!(generations.dead(1_300), None);
    }

    #[test]
    fn a_clock_that_was_set_back_forgets_nothing() {
        let mut generations = Generations {
            window: 100,
            begun: vec![5_000],
        };
        assert_eq!(generations.current(1_000), 5_000);
        assert_eq!(generations.living(1_000), [5_000]);
    }
}
