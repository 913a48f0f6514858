//! What a leading operator does all the time: watches, reconciles, asks pods, looks for optional APIs.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::outcome::Outcome;
use super::{Controller, reconcile, report};
use crate::api::Tier;
use crate::backoff::backoff;
use crate::context::Context;
use crate::kubernetes::key::Key;
use crate::kubernetes::pod::is_of;
use crate::kubernetes::stores;
use crate::metrics;
use crate::tiers::connect::drains::DrainClient;

/// How often it is looked whether an optional API has come or gone.
const DISCOVERY: Duration = Duration::from_secs(60);
/// The first pause after a failure, doubled after each further one.
const BACKOFF: Duration = Duration::from_secs(1);
/// The longest pause after a failure.
const MAX_BACKOFF: Duration = Duration::from_secs(120);

/// Everything that runs until the process ends, by name.
pub(crate) fn work(controller: &Arc<Controller>) -> Vec<(&'static str, BoxFuture<'static, ()>)> {
    let context = &controller.context;
    let shared = Arc::clone(controller);
    let unreadable: stores::Unreadable = Arc::new(move |key, generation, error| {
        let controller = Arc::clone(&shared);
        tokio::spawn(
            async move { report::unreadable(&controller, &key, generation, &error).await },
        );
    });
    let queue = Arc::clone(&context.queue);
    let wake: stores::Wake = Arc::new(move |key| queue.wake(key));
    let mut work = context.stores.watches(&context.client, &wake, &unreadable);
    work.push((
        "reconciliation",
        reconcile_all(Arc::clone(controller)).boxed(),
    ));
    work.push(("drain readings", read_drains(Arc::clone(context)).boxed()));
    work.push(("discovery", discover(Arc::clone(context)).boxed()));
    work
}

/// Reconciles ImClusters as they are due, several at a time.
async fn reconcile_all(controller: Arc<Controller>) {
    loop {
        let key = controller.context.queue.next().await;
        let Ok(permit) = Arc::clone(&controller.permits).acquire_owned().await else {
            return;
        };
        if controller.is_ending() {
            return std::future::pending().await;
        }
        let controller = Arc::clone(&controller);
        tokio::spawn(async move {
            let next = tokio::spawn(reconcile_one(Arc::clone(&controller), key.clone())).await;
            // One that panicked met a defect: another one soon would meet it again.
            controller
                .context
                .queue
                .done(key, next.unwrap_or(Some(MAX_BACKOFF)));
            drop(permit);
        });
    }
}

/// Reconciles one; returns when it is due again, unless something happens before.
async fn reconcile_one(controller: Arc<Controller>, key: Key) -> Option<Duration> {
    let begun = Instant::now();
    let outcome = Box::pin(reconcile::reconcile(&controller, &key)).await;
    metrics::RECONCILES
        .with_label_values(&[outcome.name()])
        .inc();
    metrics::RECONCILE_SECONDS
        .with_label_values(&[outcome.name()])
        .observe(begun.elapsed().as_secs_f64());
    let mut memory = controller.memory(&key);
    let failures = if matches!(outcome, Outcome::Failed) {
        memory.failures.saturating_add(1)
    } else {
        0
    };
    if failures != memory.failures {
        memory.failures = failures;
        controller.remember(&key, memory);
    }
    match outcome {
        Outcome::Gone => {
            controller.forget(&key);
            None
        }
        Outcome::Settled(again) | Outcome::Changed(again) | Outcome::Waiting(again) => Some(again),
        Outcome::Failed => Some(backoff(failures, BACKOFF, MAX_BACKOFF)),
    }
}

/// Asks connect pods for their connections, again and again.
async fn read_drains(context: Arc<Context>) {
    let client = DrainClient::default();
    let mut every = interval(context.settings.drain_interval);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let pods: Vec<_> = context
            .stores
            .pods
            .all()
            .into_iter()
            .filter(|pod| is_of(pod, Tier::Connect))
            .collect();
        for changed in client.read_all(&pods, &context.readings).await {
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
                    tracing::info!(
                        available = there,
                        "availability of the PodMonitor API changed"
                    );
                    let clusters = context.stores.clusters.all();
                    clusters
                        .iter()
                        .for_each(|cluster| context.queue.wake(Key::of(cluster.as_ref())));
                }
            }
            Err(error) => tracing::warn!(%error, "API discovery failed"),
        }
        sleep(DISCOVERY.mul_f64(rand::random_range(0.8..1.2))).await;
    }
}
