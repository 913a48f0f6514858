//! What a run has shown: as lines for people, as JSON, as a page with plots.

mod html;
mod text;

use serde::Serialize;

use crate::measure::{Measured, Pass};
use crate::plan::BenchArgs;

/// Everything.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The command that repeats the run.
    command: String,
    machine: String,
    rooms: u32,
    members: u32,
    size: usize,
    rows: Vec<Row>,
    passes: Vec<Pass>,
}

/// The middle of several rounds, and the extremes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) middle: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let at = |place: usize| values.get(place).copied().unwrap_or(0.0);
        Self {
            middle: at(values.len() / 2),
            least: at(0),
            most: at(values.len().saturating_sub(1)),
        }
    }
}

/// One rate of the servers or the floor, over all rounds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) rate: f64,
    pub(crate) acks_per_second: Spread,
    pub(crate) deliveries_per_second: Spread,
    pub(crate) p50_ms: Spread,
    pub(crate) p99_ms: Spread,
    pub(crate) p999_ms: Spread,
    pub(crate) ack_p50_ms: Spread,
    pub(crate) ack_p99_ms: Spread,
    pub(crate) per_cpu_second: Spread,
    /// Deliveries per write to a socket, where the servers count their writes.
    pub(crate) per_write: Option<Spread>,
    pub(crate) writes_per_second: Option<Spread>,
    pub(crate) wire_bytes_per_second: Spread,
    /// CPU seconds per second.
    pub(crate) server_cpu: Spread,
    pub(crate) client_cpu: Spread,
    /// The clients' own delay in sending.
    pub(crate) own_delay_p99_ms: Spread,
    pub(crate) steal: Spread,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) reordered: u64,
    pub(crate) gaps: u64,
    pub(crate) strays: u64,
    pub(crate) refused: u64,
    pub(crate) closed: u64,
    pub(crate) unanswered: u64,
    /// Whether all bytes of all bodies came, and the servers counted as many deliveries as the clients.
    pub(crate) consistent: bool,
    pub(crate) share_of_floor: Option<f64>,
}

fn server_cpu(measured: &Measured) -> f64 {
    measured.servers.iter().map(|used| used.cpu_seconds).sum()
}

fn per_cpu_second(measured: &Measured) -> f64 {
    let beside = measured
        .beside
        .as_ref()
        .map_or(0, |(_, figures)| figures.received_within);
    (measured.figures.received_within + beside) as f64 / server_cpu(measured).max(1e-6)
}

fn writes(measured: &Measured) -> Option<f64> {
    let counts: Vec<f64> = measured
        .servers
        .iter()
        .filter_map(|used| used.grew.get("im_connect_writes_total").copied())
        .collect();
    (!counts.is_empty()).then(|| counts.iter().sum())
}

fn consistent(measured: &Measured, size: usize) -> bool {
    let figures = &measured.figures;
    let bodies = figures.body_bytes == figures.received * size as u64;
    let received = figures.received
        + measured
            .beside
            .as_ref()
            .map_or(0, |(_, figures)| figures.received);
    // Whoever was thrown out had deliveries written that it never read.
    let counted = figures.closed.is_empty()
        && measured
            .server_deliveries
            .is_some_and(|count| count as u64 != received);
    bodies && !counted
}

impl Row {
    fn new(name: &str, measured: &[&Measured], members: u32, size: usize) -> Self {
        let spread = |of: &dyn Fn(&Measured) -> f64| Spread::of(measured.iter().map(|one| of(one)));
        let sum = |of: &dyn Fn(&Measured) -> u64| measured.iter().map(|one| of(one)).sum();
        let counts_writes = measured.iter().all(|one| writes(one).is_some());
        let of_writes = |of: &dyn Fn(&Measured, f64) -> f64| {
            counts_writes.then(|| {
                Spread::of(
                    measured
                        .iter()
                        .map(|one| of(one, writes(one).unwrap_or(0.0))),
                )
            })
        };
        Self {
            name: name.to_owned(),
            rate: measured.first().map_or(0.0, |one| one.rate),
            acks_per_second: spread(&|one| one.figures.acked_within as f64 / one.seconds),
            deliveries_per_second: spread(&|one| one.figures.received_within as f64 / one.seconds),
            p50_ms: spread(&|one| one.figures.latency.quantile_ms(0.5)),
            p99_ms: spread(&|one| one.figures.latency.quantile_ms(0.99)),
            p999_ms: spread(&|one| one.figures.latency.quantile_ms(0.999)),
            ack_p50_ms: spread(&|one| one.figures.acks.quantile_ms(0.5)),
            ack_p99_ms: spread(&|one| one.figures.acks.quantile_ms(0.99)),
            per_cpu_second: spread(&per_cpu_second),
            per_write: of_writes(&|one, writes| one.figures.received_within as f64 / writes),
            writes_per_second: of_writes(&|one, writes| writes / one.seconds),
            wire_bytes_per_second: spread(&|one| {
                one.figures.wire_bytes_within as f64 / one.seconds
            }),
            server_cpu: spread(&|one| server_cpu(one) / one.seconds),
            client_cpu: spread(&|one| one.client_cpu_seconds / one.seconds),
            own_delay_p99_ms: spread(&|one| one.figures.own_delay.quantile_ms(0.99)),
            steal: spread(&|one| one.steal),
            lost: sum(&|one| one.figures.lost(u64::from(members))),
            repeated: sum(&|one| one.figures.repeated),
            reordered: sum(&|one| one.figures.reordered),
            gaps: sum(&|one| one.figures.gaps),
            strays: sum(&|one| one.figures.strays),
            refused: sum(&|one| one.figures.refused.values().sum()),
            closed: sum(&|one| one.figures.closed.values().sum()),
            unanswered: sum(&|one| {
                one.figures
                    .sent
                    .saturating_sub(one.figures.acked + one.figures.refused.values().sum::<u64>())
            }),
            consistent: measured.iter().all(|one| consistent(one, size)),
            share_of_floor: None,
        }
    }
}

