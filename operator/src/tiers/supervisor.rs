//! Who sees to redis and etcd: one task per ImCluster that asks them, decides and acts, beside the visits and never
//! during one. Visits read what it found.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::api::{EtcdMode, ImCluster, RedisMode, Tier};
use crate::context::Context;
use crate::controller::backoff;
use crate::controller::status::Verdict;
use crate::kubernetes::key::Key;
use crate::secrets::Known;
use crate::secrets::authority::Rotation;
use crate::tiers::etcd;
use crate::tiers::etcd::observe::Tls;
use crate::tiers::redis::{self, observe as ask};
use crate::tiers::{certificates as renewal, metrics as figures, stateful};
use crate::{build, metrics};

/// What was found at the last round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Redis' condition.
    pub redis: Option<Verdict>,
    /// Etcd's.
    pub etcd: Option<Verdict>,
    /// The redis pod that is the master.
    pub master: Option<String>,
    /// Whether redis may have data.
    pub redis_bootstrapped: bool,
    /// Whether etcd was formed.
    pub etcd_bootstrapped: bool,
}

/// The tasks, one per ImCluster.
#[derive(Debug, Default)]
pub struct Keepers(Mutex<HashMap<Key, Keeper>>);

#[derive(Debug)]
struct Keeper {
    task: AbortHandle,
    hurry: Arc<Notify>,
    known: watch::Sender<Known>,
    said: watch::Receiver<Option<Said>>,
}

impl Keepers {
    /// What was found last; begins a task where there is none. `None`: nothing yet.
    pub fn said(&self, context: &Arc<Context>, key: &Key, known: &Known) -> Option<Said> {
        let mut keepers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keeper) = keepers.get(key).filter(|keeper| !keeper.task.is_finished()) {
            keeper.known.send_if_modified(|now| {
                let new = now != known;
                now.clone_from(known);
                new
            });
            return keeper.said.borrow().clone();
        }
        let (known, hears) = watch::channel(known.clone());
        let (says, said) = watch::channel(None);
        let hurry = Arc::new(Notify::new());
        let keep = keep(Arc::downgrade(context), key.clone(), hears, Arc::clone(&hurry), says);
        let task = tokio::spawn(keep).abort_handle();
        keepers.insert(key.clone(), Keeper { task, hurry, known, said });
        None
    }

    /// Looks at redis and etcd at once instead of after the usual pause.
    pub fn hurry(&self, key: &Key) {
        if let Some(keeper) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key) {
            keeper.hurry.notify_one();
        }
    }

    /// What was found last, whether or not there is a task.
    pub fn last(&self, key: &Key) -> Option<Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key)?.said.borrow().clone()
    }

    /// Ends the task of an ImCluster.
    pub fn forget(&self, key: &Key) {
        if let Some(keeper) = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key) {
            keeper.task.abort();
            figures::forget(key);
        }
    }

    /// Ends all of them.
    pub fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).drain().for_each(|(key, keeper)| {
            keeper.task.abort();
            figures::forget(&key);
        });
    }
}

async fn keep(
    context: std::sync::Weak<Context>,
    key: Key,
    known: watch::Receiver<Known>,
    hurry: Arc<Notify>,
    says: watch::Sender<Option<Said>>,
) {
    let mut memory = Memory { certificates: Instant::now(), hand_over: None };
    loop {
        let Some(context) = context.upgrade() else { return };
        let Some(cluster) = context.stores.clusters.get(&key) else { return };
        let now = known.borrow().clone();
        let (said, pause) = Box::pin(round(&context, &key, &cluster, &now, &mut memory)).await;
        let new = says.send_if_modified(|before| {
            let new = before.as_ref() != Some(&said);
            *before = Some(said);
            new
        });
        if new {
            context.queue.wake(key.clone());
        }
        drop(context);
        // Whatever comes: redis and etcd are never asked more often than this.
        sleep(LEAST).await;
        let _ = timeout(pause.mul_f64(rand::random_range(0.9..1.1)), hurry.notified()).await;
    }
}

/// What is remembered from round to round.
struct Memory {
    /// When the certificates that redis and Sentinels show were last looked at.
    certificates: Instant,
    /// Hand-overs that failed in a row, and when the next may be tried.
    hand_over: Option<(u32, Instant)>,
}

