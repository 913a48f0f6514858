//! Looks after redis and etcd: one task per ImCluster that observes them, decides and acts, beside reconciliations and never
//! during one. Reconciliations read what it found.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::api::{EtcdMode, ImCluster, RedisMode, Verdict};
use crate::backoff::backoff;
use crate::context::Context;
use crate::kubernetes::key::Key;
use crate::metrics::HAND_OVERS_FAILED;
use crate::secrets::Credentials;
use crate::tiers::{certificates, etcd, metrics, redis};

/// While redis or etcd are being set up, replaced or missed, they are observed this often.
const UNSETTLED: Duration = Duration::from_secs(3);
/// Otherwise.
const SETTLED: Duration = Duration::from_secs(15);
/// Whatever comes: the least pause between two rounds.
const MIN_PAUSE: Duration = Duration::from_millis(200);
/// The certificates that redis and Sentinels present are looked at this often.
const CERTIFICATES: Duration = Duration::from_secs(60);
/// After a failover that failed writes go on for so long before the next is tried, twice as long each time …
const FAILOVER_BACKOFF: Duration = Duration::from_secs(5);
/// … until it is this.
const MAX_FAILOVER_BACKOFF: Duration = Duration::from_secs(300);

/// What was found at the last round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StoreStatus {
    /// The condition of redis.
    pub(crate) redis: Option<Verdict>,
    /// The condition of etcd.
    pub(crate) etcd: Option<Verdict>,
    /// The redis pod that is the master.
    pub(crate) master: Option<String>,
    /// Whether redis may have data.
    pub(crate) redis_bootstrapped: bool,
    /// Whether etcd was formed.
    pub(crate) etcd_bootstrapped: bool,
}

/// The tasks, one per ImCluster.
#[derive(Debug)]
pub(crate) struct Supervisors {
    running: Mutex<HashMap<Key, Supervisor>>,
    /// A failover has one, so that the process does not end during it.
    permits: Arc<Semaphore>,
}

#[derive(Debug)]
struct Supervisor {
    task: AbortHandle,
    hurry: Arc<Notify>,
    credentials: watch::Sender<Credentials>,
    status: watch::Receiver<Option<StoreStatus>>,
}

