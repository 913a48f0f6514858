//! Which process a connection's calls are with: the same one as long as one of them is in flight.
//!
//! A connection's affinity and the queue it names change under one lock, so that calls stand in queues in the order in which
//! they were made, also while they are moved away from a process that was lost. Nothing is awaited under the lock.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use im_proto::v1::Fault;
use tokio::sync::mpsc;

use super::{LogicEndpoint, Refused, Shared, Waiting, give, lost, metrics, no_logic};

const PARTS: usize = 16;

/// By connection. In parts, so that shards seldom wait for each other.
#[derive(Debug, Default)]
pub(super) struct Affinities {
    parts: [Mutex<HashMap<Box<str>, Affinity>>; PARTS],
    hasher: RandomState,
}

#[derive(Debug)]
struct Affinity {
    endpoint: LogicEndpoint,
    calls: u32,
}

/// A call keeps its connection with one process until this is dropped.
#[derive(Debug)]
pub(super) struct AffinityGuard {
    shared: Arc<Shared>,
    conn: Box<str>,
}

impl AffinityGuard {
    /// Puts a call into the queue of its connection's process.
    pub(super) fn enqueue(shared: &Arc<Shared>, waiting: Waiting) -> Result<Self, Fault> {
        let conn: Box<str> = waiting.call.conn.as_str().into();
        let mut part = shared.affinities.part(&conn);
        match part.entry(conn.clone()) {
            Entry::Occupied(mut affinity) => {
                give(&affinity.get().endpoint, waiting).map_err(Refused::fault)?;
                affinity.get_mut().calls += 1;
            }
            Entry::Vacant(vacant) => {
                let endpoint = shared.choose(None).ok_or_else(no_logic)?;
                give(&endpoint, waiting).map_err(Refused::fault)?;
                vacant.insert(Affinity { endpoint, calls: 1 });
            }
        }
        drop(part);
        Ok(Self {
            shared: Arc::clone(shared),
            conn,
        })
    }
}

impl Drop for AffinityGuard {
    fn drop(&mut self) {
        let mut part = self.shared.affinities.part(&self.conn);
        if let Some(affinity) = part.get_mut(&self.conn) {
            affinity.calls -= 1;
            if affinity.calls == 0 {
                part.remove(&self.conn);
            }
        }
    }
}

impl Affinities {
    fn index(&self, conn: &str) -> usize {
        usize::try_from(self.hasher.hash_one(conn) % PARTS as u64).unwrap_or(0)
    }

    fn part(&self, conn: &str) -> MutexGuard<'_, HashMap<Box<str>, Affinity>> {
        self.parts[self.index(conn)]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.parts
            .iter()
            .all(|part| part.lock().is_ok_and(|part| part.is_empty()))
    }

    /// Gives the calls of the process `from`, and then whatever its queue holds, to others that `choose` names.
    ///
    /// Part by part: under a part's lock no call of its connections can enter a queue, so what the queue holds then is
    /// all there is, and stands behind what was written before.
    pub(super) fn move_on(
        &self,
        from: u64,
        calls: Vec<Waiting>,
        queue: &mut mpsc::Receiver<Waiting>,
        choose: impl Fn() -> Option<LogicEndpoint>,
    ) {
        let mut by_part: [Vec<Waiting>; PARTS] = Default::default();
        for waiting in calls {
            by_part[self.index(&waiting.call.conn)].push(waiting);
        }
        for (number, lock) in self.parts.iter().enumerate() {
            let mut part = lock.lock().unwrap_or_else(PoisonError::into_inner);
            while let Ok(waiting) = queue.try_recv() {
                metrics::QUEUED.dec();
                by_part[self.index(&waiting.call.conn)].push(waiting);
            }
            for waiting in std::mem::take(&mut by_part[number]) {
                move_one(&mut part, from, waiting, &choose);
            }
        }
        // Calls of the node itself enter queues without a lock, in no order.
        for waiting in by_part.into_iter().flatten() {
            move_one(&mut HashMap::new(), from, waiting, &choose);
        }
    }
}

fn move_one(
    part: &mut HashMap<Box<str>, Affinity>,
    from: u64,
    mut waiting: Waiting,
    choose: impl Fn() -> Option<LogicEndpoint>,
) {
    if waiting.answer.is_closed() {
        return;
    }
    // A connection moves to another process even where this call of it cannot.
    let affinity = part.get_mut(waiting.call.conn.as_str());
    let endpoint = match affinity {
        Some(affinity) if affinity.endpoint.link().number == from => {
            choose().inspect(|other| affinity.endpoint = Arc::clone(other))
        }
        Some(affinity) => Some(Arc::clone(&affinity.endpoint)),
        None => choose(),
    };
    if !std::mem::replace(&mut waiting.may_move, false) {
        let _ = waiting.answer.send(Err(lost()));
        return;
    }
    let given = match endpoint {
        Some(endpoint) => give(&endpoint, waiting),
        None => Err(Refused::new(no_logic(), waiting)),
    };
    match given {
        Ok(()) => metrics::MOVED.inc(),
        Err(refused) => refused.answer(),
    }
}
