//! How connect changes without dropping clients: how many pods drain at once, where new clients go, which pod goes when
//! there are to be fewer. All of it follows from what is seen; nothing is remembered, so any operator goes on where
//! another stopped.

use crate::api::{Reason, Verdict};

#[cfg(test)]
mod tests;

/// The annotation that tells a ReplicaSet which pod to end first.
pub(crate) const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// What is annotated on the pod that is to go next: less than any other's.
pub(crate) const VICTIM: i32 = -1000;
/// What is annotated on old pods that take no new clients any more, plus how many new ones were ready when they ceased to:
/// those that ceased first go first. Whoever was moved to one of the others meets new pods alone when that one goes.
pub(crate) const LEAVING: i32 = -900;
/// What is added at most.
const CEASED: i32 = 500;

/// A connect pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    /// Its name.
    pub(crate) name: String,
    /// Whether it is of the newest template.
    pub(crate) newest: bool,
    /// Whether it is ready.
    pub(crate) ready: bool,
    /// Whether it ends.
    pub(crate) ending: bool,
    /// Whether the client Service selects it.
    pub(crate) accepts: bool,
    /// Its deletion cost, where it is annotated.
    pub(crate) cost: Option<i32>,
    /// Clients it has; `None`: not known.
    pub(crate) connections: Option<u64>,
}

/// The Deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deployment {
    /// Pods it is asked for.
    pub(crate) replicas: i32,
    /// Whether its controller has seen what was last asked of it.
    pub(crate) observed: bool,
}

/// All that is seen of connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    /// Pods the spec asks for.
    pub(crate) wanted: i32,
    /// Pods that may drain at once, at least 1.
    pub(crate) max_draining: i32,
    /// A node whose pods take no new clients is taken for dead by the load balancer, which then cuts the clients it has.
    pub(crate) by_node: bool,
    /// `None` before the first start.
    pub(crate) deployment: Option<Deployment>,
    /// Every pod, those that end included.
    pub(crate) pods: Vec<Pod>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Pods the Deployment is to ask for now.
    pub(crate) replicas: i32,
    /// Whether it starts no further replacement.
    pub(crate) paused: bool,
    /// Pods whose accept label is to be set or taken off.
    pub(crate) accept: Vec<(String, bool)>,
    /// Pods whose deletion cost is to be set or taken off.
    pub(crate) cost: Vec<(String, Option<i32>)>,
    /// Pods that end though another was to go.
    pub(crate) picked_otherwise: Vec<String>,
    /// What is being changed; `None`: nothing.
    pub(crate) progressing: Option<Verdict>,
}

/// Decides what is to be done now.
pub(crate) fn decide(seen: &Observed) -> Decision {
    let staying: Vec<&Pod> = seen.pods.iter().filter(|pod| !pod.ending).collect();
    let (victims, replicas) = shrink(seen, &staying);
    let stay = takers(seen, &staying);
    let cost = costs(&staying, victims.as_deref(), &stay);
    let marked = |pod: &&Pod| pod.cost == Some(VICTIM);
    let passed_over = staying.iter().any(marked);
    let otherwise = seen
        .pods
        .iter()
        .filter(|pod| pod.ending && pod.newest && !marked(pod) && passed_over);
    Decision {
        replicas,
        paused: is_to_pause(seen, &staying),
        accept: accept(&staying, &stay),
        cost,
        picked_otherwise: otherwise.map(|pod| pod.name.clone()).collect(),
        progressing: progress(seen, &staying, replicas),
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn ending(seen: &Observed) -> i32 {
    count(seen.pods.iter().filter(|pod| pod.ending).count())
}

/// A Deployment ends as many old pods as it has new ones beyond its number. While that would make too many drain, it is
/// paused; the new pods it has begun meanwhile get warm.
fn is_to_pause(seen: &Observed, staying: &[&Pod]) -> bool {
    let Some(deployment) = seen.deployment else {
        return false;
    };
    let rolling = staying.iter().any(|pod| !pod.newest);
    let beyond = (count(staying.len()) - deployment.replicas).max(0);
    let draining = ending(seen);
    rolling && draining > 0 && draining + beyond > seen.max_draining
}

/// Who takes new clients. The new pods, so that who moves has moved; beside them as many old ones as make half of all, so that
/// no pod gets more than twice its share. The others go first: whoever came to an old one moves once more, to a new one.
/// While no new pod is ready, all do.
fn takers<'p>(seen: &Observed, staying: &[&'p Pod]) -> Vec<&'p str> {
    let ready = staying.iter().filter(|pod| pod.newest && pod.ready).count();
    let half = usize::try_from(seen.wanted.max(1)).unwrap_or(1).div_ceil(2);
    let keep = if ready == 0 || seen.by_node {
        usize::MAX
    } else {
        half.saturating_sub(ready)
    };
    // Those that do already go on, so that none is asked back and forth.
    let mut old: Vec<&Pod> = staying.iter().copied().filter(|pod| !pod.newest).collect();
    old.sort_by_key(|pod| (!pod.ready, !pod.accepts, &pod.name));
    let newest = staying.iter().copied().filter(|pod| pod.newest);
    newest
        .chain(old.into_iter().take(keep))
        .map(|pod| pod.name.as_str())
        .collect()
}

