//! How many of something each of many may hold at the same time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// What is held, by who holds it. Only who holds something is remembered.
#[derive(Debug)]
pub struct Shares<K> {
    most: usize,
    held: Mutex<HashMap<K, usize>>,
}

/// One held, given back when dropped.
#[derive(Debug)]
pub struct Share<K: Eq + Hash> {
    of: Arc<Shares<K>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// Everybody may hold so many.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            held: Mutex::default(),
        })
    }

    /// One more; `None` for whoever holds as many as may be.
    pub fn take(self: &Arc<Self>, key: K) -> Option<Share<K>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.get(&key).copied().unwrap_or_default();
        if own >= self.most {
            return None;
        }
        held.insert(key.clone(), own + 1);
        Some(Share {
            of: Arc::clone(self),
            key,
        })
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = self.of.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(own) = held.get_mut(&self.key) else {
            return;
        };
        *own -= 1;
        if *own == 0 {
            held.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_their_own_and_gives_it_back() {
        let shares = Shares::new(2);
        let first = shares.take("ann").unwrap();
        let _second = shares.take("ann").unwrap();
        assert!(shares.take("ann").is_none());
        let bob = shares.take("bob");
        assert!(bob.is_some());
        drop(first);
        assert!(shares.take("ann").is_some());
        drop(bob);
        assert_eq!(
            shares.held.lock().unwrap().len(),
            1,
            "nobody is remembered for nothing"
        );
    }
}
