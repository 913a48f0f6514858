//! `im-e2e hostile`: clients that mean harm, one kind after the other, each on a fresh cluster on loopback and beside pairs
//! that behave. What counts: nothing dies, memory stays under a bound, and the neighbours hardly notice.

mod attacker;
mod attacks;
mod memory;
mod neighbours;
mod raw;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

pub use self::attacker::attacker;
pub use self::attacks::Attack;
use self::attacks::Target;
pub use self::memory::Memory;
use self::memory::Watch;
use self::neighbours::Neighbours;
pub use self::neighbours::Seen;
use crate::cluster::{Cluster, Plan};

/// How long an attack has beyond its time until it counts as hanging.
const OVERTIME: Duration = Duration::from_secs(60);
/// The neighbours' p99 may grow by this factor, where it is above what a machine of few cores does by itself.
const WORSE: f64 = 3.0;
const UNREMARKABLE_MS: f64 = 25.0;

/// How an attack is played.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Pairs of clients that behave.
    #[arg(long, default_value_t = 500)]
    pub pairs: usize,
    /// Messages per second over all pairs.
    #[arg(long, default_value_t = 500)]
    pub rate: u32,
    /// Seconds that the pairs are measured alone, and again beside the attack.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// What connect may hold beyond what it held before, in MiB.
    #[arg(long, default_value_t = 384)]
    pub connect_mib: u64,
    /// What logic may hold beyond what it held before, in MiB.
    #[arg(long, default_value_t = 256)]
    pub logic_mib: u64,
}

/// What one attack did.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Which.
    pub attack: Attack,
    /// Bytes that the attacker wrote.
    pub bytes: u64,
    /// Sockets that the attacker opened.
    pub sockets: u64,
    /// Of them, closed by the server.
    pub closed: u64,
    /// How long it went on.
    pub seconds: f64,
    /// Of connect, logic and redis.
    pub memory: BTreeMap<&'static str, Memory>,
    /// The neighbours alone.
    pub alone: Seen,
    /// The neighbours beside the attack.
    pub beside: Seen,
    /// What came of it for the attacker.
    pub ended: String,
    /// What must not have been; empty: the attack failed.
    pub harm: Vec<String>,
}

/// Plays one attack.
pub async fn play(attack: Attack, options: &Options) -> Result<Report> {
    let plan = Plan { connect: 1, logic: 1, wait_replicas: 0, ..Plan::default() };
    let mut cluster = Cluster::start(plan).await?;
    let (connect, logic) = (&cluster.connects[0], &cluster.logics[0]);
    let redis = cluster.redis.master_pid().await.context("no redis master")?;
    let target = Target::new(connect.tcp.clone(), connect.ws.clone(), logic.http.clone());
    let prepared = attack.prepare(&target).await.with_context(|| format!("preparing {attack:?}"))?;

    let neighbours = Neighbours::start(&connect.tcp, &logic.http, options.pairs, options.rate).await?;
    let span = Duration::from_secs(options.seconds);
    tokio::time::sleep(Duration::from_secs(2)).await;
    neighbours.take();
    tokio::time::sleep(span).await;
    let alone = neighbours.take();

    let pids = vec![("connect", connect.process.pid()), ("logic", logic.process.pid()), ("redis", redis)];
    let watch = Watch::start(pids)?;
    let began = Instant::now();
    let attacking = attacker::send_out(attack, &target, prepared, span, span + OVERTIME);
    // An attack that is over early is held against the neighbours' whole time.
    let (outcome, ()) = tokio::join!(attacking, tokio::time::sleep(span));
    let beside = neighbours.take();
    let seconds = began.elapsed().as_secs_f64();
    let memory = watch.seen();
    let mut harm = attack.harm(&outcome.ended);
    harm.extend(judge(options, &memory, &alone, &beside));
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

fn judge(options: &Options, memory: &BTreeMap<&'static str, Memory>, alone: &Seen, beside: &Seen) -> Vec<String> {
    let mut harm = Vec::new();
    for (name, limit) in [("connect", options.connect_mib), ("logic", options.logic_mib)] {
        let grown = memory.get(name).map_or(0, |memory| memory.peak - memory.before) >> 20;
        if grown > limit {
            harm.push(format!("{name} grew by {grown} MiB"));
        }
    }
    if beside.p99_ms > (alone.p99_ms * WORSE).max(UNREMARKABLE_MS) {
        harm.push(format!("p99 of the pairs went from {:.1} to {:.1} ms", alone.p99_ms, beside.p99_ms));
    }
    if beside.failed > 0 {
        harm.push(format!("{} sends of the pairs failed", beside.failed));
    }
    if beside.lost > 0 {
        harm.push(format!("the pairs lost {} connections", beside.lost));
    }
    if beside.api_failed > 0 {
        harm.push(format!("{} of {} HTTP requests failed", beside.api_failed, beside.api_failed + beside.api_ok));
    }
    harm
}

fn dead(cluster: &mut Cluster) -> Result<Vec<String>> {
    let connects = cluster.connects.iter_mut().map(|connect| &mut connect.process);
    let processes = connects.chain(cluster.logics.iter_mut().map(|logic| &mut logic.process));
    let mut dead = Vec::new();
    for process in processes {
        if let Some(status) = process.ended()? {
            dead.push(format!("{} died: {status}\n{}", process.name(), process.tail(5)));
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
        let times = |seen: &Seen| format!("{:.1} / {:.1} / {:.0}", seen.p50_ms, seen.p99_ms, seen.max_ms);
        let _ = writeln!(
            text,
            "{} | {:.1}, {} ({}), {:.0} | {} | {} → {} | {}, {}, {} of {} | {} | {}",
            serde_json::to_value(report.attack).unwrap_or_default().as_str().unwrap_or_default(),
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
            if report.harm.is_empty() { "none".to_owned() } else { report.harm.join("; ") },
        );
    }
    text
}
