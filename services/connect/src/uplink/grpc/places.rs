//! Which process a connection's calls are with: the same one as long as one of them is in flight.
//!
//! A connection's place and the queue it names change under one lock, so that calls stand in queues in the order in which
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
pub(super) struct Places {
    parts: [Mutex<HashMap<Box<str>, Place>>; PARTS],
    hasher: RandomState,
}

#[derive(Debug)]
struct Place {
    endpoint: LogicEndpoint,
    calls: u32,
}

/// A call counts at its connection's place until this is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    shared: Arc<Shared>,
    conn: Box<str>,
}

impl Ticket {
    /// Puts a call into the queue of its connection's process.
    pub(super) fn take(shared: &Arc<Shared>, waiting: Waiting) -> Result<Self, Fault> {
        let conn: Box<str> = waiting.call.conn.as_str().into();
        let mut part = shared.places.part(&conn);
        match part.entry(conn.clone()) {
            Entry::Occupied(mut place) => {
                give(&place.get().endpoint, waiting).map_err(Refused::fault)?;
                place.get_mut().calls += 1;
            }
            Entry::Vacant(vacant) => {
                let endpoint = shared.choose(None).ok_or_else(no_logic)?;
                give(&endpoint, waiting).map_err(Refused::fault)?;
                vacant.insert(Place { endpoint, calls: 1 });
            }
        }
        drop(part);
        Ok(Self { shared: Arc::clone(shared), conn })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut part = self.shared.places.part(&self.conn);
        if let Some(place) = part.get_mut(&self.conn) {
            place.calls -= 1;
            if place.calls == 0 {
                part.remove(&self.conn);
            }
        }
    }
}

impl Places {
    fn index(&self, conn: &str) -> usize {
        usize::try_from(self.hasher.hash_one(conn) % PARTS as u64).unwrap_or(0)
    }

    fn part(&self, conn: &str) -> MutexGuard<'_, HashMap<Box<str>, Place>> {
        self.parts[self.index(conn)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.parts.iter().all(|part| part.lock().is_ok_and(|part| part.is_empty()))
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
    part: &mut HashMap<Box<str>, Place>,
    from: u64,
    mut waiting: Waiting,
    choose: impl Fn() -> Option<LogicEndpoint>,
) {
    if waiting.answer.is_closed() {
        return;
    }
    // A connection's place is moved even where this call of it cannot be.
    let place = part.get_mut(waiting.call.conn.as_str());
    let endpoint = match place {
        Some(place) if place.endpoint.link().number == from => {
            choose().inspect(|other| place.endpoint = Arc::clone(other))
        }
        Some(place) => Some(Arc::clone(&place.endpoint)),
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
