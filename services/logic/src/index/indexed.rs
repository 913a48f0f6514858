//! Which direct rooms this process has put into their members' indexes.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use im_wire::ids::{Epoch, RoomId};

/// So many direct rooms are remembered twice over, 16 bytes each.
const REMEMBERED: usize = 100_000;

/// Direct rooms that this process has indexed, by hash, and the epoch in which it did: two generations, the older forgotten
/// when the younger is full. Forgetting, and the rare two rooms of one hash, cost one needless or one missing repeat of an
/// idempotent write.
#[derive(Default)]
pub(crate) struct Indexed {
    generations: Mutex<[HashMap<u64, Epoch>; 2]>,
}

impl Indexed {
    fn hash(room: &RoomId) -> u64 {
        let mut hasher = DefaultHasher::new();
        room.hash(&mut hasher);
        hasher.finish()
    }

    pub(super) fn epoch(&self, room: &RoomId) -> Option<Epoch> {
        let hash = Self::hash(room);
        let generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        generations
            .iter()
            .find_map(|generation| generation.get(&hash).copied())
    }

    pub(super) fn insert(&self, room: &RoomId, epoch: Epoch) {
        let mut generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if generations[0].len() >= REMEMBERED {
            generations.swap(0, 1);
            generations[0].clear();
        }
        generations[0].insert(Self::hash(room), epoch);
    }

    /// The room has been deleted, and is to be indexed again before something is said there.
    pub(crate) fn forget(&self, room: &RoomId) {
        let hash = Self::hash(room);
        let mut generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for generation in generations.iter_mut() {
            generation.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_indexed_is_remembered_until_two_generations_later() {
        let indexed = Indexed::default();
        let room = |number: usize| RoomId::new(format!("direct:1:a:{number}")).unwrap();
        let has = |number| indexed.epoch(&room(number)).is_some();
        assert!(!has(0));
        indexed.insert(&room(0), 7);
        assert_eq!(indexed.epoch(&room(0)), Some(7));
        indexed.insert(&room(0), 8);
        assert_eq!(indexed.epoch(&room(0)), Some(8), "the newest");
        indexed.forget(&room(0));
        assert!(!has(0));
        indexed.insert(&room(0), 8);
        for number in 1..=REMEMBERED {
            indexed.insert(&room(number), 7);
        }
        assert!(has(0), "in the older generation");
        for number in REMEMBERED..=2 * REMEMBERED {
            indexed.insert(&room(number), 7);
        }
        assert!(!has(0), "forgotten");
        assert!(has(2 * REMEMBERED));
    }
}
