//! `im-e2e reads`: a group so large that marking one message as read is work, and what that costs. Everybody reads the same
//! message at once; what counts is what redis and connect spend from then on until everything is still again.

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

use crate::cluster::{Cluster, Plan};
use crate::console::Console;
use crate::http;
use crate::token::token;

/// Clients that connect, and requests that make the group, at the same time.
const AT_ONCE: usize = 64;
/// Members named in one request.
const NAMED: usize = 1_000;
/// Nothing has come for so long: it is still.
const STILL: Duration = Duration::from_secs(2);

/// How large the group is.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Members, each with a connection.
    #[arg(long, default_value_t = 10_000)]
    pub members: usize,
    /// connect processes.
    #[arg(long, default_value_t = 4)]
    pub connects: usize,
    /// Seconds after which what still goes on is cut off.
    #[arg(long, default_value_t = 120)]
    pub at_most: u64,
}

/// What a process has used.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    seconds: f64,
    received: u64,
    sent: u64,
}

/// What was read and what it took.
#[derive(Debug)]
pub struct Report {
    members: usize,
    answered: u64,
    took: Duration,
    cut_off: bool,
    /// Frames and bytes that the clients got.
    frames: u64,
    bytes: u64,
    used: BTreeMap<String, Used>,
}

#[derive(Debug, Default)]
struct Heard {
    frames: AtomicU64,
    bytes: AtomicU64,
    answers: AtomicU64,
}

/// Plays it once.
pub async fn play(options: &Options) -> Result<Report> {
    let plan = Plan { connect: options.connects, logic: 1, wait_replicas: 0, ..Plan::default() };
    let cluster = Cluster::start(plan).await?;
    let room = group(&cluster, options.members).await?;
    let heard = Arc::new(Heard::default());
    let go = watch::Sender::new(0);
    let members = futures::stream::iter(0..options.members).map(|number| {
        let address = cluster.connects[number % cluster.connects.len()].ws.clone();
        member(address, number, room.clone(), Arc::clone(&heard), go.subscribe())
    });
    let _members: Vec<_> = members.buffer_unordered(AT_ONCE).try_collect().await?;

    let said = json!({"body": "read this", "client_id": "1"}).to_string();
    let path = format!("/v1/rooms/{room}/messages");
    let admin = token(&name(0), "admin", &[])?;
    let (status, answer) = http::call(Method::POST, &cluster.logics[0].http, &path, Some(&admin), said.into()).await?;
    ensure!(status == 200 || status == 201, "{status} {answer}");
    let seq = serde_json::from_str::<Value>(&answer)?["seq"].as_u64().context("a seq")?;
    still(&heard, Duration::from_secs(options.at_most)).await;

    let (frames, bytes) = (heard.frames.load(Ordering::Relaxed), heard.bytes.load(Ordering::Relaxed));
    let before = used(&cluster).await?;
    go.send_replace(seq);
    let (took, cut_off) = still(&heard, Duration::from_secs(options.at_most)).await;
    let mut after = used(&cluster).await?;
    for (name, used) in &mut after {
        let before = before.get(name).copied().unwrap_or_default();
        used.seconds -= before.seconds;
        used.received -= before.received;
        used.sent -= before.sent;
    }
    Ok(Report {
        members: options.members,
        answered: heard.answers.load(Ordering::Relaxed),
        took,
        cut_off,
        frames: heard.frames.load(Ordering::Relaxed) - frames,
        bytes: heard.bytes.load(Ordering::Relaxed) - bytes,
        used: after,
    })
}

/// A group of so many; the room's id.
async fn group(cluster: &Cluster, members: usize) -> Result<String> {
    // Whoever makes a group is in it.
    let (http, admin) = (&cluster.logics[0].http, token(&name(0), "admin", &[])?);
    let named: Vec<String> = (0..members).map(name).collect();
    let first = json!({"id": "large", "kind": "group", "members": &named[..members.min(NAMED)]}).to_string();
    let (status, answer) = http::call(Method::POST, http, "/v1/rooms", Some(&admin), first.into()).await?;
    ensure!(status == 201, "{status} {answer}");
    let adding = futures::stream::iter(named.into_iter().skip(NAMED)).map(|user| {
        let body = json!({ "user": user }).to_string();
        http::call(Method::POST, http, "/v1/rooms/large/members", Some(&admin), body.into())
    });
    let answers: Vec<(u16, String)> = adding.buffer_unordered(AT_ONCE).try_collect().await?;
    let refused = answers.iter().find(|(status, _)| *status >= 300);
    ensure!(refused.is_none(), "{refused:?}");
    Ok("large".to_owned())
}

