//! What is reported of an ImCluster: conditions, tiers, connections and drains.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::api::{
    Condition, ConditionStatus, ConditionType, ConnectStatus, Drain, Endpoints, EtcdStatus,
    ImCluster, ImClusterStatus, Reason, RedisStatus, Tier, TierStatus, Verdict,
};
use crate::kubernetes::key::Key;
use crate::kubernetes::object::{Applied, Objects};
use crate::secrets::authority::Rotation;
use crate::tiers::connect::drains::moved;
use crate::tiers::volumes::Growth;
use crate::tiers::workload::Workload;

mod write;

pub(crate) use write::{Held, Writer};

/// What the resource's definition allows a message to be, in characters.
const MAX_MESSAGE: usize = 4096;

/// Everything that a reconciliation found and did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings<'a> {
    /// Redis' pods, where the operator runs them.
    pub(crate) redis: Option<Workload>,
    /// Sentinel's, where there are any.
    pub(crate) sentinel: Option<Workload>,
    /// Etcd's, where the operator runs them.
    pub(crate) etcd: Option<Workload>,
    /// Logic's.
    pub(crate) logic: Workload,
    /// Connect's.
    pub(crate) connect: Workload,
    /// What redis itself says, beyond its pods.
    pub(crate) redis_says: Option<Verdict>,
    /// What etcd itself says.
    pub(crate) etcd_says: Option<Verdict>,
    /// What connect's rollout says of its progress.
    pub(crate) rollout: Option<Verdict>,
    /// The tier that is being upgraded.
    pub(crate) upgrading: Option<Tier>,
    /// How far a change of the internal authority is.
    pub(crate) authority: Option<Rotation>,
    /// Why the reconciliation failed.
    pub(crate) failure: Option<Verdict>,
    /// All that the spec asks for, where it was applied.
    pub(crate) applied: Option<&'a Objects<Applied>>,
    /// What a person should know though all works.
    pub(crate) warning: Option<Verdict>,
    /// Fields of overrides without effect.
    pub(crate) conflicts: Vec<String>,
    /// Clients of the pods that answered; `None`: none did.
    pub(crate) connections: Option<u64>,
    /// Pods that move their clients away.
    pub(crate) draining: Vec<Drain>,
    /// Whether redis and etcd were asked since this operator began.
    pub(crate) asked: bool,
    /// The redis pod that is the master.
    pub(crate) master: Option<String>,
    /// Whether redis may have data.
    pub(crate) redis_bootstrapped: bool,
    /// Whether etcd was formed.
    pub(crate) etcd_bootstrapped: bool,
    /// The load balancer's addresses.
    pub(crate) external: Vec<String>,
    /// The image of this operator.
    pub(crate) operator_image: String,
    /// The ImCluster whose pods this operator changes first.
    pub(crate) after: Option<Key>,
    /// How large the volumes are.
    pub(crate) volumes: Growth,
}

