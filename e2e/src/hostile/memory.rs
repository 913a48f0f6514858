//! How much memory processes hold, as the kernel counts it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::task::JoinHandle;

const EVERY: Duration = Duration::from_millis(50);

/// Resident bytes of one process.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub struct Memory {
    /// When the watch began.
    pub before: u64,
    /// The most seen since.
    pub peak: u64,
}

/// Looks at processes until dropped.
pub(super) struct Watch {
    seen: Arc<Mutex<BTreeMap<&'static str, Memory>>>,
    task: JoinHandle<()>,
}

impl Watch {
    /// Begins with what each holds now.
    pub(super) fn start(pids: Vec<(&'static str, u32)>) -> Result<Self> {
        let mut first = BTreeMap::new();
        for (name, pid) in &pids {
            let before = resident(*pid)?;
            first.insert(*name, Memory { before, peak: before });
        }
        let seen = Arc::new(Mutex::new(first));
        let task = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                loop {
                    tokio::time::sleep(EVERY).await;
                    for (name, pid) in &pids {
                        // A process that has died is found by who started it.
                        let Ok(now) = resident(*pid) else { continue };
                        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                        seen.entry(name).and_modify(|memory| memory.peak = memory.peak.max(now));
                    }
                }
            }
        });
        Ok(Self { seen, task })
    }

    /// What each has held, by name.
    pub(super) fn seen(&self) -> BTreeMap<&'static str, Memory> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}