impl Memory {
    /// Whether a thing is to be done now.
    fn is_due(&self, action: &redis::decide::Action) -> bool {
        let waits = self.hand_over.is_some_and(|(_, next)| Instant::now() < next);
        !(waits && matches!(action, redis::decide::Action::HandOver(_)))
    }

    /// Remembers how a hand-over ended.
    fn tried(&mut self, action: &redis::decide::Action, done: bool) {
        if !matches!(action, redis::decide::Action::HandOver(_)) {
            return;
        }
        let failures = self.hand_over.map_or(1, |(failures, _)| failures.saturating_add(1));
        self.hand_over = (!done).then(|| (failures, Instant::now() + backoff(failures, HAND_OVER, HAND_OVER_LONGEST)));
    }
}

/// After a hand-over that failed writes go on for so long before the next is tried, twice as long each time …
const HAND_OVER: Duration = Duration::from_secs(5);
/// … until it is this.
const HAND_OVER_LONGEST: Duration = Duration::from_secs(300);
/// The least pause between two rounds.
const LEAST: Duration = Duration::from_millis(200);

/// While redis or etcd are being set up, replaced or missed, they are looked at this often.
const UNSETTLED: Duration = Duration::from_secs(3);
/// Otherwise.
const SETTLED: Duration = Duration::from_secs(15);
/// The certificates that redis and Sentinels show are looked at this often.
const CERTIFICATES: Duration = Duration::from_secs(60);

/// One round: ask, decide, act. Returns what was found and when the next round is due.
async fn round(
    context: &Arc<Context>,
    key: &Key,
    cluster: &Arc<ImCluster>,
    known: &Known,
    memory: &mut Memory,
) -> (Said, Duration) {
    let mut said = Said::default();
    let mut acted = false;
    // What is about to go is left as it is.
    let looks_only = cluster.spec.paused || cluster.metadata.deletion_timestamp.is_some();
    if cluster.spec.redis.mode != RedisMode::External {
        let seen = look(context, key, cluster, known).await;
        figures::redis(key, &seen);
        let decision = redis::decide::decide(&seen);
        for action in &decision.actions {
            if looks_only || !memory.is_due(action) {
                break;
            }
            acted = true;
            if !context.gate.is_open() {
                break;
            }
            let done = redis::act::carry_out(context, key, known, &seen, action).await;
            memory.tried(action, done.is_ok());
            if let Err(error) = done {
                tracing::warn!(cluster = %key, ?action, %error, "not done: looked at again");
                if let redis::decide::Action::HandOver(_) = action {
                    metrics::HAND_OVERS_FAILED.inc();
                    context.events.warning(cluster, "HandOverFailed", &error.to_string()).await;
                }
                break;
            }
        }
        let master = decision.master.and_then(|place| seen.servers.get(place));
        said.master = master.and_then(|server| server.host.split('.').next()).map(str::to_owned);
        said.redis_bootstrapped = seen.servers.iter().any(|server| server.latched);
        if !acted && decision.verdict.holds() && !looks_only && memory.certificates.elapsed() >= CERTIFICATES {
            memory.certificates = Instant::now();
            renewal::round(context, key, known, &seen).await;
        }
        said.redis = Some(decision.verdict);
    }
    if cluster.spec.etcd.mode == EtcdMode::Managed {
        let seen = look_at_etcd(context, key, cluster, known).await;
        figures::etcd(key, &seen);
        let decision = etcd::decide::decide(&seen);
        let serving = seen.places.iter().position(|place| place.answer.is_some_and(|answer| !answer.learner));
        for action in decision.actions.iter().filter(|_| !looks_only) {
            acted = true;
            if !context.gate.is_open() {
                break;
            }
            if let Err(error) = etcd::act::carry_out(context, key, known, serving.unwrap_or_default(), *action).await {
                tracing::warn!(cluster = %key, ?action, %error, "not done: looked at again");
                break;
            }
        }
        said.etcd_bootstrapped = decision.existing;
        acted |= seen.places.iter().any(|place| place.outdated || place.answer.is_none_or(|answer| answer.learner));
        said.etcd = Some(decision.verdict);
    }
    let holds = |verdict: &Option<Verdict>| verdict.as_ref().is_none_or(Verdict::holds);
    let settled = !acted && holds(&said.redis) && holds(&said.etcd);
    (said, if settled { SETTLED } else { UNSETTLED })
}

