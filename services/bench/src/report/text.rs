//! Lines for people.

use super::{Report, Row, Spread};

fn count(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{:.2} M", n / 1e6),
        n if n >= 1e4 => format!("{:.1} k", n / 1e3),
        n if n >= 10.0 => format!("{n:.0}"),
        n => format!("{n:.1}"),
    }
}

fn ms(number: f64) -> String {
    if number >= 100.0 {
        format!("{number:.0}")
    } else {
        format!("{number:.2}")
    }
}

fn spread(value: Spread, show: fn(f64) -> String) -> String {
    let Spread {
        middle,
        least,
        most,
    } = value;
    if least == most {
        show(middle)
    } else {
        format!("{} ({}–{})", show(middle), show(least), show(most))
    }
}

fn row(row: &Row) -> Vec<String> {
    vec![
        row.name.clone(),
        count(row.rate),
        spread(row.deliveries_per_second, count),
        spread(row.p50_ms, ms),
        spread(row.p99_ms, ms),
        spread(row.p999_ms, ms),
        spread(row.ack_p99_ms, ms),
        spread(row.per_cpu_second, count),
        row.share_of_floor
            .map_or_else(|| "–".to_owned(), |share| format!("{share:.2}")),
        row.per_write
            .map_or_else(|| "–".to_owned(), |per| format!("{:.2}", per.middle)),
        format!("{:.2}", row.server_cpu.middle),
        format!("{:.2}", row.client_cpu.middle),
        format!("{:.1}", row.steal.most),
        format!("{}/{}/{}", row.lost, row.repeated, row.reordered),
    ]
}

const HEAD: [&str; 14] = [
    "",
    "msg/s",
    "deliveries/s",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "ack p99 ms",
    "deliv./CPU-s",
    "of floor",
    "per write",
    "server CPU",
    "client CPU",
    "steal %",
    "lost/rep./reord.",
];

fn table(rows: Vec<Vec<String>>) -> Vec<String> {
    let head: Vec<String> = HEAD.iter().map(|&title| title.to_owned()).collect();
    let all: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| {
        all.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(place, (cell, width))| {
                if place == 0 {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    all.iter().map(line).collect()
}

impl Report {
    /// A table and what stands behind it.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("$ {}", self.command),
            format!(
                "{}; {} rooms x {} members, bodies of {} bytes",
                self.machine, self.rooms, self.members, self.size
            ),
            String::new(),
        ];
        for pass in &self.passes {
            let entry = &pass.entry;
            let per = entry
                .user_bytes
                .iter()
                .map(|(name, bytes)| format!("{name} {:.1} KiB", bytes / 1024.0));
            lines.push(format!(
                "{} round {}: {} clients in {:.1} s ({}/s, {} per CPU-second of the servers); per connection: {}, kernel {:.1} KiB",
                pass.name,
                pass.round + 1,
                entry.clients,
                entry.seconds,
                count(entry.clients as f64 / entry.seconds),
                count(entry.clients as f64 / entry.server_cpu_seconds.max(0.01)),
                per.collect::<Vec<_>>().join(", "),
                entry.kernel_bytes / 1024.0,
            ));
        }
        for (pass, visited) in self
            .passes
            .iter()
            .filter_map(|pass| Some((pass, pass.visited.as_ref()?)))
        {
            let per = visited
                .user_bytes
                .iter()
                .map(|(name, bytes)| format!("{name} {bytes:.1} bytes"));
            lines.push(format!(
                "{} round {}: {} rooms heard and left in {:.1} s; left behind per room: {}",
                pass.name,
                pass.round + 1,
                visited.rooms,
                visited.seconds,
                per.collect::<Vec<_>>().join(", "),
            ));
        }
        lines.push(String::new());
        lines.extend(table(self.rows.iter().map(row).collect()));
        lines.push(String::new());
        for pass in &self.passes {
            for phase in &pass.phases {
                let used = phase.servers.iter().map(|used| {
                    let resident = used.resident_bytes / f64::from(1 << 20);
                    format!("{} {:.2} s, {resident:.0} MiB", used.name, used.cpu_seconds)
                });
                lines.push(format!(
                    "{} round {} at {} msg/s over {:.1} s: {}; clients {:.2} s; machine idle {:.0} %",
                    pass.name,
                    pass.round + 1,
                    count(phase.rate),
                    phase.seconds,
                    used.collect::<Vec<_>>().join("; "),
                    phase.client_cpu_seconds,
                    phase.idle,
                ));
                lines.push(self.consistency(phase));
            }
        }
        lines
    }

    fn consistency(&self, phase: &super::Measured) -> String {
        let figures = &phase.figures;
        let verdict = if super::consistent(phase, self.size) {
            "consistent"
        } else {
            "NOT CONSISTENT"
        };
        let beside = phase
            .beside
            .as_ref()
            .map_or_else(String::new, |(_, beside)| {
                format!(" with {} beside", beside.received)
            });
        let server = phase.server_deliveries.map_or_else(String::new, |n| {
            format!(", the servers count {n:.0}{beside}")
        });
        let mut line = format!(
            "  {verdict}: {} deliveries x {} bytes = {} bytes, {} bytes of bodies came{server}; {} of {} sends acknowledged",
            figures.received,
            self.size,
            figures.received * self.size as u64,
            figures.body_bytes,
            figures.acked,
            figures.sent,
        );
        for (what, counts) in [("refused", &figures.refused), ("closed", &figures.closed)] {
            for (why, count) in counts {
                line.push_str(&format!("; {count} {what}: {why}"));
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(count(1_234_567.0), "1.23 M");
        assert_eq!(count(12_345.0), "12.3 k");
        assert_eq!(
            spread(
                Spread {
                    middle: 2.0,
                    least: 1.0,
                    most: 3.0
                },
                ms
            ),
            "2.00 (1.00–3.00)"
        );
        assert_eq!(
            spread(
                Spread {
                    middle: 2.0,
                    least: 2.0,
                    most: 2.0
                },
                ms
            ),
            "2.00"
        );
    }
}