fn accept(staying: &[&Pod], takers: &[&str]) -> Vec<(String, bool)> {
    let wanted = |pod: &Pod| takers.contains(&pod.name.as_str());
    let wrong = staying.iter().filter(|pod| pod.accepts != wanted(pod));
    wrong.map(|pod| (pod.name.clone(), wanted(pod))).collect()
}

/// One step towards fewer pods, one pod at a time: who is to go (`None`: nobody), and how many pods there are to be now.
fn shrink(seen: &Observed, staying: &[&Pod]) -> (Option<String>, i32) {
    let Some(deployment) = seen.deployment else {
        return (None, seen.wanted);
    };
    if deployment.replicas <= seen.wanted {
        return (None, seen.wanted);
    }
    let caught_up = deployment.observed
        && count(staying.len()) <= deployment.replicas + rolling_surplus(seen, staying);
    if !caught_up || ending(seen) > 0 {
        // The step before is under way: who is marked stays marked.
        let marked = staying.iter().find(|pod| pod.cost == Some(VICTIM));
        return (marked.map(|pod| pod.name.clone()), deployment.replicas);
    }
    let Some(victim) = victim(staying) else {
        // Pods that are not ready go first by themselves. Where all are and none answers, nobody is known to have few clients.
        return (
            None,
            deployment.replicas - i32::from(!none_answers(staying)),
        );
    };
    // Marked first, and one fewer only once the mark is seen: Kubernetes must see it too.
    let fewer = if victim.cost == Some(VICTIM) {
        deployment.replicas - 1
    } else {
        deployment.replicas
    };
    (Some(victim.name.clone()), fewer)
}

/// Whether all are ready and not one says how many clients it has.
fn none_answers(staying: &[&Pod]) -> bool {
    staying
        .iter()
        .all(|pod| pod.ready && pod.connections.is_none())
}

/// Pods beyond the number that a rollout brings with it.
fn rolling_surplus(seen: &Observed, staying: &[&Pod]) -> i32 {
    if staying.iter().any(|pod| !pod.newest) {
        seen.max_draining
    } else {
        0
    }
}

/// Who has the fewest clients. A pod that does not answer is nobody's choice; one that is not ready goes first by itself.
fn victim<'p>(staying: &[&'p Pod]) -> Option<&'p Pod> {
    if staying.iter().any(|pod| !pod.ready) {
        return None;
    }
    if let Some(marked) = staying.iter().find(|pod| pod.cost == Some(VICTIM)) {
        return Some(marked);
    }
    let known = staying
        .iter()
        .filter_map(|pod| Some((pod.connections?, *pod)));
    // During a rollout an old pod goes rather than a new one.
    known
        .min_by_key(|(connections, pod)| (pod.newest, *connections, pod.name.clone()))
        .map(|(_, pod)| pod)
}

fn costs(staying: &[&Pod], victim: Option<&str>, takers: &[&str]) -> Vec<(String, Option<i32>)> {
    let ready = count(staying.iter().filter(|pod| pod.newest && pod.ready).count());
    let is_leaving = |cost: &i32| (LEAVING..=LEAVING + CEASED).contains(cost);
    let wanted = |pod: &Pod| match pod.name.as_str() {
        name if victim == Some(name) => Some(VICTIM),
        name if !takers.contains(&name) => pod
            .cost
            .filter(is_leaving)
            .or(Some(LEAVING.saturating_add(ready.min(CEASED)))),
        _ => None,
    };
    let ours = |pod: &Pod| {
        pod.cost
            .is_none_or(|cost| cost == VICTIM || is_leaving(&cost))
    };
    let wrong = staying
        .iter()
        .filter(|pod| ours(pod) && pod.cost != wanted(pod));
    wrong.map(|pod| (pod.name.clone(), wanted(pod))).collect()
}

fn progress(seen: &Observed, staying: &[&Pod], replicas: i32) -> Option<Verdict> {
    seen.deployment?;
    let old = staying.iter().filter(|pod| !pod.newest).count();
    let newest = staying.iter().filter(|pod| pod.newest && pod.ready).count();
    let draining = ending(seen);
    let old_draining = seen.pods.iter().any(|pod| pod.ending && !pod.newest);
    if old > 0 || old_draining {
        let message = format!(
            "connect: {newest} new pods are ready, {old} old ones serve, {draining} move their clients away"
        );
        return Some(Verdict::yes(Reason::RollingOut, message));
    }
    if replicas != seen.wanted || count(staying.len()) != seen.wanted {
        let mut message = format!(
            "connect: {} pods of {}, {draining} move their clients away",
            staying.len(),
            seen.wanted
        );
        if replicas > seen.wanted && none_answers(staying) {
            message.push_str("; no pod tells the operator how many clients it has (port 9100), and none goes before");
        }
        return Some(Verdict::yes(Reason::Scaling, message));
    }
    (draining > 0).then(|| {
        Verdict::yes(
            Reason::Draining,
            format!("connect: {draining} pods move their clients away"),
        )
    })
}