/// What is to be reported now, given what was reported before.
pub(crate) fn compose(
    cluster: &ImCluster,
    found: &Findings<'_>,
    now: Timestamp,
) -> ImClusterStatus {
    let before = cluster.status.clone().unwrap_or_default();
    let generation = cluster.metadata.generation;
    let applied_generation = if found.applied.is_some() {
        generation
    } else {
        before.applied_generation
    };
    let verdicts = conditions(cluster, found, &before, applied_generation);
    let settled = verdicts
        .iter()
        .any(|(kind, verdict)| *kind == ConditionType::Ready && verdict.holds());
    let conditions = verdicts
        .into_iter()
        .map(|(kind, verdict)| dated(&before, kind, verdict, generation, now));
    let name = cluster.name_any();
    let connect = &found.connect;
    ImClusterStatus {
        observed_generation: generation,
        applied_generation,
        // Two builds may differ by digest only: what was asked for and is everywhere is what runs.
        version: if settled && found.applied.is_some() && found.upgrading.is_none() {
            Some(cluster.spec.version.clone())
        } else {
            before.version.clone()
        },
        operator_image: if found.applied.is_some() {
            Some(found.operator_image.clone())
        } else {
            before.operator_image.clone()
        },
        conditions: conditions.collect(),
        endpoints: Some(endpoints(cluster, found)),
        connect: Some(ConnectStatus {
            replicas: connect.replicas,
            ready: connect.ready,
            version: connect.version(),
            selector: Some(selector(&name, Tier::Connect)),
            connections: found
                .connections
                .map(|count| i64::try_from(count).unwrap_or(i64::MAX)),
            draining: found.draining.clone(),
        }),
        logic: Some(TierStatus {
            replicas: found.logic.replicas,
            ready: found.logic.ready,
            version: found.logic.version(),
            selector: Some(selector(&name, Tier::Logic)),
        }),
        redis: found.redis.as_ref().map(|redis| RedisStatus {
            replicas: redis.replicas,
            ready: redis.ready,
            sentinels_ready: found.sentinel.as_ref().map(|sentinel| sentinel.ready),
            version: redis.version(),
            master: if found.asked {
                found.master.clone()
            } else {
                before.redis.as_ref().and_then(|redis| redis.master.clone())
            },
            bootstrapped: found.redis_bootstrapped
                || before
                    .redis
                    .as_ref()
                    .is_some_and(|redis| redis.bootstrapped),
            volume_size: found
                .volumes
                .redis
                .clone()
                .or_else(|| before.redis.as_ref()?.volume_size.clone()),
        }),
        etcd: found.etcd.as_ref().map(|etcd| EtcdStatus {
            replicas: etcd.replicas,
            ready: etcd.ready,
            version: etcd.version(),
            bootstrapped: found.etcd_bootstrapped
                || before.etcd.as_ref().is_some_and(|etcd| etcd.bootstrapped),
            volume_size: found
                .volumes
                .etcd
                .clone()
                .or_else(|| before.etcd.as_ref()?.volume_size.clone()),
        }),
    }
}

/// Whether all is as asked for and nothing is being changed.
pub(crate) fn is_whole(report: &ImClusterStatus) -> bool {
    let is = |kind, wanted| {
        report
            .conditions
            .iter()
            .any(|one| one.kind == kind && one.status == wanted)
    };
    is(ConditionType::Ready, ConditionStatus::True)
        && is(ConditionType::Progressing, ConditionStatus::False)
}

/// What can be said where nothing can be seen: all that was said before is uncertain, and why.
pub(crate) fn blind(cluster: &ImCluster, message: &str, now: Timestamp) -> ImClusterStatus {
    let before = cluster.status.clone().unwrap_or_default();
    let generation = cluster.metadata.generation;
    let condition = |kind: &ConditionType| {
        let verdict = match kind {
            ConditionType::Degraded => Verdict::yes(Reason::WatchFailing, message),
            ConditionType::Paused
            | ConditionType::OverrideIgnored
            | ConditionType::ClientAddressUnknown => {
                return before
                    .conditions
                    .iter()
                    .find(|old| old.kind == *kind)
                    .cloned();
            }
            _ => Verdict::unknown(Reason::WatchFailing, message),
        };
        Some(dated(&before, *kind, verdict, generation, now))
    };
    let conditions = ConditionType::ALL.iter().filter_map(condition).collect();
    ImClusterStatus {
        conditions,
        ..before.clone()
    }
}

/// The label selector of a tier's pods.
pub(crate) fn selector(name: &str, tier: Tier) -> String {
    format!(
        "imcluster.io/cluster={name},app.kubernetes.io/component={}",
        tier.name()
    )
}

fn endpoints(cluster: &ImCluster, found: &Findings<'_>) -> Endpoints {
    let (name, namespace) = (cluster.name_any(), cluster.namespace().unwrap_or_default());
    Endpoints {
        tcp: format!("{name}-connect.{namespace}.svc:3101"),
        ws: format!("ws://{name}-connect.{namespace}.svc:3102/ws"),
        http: format!("http://{name}-logic.{namespace}.svc:3111"),
        external: found.external.clone(),
        first_token: crate::secrets::generates_auth(cluster).then(|| {
            let get = format!("kubectl -n {namespace} get secret {name}-auth -o jsonpath='{{.data.hs256-secret}}'");
            format!(
                "{get} | base64 -d >auth.secret && imctl token --secret-file auth.secret --user alice --rooms 'lobby*'"
            )
        }),
    }
}

