//! Readiness: named conditions that must all hold before traffic may come.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// All conditions of a process. Without any it is ready. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    latches: Arc<Mutex<Vec<Latch>>>,
}

/// One condition. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Latch {
    name: &'static str,
    holds: Arc<AtomicBool>,
}

impl Readiness {
    /// A further condition, which does not hold yet. Its name completes "not ready: …".
    pub fn latch(&self, name: &'static str) -> Latch {
        let latch = Latch {
            name,
            holds: Arc::new(AtomicBool::new(false)),
        };
        self.latches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(latch.clone());
        latch
    }

    /// The names of the conditions that do not hold.
    pub fn missing(&self) -> Vec<&'static str> {
        let latches = self.latches.lock().unwrap_or_else(PoisonError::into_inner);
        latches
            .iter()
            .filter(|latch| !latch.holds())
            .map(|latch| latch.name)
            .collect()
    }
}

impl Latch {
    /// It holds.
    pub fn set(&self) {
        if !self.holds.swap(true, Ordering::Relaxed) {
            tracing::info!("ready: {}", self.name);
        }
    }

    /// It does not hold (any more).
    pub fn clear(&self) {
        if self.holds.swap(false, Ordering::Relaxed) {
            tracing::info!("not ready: {}", self.name);
        }
    }

    /// Whether it holds.
    pub fn holds(&self) -> bool {
        self.holds.load(Ordering::Relaxed)
    }
}
