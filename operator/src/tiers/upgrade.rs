//! The order of an upgrade: redis, etcd, logic, connect, each ready before the next is touched.

use std::collections::BTreeMap;

use crate::api::Tier;

/// In this order.
pub(crate) const ORDER: [Tier; 4] = [Tier::Redis, Tier::Etcd, Tier::Logic, Tier::Connect];

/// A tier, seen for an upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TierState<R> {
    /// What its template runs now; `None` where it is not there yet.
    pub(crate) runs: Option<R>,
    /// What it is to run in the end.
    pub(crate) wanted: R,
    /// Whether every pod of it is ready and of the newest template.
    pub(crate) complete: bool,
}

/// What every tier is to run now, and the tier whose turn it is, if any is being changed.
pub(crate) fn stage<R: Clone + PartialEq>(
    tiers: &BTreeMap<Tier, TierState<R>>,
) -> (BTreeMap<Tier, R>, Option<Tier>) {
    let mut now = BTreeMap::new();
    let mut turn = None;
    let mut before_complete = true;
    for tier in ORDER {
        let Some(state) = tiers.get(&tier) else {
            continue;
        };
        let outdated = state
            .runs
            .as_ref()
            .is_some_and(|runs| *runs != state.wanted);
        let waits = outdated && !before_complete;
        let run = state
            .runs
            .as_ref()
            .filter(|_| waits)
            .unwrap_or(&state.wanted);
        now.insert(tier, run.clone());
        if outdated && turn.is_none() && !waits {
            turn = Some(tier);
        }
        if waits && turn.is_none() {
            // What comes before it is still on its way.
            turn = ORDER
                .into_iter()
                .find(|tier| tiers.get(tier).is_some_and(|state| !state.complete));
        }
        before_complete &= state.complete && !outdated;
    }
    (now, turn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(told: [(Option<u8>, u8, bool); 4]) -> BTreeMap<Tier, TierState<u8>> {
        let state = |(runs, wanted, complete)| TierState {
            runs,
            wanted,
            complete,
        };
        ORDER.into_iter().zip(told.map(state)).collect()
    }

    fn now(told: [(Option<u8>, u8, bool); 4]) -> (Vec<u8>, Option<Tier>) {
        let (now, turn) = stage(&states(told));
        (ORDER.iter().map(|tier| now[tier]).collect(), turn)
    }

    #[test]
    fn a_first_start_begins_everywhere() {
        assert_eq!(
            now([
                (None, 1, false),
                (None, 1, false),
                (None, 1, false),
                (None, 1, false)
            ]),
            (vec![1, 1, 1, 1], None)
        );
    }

    #[test]
    fn one_tier_after_the_other() {
        let (old, new) = ((Some(1), 2, true), (Some(2), 2, true));
        let moving = (Some(2), 2, false);
        assert_eq!(
            now([old, old, old, old]),
            (vec![2, 1, 1, 1], Some(Tier::Redis))
        );
        assert_eq!(
            now([moving, old, old, old]),
            (vec![2, 1, 1, 1], Some(Tier::Redis))
        );
        assert_eq!(
            now([new, old, old, old]),
            (vec![2, 2, 1, 1], Some(Tier::Etcd))
        );
        assert_eq!(
            now([new, moving, old, old]),
            (vec![2, 2, 1, 1], Some(Tier::Etcd))
        );
        assert_eq!(
            now([new, new, old, old]),
            (vec![2, 2, 2, 1], Some(Tier::Logic))
        );
        assert_eq!(
            now([new, new, moving, old]),
            (vec![2, 2, 2, 1], Some(Tier::Logic))
        );
        assert_eq!(
            now([new, new, new, old]),
            (vec![2, 2, 2, 2], Some(Tier::Connect))
        );
        assert_eq!(now([new, new, new, moving]), (vec![2, 2, 2, 2], None));
    }

    #[test]
    fn a_version_that_does_not_come_up_can_be_replaced_where_it_is() {
        // logic never got ready with 2; 3 goes there at once and connect still waits.
        let told = [
            (Some(2), 2, true),
            (Some(2), 2, true),
            (Some(2), 3, false),
            (Some(1), 3, true),
        ];
        assert_eq!(now(told), (vec![2, 2, 3, 1], Some(Tier::Logic)));
    }

    #[test]
    fn what_is_not_run_by_us_is_not_waited_for() {
        let mut states = states([
            (Some(1), 2, false),
            (Some(1), 2, false),
            (Some(1), 2, true),
            (Some(1), 2, true),
        ]);
        states.remove(&Tier::Redis);
        states.remove(&Tier::Etcd);
        let (now, turn) = stage(&states);
        assert_eq!(
            (now[&Tier::Logic], now[&Tier::Connect], turn),
            (2, 1, Some(Tier::Logic))
        );
    }
}