fn dated(
    before: &ImClusterStatus,
    kind: ConditionType,
    verdict: Verdict,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let old = before
        .conditions
        .iter()
        .find(|condition| condition.kind == kind);
    let since = old
        .filter(|old| old.status == verdict.status)
        .map(|old| old.last_transition_time.clone());
    Condition {
        kind,
        status: verdict.status,
        observed_generation: generation,
        last_transition_time: since.unwrap_or_else(|| Time(whole_second(now))),
        reason: verdict.reason,
        message: verdict.message.chars().take(MAX_MESSAGE).collect(),
    }
}

/// The API server keeps no fractions.
fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn conditions(
    cluster: &ImCluster,
    found: &Findings<'_>,
    before: &ImClusterStatus,
    applied: Option<i64>,
) -> Vec<(ConditionType, Verdict)> {
    let was_ready = before.version.is_some();
    let redis = of_store(
        found.redis.as_ref(),
        found.sentinel.as_ref(),
        found.redis_says.as_ref(),
        "redis",
    );
    let etcd = of_store(found.etcd.as_ref(), None, found.etcd_says.as_ref(), "etcd");
    let logic = of_tier(&found.logic, "logic");
    let connect = of_tier(&found.connect, "connect");
    let tiers = [
        ("redis", &redis),
        ("etcd", &etcd),
        ("logic", &logic),
        ("connect", &connect),
    ];
    let ready = ready(cluster, found, &tiers, applied);
    let available = available(found, &redis, &etcd);
    let progressing = progressing(cluster, found, &ready, was_ready);
    let degraded = degraded(found, &tiers);
    let paused = if cluster.spec.paused {
        Verdict::yes(
            Reason::Paused,
            "spec.paused is true: nothing is changed until it is false",
        )
    } else {
        Verdict::no(Reason::NotPaused, "spec.paused is false")
    };
    let overrides = if found.conflicts.is_empty() {
        Verdict::no(
            Reason::NoConflict,
            "no field of podOverrides contradicts the operator",
        )
    } else {
        Verdict::yes(
            Reason::Conflict,
            format!("without effect: {}", found.conflicts.join(", ")),
        )
    };
    let addresses = if cluster.spec.connect.service.hides_addresses() {
        let message = "externalTrafficPolicy: Cluster hides clients' addresses: limits and bans by address are off";
        Verdict::yes(Reason::ExternalTrafficCluster, message)
    } else {
        Verdict::no(Reason::AddressKept, "clients' addresses reach connect")
    };
    use ConditionType as Of;
    vec![
        (Of::Ready, ready),
        (Of::Available, available),
        (Of::Progressing, progressing),
        (Of::Degraded, degraded),
        (Of::Paused, paused),
        (Of::RedisReady, serving(found.redis_says.as_ref(), redis)),
        (Of::EtcdReady, serving(found.etcd_says.as_ref(), etcd)),
        (Of::LogicReady, logic),
        (Of::ConnectReady, connect),
        (Of::OverrideIgnored, overrides),
        (Of::ClientAddressUnknown, addresses),
    ]
}

fn of_tier(seen: &Workload, name: &str) -> Verdict {
    if seen.wanted == 0 {
        return Verdict::no(Reason::NoReplicas, format!("{name} is scaled to zero"));
    }
    if seen.ready >= seen.wanted {
        return Verdict::yes(
            Reason::AsExpected,
            format!("{} of {} pods are ready", seen.ready, seen.wanted),
        );
    }
    let count = format!("{} of {} pods of {name} are ready", seen.ready, seen.wanted);
    match &seen.trouble {
        Some((reason, why)) => Verdict::no(*reason, format!("{count}: {why}")),
        None if seen.replicas < seen.wanted => Verdict::no(
            Reason::PodsNotReady,
            format!("{count}, {} exist", seen.replicas),
        ),
        None => Verdict::no(Reason::Starting, count),
    }
}

/// Of redis or etcd: it serves by its own word, whatever its pods' readiness; without a word, by its pods.
fn of_store(
    seen: Option<&Workload>,
    with: Option<&Workload>,
    says: Option<&Verdict>,
    name: &str,
) -> Verdict {
    let Some(seen) = seen else {
        return Verdict::yes(
            Reason::External,
            format!("{name} is external: the operator does not run it"),
        );
    };
    let pods = of_tier(seen, name);
    let pods = match with.map(|with| of_tier(with, "sentinel")) {
        Some(with) if pods.holds() && !with.holds() => with,
        _ => pods,
    };
    match says {
        // Why pods do not start says more than that nobody answers.
        Some(says) if !says.holds() && seen.ready == 0 && seen.trouble.is_some() => pods,
        Some(says) if !says.holds() || pods.holds() => says.clone(),
        _ => pods,
    }
}

