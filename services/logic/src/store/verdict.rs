//! What a position is still worth after the store may have lost the log's tail: after a failover of redis, after an older
//! copy of its data or of the embedded store's file was put back.

use std::fmt::Write as _;

use im_wire::ids::{Epoch, Seq};

use super::{Error, Result};

/// How many transitions are kept; redis' scripts have the same number.
const MAX_TRANSITIONS: usize = 32;

/// An epoch is the time in milliseconds and, below it, a number that tells apart what begins in the same millisecond.
/// Stays below 2^53 until the year 2109; redis' scripts make theirs in the same way.
const PER_MILLISECOND: u64 = 2048;

/// An epoch that begins now, greater than `last`; of `mark` only the last digits count.
pub(super) fn next_epoch(last: Epoch, now_ms: u64, mark: u64) -> Epoch {
    let moment = now_ms.max(last / PER_MILLISECOND + 1);
    moment
        .saturating_mul(PER_MILLISECOND)
        .saturating_add(mark % PER_MILLISECOND)
}

/// A room's epochs in their order, each with its base: the head at the moment it began.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Transitions(Vec<(Epoch, Seq)>);

impl Transitions {
    /// From what is stored: "epoch:base,epoch:base".
    pub(super) fn parse(text: &str) -> Result<Self> {
        let one = |pair: &str| {
            let (epoch, base) = pair.split_once(':')?;
            Some((epoch.parse().ok()?, base.parse().ok()?))
        };
        let all: Option<Vec<_>> = text
            .split(',')
            .filter(|pair| !pair.is_empty())
            .map(one)
            .collect();
        all.map(Self)
            .ok_or_else(|| Error::Corrupt(format!("epochs {text:?}")))
    }

    /// As [`Transitions::parse`] reads it.
    pub(super) fn text(&self) -> String {
        let mut text = String::with_capacity(self.0.len() * 24);
        for (epoch, base) in &self.0 {
            let comma = if text.is_empty() { "" } else { "," };
            // A string takes everything.
            let _ = write!(text, "{comma}{epoch}:{base}");
        }
        text
    }

    /// Another epoch begins. The oldest falls off a full list and leaves its base with the one after it, where that is
    /// smaller: what it took back stays taken back.
    pub(super) fn begin(&mut self, epoch: Epoch, base: Seq) {
        self.0.push((epoch, base));
        if self.0.len() > MAX_TRANSITIONS {
            let (_, least) = self.0.remove(0);
            if let Some((_, base)) = self.0.first_mut() {
                *base = least.min(*base);
            }
        }
    }

    /// Whoever stands at (epoch, seq) while the log ends at `head`: `Some(s)` where they must forget all behind `s`.
    ///
    /// An epoch greater than the oldest listed one that is not listed has not fallen off the list: it was taken back, and
    /// with it everything since the epoch that it followed. That one is not known; the nearest listed one before it is
    /// the best that can be said, and its base counts.
    pub(super) fn reset(&self, epoch: Epoch, seq: Seq, head: Seq) -> Option<Seq> {
        let known = self.0.iter().any(|(other, _)| *other == epoch);
        let later = self
            .0
            .iter()
            .filter(|(other, _)| *other > epoch)
            .map(|(_, base)| *base)
            .min();
        let before = self
            .0
            .iter()
            .filter(|(other, _)| *other < epoch)
            .max_by_key(|(other, _)| *other);
        let before = before.filter(|_| !known).map(|(_, base)| *base);
        let safe = match epoch {
            0 => None,
            _ => [later, before].into_iter().flatten().min(),
        };
        let safe = safe.unwrap_or(head).min(head);
        (seq > safe).then_some(safe)
    }
}

