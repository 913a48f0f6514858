//! Reports as a table for people.

use std::fmt::Write as _;

use crate::faults::Report;

/// One row per fault.
pub fn table(reports: &[Report]) -> String {
    let mut text = String::from(
        "fault             | acked | unknown | delivered | lost | repeated | reordered | phantoms | taken back | dedupe hits | retries | \
         away n / p50 / p99 / max ms    | moves (most) | resumed | changes | presence | rooms\n",
    );
    for report in reports {
        let (audit, verdict) = (&report.audit, &report.audit.verdict);
        let fault = serde_json::to_value(report.fault).unwrap_or_default();
        let away = &audit.away_ms;
        let away = format!("{} / {} / {} / {}", away.count, away.p50, away.p99, away.max);
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
            audit.retries,
            away,
            audit.moves,
            audit.most_moves,
            audit.resumed,
            report.changes,
            report.findings.presence,
            report.findings.rooms,
        );
    }
    text
}
