//! `im-e2e reads`: all members of a very large group mark the same message as read at once. Measured is what redis, logic and
//! connect use until nothing more is delivered.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::stream::{StreamExt, TryStreamExt};
use hyper::Method;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::clients::json::JsonClient;
use crate::http;
use crate::servers::cluster::{Cluster, Plan};
use crate::token::token;

/// How many clients connect, and how many requests that create the group run, at the same time.
const CONCURRENCY: usize = 64;
/// How many members one request may name.
const MAX_NAMED: usize = 1_000;
/// The run is over when no frame was received for this long.
const QUIET: Duration = Duration::from_secs(2);

/// How large the group is.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Members, each with a connection.
    #[arg(long, default_value_t = 10_000)]
    pub members: usize,
    /// Number of connect processes.
    #[arg(long, default_value_t = 4)]
    pub connects: usize,
    /// The run is cut off after this many seconds.
    #[arg(long, default_value_t = 120)]
    pub at_most: u64,
}

/// Resources of a process, or of several.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    cpu_seconds: f64,
    received: u64,
    sent: u64,
}

/// What was measured.
#[derive(Debug)]
pub struct Report {
    members: usize,
    answered: u64,
    took: Duration,
    cut_off: bool,
    /// Frames and bytes that the clients received.
    frames: u64,
    bytes: u64,
    usage: BTreeMap<String, Usage>,
}

#[derive(Debug, Default)]
struct Received {
    frames: AtomicU64,
    bytes: AtomicU64,
    answers: AtomicU64,
}

/// Runs it once.
pub async fn run(options: &Options) -> Result<Report> {
    let plan = Plan {
        connect: options.connects,
        logic: 1,
        wait_replicas: 0,
        ..Plan::default()
    };
    let cluster = Cluster::start(plan).await?;
    let room = create_group(&cluster, options.members).await?;
    let received = Arc::new(Received::default());
    let go = watch::Sender::new(0);
    let members = futures::stream::iter(0..options.members).map(|number| {
        let address = cluster.connects[number % cluster.connects.len()].ws.clone();
        member(
            address,
            number,
            room.clone(),
            Arc::clone(&received),
            go.subscribe(),
        )
    });
    let _members: Vec<_> = members.buffer_unordered(CONCURRENCY).try_collect().await?;

    let message = json!({"body": "read this", "client_id": "1"}).to_string();
    let path = format!("/v1/rooms/{room}/messages");
    let admin = token(&name(0), "admin", &[])?;
    let (status, answer) = http::call(
        Method::POST,
        &cluster.logics[0].http,
        &path,
        Some(&admin),
        message.into(),
    )
    .await?;
    ensure!(status == 200 || status == 201, "{status} {answer}");
    let seq = serde_json::from_str::<Value>(&answer)?["seq"]
        .as_u64()
        .context("no seq")?;
    wait_quiet(&received, Duration::from_secs(options.at_most)).await;

    let frames = received.frames.load(Ordering::Relaxed);
    let bytes = received.bytes.load(Ordering::Relaxed);
    let before = usage(&cluster).await?;
    go.send_replace(seq);
    let (took, cut_off) = wait_quiet(&received, Duration::from_secs(options.at_most)).await;
    let mut after = usage(&cluster).await?;
    for (name, usage) in &mut after {
        let before = before.get(name).copied().unwrap_or_default();
        usage.cpu_seconds -= before.cpu_seconds;
        usage.received -= before.received;
        usage.sent -= before.sent;
    }
    Ok(Report {
        members: options.members,
        answered: received.answers.load(Ordering::Relaxed),
        took,
        cut_off,
        frames: received.frames.load(Ordering::Relaxed) - frames,
        bytes: received.bytes.load(Ordering::Relaxed) - bytes,
        usage: after,
    })
}

/// Creates a group with this many members: its id.
async fn create_group(cluster: &Cluster, members: usize) -> Result<String> {
    let http = &cluster.logics[0].http;
    // Who creates a group becomes a member.
    let admin = token(&name(0), "admin", &[])?;
    let named: Vec<String> = (0..members).map(name).collect();
    let first =
        json!({"id": "large", "kind": "group", "members": &named[..members.min(MAX_NAMED)]})
            .to_string();
    let (status, answer) =
        http::call(Method::POST, http, "/v1/rooms", Some(&admin), first.into()).await?;
    ensure!(status == 201, "{status} {answer}");
    let adding = futures::stream::iter(named.into_iter().skip(MAX_NAMED)).map(|user| {
        let body = json!({ "user": user }).to_string();
        http::call(
            Method::POST,
            http,
            "/v1/rooms/large/members",
            Some(&admin),
            body.into(),
        )
    });
    let answers: Vec<(u16, String)> = adding.buffer_unordered(CONCURRENCY).try_collect().await?;
    let refused = answers.iter().find(|(status, _)| *status >= 300);
    ensure!(refused.is_none(), "{refused:?}");
    Ok("large".to_owned())
}

