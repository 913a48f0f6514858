//! The resident memory of processes, as the kernel counts it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio_util::task::AbortOnDropHandle;

use crate::sync::lock;

const INTERVAL: Duration = Duration::from_millis(50);

/// Resident bytes of one process.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub struct Memory {
    /// At the start.
    pub before: u64,
    /// The maximum since.
    pub peak: u64,
}

/// Samples processes until dropped.
pub(super) struct MemoryWatch {
    memory: Arc<Mutex<BTreeMap<&'static str, Memory>>>,
    _task: AbortOnDropHandle<()>,
}

impl MemoryWatch {
    pub(super) fn start(pids: Vec<(&'static str, u32)>) -> Result<Self> {
        let mut first = BTreeMap::new();
        for (name, pid) in &pids {
            let before = resident(*pid)?;
            first.insert(
                *name,
                Memory {
                    before,
                    peak: before,
                },
            );
        }
        let memory = Arc::new(Mutex::new(first));
        let task = tokio::spawn({
            let memory = Arc::clone(&memory);
            async move {
                loop {
                    tokio::time::sleep(INTERVAL).await;
                    for (name, pid) in &pids {
                        // Whoever started a process finds out that it died.
                        let Ok(now) = resident(*pid) else { continue };
                        lock(&memory)
                            .entry(name)
                            .and_modify(|memory| memory.peak = memory.peak.max(now));
                    }
                }
            }
        });
        Ok(Self {
            memory,
            _task: AbortOnDropHandle::new(task),
        })
    }

    /// By name of the process.
    pub(super) fn memory(&self) -> BTreeMap<&'static str, Memory> {
        lock(&self.memory).clone()
    }
}

fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}
