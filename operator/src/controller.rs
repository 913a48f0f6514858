//! What a leading operator does all the time: watches, visits, asks pods, looks for optional APIs.

pub mod outcome;
pub mod queue;
pub mod reconcile;
pub mod status;
pub mod turns;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use self::reconcile::Outcome;
use crate::api::Tier;
use crate::context::Context;
use crate::kubernetes::key::Key;
use crate::kubernetes::stores;
use crate::metrics;
use crate::tiers::workload::is_of;

/// How often it is looked whether an optional API has come or gone.
const DISCOVERY: Duration = Duration::from_secs(60);
/// After the first failed visit the next comes so soon; twice as late after each further one.
const BACKOFF: Duration = Duration::from_secs(1);
/// The longest wait after a failed visit.
const LONGEST: Duration = Duration::from_secs(120);

/// Everything that runs until the process ends, by name.
pub fn work(context: &Arc<Context>) -> Vec<(&'static str, BoxFuture<'static, ()>)> {
    let shared = Arc::clone(context);
    let unreadable: stores::Unreadable = Arc::new(move |key, generation, error| {
        tokio::spawn(reconcile::unreadable(Arc::clone(&shared), key, generation, error));
    });
    let mut work = context.stores.watches(&context.client, &context.queue, &unreadable);
    work.push(("visits", visits(Arc::clone(context)).boxed()));
    work.push(("drain readings", ask(Arc::clone(context)).boxed()));
    work.push(("discovery", discover(Arc::clone(context)).boxed()));
    work
}

/// Visits ImClusters as they are due, several at a time.
async fn visits(context: Arc<Context>) {
    loop {
        let key = context.queue.next().await;
        let Ok(place) = Arc::clone(&context.places).acquire_owned().await else { return };
        if context.is_ending() {
            return std::future::pending().await;
        }
        let context = Arc::clone(&context);
        tokio::spawn(async move {
            let visited = tokio::spawn(visit(Arc::clone(&context), key.clone())).await;
            // A visit that panicked met a defect: another one soon would meet it again.
            context.queue.done(key, visited.unwrap_or(Some(LONGEST)));
            drop(place);
        });
    }
}

/// One visit; returns when the next is due, unless something happens before.
async fn visit(context: Arc<Context>, key: Key) -> Option<Duration> {
    let begun = Instant::now();
    let outcome = Box::pin(reconcile::reconcile(&context, &key)).await;
    metrics::RECONCILES.with_label_values(&[outcome.name()]).inc();
    metrics::RECONCILE_SECONDS.with_label_values(&[outcome.name()]).observe(begun.elapsed().as_secs_f64());
    let mut memory = context.memory(&key);
    let failures = if matches!(outcome, Outcome::Failed) { memory.failures.saturating_add(1) } else { 0 };
    if failures != memory.failures {
        memory.failures = failures;
        context.remember(&key, memory);
    }
    match outcome {
        Outcome::Gone => {
            context.forget(&key);
            None
        }
        Outcome::Settled(again) | Outcome::Changed(again) | Outcome::Waiting(again) => Some(again),
        Outcome::Failed => Some(backoff(failures, BACKOFF, LONGEST)),
    }
}

/// How long to wait after so many failures in a row: `first`, twice as long each time, until it is `longest`; give or take
/// a third, so that those who failed together do not come back together.
pub fn backoff(failures: u32, first: Duration, longest: Duration) -> Duration {
    let base = first * 2_u32.saturating_pow(failures.saturating_sub(1).min(10));
    base.min(longest).mul_f64(rand::random_range(0.7..1.3))
}

/// Asks connect pods for their connections, again and again.
async fn ask(context: Arc<Context>) {
    let mut every = interval(context.settings.drain_interval);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let pods: Vec<_> = context.stores.pods.all().into_iter().filter(|pod| is_of(pod, Tier::Connect)).collect();
        for changed in context.asking.round(&pods, &context.readings).await {
            context.queue.wake(changed);
        }
    }
}

/// Looks whether the API of PodMonitors is there.
async fn discover(context: Arc<Context>) {
    loop {
        match stores::pod_monitors_exist(&context.client).await {
            Ok(there) => {
                if context.stores.found_pod_monitors(there) {
                    tracing::info!(there, "the API of PodMonitors");
                    context
                        .stores
                        .clusters
                        .all()
                        .iter()
                        .for_each(|cluster| context.queue.wake(Key::of(cluster.as_ref())));
                }
            }
            Err(error) => tracing::warn!(%error, "it cannot be told which APIs there are"),
        }
        sleep(DISCOVERY.mul_f64(rand::random_range(0.8..1.2))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_put_visits_off_more_and_more_and_never_for_long() {
        let backoff = |failures| backoff(failures, BACKOFF, LONGEST);
        let longest = |failures| (0..50).map(|_| backoff(failures)).max().unwrap();
        let shortest = |failures| (0..50).map(|_| backoff(failures)).min().unwrap();
        assert!(longest(1) < Duration::from_secs(2));
        assert!(shortest(5) > Duration::from_secs(10));
        assert!(longest(u32::MAX) <= LONGEST.mul_f64(1.3));
    }
}
