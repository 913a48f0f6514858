//! What the servers use: CPU time and memory of their processes, their own figures, and what the machine says.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use rustix::param::page_size;
use serde::Serialize;

use im_cli::failure::Failure;
use im_cli::{http, metrics};

const TIMEOUT: Duration = Duration::from_secs(5);

/// A process that is looked at.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) pid: Option<u32>,
    /// Its admin address, `http://host:port`.
    pub(crate) admin: Option<String>,
}

/// One look at a process.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Sample {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: f64,
    /// Its own gauges and counters, summed over their labels.
    pub(crate) figures: BTreeMap<String, f64>,
}

/// CPU seconds that a process has used, all its threads together. From the process' clock, which is exact: `/proc` counts
/// in hundredths, which is a tenth of what a server uses in a short run at a low rate.
pub(crate) fn cpu_seconds(pid: u32) -> Option<f64> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?);
    let used = clock_gettime(clock_getcpuclockid(pid).ok()?).ok()?;
    Some(Duration::from(used).as_secs_f64())
}

fn resident_bytes(pid: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: f64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * page_size() as f64)
}

impl Server {
    /// # Errors
    /// The process is not there, or does not answer.
    pub(crate) async fn look(&self) -> Result<Sample, Failure> {
        let mut sample = Sample::default();
        if let Some(admin) = &self.admin {
            let answer = http::get(
                &format!("{}/metrics", admin.trim_end_matches('/')),
                None,
                TIMEOUT,
            )
            .await?;
            sample.figures = metrics::sums(&answer.text());
            let figure = |name: &str| sample.figures.get(name).copied().unwrap_or(0.0);
            sample.cpu_seconds = figure("process_cpu_seconds_total");
            sample.resident_bytes = figure("process_resident_memory_bytes");
        }
        if let Some(pid) = self.pid {
            let gone = || {
                Failure::usage(format!(
                    "{}: there is no process {pid} on this machine",
                    self.name
                ))
            };
            sample.cpu_seconds = cpu_seconds(pid).ok_or_else(gone)?;
            sample.resident_bytes = resident_bytes(pid).ok_or_else(gone)?;
        }
        Ok(sample)
    }
}

/// One look at the machine.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Machine {
    /// Clock ticks of all kinds, and those taken by other guests of the host.
    ticks: f64,
    steal: f64,
    idle: f64,
    /// What sockets hold in the kernel: buffers, and the kernel's objects.
    pub(crate) kernel_bytes: f64,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let ticks: Vec<f64> = stat
            .lines()
            .next()
            .into_iter()
            .flat_map(|line| line.split_whitespace().skip(1))
            .filter_map(|tick| tick.parse().ok())
            .take(8)
            .collect();
        let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let slab = info.lines().find_map(|line| {
            line.strip_prefix("Slab:")?
                .split_whitespace()
                .next()?
                .parse::<f64>()
                .ok()
        });
        let sockets = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        let tcp = sockets.lines().find(|line| line.starts_with("TCP:"));
        let pages = tcp.and_then(|line| line.split_whitespace().last()?.parse::<f64>().ok());
        Self {
            ticks: ticks.iter().sum(),
            steal: ticks.get(7).copied().unwrap_or(0.0),
            idle: ticks.get(3).copied().unwrap_or(0.0) + ticks.get(4).copied().unwrap_or(0.0),
            kernel_bytes: slab.unwrap_or(0.0) * 1024.0 + pages.unwrap_or(0.0) * page_size() as f64,
        }
    }

    /// Per cent of the machine's time since `before` that the host gave to others, and that nobody used.
    pub(crate) fn steal_and_idle(&self, before: &Self) -> (f64, f64) {
        let all = (self.ticks - before.ticks).max(1.0);
        (
            (self.steal - before.steal) / all * 100.0,
            (self.idle - before.idle) / all * 100.0,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_cpu_and_memory() {
        let pid = std::process::id();
        let before = cpu_seconds(pid).unwrap();
        let mut sum = 0_u64;
        while cpu_seconds(pid).unwrap() <= before {
            sum = (0..1_000_000).fold(sum, |sum: u64, n| {
                std::hint::black_box(sum.wrapping_mul(31) + n)
            });
        }
        assert!(resident_bytes(pid).unwrap() > 100_000.0);
        assert_eq!(cpu_seconds(u32::MAX), None);
    }
}
