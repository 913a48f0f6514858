//! Who sees to redis and etcd: one task per ImCluster that asks them, decides and acts, beside the visits and never
//! during one. Visits read what it found.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::api::{EtcdMode, ImCluster, RedisMode, Tier};
use crate::context::Context;
use crate::key::Key;
use crate::redis::{self, ask};
use crate::secrets::Known;
use crate::status::Verdict;
use crate::{build, stateful};

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
        let task = tokio::spawn(keep(Arc::downgrade(context), key.clone(), hears, says)).abort_handle();
        keepers.insert(key.clone(), Keeper { task, known, said });
        None
    }

    /// What was found last, whether or not there is a task.
    pub fn last(&self, key: &Key) -> Option<Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key)?.said.borrow().clone()
    }

    /// Ends the task of an ImCluster.
    pub fn forget(&self, key: &Key) {
        if let Some(keeper) = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key) {
            keeper.task.abort();
        }
    }

    /// Ends all of them.
    pub fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).drain().for_each(|(_, keeper)| keeper.task.abort());
    }
}

async fn keep(
    context: std::sync::Weak<Context>,
    key: Key,
    known: watch::Receiver<Known>,
    says: watch::Sender<Option<Said>>,
) {
    loop {
        let Some(context) = context.upgrade() else { return };
        let Some(cluster) = context.stores.clusters.get(&key) else { return };
        let now = known.borrow().clone();
        let (said, pause) = Box::pin(round(&context, &key, &cluster, &now)).await;
        let new = says.send_if_modified(|before| {
            let new = before.as_ref() != Some(&said);
            *before = Some(said);
            new
        });
        if new {
            context.queue.wake(key.clone());
        }
        drop(context);
        sleep(pause.mul_f64(rand::random_range(0.9..1.1))).await;
    }
}

/// While redis or etcd are being set up, replaced or missed, they are looked at this often.
const UNSETTLED: Duration = Duration::from_secs(3);
/// Otherwise.
const SETTLED: Duration = Duration::from_secs(15);

/// One round: ask, decide, act. Returns what was found and when the next round is due.
async fn round(context: &Arc<Context>, key: &Key, cluster: &Arc<ImCluster>, known: &Known) -> (Said, Duration) {
    let mut said = Said::default();
    let mut acted = false;
    if cluster.spec.redis.mode != RedisMode::External {
        let seen = look(context, key, cluster, known).await;
        let decision = redis::decide(&seen);
        for action in decision.actions.iter().filter(|_| !cluster.spec.paused) {
            acted = true;
            if let Err(error) = redis::act::carry_out(context, key, known, action).await {
                tracing::warn!(cluster = %key, ?action, %error, "not done: looked at again");
                break;
            }
        }
        let master = decision.master.and_then(|place| seen.servers.get(place));
        said.master = master.and_then(|server| server.host.split('.').next()).map(str::to_owned);
        said.redis_bootstrapped = seen.servers.iter().any(|server| server.latched);
        said.redis = Some(decision.verdict);
    }
    if cluster.spec.etcd.mode == EtcdMode::Managed && !cluster.spec.paused {
        let count = usize::try_from(cluster.spec.etcd.replicas).unwrap_or_default();
        let places = stateful::places(context, key, Tier::Etcd, count);
        // One member at a time, and only while all others are there.
        // One that cannot work with its template is the first to get the next.
        let away = places.iter().filter(|place| !place.ready).count();
        let broken = places.iter().rposition(|place| place.outdated && !place.ready).filter(|_| away == 1);
        let outdated = places.iter().rposition(|place| place.outdated).filter(|_| away == 0);
        if let Some(outdated) = broken.or(outdated) {
            acted = true;
            tracing::info!(cluster = %key, member = outdated, "etcd: a member takes the new template");
            if let Err(error) = stateful::end(context, key, Tier::Etcd, outdated).await {
                tracing::warn!(cluster = %key, %error, "a member is not ended: tried again");
            }
        }
        acted |= places.iter().any(|place| !place.ready || place.outdated);
    }
    let settled = !acted && said.redis.as_ref().is_none_or(Verdict::holds);
    (said, if settled { SETTLED } else { UNSETTLED })
}

/// Asks all redis and Sentinels at the same time.
async fn look(context: &Context, key: &Key, cluster: &ImCluster, known: &Known) -> redis::Observed {
    let spec = &cluster.spec.redis;
    let (servers, sentinels) = match spec.mode {
        RedisMode::Sentinel => (build::REDIS_REPLICAS, build::SENTINEL_REPLICAS),
        _ => (1, 0),
    };
    let host = |tier, place| build::pod_host(&key.name, &key.namespace, tier, place);
    let hosts: Vec<String> = (0..servers).map(|place| host(Tier::Redis, place)).collect();
    let watchers: Vec<String> = (0..sentinels).map(|place| host(Tier::Sentinel, place)).collect();
    let answers = join_all(hosts.iter().map(|host| ask::server(host, build::REDIS_PORT, known)));
    let known_masters =
        join_all(watchers.iter().map(|host| ask::sentinel(host, build::SENTINEL_PORT, &key.name, known)));
    let (answers, sentinels) = tokio::join!(answers, known_masters);
    let places = stateful::places(context, key, Tier::Redis, hosts.len());
    let servers = hosts.into_iter().zip(places).zip(answers).map(|((host, place), answer)| redis::Server {
        host,
        latched: place.latched,
        ready: place.ready,
        outdated: place.outdated,
        answer,
    });
    let confirming = usize::try_from(build::confirming_replicas(spec)).unwrap_or_default();
    redis::Observed {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        servers: servers.collect(),
        sentinels,
        confirming,
    }
}
