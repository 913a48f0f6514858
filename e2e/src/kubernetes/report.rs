//! What an event did to clients and pods.

use std::fmt;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::measurements::Measurements;
use crate::checked_run::RunReport;

/// The longest time without an acknowledgement during a failover of redis that is planned, in seconds.
const MAX_SILENCE: f64 = 5.0;

#[derive(Debug, Serialize)]
pub(crate) struct EventReport {
    pub(crate) event: String,
    /// What clients and logs show.
    pub(crate) run: RunReport,
    /// What the pods show.
    pub(crate) measurements: Measurements,
    /// How long the event took, in seconds.
    pub(crate) took: f64,
}

impl EventReport {
    pub(crate) fn require_clean(&self) -> Result<()> {
        ensure!(
            self.run.is_clean(),
            "the run of {} is not clean; clients gave up: {:?}",
            self.event,
            self.run.ended
        );
        Ok(())
    }

    pub(crate) fn require_no_silence(&self) -> Result<()> {
        let silence = self.measurements.silence;
        ensure!(
            silence < MAX_SILENCE,
            "no acknowledgement for {silence:.1} s, the limit is {MAX_SILENCE} s"
        );
        Ok(())
    }

    pub(crate) fn require_no_restarts(&self) -> Result<()> {
        let restarts = self.measurements.restarts;
        ensure!(restarts == 0, "{restarts} restarts of containers");
        Ok(())
    }

    /// The share of messages that were delivered on resume.
    pub(crate) fn resumed_share(&self) -> f64 {
        self.run.resumed as f64 / (self.run.resumed + self.run.live).max(1) as f64
    }
}

impl fmt::Display for EventReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let run = &self.run;
        let verdict = &run.verdict;
        let away = &run.away_ms;
        writeln!(
            out,
            "{} took {:.1} s; the workload ran for {:.1} s",
            self.event, self.took, run.seconds
        )?;
        writeln!(
            out,
            "  sends {}, acknowledged {}, unknown {}, retried {}, dedupe hits {}",
            verdict.sent,
            verdict.acknowledged,
            verdict.unknown,
            run.retries,
            verdict.retried_duplicates
        )?;
        writeln!(
            out,
            "  delivered {}: {} live, {} on resume ({:.2} %); taken back {}",
            verdict.delivered,
            run.live,
            run.resumed,
            100.0 * self.resumed_share(),
            verdict.taken_back
        )?;
        writeln!(
            out,
            "  lost {}, acknowledged and lost {}, stored twice {}, repeated {}, reordered {}, phantoms {}, gaps in logs {}, truncated {}",
            verdict.lost,
            verdict.acknowledged_lost,
            verdict.stored_twice,
            verdict.repeated,
            verdict.reordered,
            verdict.phantoms,
            verdict.log_gaps,
            verdict.truncated
        )?;
        writeln!(
            out,
            "  repeats on the wire {}, gaps on the wire {}",
            run.repeats_dropped, run.gaps_seen
        )?;
        writeln!(
            out,
            "  outages {}, p50 {} ms, p99 {} ms, max {} ms; moves {}, at most {} by one client; failed attempts to connect {}",
            away.count,
            away.p50,
            away.p99,
            away.max,
            run.moves,
            run.most_moves,
            run.failed_attempts
        )?;
        write!(out, "{}", self.measurements)?;
        for example in &verdict.examples {
            write!(out, "\n  ! {example}")?;
        }
        Ok(())
    }
}
