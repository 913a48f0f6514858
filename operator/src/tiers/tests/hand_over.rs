//! Hand-overs between three redis that three Sentinels watch, with the settings that their pods have, under writes.
#![expect(
    clippy::print_stdout,
    reason = "what was measured is shown with --nocapture"
)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::secrets::Credentials;
use crate::tiers::redis::act;
use crate::tiers::redis::client::{connect, set_min_replicas};
use crate::tiers::redis::decide::{Sentinel, Succession};
use crate::tiers::redis::failover::{Error, fail_over};
use crate::tiers::redis::observe;
use im_runtime::unused_port;
use redis::AsyncCommands;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep};

use super::{Authority, Running, eventually, redis_words, start};

const SERVICE: &str = "demo";
/// All on one port, each at an address of its own, as pods are.
const REDIS: [&str; 3] = ["127.0.0.11", "127.0.0.12", "127.0.0.13"];
const SENTINELS: [&str; 3] = ["127.0.0.21", "127.0.0.22", "127.0.0.23"];
const WRITERS: usize = 4;

/// A set that is in step, with the first as its master.
struct Set {
    known: Credentials,
    redis: Vec<Running>,
    sentinels: Vec<Running>,
    redis_port: i32,
    sentinel_port: i32,
    confirming: usize,
    _folder: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// One set at a time: six servers are enough for a machine whose patience is measured.
static TURN: Mutex<()> = Mutex::const_new(());

impl Set {
    async fn new(confirming: usize) -> Self {
        let turn = TURN.lock().await;
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new();
        let names: Vec<&str> = REDIS.into_iter().chain(SENTINELS).collect();
        let leaf = authority.leaf_for(&names);
        authority.write(folder.path(), &leaf);
        let known = authority.known(&leaf);
        let (redis_port, sentinel_port) = (
            unused_port().expect("a port"),
            unused_port().expect("another"),
        );
        let redis = REDIS.map(|host| {
            server(
                folder.path(),
                host,
                redis_port,
                &replica_of(host, redis_port, confirming),
            )
        });
        let sentinels =
            SENTINELS.map(|host| server(folder.path(), host, sentinel_port, &sentinel_words(host)));
        let set = Self {
            known,
            redis: redis.into(),
            sentinels: sentinels.into(),
            redis_port: redis_port.into(),
            sentinel_port: sentinel_port.into(),
            confirming,
            _folder: folder,
            _turn: turn,
        };
        for host in SENTINELS {
            let link = async || connect(host, set.sentinel_port, &set.known).await.ok();
            let mut link = eventually("a Sentinel answers", link).await;
            act::monitor(&mut link, SERVICE, (REDIS[0], set.redis_port), "secret")
                .await
                .expect("it watches");
        }
        let in_step = async || {
            for host in REDIS {
                let answer = observe::server(host, set.redis_port, &set.known).await?;
                if !(answer.in_step || answer.master && answer.replicas == 2) {
                    return None;
                }
            }
            Some(())
        };
        eventually("the replicas are in step", in_step).await;
        for host in SENTINELS {
            let known = async || {
                let mut link = connect(host, set.sentinel_port, &set.known).await.ok()?;
                let mut count = redis::cmd("SENTINEL");
                let replicas: Vec<redis::Value> = count
                    .arg("REPLICAS")
                    .arg(SERVICE)
                    .query_async(&mut link)
                    .await
                    .ok()?;
                (replicas.len() == 2).then_some(())
            };
            eventually("a Sentinel has found the replicas", known).await;
        }
        set
    }

    fn succession(&self, master: usize) -> Succession {
        let others = REDIS
            .iter()
            .enumerate()
            .filter(|(place, _)| *place != master);
        Succession {
            service: SERVICE.to_owned(),
            master: REDIS[master].to_owned(),
            replicas: others.map(|(_, &host)| host.to_owned()).collect(),
            sentinels: SENTINELS.map(str::to_owned).to_vec(),
            redis_port: self.redis_port,
            sentinel_port: self.sentinel_port,
            confirming: self.confirming,
        }
    }