/// The last epoch of a list as it is stored; `None`: of an empty one.
pub(super) fn last_epoch(text: &str) -> Option<Epoch> {
    text.rsplit(',').next()?.split(':').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transitions() -> Transitions {
        Transitions::parse("10:0,20:5,30:12,40:8").expect("well formed")
    }

    #[test]
    fn in_the_newest_epoch_only_the_head_counts() {
        assert_eq!(transitions().reset(40, 15, 15), None);
        assert_eq!(transitions().reset(40, 16, 15), Some(15));
    }

    #[test]
    fn an_older_epoch_is_good_up_to_the_smallest_base_that_follows() {
        assert_eq!(transitions().reset(30, 8, 15), None);
        assert_eq!(transitions().reset(30, 9, 15), Some(8));
        assert_eq!(transitions().reset(20, 12, 15), Some(8));
        assert_eq!(transitions().reset(10, 5, 15), None);
        assert_eq!(transitions().reset(10, 6, 15), Some(5));
    }

    #[test]
    fn an_epoch_that_fell_off_the_list_is_judged_by_those_after_it() {
        assert_eq!(transitions().reset(1, 3, 15), Some(0));
        let transitions = Transitions::parse("20:5,30:12").expect("well formed");
        assert_eq!(transitions.reset(15, 6, 15), Some(5));
        assert_eq!(transitions.reset(15, 5, 15), None);
    }

    #[test]
    fn an_epoch_that_the_store_never_heard_of_was_taken_back() {
        assert_eq!(transitions().reset(50, 9, 15), Some(8));
        assert_eq!(transitions().reset(50, 8, 15), None);
    }

    #[test]
    fn an_epoch_that_was_taken_back_is_judged_by_what_it_began_on_too() {
        // An old backup, 1500 on top of it, and then a better backup.
        let transitions = Transitions::parse("10:0,2000:140").expect("well formed");
        assert_eq!(transitions.reset(1500, 105, 141), Some(0));
        // A replica that lacked 10 said another one, and was lost; the next one has the first 10.
        let transitions = Transitions::parse("10:0,20:7,2000:10").expect("well formed");
        assert_eq!(transitions.reset(1500, 10, 11), Some(7));
        assert_eq!(transitions.reset(1500, 7, 11), None);
    }

    #[test]
    fn without_an_epoch_only_the_head_counts() {
        assert_eq!(transitions().reset(0, 15, 15), None);
        assert_eq!(transitions().reset(0, 16, 15), Some(15));
        assert_eq!(Transitions::default().reset(7, 3, 0), Some(0));
    }

    #[test]
    fn what_falls_off_the_list_leaves_its_base() {
        let mut transitions = Transitions::parse("10:3").expect("well formed");
        for number in 2..=33 {
            transitions.begin(number * 10, 15);
        }
        assert_eq!(transitions.0.len(), MAX_TRANSITIONS);
        assert_eq!(transitions.reset(5, 10, 20), Some(3));
        assert_eq!(transitions.reset(20, 10, 20), None);
        assert_eq!(
            Transitions::parse(&transitions.text()),
            Ok(transitions.clone())
        );
        assert_eq!(
            (last_epoch(&transitions.text()), last_epoch("")),
            (Some(330), None)
        );
    }

    #[test]
    fn epochs_grow_whatever_the_clock_says_and_differ_by_their_mark() {
        let first = next_epoch(0, 1_700_000_000_000, 7);
        assert!(first < 1 << 53);
        // Greater than those of the releases that took the milliseconds alone.
        assert!(first > 1_900_000_000_000);
        let behind = next_epoch(first, 1_600_000_000_000, 3);
        assert!(behind > first);
        assert_ne!(next_epoch(first, 1_600_000_000_000, 4), behind);
        assert_eq!(next_epoch(0, 5, 2048 + 9), next_epoch(0, 5, 9));
    }

    #[test]
    fn what_is_not_a_list_of_epochs_is_corrupt() {
        assert_eq!(Transitions::parse(""), Ok(Transitions::default()));
        for bad in ["x", "1", "1:", ":1", "1:2,x"] {
            assert!(
                matches!(Transitions::parse(bad), Err(Error::Corrupt(_))),
                "{bad}"
            );
        }
    }
}