/// What it says itself, where it serves: that a pod is missing shows in `Ready`.
fn serving(says: Option<&Verdict>, with_pods: Verdict) -> Verdict {
    says.filter(|says| says.holds())
        .cloned()
        .unwrap_or(with_pods)
}

fn ready(
    cluster: &ImCluster,
    found: &Findings<'_>,
    tiers: &[(&str, &Verdict); 4],
    applied: Option<i64>,
) -> Verdict {
    if applied != cluster.metadata.generation {
        // What serves is not what is asked for.
        return match &found.failure {
            Some(failure) => Verdict::no(failure.reason, failure.message.clone()),
            None if cluster.spec.paused => Verdict::no(
                Reason::Paused,
                "spec.paused is true: this spec is not applied",
            ),
            None => Verdict::no(Reason::SettingUp, "this spec is not applied yet"),
        };
    }
    let missing: Vec<_> = tiers
        .iter()
        .filter(|(_, verdict)| !verdict.holds())
        .collect();
    if missing.is_empty() {
        return Verdict::yes(
            Reason::AsExpected,
            "redis, etcd, logic and connect run as specified",
        );
    }
    let each = missing
        .iter()
        .map(|(name, verdict)| format!("{name}: {}", verdict.message));
    let message = each.collect::<Vec<_>>().join("; ");
    if missing
        .iter()
        .all(|(_, verdict)| verdict.status == ConditionStatus::Unknown)
    {
        return Verdict::unknown(Reason::Unreachable, message);
    }
    Verdict::no(Reason::TiersNotReady, message)
}

fn available(found: &Findings<'_>, redis: &Verdict, etcd: &Verdict) -> Verdict {
    let lacking = |seen: &Workload, name: &str| {
        (seen.ready == 0).then(|| format!("no pod of {name} is ready"))
    };
    let pods = [
        lacking(&found.connect, "connect"),
        lacking(&found.logic, "logic"),
    ];
    let mut missing: Vec<String> = pods.into_iter().flatten().collect();
    // Redis with too few pods may serve all the same.
    let serves = |seen: Option<&Workload>, says: Option<&Verdict>, verdict: &Verdict| {
        says.map_or_else(
            || verdict.holds() || seen.is_none_or(|seen| seen.ready > 0),
            |says| says.status != ConditionStatus::False,
        )
    };
    if !serves(found.redis.as_ref(), found.redis_says.as_ref(), redis) {
        missing.push(format!("redis: {}", redis.message));
    }
    if missing.is_empty()
        && !etcd.holds()
        && found.etcd.as_ref().is_some_and(|seen| seen.ready == 0)
    {
        let message = "clients are served, but new pods of connect and logic cannot find each other while etcd is unavailable";
        return Verdict::yes(Reason::NoQuorum, message);
    }
    if missing.is_empty() {
        return Verdict::yes(Reason::AsExpected, "clients can connect and send");
    }
    Verdict::no(Reason::TiersNotReady, missing.join("; "))
}

