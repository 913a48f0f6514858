//! What a fault did, as JSON and as a table.

use std::fmt::Write as _;

use serde::Serialize;

use super::fault::Fault;
use crate::checked_run::RunReport;
use crate::workload::membership::Findings;

/// What a fault did to clients and logs.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was injected.
    pub fault: Fault,
    /// What the checked run shows.
    #[serde(flatten)]
    pub run: RunReport,
    /// Changes of membership that were made meanwhile.
    pub changes: usize,
    /// What was wrong with presence and rooms two leases later.
    pub findings: Findings,
}

impl Report {
    /// Whether no message was lost, repeated, reordered or invented, no client gave up, and presence and rooms are right.
    pub fn is_clean(&self) -> bool {
        self.run.is_clean() && self.findings.is_empty()
    }
}

/// One row per fault.
pub fn table(reports: &[Report]) -> String {
    let mut text = String::from(
        "fault             | acked | unknown | delivered | lost | repeated | reordered | phantoms | taken back | dedupe hits | retries | \
         away n / p50 / p99 / max ms    | moves (most) | resumed | changes | presence | rooms\n",
    );
    for report in reports {
        let run = &report.run;
        let verdict = &run.verdict;
        let fault = serde_json::to_value(report.fault).unwrap_or_default();
        let away = &run.away_ms;
        let away = format!(
            "{} / {} / {} / {}",
            away.count, away.p50, away.p99, away.max
        );
        let lost = verdict.lost + verdict.acknowledged_lost;
        let _ = writeln!(
            text,
            "{:17} | {:5} | {:7} | {:9} | {:4} | {:8} | {:9} | {:8} | {:10} | {:11} | {:7} | {:30} | {:5} ({})    | {:7} | {:7} | {:8} | {}",
            fault.as_str().unwrap_or_default(),
            verdict.acknowledged,
            verdict.unknown,
            verdict.delivered,
            lost,
            verdict.repeated + verdict.stored_twice,
            verdict.reordered,
            verdict.phantoms,
            verdict.taken_back,
            verdict.retried_duplicates,
            run.retries,
            away,
            run.moves,
            run.most_moves,
            run.resumed,
            report.changes,
            report.findings.presence,
            report.findings.rooms,
        );
    }
    text
}
