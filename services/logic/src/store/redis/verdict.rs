//! What a position is still worth after the store may have lost the log's tail.

use im_wire::ids::{Epoch, Seq};

use crate::store::{Error, Result};

/// A room's epochs in their order, each with its base: the head at the moment it began.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Transitions(Vec<(Epoch, Seq)>);

impl Transitions {
    /// From the meta hash: "epoch:base,epoch:base".
    pub(super) fn parse(text: &str) -> Result<Self> {
        let one = |pair: &str| {
            let (epoch, base) = pair.split_once(':')?;
            Some((epoch.parse().ok()?, base.parse().ok()?))
        };
        let all: Option<Vec<_>> = text.split(',').filter(|pair| !pair.is_empty()).map(one).collect();
        all.map(Self).ok_or_else(|| Error::Corrupt(format!("epochs {text:?}")))
    }

    /// Whoever stands at (epoch, seq) while the log ends at `head`: `Some(s)` where they must forget all behind `s`.
    pub(super) fn reset(&self, epoch: Epoch, seq: Seq, head: Seq) -> Option<Seq> {
        let later = self.0.iter().filter(|(other, _)| *other > epoch).map(|(_, base)| *base).min();
        let known = self.0.iter().any(|(other, _)| *other == epoch);
        let newest = self.0.last().map(|(_, base)| *base);
        let safe = match (epoch, later) {
            (0, _) => None,
            // An epoch beyond all that the room knows was itself taken back.
            (_, None) if !known => newest,
            (_, later) => later,
        };
        let safe = safe.unwrap_or(head).min(head);
        (seq > safe).then_some(safe)
    }
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
        assert_eq!(transitions().reset(15, 6, 15), Some(5));
        assert_eq!(transitions().reset(1, 3, 15), Some(0));
    }

    #[test]
    fn an_epoch_that_the_store_never_heard_of_was_taken_back() {
        assert_eq!(transitions().reset(50, 9, 15), Some(8));
        assert_eq!(transitions().reset(50, 8, 15), None);
    }

    #[test]
    fn without_an_epoch_only_the_head_counts() {
        assert_eq!(transitions().reset(0, 15, 15), None);
        assert_eq!(transitions().reset(0, 16, 15), Some(15));
        assert_eq!(Transitions::default().reset(7, 3, 0), Some(0));
    }

    #[test]
    fn what_is_not_a_list_of_epochs_is_corrupt() {
        assert_eq!(Transitions::parse(""), Ok(Transitions::default()));
        for bad in ["x", "1", "1:", ":1", "1:2,x"] {
            assert!(matches!(Transitions::parse(bad), Err(Error::Corrupt(_))), "{bad}");
        }
    }
}