fn progressing(
    cluster: &ImCluster,
    found: &Findings<'_>,
    ready: &Verdict,
    was_ready: bool,
) -> Verdict {
    if let Some(tier) = found.upgrading.filter(|_| was_ready) {
        let message = format!(
            "{} is being upgraded for version {}",
            tier.name(),
            cluster.spec.version
        );
        return Verdict::yes(Reason::Upgrading, message);
    }
    if !was_ready && !ready.holds() {
        return Verdict::yes(Reason::SettingUp, ready.message.clone());
    }
    if let Some(phase) = found.authority {
        let message = match phase {
            Rotation::Introducing => "distributing the new internal authority before it signs",
            Rotation::Retiring => {
                "distributing certificates of the new internal authority; the old one is trusted until then"
            }
        };
        return Verdict::yes(Reason::RotatingAuthority, message);
    }
    if let Some(rollout) = found
        .rollout
        .as_ref()
        .filter(|rollout| rollout.status != ConditionStatus::False)
    {
        return rollout.clone();
    }
    let tiers = [
        ("redis", found.redis.as_ref()),
        ("sentinel", found.sentinel.as_ref()),
        ("etcd", found.etcd.as_ref()),
        ("logic", Some(&found.logic)),
        ("connect", Some(&found.connect)),
    ];
    let tiers = tiers
        .into_iter()
        .filter_map(|(name, seen)| Some((name, seen?)));
    let mut moving = Vec::new();
    let mut reason = None;
    for (name, seen) in tiers {
        if !seen.rolled_out {
            reason = reason.or(Some(Reason::RollingOut));
            moving.push(format!("{name} has pods of an older template"));
        } else if seen.replicas != seen.wanted {
            reason = reason.or(Some(Reason::Scaling));
            moving.push(format!(
                "{name} has {} pods of {}",
                seen.replicas, seen.wanted
            ));
        } else if seen.ending > 0 {
            reason = reason.or(Some(Reason::Draining));
            moving.push(format!("{} pods of {name} are terminating", seen.ending));
        }
    }
    if !found.volumes.growing.is_empty() {
        reason = reason.or(Some(Reason::VolumesGrowing));
        moving.extend(found.volumes.growing.iter().cloned());
    }
    match reason {
        Some(reason) => Verdict::yes(reason, moving.join("; ")),
        None => match &found.after {
            Some(other) => Verdict::no(
                Reason::Waiting,
                format!(
                    "changes by this version of the operator wait until {other} is ready and settled"
                ),
            ),
            None => Verdict::no(Reason::Settled, "no change in progress"),
        },
    }
}

fn degraded(found: &Findings<'_>, tiers: &[(&str, &Verdict); 4]) -> Verdict {
    if let Some(failure) = &found.failure {
        return failure.clone();
    }
    let serious = |reason: Reason| {
        use Reason as Of;
        matches!(
            reason,
            Of::Unschedulable
                | Of::ImagePullFailed
                | Of::CrashLooping
                | Of::VolumePending
                | Of::QuotaExceeded
                | Of::ReferenceMissing
                | Of::NoMaster
                | Of::DiskFailing
                | Of::MemoryFull
                | Of::NeedsDecision
                | Of::NoQuorum
                | Of::DataLost
        )
    };
    if let Some((_, verdict)) = tiers.iter().find(|(_, verdict)| {
        serious(verdict.reason) && (!verdict.holds() || verdict.reason == Reason::NeedsDecision)
    }) {
        return Verdict::yes(verdict.reason, verdict.message.clone());
    }
    // A pod too many that cannot start keeps a rollout from going on, though all that is asked for is ready.
    let all = [
        found.redis.as_ref(),
        found.sentinel.as_ref(),
        found.etcd.as_ref(),
        Some(&found.logic),
        Some(&found.connect),
    ];
    if let Some((reason, why)) = all
        .into_iter()
        .flatten()
        .find_map(|seen| seen.trouble.clone())
    {
        return Verdict::yes(reason, why);
    }
    if !found.volumes.stuck.is_empty() {
        return Verdict::yes(Reason::VolumeNotGrown, found.volumes.stuck.join("; "));
    }
    match &found.warning {
        Some(warning) => warning.clone(),
        None => Verdict::no(Reason::AsExpected, "no problem known"),
    }
}

/// Whether two reports differ in nothing but counts of clients.
pub(crate) fn only_counts_differ(one: &ImClusterStatus, two: &ImClusterStatus) -> bool {
    counted_out(one) == counted_out(two)
}

/// Whether a count moved by 5 % or more.
pub(crate) fn counts_moved(one: &ImClusterStatus, two: &ImClusterStatus) -> bool {
    let all = |status: &ImClusterStatus| {
        let connect = status.connect.clone().unwrap_or_default();
        let mut counts = vec![connect.connections];
        counts.extend(connect.draining.iter().map(|drain| drain.current));
        counts
    };
    all(one)
        .into_iter()
        .zip(all(two))
        .any(|(one, two)| match (one, two) {
            (Some(one), Some(two)) => moved(one.max(0).unsigned_abs(), two.max(0).unsigned_abs()),
            (one, two) => one != two,
        })
}

fn counted_out(status: &ImClusterStatus) -> ImClusterStatus {
    let mut status = status.clone();
    if let Some(connect) = &mut status.connect {
        // That it is unknown is news; how many there are is not.
        connect.connections = connect.connections.map(|_| 0);
        for drain in &mut connect.draining {
            drain.current = drain.current.map(|_| 0);
            drain.rate = drain.rate.map(|_| 0);
        }
    }
    status
}