impl Report {
    pub(crate) fn new(args: &BenchArgs, passes: Vec<Pass>) -> Self {
        let mut rows: Vec<Row> = Vec::new();
        let mut names: Vec<String> = Vec::new();
        for pass in &passes {
            if !names.contains(&pass.name) {
                names.push(pass.name.clone());
            }
        }
        for place in 0..args.rate.len() {
            let floor = rows.len();
            for name in &names {
                let of_name = passes.iter().filter(|pass| pass.name == *name);
                let measured: Vec<&Measured> =
                    of_name.filter_map(|pass| pass.phases.get(place)).collect();
                let mut row = Row::new(name, &measured, args.members, args.size);
                if name != "floor"
                    && let Some(floor) = rows.get(floor).filter(|row| row.name == "floor")
                {
                    let share = row.per_cpu_second.middle / floor.per_cpu_second.middle;
                    row.share_of_floor = share.is_finite().then_some(share);
                }
                rows.push(row);
                let beside: Option<Vec<Measured>> =
                    measured.iter().map(|one| one.of_beside()).collect();
                if let (Some(beside), Some(room)) = (beside, args.beside) {
                    let beside: Vec<&Measured> = beside.iter().collect();
                    rows.push(Row::new(
                        "the room beside",
                        &beside,
                        room.members,
                        args.size,
                    ));
                }
            }
        }
        let command = std::env::args()
            .skip(1)
            .map(quoted)
            .collect::<Vec<_>>()
            .join(" ");
        let rooms = args.rooms;
        let members = args.members;
        let size = args.size;
        Self {
            command: format!("imctl bench {command}"),
            machine: machine(),
            rooms,
            members,
            size,
            rows,
            passes,
        }
    }

    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The server process whose memory grew most per connection, in bytes.
    pub(crate) fn largest_growth(&self) -> Option<(&str, f64)> {
        let grown = self
            .passes
            .iter()
            .filter(|pass| pass.name != "floor")
            .flat_map(|pass| &pass.entry.user_bytes);
        grown
            .map(|(name, bytes)| (name.as_str(), *bytes))
            .max_by(|one, other| one.1.total_cmp(&other.1))
    }

    /// What must not be: losses, repeats, wrong order, refused sends, clients thrown out or not let in, bytes that do not
    /// add up.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for row in &self.rows {
            let Row {
                name,
                rate,
                lost,
                repeated,
                reordered,
                gaps,
                strays,
                closed,
                refused,
                unanswered,
                ..
            } = row;
            if lost + repeated + reordered + gaps + strays > 0 {
                faults.push(format!(
                    "{name} at {rate} messages/s: {lost} deliveries lost, {repeated} repeated, {reordered} reordered, {gaps} jumps in seq, {strays} in a wrong room"
                ));
            }
            if closed + refused + unanswered > 0 {
                faults.push(format!(
                    "{name} at {rate} messages/s: {closed} clients thrown out, {refused} sends refused, {unanswered} unanswered"
                ));
            }
            if !row.consistent {
                faults.push(format!(
                    "{name} at {rate} messages/s: the counts of bytes or deliveries do not agree"
                ));
            }
        }
        for pass in &self.passes {
            for (why, count) in &pass.entry.failed {
                faults.push(format!(
                    "{}: {count} clients did not get in: {why}",
                    pass.name
                ));
            }
        }
        faults
    }
}

/// Secrets do not belong in reports.
fn quoted(word: String) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@".contains(c);
    if word.chars().all(plain) && !word.is_empty() {
        word
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("", |(_, m)| m.trim());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores, {model}, Linux {}", kernel.trim())
}