impl Supervisors {
    pub(crate) fn new(permits: Arc<Semaphore>) -> Self {
        Self {
            running: Mutex::default(),
            permits,
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Key, Supervisor>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found last; begins a task where there is none. `None`: nothing yet.
    pub(crate) fn status(
        &self,
        context: &Arc<Context>,
        key: &Key,
        credentials: &Credentials,
    ) -> Option<StoreStatus> {
        let mut running = self.running();
        if let Some(supervisor) = running
            .get(key)
            .filter(|supervisor| !supervisor.task.is_finished())
        {
            supervisor.credentials.send_if_modified(|now| {
                let new = now != credentials;
                now.clone_from(credentials);
                new
            });
            return supervisor.status.borrow().clone();
        }
        let (credentials, inputs) = watch::channel(credentials.clone());
        let (results, status) = watch::channel(None);
        let hurry = Arc::new(Notify::new());
        let work = Work {
            context: Arc::downgrade(context),
            permits: Arc::clone(&self.permits),
            key: key.clone(),
            credentials: inputs,
            hurry: Arc::clone(&hurry),
            status: results,
            memory: Memory {
                certificates: Instant::now(),
                failover: None,
            },
        };
        let task = tokio::spawn(work.run()).abort_handle();
        running.insert(
            key.clone(),
            Supervisor {
                task,
                hurry,
                credentials,
                status,
            },
        );
        None
    }

    /// Begins the next round at once instead of after the usual pause.
    pub(crate) fn hurry(&self, key: &Key) {
        if let Some(supervisor) = self.running().get(key) {
            supervisor.hurry.notify_one();
        }
    }

    /// What was found last, whether or not there is a task.
    pub(crate) fn last(&self, key: &Key) -> Option<StoreStatus> {
        self.running().get(key)?.status.borrow().clone()
    }

    /// Ends the task of an ImCluster.
    pub(crate) fn forget(&self, key: &Key) {
        if let Some(supervisor) = self.running().remove(key) {
            supervisor.task.abort();
            metrics::forget(key);
        }
    }

    /// Ends all of them.
    pub(crate) fn end(&self) {
        self.running().drain().for_each(|(key, supervisor)| {
            supervisor.task.abort();
            metrics::forget(&key);
        });
    }
}

/// What is remembered from round to round.
struct Memory {
    /// When the certificates that redis and Sentinels present were last looked at.
    certificates: Instant,
    /// Failovers that failed in a row, and when the next may be tried.
    failover: Option<(u32, Instant)>,
}

impl Memory {
    /// Whether a thing is to be done now.
    fn is_due(&self, action: &redis::decide::Action) -> bool {
        let waits = self.failover.is_some_and(|(_, next)| Instant::now() < next);
        !(waits && matches!(action, redis::decide::Action::Failover(_)))
    }

    /// Remembers how a failover ended.
    fn tried(&mut self, action: &redis::decide::Action, done: bool) {
        if !matches!(action, redis::decide::Action::Failover(_)) {
            return;
        }
        let failures = self
            .failover
            .map_or(1, |(failures, _)| failures.saturating_add(1));
        let pause = backoff(failures, FAILOVER_BACKOFF, MAX_FAILOVER_BACKOFF);
        self.failover = (!done).then(|| (failures, Instant::now() + pause));
    }
}

/// One task.
struct Work {
    context: Weak<Context>,
    permits: Arc<Semaphore>,
    key: Key,
    credentials: watch::Receiver<Credentials>,
    hurry: Arc<Notify>,
    status: watch::Sender<Option<StoreStatus>>,
    memory: Memory,
}

impl Work {
    async fn run(mut self) {
        loop {
            let Some(context) = self.context.upgrade() else {
                return;
            };
            let Some(cluster) = context.stores.clusters.get(&self.key) else {
                return;
            };
            let credentials = self.credentials.borrow().clone();
            let (status, pause) = Box::pin(self.round(&context, &cluster, &credentials)).await;
            let new = self.status.send_if_modified(|before| {
                let new = before.as_ref() != Some(&status);
                *before = Some(status);
                new
            });
            if new {
                context.queue.wake(self.key.clone());
            }
            drop(context);
            sleep(MIN_PAUSE).await;
            let _ = timeout(
                pause.mul_f64(rand::random_range(0.9..1.1)),
                self.hurry.notified(),
            )
            .await;
        }
    }

    /// Observes, decides and acts once. Returns what was found and when the next round is due.
    async fn round(
        &mut self,
        context: &Context,
        cluster: &ImCluster,
        credentials: &Credentials,
    ) -> (StoreStatus, Duration) {
        let mut status = StoreStatus::default();
        let mut busy = false;
        if cluster.spec.redis.mode != RedisMode::External {
            busy |= self.redis(context, cluster, credentials, &mut status).await;
        }
        if cluster.spec.etcd.mode == EtcdMode::Managed {
            busy |= self.etcd(context, cluster, credentials, &mut status).await;
        }
        let holds = |verdict: &Option<Verdict>| verdict.as_ref().is_none_or(Verdict::holds);
        let settled = !busy && holds(&status.redis) && holds(&status.etcd);
        (status, if settled { SETTLED } else { UNSETTLED })
    }

    /// Returns whether anything was to be done.
    async fn redis(
        &mut self,
        context: &Context,
        cluster: &ImCluster,
        credentials: &Credentials,
        status: &mut StoreStatus,
    ) -> bool {
        let key = &self.key;
        let seen = redis::observe::observe(context, key, cluster, credentials).await;
        metrics::redis(key, &seen);
        let decision = redis::decide::decide(&seen);
        let mut acted = false;
        for action in decision.actions.iter().filter(|_| !is_left_alone(cluster)) {
            if !self.memory.is_due(action) {
                break;
            }
            acted = true;
            if !context.gate.is_open() {
                break;
            }
            let done =
                redis::act::act(context, &self.permits, key, credentials, &seen, action).await;
            self.memory.tried(action, done.is_ok());
            if let Err(error) = done {
                tracing::warn!(cluster = %key, ?action, %error, "redis action failed, will retry");
                if let redis::decide::Action::Failover(_) = action {
                    HAND_OVERS_FAILED.inc();
                    context
                        .events
                        .warning(cluster, "HandOverFailed", &error.to_string())
                        .await;
                }
                break;
            }
        }
        let master = decision
            .master
            .and_then(|ordinal| seen.servers.get(ordinal));
        status.master = master
            .and_then(|server| server.host.split('.').next())
            .map(str::to_owned);
        status.redis_bootstrapped = seen.servers.iter().any(|server| server.bootstrapped);
        let quiet = !acted && decision.verdict.holds() && !is_left_alone(cluster);
        if quiet && self.memory.certificates.elapsed() >= CERTIFICATES {
            self.memory.certificates = Instant::now();
            certificates::renew_all(context, key, credentials, &seen).await;
        }
        status.redis = Some(decision.verdict);
        acted
    }

    /// Returns whether anything was to be done, or a member is not yet what it is to be.
    async fn etcd(
        &mut self,
        context: &Context,
        cluster: &ImCluster,
        credentials: &Credentials,
        status: &mut StoreStatus,
    ) -> bool {
        let key = &self.key;
        let seen = etcd::observe::observe(context, key, cluster, credentials).await;
        metrics::etcd(key, &seen);
        let decision = etcd::decide::decide(&seen);
        let serving = seen
            .replicas
            .iter()
            .position(|replica| replica.answer.is_some_and(|answer| !answer.learner));
        let mut acted = false;
        for action in decision.actions.iter().filter(|_| !is_left_alone(cluster)) {
            acted = true;
            if !context.gate.is_open() {
                break;
            }
            if let Err(error) = etcd::act::act(
                context,
                key,
                credentials,
                serving.unwrap_or_default(),
                *action,
            )
            .await
            {
                tracing::warn!(cluster = %key, ?action, %error, "etcd action failed, will retry");
                break;
            }
        }
        status.etcd_bootstrapped = decision.existing;
        status.etcd = Some(decision.verdict);
        acted
            || seen.replicas.iter().any(|replica| {
                replica.outdated || replica.answer.is_none_or(|answer| answer.learner)
            })
    }
}

/// Whether an ImCluster is observed, and nothing is done: it is paused or about to go.
fn is_left_alone(cluster: &ImCluster) -> bool {
    cluster.spec.paused || cluster.metadata.deletion_timestamp.is_some()
}
