//! One reconciliation of an ImCluster: observe → validate → plan → build → apply → report.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::outcome::{Failure, Outcome};
use super::plan::{self, Plan};
use super::report::{self, Changes, Progress};
use super::turns::Turn;
use super::{Controller, claim, metrics};
use crate::api::ImCluster;
use crate::build;
use crate::context::Context;
use crate::dereference::dereference;
use crate::kubernetes::apply::{self, Owner};
use crate::kubernetes::key::Key;
use crate::kubernetes::object::{Object, Objects, Prepared};
use crate::secrets;
use crate::secrets::authority::ROTATE;
use crate::tiers::{connect, stateful, volumes};
use crate::validate::validate;

/// While the caches are filled.
const UNREAD: Duration = Duration::from_secs(1);
/// How long that may take until it is a failure.
const READING: Duration = Duration::from_secs(15);

/// One reconciliation.
pub(crate) async fn reconcile(controller: &Controller, key: &Key) -> Outcome {
    let context = &controller.context;
    let Some(cluster) = context.stores.clusters.get(key) else {
        return Outcome::Gone;
    };
    if cluster.metadata.deletion_timestamp.is_some() {
        return Outcome::Waiting(context.settings.revisit);
    }
    let unread = context.stores.unread(&key.namespace);
    if !unread.is_empty() && controller.begun.elapsed() < READING {
        tracing::debug!(cluster = %key, ?unread, "waiting for the initial lists");
        return Outcome::Waiting(UNREAD);
    }
    if unread.iter().any(|unread| unread.decides) {
        return report::blind(controller, &cluster, &unread).await;
    }
    let now = Timestamp::now();
    let mut progress = Progress::new(&unread);
    match plan(controller, &cluster, now).await {
        Ok(plan) => progress.plan = plan,
        Err(failure) => {
            return report::report(controller, &cluster, &progress, Err(failure), now).await;
        }
    }
    let Some(plan) = &progress.plan else {
        return report::report(controller, &cluster, &progress, Ok(None), now).await;
    };
    match volumes::grow(context, &plan.valid).await {
        Ok(volumes) => progress.volumes = volumes,
        Err(error) => {
            let failure = Failure::api("a volume claim cannot be made larger", error);
            return report::report(controller, &cluster, &progress, Err(failure), now).await;
        }
    }
    let inputs = plan.inputs(&progress.volumes);
    let built = build::build(&plan.valid, &inputs);
    progress.conflicts = built
        .ignored
        .into_iter()
        .map(|ignored| ignored.field)
        .collect();
    let changes = change(controller, &cluster, plan, built.objects).await;
    report::report(controller, &cluster, &progress, changes.map(Some), now).await
}

/// Decides what the cluster is to be now; `None`: it is paused.
async fn plan(
    controller: &Controller,
    cluster: &ImCluster,
    now: Timestamp,
) -> Result<Option<Plan>, Failure> {
    let context = &controller.context;
    let key = Key::of(cluster);
    claim::claim(context, cluster).await?;
    metrics::foreign(&key, false);
    let valid = validate(cluster, context.settings.pods).map_err(Failure::Invalid)?;
    if cluster.spec.paused {
        // Redis and etcd are looked at, and not touched.
        return Ok(None);
    }
    dereference(&context.client, cluster).await?;
    let credentials = credentials(context, cluster, now).await?;
    let stores = controller.supervisors.status(context, &key, &credentials);
    let plan = plan::plan(context, valid, &credentials, stores, now);
    if plan.master_is_ending {
        // It hands over before it ends.
        controller.supervisors.hurry(&key);
    }
    Ok(Some(plan))
}

/// The Secrets of an ImCluster, made where they are missing and renewed where that is due.
async fn credentials(
    context: &Arc<Context>,
    cluster: &ImCluster,
    now: Timestamp,
) -> Result<secrets::Credentials, Failure> {
    let reached = |phase, since| plan::is_everywhere(context, cluster, phase, since, now);
    let domain = &context.settings.cluster_domain;
    let credentials = secrets::ensure(
        &context.client,
        &context.stores.secrets,
        cluster,
        domain,
        reached,
        now,
    )
    .await?;
    if credentials.change.is_some() && cluster.is_asked_for(ROTATE) {
        let removed = stateful::remove_annotation(context, &Key::of(cluster), ROTATE).await;
        removed.map_err(|error| Failure::api("the annotation cannot be removed", error))?;
    }
    Ok(credentials)
}

/// Brings the cluster to what was built, as far as that goes now.
async fn change(
    controller: &Controller,
    cluster: &ImCluster,
    plan: &Plan,
    objects: Objects<Prepared>,
) -> Result<Changes, Failure> {
    let context = &controller.context;
    let Context {
        client,
        stores,
        settings,
        ..
    } = context.as_ref();
    let key = Key::of(cluster);
    let owner = Owner {
        cluster: key.clone(),
        uid: plan.valid.uid().to_owned(),
    };
    if let Turn::After(after) =
        controller
            .turns
            .ask(cluster, &stores.clusters.all(), &settings.operator_image)
    {
        // What pods run with waits, all else is put right.
        let others: Vec<&Object> = objects
            .list()
            .iter()
            .filter(|object| !object.has_pods())
            .collect();
        let writes = apply::apply_some(client, stores, &owner, others).await?;
        return Ok(Changes::AllButPods { writes, after });
    }
    let objects = apply::apply(client, stores, &owner, objects).await?;
    controller.note_picked_otherwise(&key, &plan.rollout.picked_otherwise);
    let pods = connect::act::act(context, &key, &plan.rollout).await?;
    Ok(Changes::All {
        objects,
        pods,
        rollout: plan.rollout.progressing.clone(),
    })
}
