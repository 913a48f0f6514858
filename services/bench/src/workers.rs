//! The worker processes of a run, and what is said to them and by them.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use im_cli::failure::{Exit, Failure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::plan::{Part, Phase};
use crate::probe;
use crate::tally::Figures;
use crate::worker::{Note, Order};

/// Longer than a worker waits for what does not come.
const TIMEOUT: Duration = Duration::from_secs(60);

struct Process {
    child: Child,
    orders: ChildStdin,
    notes: Lines<BufReader<ChildStdout>>,
}

/// All workers.
pub(crate) struct Workers {
    processes: Vec<Process>,
}

/// How connecting went.
#[derive(Debug, Default)]
pub(crate) struct Connected {
    pub(crate) clients: usize,
    pub(crate) seconds: f64,
    pub(crate) failed: BTreeMap<String, u64>,
}

impl Workers {
    /// One process per part.
    pub(crate) fn start(workers: usize) -> Result<Self, Failure> {
        let processes = (0..workers).map(|_| {
            let mut command = Command::new(std::env::current_exe()?);
            command
                .arg("worker")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true);
            let mut child = command.spawn()?;
            let (Some(orders), Some(out)) = (child.stdin.take(), child.stdout.take()) else {
                return Err(Failure::new(Exit::Failed, "a worker without its pipes"));
            };
            Ok(Process {
                child,
                orders,
                notes: BufReader::new(out).lines(),
            })
        });
        Ok(Self {
            processes: processes.collect::<Result<_, _>>()?,
        })
    }

    /// Everybody gets in; returns when all are in or have failed.
    pub(crate) async fn connect(&mut self, parts: Vec<Part>) -> Result<Connected, Failure> {
        let clients: usize = parts.iter().map(|part| part.tokens.len()).sum();
        let rate: f64 = parts.iter().map(|part| part.connect_rate).sum();
        let limit = TIMEOUT + Duration::from_secs_f64(clients as f64 / rate * 2.0);
        for (process, part) in self.processes.iter_mut().zip(parts) {
            process.order(&Order::Connect(Box::new(part))).await?;
        }
        let mut all = Connected::default();
        for process in &mut self.processes {
            let Note::Connected {
                clients,
                seconds,
                failed,
            } = process.note(limit).await?
            else {
                return Err(Failure::new(
                    Exit::Failed,
                    "a worker answered something else",
                ));
            };
            all.clients += clients;
            all.seconds = all.seconds.max(seconds);
            failed
                .into_iter()
                .for_each(|(why, count)| *all.failed.entry(why).or_default() += count);
        }
        Ok(all)
    }

    /// Lets every client hear so many rooms and leave them; returns how many were, and after how many seconds.
    pub(crate) async fn visit(&mut self, each: u32, clients: usize) -> Result<(u64, f64), Failure> {
        for process in &mut self.processes {
            process.order(&Order::Visit(each)).await?;
        }
        let wanted = u64::from(each) * clients as u64;
        let mut all = (0, 0.0_f64);
        let mut reasons = Vec::new();
        for process in &mut self.processes {
            let limit = TIMEOUT + Duration::from_millis(wanted);
            let Note::Visited {
                rooms,
                seconds,
                refused,
            } = process.note(limit).await?
            else {
                return Err(Failure::new(
                    Exit::Failed,
                    "a worker answered something else",
                ));
            };
            all = (all.0 + rooms, all.1.max(seconds));
            reasons.extend(
                refused
                    .into_iter()
                    .map(|(why, count)| format!("{count} requests: {why}")),
            );
        }
        if all.0 == wanted {
            return Ok(all);
        }
        let text = format!(
            "{} of {wanted} rooms were heard and left ({})",
            all.0,
            reasons.join("; ")
        );
        Err(Failure::new(Exit::Failed, text))
    }

    /// Tells everybody about a phase.
    pub(crate) async fn begin(&mut self, phase: Phase) -> Result<(), Failure> {
        for process in &mut self.processes {
            process.order(&Order::Run(phase)).await?;
        }
        Ok(())
    }

    /// Waits for the phase's end.
    pub(crate) async fn end(&mut self, phase: Phase) -> Result<Figures, Failure> {
        let mut all = Figures::default();
        for process in &mut self.processes {
            let Note::Ran(figures) = process
                .note(TIMEOUT + Duration::from_nanos(phase.to - phase.begin))
                .await?
            else {
                return Err(Failure::new(
                    Exit::Failed,
                    "a worker answered something else",
                ));
            };
            all.add(&figures);
        }
        Ok(all)
    }

    /// CPU seconds that all workers have used.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.processes
            .iter()
            .filter_map(|process| probe::cpu_seconds(process.child.id()?))
            .sum()
    }

    /// Ends all workers; their connections close.
    pub(crate) async fn leave(self) -> Result<(), Failure> {
        for mut process in self.processes {
            drop(process.orders);
            process.child.kill().await?;
        }
        Ok(())
    }
}

impl Process {
    async fn order(&mut self, order: &Order) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(order).map_err(std::io::Error::from)?;
        line.push(b'\n');
        let written = timeout(TIMEOUT, self.orders.write_all(&line)).await;
        Ok(written.map_err(|_| Failure::new(Exit::Failed, "a worker takes no orders"))??)
    }

    async fn note(&mut self, limit: Duration) -> Result<Note, Failure> {
        let line = timeout(limit, self.notes.next_line()).await;
        let line = line.map_err(|_| {
            Failure::new(Exit::Failed, format!("a worker says nothing for {limit:?}"))
        })??;
        let line = line.ok_or_else(|| {
            Failure::new(Exit::Failed, "a worker has ended; what it says is above")
        })?;
        Ok(serde_json::from_str(&line).map_err(std::io::Error::from)?)
    }
}
