//! Which ImClusters are due, and when: each once at a time, a burst of causes once.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::kubernetes::key::Key;

/// Causes that come within this are one.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// ImClusters that are due. Holds one entry per ImCluster at most, however many causes there are.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    due: HashMap<Key, Instant>,
    running: HashSet<Key>,
}

impl Queue {
    /// Something about it has changed: it is due shortly.
    pub(crate) fn wake(&self, key: Key) {
        self.at(key, Instant::now() + DEBOUNCE);
    }

    /// The next ImCluster that is due. Call [`Queue::done`] once it is reconciled.
    pub(crate) async fn next(&self) -> Key {
        loop {
            let changed = self.changed.notified();
            let wait = {
                let mut state = self.state();
                let free = state
                    .due
                    .iter()
                    .filter(|(key, _)| !state.running.contains(*key));
                let first = free
                    .min_by_key(|(_, at)| **at)
                    .map(|(key, at)| (key.clone(), *at));
                match first {
                    Some((key, at)) if at <= Instant::now() => {
                        state.due.remove(&key);
                        state.running.insert(key.clone());
                        return key;
                    }
                    first => first.map(|(_, at)| at),
                }
            };
            match wait {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, changed).await;
                }
                None => changed.await,
            }
        }
    }

    /// A reconciliation is over; the next is due after `again`, unless something wakes it before. `None`: only if something does.
    pub(crate) fn done(&self, key: Key, again: Option<Duration>) {
        self.state().running.remove(&key);
        match again {
            Some(again) => self.at(key, Instant::now() + again),
            None => self.changed.notify_one(),
        }
    }

    fn at(&self, key: Key, at: Instant) {
        let mut state = self.state();
        let due = state.due.entry(key).or_insert(at);
        *due = at.min(*due);
        drop(state);
        self.changed.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    fn key(name: &str) -> Key {
        Key::new("chat", name)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_one_reconciliation() {
        let queue = Queue::default();
        (0..100).for_each(|_| queue.wake(key("a")));
        assert_eq!(queue.next().await, key("a"));
        queue.done(key("a"), None);
        assert!(timeout(60 * SECOND, queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_during_a_reconciliation_is_due_after_it_and_others_meanwhile() {
        let queue = Queue::default();
        queue.wake(key("a"));
        assert_eq!(queue.next().await, key("a"));
        queue.wake(key("a"));
        queue.wake(key("b"));
        assert_eq!(queue.next().await, key("b"));
        assert!(timeout(60 * SECOND, queue.next()).await.is_err());
        queue.done(key("a"), Some(600 * SECOND));
        assert_eq!(timeout(SECOND, queue.next()).await, Ok(key("a")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_reconciliation_is_brought_forward_by_a_cause_and_not_put_off() {
        let queue = Queue::default();
        queue.done(key("a"), Some(60 * SECOND));
        assert!(timeout(59 * SECOND, queue.next()).await.is_err());
        assert_eq!(timeout(2 * SECOND, queue.next()).await, Ok(key("a")));
        queue.done(key("a"), Some(60 * SECOND));
        queue.done(key("a"), Some(600 * SECOND));
        queue.wake(key("a"));
        assert_eq!(timeout(SECOND, queue.next()).await, Ok(key("a")));
    }
}