fn name(number: usize) -> String {
    format!("m{number:05}")
}

/// Connects, hears the room, and then, in a task of its own, reads what it is told to read and counts what comes.
async fn member(
    address: String,
    number: usize,
    room: String,
    heard: Arc<Heard>,
    mut go: watch::Receiver<u64>,
) -> Result<tokio::task::AbortHandle> {
    let opening = Console::open(&address, &token(&name(number), "", &[])?).await;
    let mut console = opening.with_context(|| name(number))?;
    let heard_room = console.ask(json!({"op": "subscribe", "rooms": [{"room": room}]})).await?;
    ensure!(heard_room["op"] == "subscribed", "{heard_room}");
    let task = tokio::spawn(async move {
        let mut answer = None;
        loop {
            tokio::select! {
                frame = console.frame() => {
                    let Ok(frame) = frame else { return };
                    heard.frames.fetch_add(1, Ordering::Relaxed);
                    heard.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
                    if answer.as_ref().is_some_and(|answer: &String| frame.contains(answer)) {
                        heard.answers.fetch_add(1, Ordering::Relaxed);
                    }
                }
                told = go.changed() => {
                    if told.is_err() {
                        return;
                    }
                    let seq = *go.borrow_and_update();
                    let Ok(req) = console.put(json!({"op": "read", "room": room, "seq": seq})).await else { return };
                    answer = Some(format!("\"req\":{req}"));
                }
            }
        }
    });
    Ok(task.abort_handle())
}

/// Waits until nothing comes any more; how long until the last, and whether it was cut off.
async fn still(heard: &Heard, at_most: Duration) -> (Duration, bool) {
    let began = Instant::now();
    let (mut seen, mut last) = (heard.frames.load(Ordering::Relaxed), began);
    while began.elapsed() < at_most {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = heard.frames.load(Ordering::Relaxed);
        if now != seen {
            (seen, last) = (now, Instant::now());
        } else if last.elapsed() > STILL {
            return (last - began, false);
        }
    }
    (began.elapsed(), true)
}

async fn used(cluster: &Cluster) -> Result<BTreeMap<String, Used>> {
    let redis = cluster.redis.master_pid().await.context("no redis master")?;
    let (received, sent) = cluster.redis.network().await?;
    let mut used = BTreeMap::from([("redis".to_owned(), Used { seconds: seconds(redis)?, received, sent })]);
    let connects = cluster.connects.iter().map(|connect| ("connect", connect.process.pid()));
    for (name, pid) in connects.chain(cluster.logics.iter().map(|logic| ("logic", logic.process.pid()))) {
        used.entry(name.to_owned()).or_default().seconds += seconds(pid)?;
    }
    Ok(used)
}

/// CPU time of a process, all its threads.
fn seconds(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        nanoseconds += text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or_default();
    }
    Ok(nanoseconds as f64 / 1e9)
}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{} members, {} marks answered, {:.1} s until everything was still{}; the clients got {} frames, {:.1} MiB\n",
            self.members,
            self.answered,
            self.took.as_secs_f64(),
            if self.cut_off { " (CUT OFF)" } else { "" },
            self.frames,
            self.bytes as f64 / f64::from(1 << 20)
        );
        for (name, used) in &self.used {
            let _ = write!(text, "{name}: {:.2} CPU-s", used.seconds);
            if used.received + used.sent > 0 {
                let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
                let _ = write!(text, ", {:.1} MiB in, {:.1} MiB out", mib(used.received), mib(used.sent));
            }
            text.push('\n');
        }
        text
    }

    /// Whether everybody's mark was answered in time.
    pub fn is_good(&self) -> bool {
        !self.cut_off && self.answered == self.members as u64
    }
}
