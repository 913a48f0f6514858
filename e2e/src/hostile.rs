//! `im-e2e hostile`: one attack after the other, each on a fresh cluster on loopback and beside pairs of well-behaved clients.
//! An attack has failed if no process dies, memory stays within a bound, and the pairs hardly notice.

mod attacks;
mod memory;
mod pairs;
mod raw_socket;
mod subprocess;
mod target;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

pub use self::attacks::Attack;
pub use self::memory::Memory;
use self::memory::MemoryWatch;
pub use self::pairs::Measured;
use self::pairs::Pairs;
pub use self::subprocess::attacker;
use self::target::Target;
use crate::servers::cluster::{Cluster, Plan};

/// An attack hangs if it takes this much longer than its time.
const OVERTIME: Duration = Duration::from_secs(60);
/// The pairs' p99 may grow by this factor, or up to what is normal on a machine with few cores.
const MAX_P99_FACTOR: f64 = 3.0;
const NORMAL_P99_MS: f64 = 25.0;

/// How an attack is run and judged.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Pairs of well-behaved clients.
    #[arg(long, default_value_t = 500)]
    pub pairs: usize,
    /// Messages per second over all pairs.
    #[arg(long, default_value_t = 500)]
    pub rate: u32,
    /// Seconds for which the pairs are measured, first alone and then beside the attack.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// How much the memory of connect may grow, in MiB.
    #[arg(long, default_value_t = 384)]
    pub connect_mib: u64,
    /// How much the memory of logic may grow, in MiB.
    #[arg(long, default_value_t = 256)]
    pub logic_mib: u64,
}

/// What one attack did.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was run.
    pub attack: Attack,
    /// Bytes that the attacker wrote.
    pub bytes: u64,
    /// Sockets that the attacker opened.
    pub sockets: u64,
    /// Sockets that the server closed.
    pub closed: u64,
    /// How long the attack lasted.
    pub seconds: f64,
    /// Memory of connect, logic and redis.
    pub memory: BTreeMap<&'static str, Memory>,
    /// The pairs alone.
    pub alone: Measured,
    /// The pairs beside the attack.
    pub beside: Measured,
    /// How the servers reacted.
    pub ended: String,
    /// What the attack achieved; empty if it failed.
    pub harm: Vec<String>,
}

/// Runs one attack.
pub async fn run(attack: Attack, options: &Options) -> Result<Report> {
    let plan = Plan {
        connect: 1,
        logic: 1,
        wait_replicas: 0,
        ..Plan::default()
    };
    let mut cluster = Cluster::start(plan).await?;
    let connect = &cluster.connects[0];
    let logic = &cluster.logics[0];
    let redis = cluster
        .redis
        .master_pid()
        .await
        .context("no redis master")?;
    let target = Target::new(connect.tcp.clone(), connect.ws.clone(), logic.http.clone());
    let prepared = attack
        .prepare(&target)
        .await
        .with_context(|| format!("preparing {attack:?}"))?;

    let pairs = Pairs::start(&connect.tcp, &logic.http, options.pairs, options.rate).await?;
    let span = Duration::from_secs(options.seconds);
    tokio::time::sleep(Duration::from_secs(2)).await;
    pairs.take();
    tokio::time::sleep(span).await;
    let alone = pairs.take();

    let pids = vec![
        ("connect", connect.process.pid()),
        ("logic", logic.process.pid()),
        ("redis", redis),
    ];
    let watch = MemoryWatch::start(pids)?;
    let began = Instant::now();
    let attacking = subprocess::run_attack(attack, &target, prepared, span, span + OVERTIME);
    // The pairs are measured for the whole time even if the attack is over early.
    let (outcome, ()) = tokio::join!(attacking, tokio::time::sleep(span));
    let beside = pairs.take();
    let seconds = began.elapsed().as_secs_f64();
    let memory = watch.memory();
    let mut harm = Attack::harm(&outcome.ended);
    harm.extend(harm_done(options, &memory, &alone, &beside));
    harm.extend(dead(&mut cluster)?);
    Ok(Report {
        attack,
        bytes: outcome.bytes,
        sockets: outcome.sockets,
        closed: outcome.closed,
        seconds,
        memory,
        alone,
        beside,
        ended: outcome.ended,
        harm,
    })
}

fn harm_done(
    options: &Options,
    memory: &BTreeMap<&'static str, Memory>,
    alone: &Measured,
    beside: &Measured,
) -> Vec<String> {
    let mut harm = Vec::new();
    for (name, limit) in [
        ("connect", options.connect_mib),
        ("logic", options.logic_mib),
    ] {
        let grown = memory
            .get(name)
            .map_or(0, |memory| memory.peak - memory.before)
            >> 20;
        if grown > limit {
            harm.push(format!("{name} grew by {grown} MiB"));
        }
    }
    if beside.p99_ms > (alone.p99_ms * MAX_P99_FACTOR).max(NORMAL_P99_MS) {
        harm.push(format!(
            "p99 of the pairs went from {:.1} to {:.1} ms",
            alone.p99_ms, beside.p99_ms
        ));
    }
    if beside.failed > 0 {
        harm.push(format!("{} sends of the pairs failed", beside.failed));
    }
    if beside.lost > 0 {
        harm.push(format!("the pairs lost {} connections", beside.lost));
    }
    if beside.api_failed > 0 {
        harm.push(format!(
            "{} of {} HTTP requests failed",
            beside.api_failed,
            beside.api_failed + beside.api_ok
        ));
    }
    harm
}

fn dead(cluster: &mut Cluster) -> Result<Vec<String>> {
    let connects = cluster
        .connects
        .iter_mut()
        .map(|connect| &mut connect.process);
    let processes = connects.chain(cluster.logics.iter_mut().map(|logic| &mut logic.process));
    let mut dead = Vec::new();
    for process in processes {
        if let Some(status) = process.exit_status()? {
            dead.push(format!(
                "{} died: {status}\n{}",
                process.name(),
                process.tail(5)
            ));
        }
    }
    Ok(dead)
}

/// One row per attack.
pub fn table(reports: &[Report]) -> String {
    let mut text = String::from(
        "attack | sent MiB, sockets (closed), s | connect, logic, redis MiB before → peak | pairs' p50 / p99 / max ms alone → beside \
         | sends failed, lost, API failed | ended | harm\n",
    );
    for report in reports {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let memory = ["connect", "logic", "redis"].map(|name| {
            let memory = report.memory.get(name).copied().unwrap_or_default();
            format!("{:.0} → {:.0}", mib(memory.before), mib(memory.peak))
        });
        let times = |measured: &Measured| {
            format!(
                "{:.1} / {:.1} / {:.0}",
                measured.p50_ms, measured.p99_ms, measured.max_ms
            )
        };
        let _ = writeln!(
            text,
            "{} | {:.1}, {} ({}), {:.0} | {} | {} → {} | {}, {}, {} of {} | {} | {}",
            serde_json::to_value(report.attack)
                .unwrap_or_default()
                .as_str()
                .unwrap_or_default(),
            mib(report.bytes),
            report.sockets,
            report.closed,
            report.seconds,
            memory.join(", "),
            times(&report.alone),
            times(&report.beside),
            report.beside.failed,
            report.beside.lost,
            report.beside.api_failed,
            report.beside.api_failed + report.beside.api_ok,
            report.ended,
            if report.harm.is_empty() {
                "none".to_owned()
            } else {
                report.harm.join("; ")
            },
        );
    }
    text
}
