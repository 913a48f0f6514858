//! Liveness: loops that must turn. The server's own answer shows that its runtime turns; other threads beat a pulse.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// All pulses of a process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Liveness {
    began: Instant,
    pulses: Arc<Mutex<Vec<Pulse>>>,
}

impl Default for Liveness {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            pulses: Arc::default(),
        }
    }
}

/// One loop's sign of life. Cheap to clone and to beat.
#[derive(Debug, Clone)]
pub struct Pulse {
    name: Arc<str>,
    limit: Duration,
    began: Instant,
    /// Milliseconds since `began` at the last beat.
    last: Arc<AtomicU64>,
}

impl Liveness {
    /// A loop that beats at least once in `limit` while it turns; it counts as just having done so.
    pub fn pulse(&self, name: impl Into<Arc<str>>, limit: Duration) -> Pulse {
        let pulse = Pulse {
            name: name.into(),
            limit,
            began: self.began,
            last: Arc::default(),
        };
        pulse.beat();
        self.pulses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(pulse.clone());
        pulse
    }

    /// The loops that have not beaten within their limit. A pulse of which only this list is left has ended in order.
    pub fn late(&self) -> Vec<String> {
        let mut pulses = self.pulses.lock().unwrap_or_else(PoisonError::into_inner);
        pulses.retain(|pulse| Arc::strong_count(&pulse.last) > 1);
        pulses
            .iter()
            .filter(|pulse| pulse.is_late())
            .map(|pulse| pulse.name.to_string())
            .collect()
    }
}

impl Pulse {
    /// The loop turns.
    pub fn beat(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    fn is_late(&self) -> bool {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last) > self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stops_beating_is_late_and_one_that_ended_is_not() {
        let liveness = Liveness::default();
        let stuck = liveness.pulse("shard 0", Duration::ZERO);
        let fine = liveness.pulse("shard 1", Duration::from_secs(3600));
        let past = stuck.began.elapsed() + Duration::from_millis(2);
        while stuck.began.elapsed() < past {
            std::thread::yield_now();
        }
        assert_eq!(liveness.late(), ["shard 0"]);
        fine.beat();
        drop(stuck);
        assert!(liveness.late().is_empty());
    }
}