    /// The master as a Sentinel names it to clients.
    async fn named(&self, sentinel: &str) -> Option<String> {
        let mut link = connect(sentinel, self.sentinel_port, &self.known)
            .await
            .ok()?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(SERVICE);
        let address: Option<(String, i32)> = question.query_async(&mut link).await.ok()?;
        address.map(|(host, _)| host)
    }
}

fn signal(process: &Running, signal: &str) {
    let sent = Command::new("kill")
        .args([signal, &process.0.id().to_string()])
        .status()
        .expect("kill runs");
    assert!(sent.success());
}

fn server(folder: &Path, host: &str, port: u16, words: &[String]) -> Running {
    let home = folder.join(host);
    std::fs::create_dir(&home).expect("a folder");
    let configuration = home.join("redis.conf");
    std::fs::write(&configuration, "").expect("written");
    let mut all = vec![configuration.display().to_string()];
    all.extend(redis_words(port, folder, &home));
    all.extend(["--bind", host, "--tls-replication", "yes"].map(str::to_owned));
    all.extend(words.iter().cloned());
    start("redis-server", &all, &home)
}

fn replica_of(host: &str, port: u16, confirming: usize) -> Vec<String> {
    let mut words = format!(
        "--masterauth secret --appendonly yes --appendfsync everysec --repl-backlog-size 64mb --repl-diskless-sync-delay 0 \
         --replica-announce-ip {host} --min-replicas-to-write {confirming}"
    );
    if host != REDIS[0] {
        words.push_str(&format!(" --replicaof {} {port}", REDIS[0]));
    }
    words.split(' ').map(str::to_owned).collect()
}

fn sentinel_words(host: &str) -> Vec<String> {
    let words = format!("--sentinel --sentinel sentinel-pass secret --sentinel announce-ip {host}");
    words.split(' ').map(str::to_owned).collect()
}

/// What writers were told is stored, and the longest time in which none of them was told so.
#[derive(Default)]
struct Written {
    keys: Vec<String>,
    at: Vec<Instant>,
}

/// Writes until told to stop, as logic does: to whom a Sentinel names, until that one refuses.
async fn write(set: Arc<Set>, writer: usize, stop: Arc<AtomicBool>) -> Written {
    let mut written = Written::default();
    let mut link = None;
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("{writer}:{number}");
        if link.is_none()
            && let Some(master) = set.named(SENTINELS[writer % SENTINELS.len()]).await
        {
            link = connect(&master, set.redis_port, &set.known).await.ok();
        }
        let Some(to) = &mut link else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut both = redis::pipe();
        both.set(&key, number).ignore();
        both.cmd("WAIT").arg(set.confirming).arg(1_000);
        match both.query_async::<Vec<usize>>(to).await {
            Ok(confirmed)
                if confirmed
                    .first()
                    .is_some_and(|count| *count >= set.confirming) =>
            {
                written.keys.push(key);
                written.at.push(Instant::now());
            }
            Ok(_) => {}
            Err(_) => {
                link = None;
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
    written
}

async fn nothing_acknowledged_is_lost(confirming: usize) {
    let set = Arc::new(Set::new(confirming).await);
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(Arc::clone(&set), writer, Arc::clone(&stop))))
        .collect();
    sleep(Duration::from_secs(1)).await;
    let mut stopped = Vec::new();
    let mut master = 0;
    // There and somewhere else again: what the first has left behind must not be in the second's way.
    for _ in 0..2 {
        let done = fail_over(&set.succession(master), &set.known)
            .await
            .expect("handed over");
        let old = observe::server(REDIS[master], set.redis_port, &set.known)
            .await
            .expect("it answers");
        assert!(!old.master, "it follows at once: {old:?}");
        assert_eq!(old.min_replicas, confirming);
        stopped.push(done.refused);
        master = REDIS
            .iter()
            .position(|host| *host == done.to)
            .expect("one of them");
        let whole = async || {
            for sentinel in SENTINELS {
                let (known, failing_over) =
                    observe::sentinel(sentinel, set.sentinel_port, SERVICE, &set.known).await;
                if known != Sentinel::Knows(Some(done.to.clone())) || failing_over != Some(false) {
                    return None;
                }
            }
            let answer = observe::server(&done.to, set.redis_port, &set.known).await?;
            (answer.master && answer.replicas == 2).then_some(answer)
        };
        let answer = eventually("both others follow, and Sentinels know", whole).await;
        assert_eq!(answer.min_replicas, confirming);
        sleep(Duration::from_secs(1)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut at = Vec::new();
    let mut lost = Vec::new();
    let mut count = 0;
    let mut link = connect(REDIS[master], set.redis_port, &set.known)
        .await
        .expect("the master");
    for writer in writers {
        let written = writer.await.expect("a writer");
        count += written.keys.len();
        let there: Vec<Option<u64>> = link.mget(&written.keys).await.expect("read");
        lost.extend(
            written
                .keys
                .into_iter()
                .zip(there)
                .filter(|(_, there)| there.is_none())
                .map(|(key, _)| key),
        );
        at.extend(written.at);
    }
    at.sort();
    let silence = at
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .max()
        .expect("writes");
    println!(
        "{confirming} replicas confirm: {count} writes acknowledged, {} lost; refused for {stopped:?}, longest silence {silence:?}",
        lost.len()
    );
    assert!(count > 200, "{count} writes: nothing was shown");
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    // A second or two; more only on a machine that is busy with something else.
    assert!(
        silence < Duration::from_secs(10),
        "no write for {silence:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_where_the_master_alone_confirms() {
    Box::pin(nothing_acknowledged_is_lost(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_where_one_replica_confirms() {
    Box::pin(nothing_acknowledged_is_lost(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_where_both_replicas_confirm() {
    Box::pin(nothing_acknowledged_is_lost(2)).await;
}

#[tokio::test]
async fn a_replica_that_is_cut_off_is_not_waited_for_and_writes_go_on() {
    let set = Set::new(0).await;
    let mut link = connect(REDIS[0], set.redis_port, &set.known)
        .await
        .expect("the master");
    set_min_replicas(&mut link, 1_000).await.expect("told");
    let answer = observe::server(REDIS[0], set.redis_port, &set.known)
        .await
        .expect("it answers");
    assert_eq!(answer.min_replicas, 1_000);
    let refused: redis::RedisError = link
        .set::<_, _, ()>("key", 1)
        .await
        .expect_err("it takes no writes");
    assert_eq!(refused.code(), Some("NOREPLICAS"), "{refused}");
    set_min_replicas(&mut link, 0).await.expect("told");

    signal(&set.redis[2], "-STOP");
    let begun = Instant::now();
    let failed = fail_over(&set.succession(0), &set.known).await;
    assert!(matches!(failed, Err(Error::Behind)), "{failed:?}");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let () = link.set("key", 2).await.expect("it takes writes again");
    assert_eq!(set.named(SENTINELS[0]).await.as_deref(), Some(REDIS[0]));
    signal(&set.redis[2], "-CONT");
}

#[tokio::test]
async fn without_a_sentinel_nothing_is_begun() {
    let set = Set::new(0).await;
    let mut alone = set.succession(0);
    alone.sentinels.clear();
    assert!(matches!(
        fail_over(&alone, &set.known).await,
        Err(Error::NoSentinel)
    ));
    let answer = observe::server(REDIS[0], set.redis_port, &set.known)
        .await
        .expect("it answers");
    assert_eq!((answer.master, answer.min_replicas), (true, 0));
}

#[tokio::test]
async fn a_sentinel_that_stood_still_and_does_nothing_is_passed_over() {
    let set = Set::new(0).await;
    signal(&set.sentinels[0], "-STOP");
    // So long that it finds out.
    sleep(Duration::from_secs(4)).await;
    signal(&set.sentinels[0], "-CONT");
    let tilted = async || {
        let mut link = connect(SENTINELS[0], set.sentinel_port, &set.known)
            .await
            .ok()?;
        let info: redis::InfoDict = redis::cmd("INFO")
            .arg("sentinel")
            .query_async(&mut link)
            .await
            .ok()?;
        (info.get::<u8>("sentinel_tilt") == Some(1)).then_some(())
    };
    eventually("it is in tilt mode", tilted).await;
    let mut only = set.succession(0);
    only.sentinels.truncate(1);
    let failed = fail_over(&only, &set.known).await;
    assert!(matches!(failed, Err(Error::NoSentinel)), "{failed:?}");
    let done = fail_over(&set.succession(0), &set.known)
        .await
        .expect("another does it");
    assert!(done.refused < Duration::from_secs(5), "{done:?}");
}