fn name(number: usize) -> String {
    format!("m{number:05}")
}

/// Connects and subscribes to the room. A task then marks as read what `go` says and counts what is received.
async fn member(
    address: String,
    number: usize,
    room: String,
    received: Arc<Received>,
    mut go: watch::Receiver<u64>,
) -> Result<tokio::task::AbortHandle> {
    let opening = JsonClient::open(&address, &token(&name(number), "", &[])?).await;
    let mut client = opening.with_context(|| name(number))?;
    let subscribed = client
        .request(json!({"op": "subscribe", "rooms": [{"room": room}]}))
        .await?;
    ensure!(subscribed["op"] == "subscribed", "{subscribed}");
    let task = tokio::spawn(async move {
        let mut answer = None;
        loop {
            tokio::select! {
                frame = client.frame() => {
                    let Ok(frame) = frame else { return };
                    received.frames.fetch_add(1, Ordering::Relaxed);
                    received.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
                    if answer.as_ref().is_some_and(|answer: &String| frame.contains(answer)) {
                        received.answers.fetch_add(1, Ordering::Relaxed);
                    }
                }
                changed = go.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let seq = *go.borrow_and_update();
                    let Ok(req) = client.send_request(json!({"op": "read", "room": room, "seq": seq})).await else { return };
                    answer = Some(format!("\"req\":{req}"));
                }
            }
        }
    });
    Ok(task.abort_handle())
}

/// Waits until nothing more is received: how long until the last frame, and whether the wait was cut off.
async fn wait_quiet(received: &Received, at_most: Duration) -> (Duration, bool) {
    let began = Instant::now();
    let mut seen = received.frames.load(Ordering::Relaxed);
    let mut last = began;
    while began.elapsed() < at_most {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = received.frames.load(Ordering::Relaxed);
        if now != seen {
            seen = now;
            last = Instant::now();
        } else if last.elapsed() > QUIET {
            return (last - began, false);
        }
    }
    (began.elapsed(), true)
}

async fn usage(cluster: &Cluster) -> Result<BTreeMap<String, Usage>> {
    let redis = cluster
        .redis
        .master_pid()
        .await
        .context("no redis master")?;
    let (received, sent) = cluster.redis.network().await?;
    let mut usage = BTreeMap::from([(
        "redis".to_owned(),
        Usage {
            cpu_seconds: cpu_seconds(redis)?,
            received,
            sent,
        },
    )]);
    let connects = cluster
        .connects
        .iter()
        .map(|connect| ("connect", connect.process.pid()));
    for (name, pid) in connects.chain(
        cluster
            .logics
            .iter()
            .map(|logic| ("logic", logic.process.pid())),
    ) {
        usage.entry(name.to_owned()).or_default().cpu_seconds += cpu_seconds(pid)?;
    }
    Ok(usage)
}

/// CPU time of all threads of a process.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may have ended meanwhile.
        let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        nanoseconds += text
            .split(' ')
            .next()
            .and_then(|first| first.parse::<u64>().ok())
            .unwrap_or_default();
    }
    Ok(nanoseconds as f64 / 1e9)
}

impl Report {
    /// The report as text.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{} members, {} read marks answered, {:.1} s until the last frame{}; the clients received {} frames, {:.1} MiB\n",
            self.members,
            self.answered,
            self.took.as_secs_f64(),
            if self.cut_off { " (CUT OFF)" } else { "" },
            self.frames,
            self.bytes as f64 / f64::from(1 << 20)
        );
        for (name, usage) in &self.usage {
            let _ = write!(text, "{name}: {:.2} CPU-s", usage.cpu_seconds);
            if usage.received + usage.sent > 0 {
                let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
                let _ = write!(
                    text,
                    ", {:.1} MiB in, {:.1} MiB out",
                    mib(usage.received),
                    mib(usage.sent)
                );
            }
            text.push('\n');
        }
        text
    }

    /// Whether every read mark was answered in time.
    pub fn is_good(&self) -> bool {
        !self.cut_off && self.answered == self.members as u64
    }
}
