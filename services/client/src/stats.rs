//! What a client has been through, counted: for benchmarks, tests and support.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The times away that are remembered; older ones are forgotten.
const OUTAGES_KEPT: usize = 1024;

/// A snapshot of a client's counters, all since it was built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that were authenticated.
    pub connects: u64,
    /// Of these, the ones that followed an outage.
    pub reconnects: u64,
    /// Of these, the ones that took over from an open connection on the server's hint.
    pub moves: u64,
    /// Attempts to connect that failed.
    pub failed_attempts: u64,
    /// Messages delivered that had been missed while away.
    pub resumed: u64,
    /// Messages delivered as they were said.
    pub live: u64,
    /// Messages that arrived again and were dropped.
    pub repeats: u64,
    /// Messages dropped because their connection's node lived in an epoch that is over.
    pub stale: u64,
    /// Jumps in seq seen on a connection: each is a defect of a server, and was repaired by asking again.
    pub gaps: u64,
    /// Times that a room's tail was taken back.
    pub resets: u64,
    /// Sends that were acknowledged.
    pub acked: u64,
    /// Of these, the ones that had been stored by an earlier attempt.
    pub duplicate_acks: u64,
    /// Sends written again.
    pub retries: u64,
    /// Signals dropped because they arrived on the connection that is not in charge during a move.
    pub signals_dropped: u64,
    /// The latest times away, oldest first: from the loss of the connection until everything missed was delivered.
    pub outages: Vec<Duration>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connects: AtomicU64,
    pub(crate) reconnects: AtomicU64,
    pub(crate) moves: AtomicU64,
    pub(crate) failed_attempts: AtomicU64,
    pub(crate) resumed: AtomicU64,
    pub(crate) live: AtomicU64,
    pub(crate) repeats: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) gaps: AtomicU64,
    pub(crate) resets: AtomicU64,
    pub(crate) acked: AtomicU64,
    pub(crate) duplicate_acks: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) signals_dropped: AtomicU64,
    outages: Mutex<VecDeque<Duration>>,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn outage(&self, away: Duration) {
        let mut outages = self.outages.lock().unwrap_or_else(PoisonError::into_inner);
        if outages.len() == OUTAGES_KEPT {
            outages.pop_front();
        }
        outages.push_back(away);
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            connects: read(&self.connects),
            reconnects: read(&self.reconnects),
            moves: read(&self.moves),
            failed_attempts: read(&self.failed_attempts),
            resumed: read(&self.resumed),
            live: read(&self.live),
            repeats: read(&self.repeats),
            stale: read(&self.stale),
            gaps: read(&self.gaps),
            resets: read(&self.resets),
            acked: read(&self.acked),
            duplicate_acks: read(&self.duplicate_acks),
            retries: read(&self.retries),
            signals_dropped: read(&self.signals_dropped),
            outages: self
                .outages
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .copied()
                .collect(),
        }
    }
}