/// Asks all members of etcd at the same time.
async fn look_at_etcd(context: &Context, key: &Key, cluster: &ImCluster, known: &Known) -> etcd::decide::Observed {
    let count = usize::try_from(cluster.spec.etcd.replicas).unwrap_or_default();
    let hosts = build::etcd_members(key, count);
    let peers: Vec<String> = hosts.iter().map(|host| host.peer.clone()).collect();
    let asked = hosts.iter().map(|host| etcd::observe::member(&host.client, Tls::of(known), &peers));
    let answers = join_all(asked).await;
    let members = answers.iter().flatten().find_map(|(_, members)| members.clone());
    let places = stateful::places(context, key, Tier::Etcd, count).into_iter().zip(answers).enumerate();
    // It reads whom to believe when it starts.
    let introduced = known.change.filter(|(phase, _)| *phase == Rotation::Introducing).map(|(_, since)| since);
    let ignorant = |number| introduced.is_some_and(|since| stateful::is_older(context, key, Tier::Etcd, number, since));
    let place = |(number, (place, answer)): (usize, (stateful::Place, Option<(etcd::decide::Answer, _)>))| {
        etcd::decide::Place {
            latched: place.latched,
            ready: place.ready,
            outdated: place.outdated || ignorant(number),
            stale: place.stale,
            waiting: place.joining,
            crashing: place.crashing,
            answer: answer.map(|(answer, _)| answer),
        }
    };
    let status = cluster.status.as_ref().and_then(|status| status.etcd.as_ref());
    etcd::decide::Observed {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        places: places.map(place).collect(),
        members,
        mirrored: status.is_some_and(|etcd| etcd.bootstrapped),
        anew: is_said(cluster, etcd::decide::ANEW),
    }
}

/// Asks all redis and Sentinels at the same time.
async fn look(context: &Context, key: &Key, cluster: &ImCluster, known: &Known) -> redis::decide::Observed {
    let spec = &cluster.spec.redis;
    let (servers, sentinels) = match spec.mode {
        RedisMode::Sentinel => (build::REDIS_REPLICAS, build::SENTINEL_REPLICAS),
        _ => (1, 0),
    };
    let host = |tier, place| context.pod_host(key, tier, place);
    let hosts: Vec<String> = (0..servers).map(|place| host(Tier::Redis, place)).collect();
    let watchers: Vec<String> = (0..sentinels).map(|place| host(Tier::Sentinel, place)).collect();
    let answers = join_all(hosts.iter().map(|host| ask::server(host, build::REDIS_PORT, known)));
    let known_masters =
        join_all(watchers.iter().map(|host| ask::sentinel(host, build::SENTINEL_PORT, &key.name, known)));
    let (answers, told) = tokio::join!(answers, known_masters);
    let failing_over = told.iter().any(|(_, failing_over)| *failing_over == Some(true));
    let sentinels = told.into_iter().map(|(sentinel, _)| sentinel).collect();
    let places = stateful::places(context, key, Tier::Redis, hosts.len());
    let servers = hosts.into_iter().zip(places).zip(answers).map(|((host, place), answer)| redis::decide::Server {
        host,
        latched: place.latched,
        ready: place.ready,
        ending: place.ending,
        outdated: place.outdated,
        answer,
    });
    // Sentinels read certificates when they start.
    let stale =
        |place| known.change.is_some_and(|(_, since)| stateful::is_older(context, key, Tier::Sentinel, place, since));
    let outdated = stateful::places(context, key, Tier::Sentinel, watchers.len()).into_iter().enumerate();
    let outdated = outdated.filter(|(number, place)| place.outdated || stale(*number)).map(|(number, _)| number);
    let confirming = usize::try_from(build::confirming_replicas(spec)).unwrap_or_default();
    redis::decide::Observed {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        servers: servers.collect(),
        sentinels,
        outdated_sentinels: outdated.collect(),
        failing_over,
        confirming,
        mirrored: cluster
            .status
            .as_ref()
            .and_then(|status| status.redis.as_ref())
            .is_some_and(|redis| redis.bootstrapped),
        anew: is_said(cluster, redis::decide::ANEW),
    }
}

/// Whether a person has said so by an annotation.
pub fn is_said(cluster: &ImCluster, annotation: &str) -> bool {
    cluster.metadata.annotations.iter().flatten().any(|(name, value)| name == annotation && value == "true")
}
