//! Etcd's members: the first formation, the replacement of one whose volume is lost, and which pod takes the new template next.
//!
//! Whether a volume belongs to a formed cluster is written on its claim ([`BOOTSTRAPPED`](crate::tiers::stateful::BOOTSTRAPPED)), and the status
//! mirrors it; from then on the template says `existing`. A pod whose volume is empty waits before etcd starts
//! ([`join`](crate::init::join)) until the members have let the lost one go and taken it in as a learner: an empty volume can
//! neither form a second cluster nor vote for a member that forgot its votes. Members change one at a time, and only while
//! all the others are healthy.

use crate::api::{Reason, Verdict};

/// The annotation with which a person says that etcd may be formed anew, since its data are lost.
pub(crate) const ANEW: &str = "imcluster.io/form-etcd-anew";

/// What a member says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// It knows a leader: it is part of a quorum.
    pub(crate) led: bool,
    /// It has no vote yet.
    pub(crate) learner: bool,
    /// It leads the others.
    pub(crate) leads: bool,
    /// Bytes of its database's file.
    pub(crate) size: u64,
    /// Bytes of it that hold something.
    pub(crate) in_use: u64,
    /// The quota is used up: etcd takes no writes until a person or the operator has made room.
    pub(crate) full: bool,
}

/// A member in the list that a quorum keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member {
    /// What etcd calls it.
    pub(crate) id: u64,
    /// Its pod's number; `None`: not one of ours.
    pub(crate) ordinal: Option<usize>,
    /// It has been there once since it was added.
    pub(crate) started: bool,
    /// It has no vote yet.
    pub(crate) learner: bool,
}

/// A pod, its volume, and what it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Replica {
    /// Its claim says that its volume belongs to a formed cluster.
    pub(crate) bootstrapped: bool,
    /// It is ready.
    pub(crate) ready: bool,
    /// It is to take a new template.
    pub(crate) outdated: bool,
    /// It is of another template, be it that nothing it runs with differs.
    pub(crate) stale: bool,
    /// It waits with an empty volume to be taken in.
    pub(crate) waiting: bool,
    /// It ends again and again.
    pub(crate) crashing: bool,
    /// What it answers; `None`: nothing.
    pub(crate) answer: Option<Answer>,
}

impl Replica {
    /// It is part of the quorum.
    pub(crate) fn votes(&self) -> bool {
        self.answer
            .is_some_and(|answer| answer.led && !answer.learner)
    }
}

/// Everything that is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    /// The ImCluster's namespace.
    pub(crate) namespace: String,
    /// The ImCluster's name.
    pub(crate) name: String,
    /// The pods, by number.
    pub(crate) replicas: Vec<Replica>,
    /// The list of members; `None`: nobody who is part of a quorum told it.
    pub(crate) members: Option<Vec<Member>>,
    /// The status says that etcd was formed once.
    pub(crate) mirrored: bool,
    /// A person allows that it is formed anew.
    pub(crate) anew: bool,
}

/// One thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Write on this pod's claim that its volume belongs to a formed cluster.
    MarkBootstrapped(usize),
    /// End this pod, so that it comes back with the newest template.
    Restart(usize),
    /// Let this member go: its data are lost.
    Remove(u64),
    /// Take this pod in as a learner.
    Add(usize),
    /// Give this learner its vote.
    Promote(u64),
    /// Let this member give back what its file takes and does not hold.
    Defragment(usize),
    /// Let etcd take writes again, as there is room.
    Disarm,
    /// Take the person's word back, as it was followed.
    RemoveAnnotation,
}

/// What follows from what is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    /// What to do, in order; the rest is left when one fails.
    pub(crate) actions: Vec<Action>,
    /// Whether etcd serves.
    pub(crate) verdict: Verdict,
    /// Whether a cluster exists, so that an empty volume must join it.
    pub(crate) existing: bool,
}

/// Decides. Pure.
pub(crate) fn decide(seen: &Observed) -> Decision {
    let count = seen.replicas.len();
    let bootstrapped = seen.replicas.iter().any(|replica| replica.bootstrapped);
    let existing = bootstrapped || (seen.mirrored && !seen.anew);
    let voting = seen
        .replicas
        .iter()
        .filter(|replica| replica.votes())
        .count();
    if !existing {
        return form(seen, voting);
    }
    let quorum = count / 2 + 1;
    let lost: Vec<usize> = (0..count)
        .filter(|ordinal| seen.replicas[*ordinal].waiting)
        .collect();
    let decision = |actions, verdict| Decision {
        actions,
        verdict,
        existing,
    };
    let members = match &seen.members {
        Some(members) if voting >= quorum => members,
        _ if count - lost.len() < quorum => {
            return decision(
                Vec::new(),
                Verdict::no(Reason::DataLost, data_lost(seen, &lost)),
            );
        }
        _ if is_out_of_reach(seen, quorum) => {
            let message = "the operator cannot reach etcd, though a majority of its pods is ready: the state of etcd is unknown";
            return decision(Vec::new(), Verdict::unknown(Reason::Unreachable, message));
        }
        _ => {
            let verdict = Verdict::no(
                Reason::NoQuorum,
                format!(
                    "{voting} of {count} members are healthy, {quorum} are needed: etcd recovers by itself when they are back"
                ),
            );
            return decision(broken(seen).into_iter().collect(), verdict);
        }
    };
    // Another that joins may be one that the list has and that has not been there yet.
    let changing = members
        .iter()
        .any(|member| member.learner || !member.started);
    let listed = |ordinal: usize| {
        members
            .iter()
            .find(|member| member.ordinal == Some(ordinal))
    };
    let others_vote = |ordinal: usize| {
        let voters = members
            .iter()
            .filter(|member| !member.learner && member.started && member.ordinal != Some(ordinal));
        voters.into_iter().all(|member| {
            member
                .ordinal
                .is_some_and(|other| seen.replicas[other].votes())
        })
    };
    // Whoever answers has been taken in since its pod was looked at.
    let silent = |ordinal: usize| seen.replicas[ordinal].answer.is_none();
    let mark =
        |ordinal: &usize| seen.replicas[*ordinal].votes() && !seen.replicas[*ordinal].bootstrapped;
    let mut actions: Vec<Action> = (0..count)
        .filter(mark)
        .map(Action::MarkBootstrapped)
        .collect();
    if seen.anew && actions.is_empty() && seen.replicas.iter().all(|replica| replica.bootstrapped) {
        actions.push(Action::RemoveAnnotation);
    }
    for ordinal in lost.iter().copied() {
        match listed(ordinal) {
            Some(member) if member.started && silent(ordinal) && others_vote(ordinal) => {
                actions.push(Action::Remove(member.id));
            }
            None if !changing && others_vote(ordinal) => actions.push(Action::Add(ordinal)),
            _ => continue,
        }
        break;
    }
    let learner = members.iter().find(|member| {
        let there = |ordinal: usize| {
            seen.replicas[ordinal]
                .answer
                .is_some_and(|answer| answer.led && answer.learner)
        };
        member.learner && member.started && member.ordinal.is_some_and(there)
    });
    actions.extend(learner.map(|member| Action::Promote(member.id)));

    let cast_out = (0..count).find(|ordinal| {
        let replica = &seen.replicas[*ordinal];
        listed(*ordinal).is_none()
            && !replica.waiting
            && replica.bootstrapped
            && replica.answer.is_none()
    });
    let verdict = if let Some(ordinal) = lost
        .first()
        .copied()
        .or(learner.and_then(|learner| learner.ordinal))
    {
        let name = pod(seen, ordinal);
        Verdict::yes(
            Reason::MemberReplacing,
            format!("{name} has an empty volume and joins the other members"),
        )
    } else if let Some(ordinal) = cast_out {
        let (namespace, name) = (&seen.namespace, pod(seen, ordinal));
        let message = format!(
            "the members have removed {name}, so its volume cannot be used: kubectl -n {namespace} delete pvc data-{name} --wait=false && kubectl -n {namespace} delete pod {name}"
        );
        Verdict::yes(Reason::NeedsDecision, message)
    } else if let Some(ordinal) = (0..count).find(|ordinal| is_of_no_use(seen, *ordinal)) {
        let (namespace, name) = (&seen.namespace, pod(seen, ordinal));
        let message = format!(
            "{name} keeps crashing while the other members are healthy: see its log. If its data are damaged, let it join with an empty volume: kubectl -n {namespace} delete pvc data-{name} --wait=false && kubectl -n {namespace} delete pod {name}"
        );
        Verdict::yes(Reason::NeedsDecision, message)
    } else if seen
        .replicas
        .iter()
        .any(|replica| replica.answer.is_some_and(|answer| answer.full))
    {
        Verdict::no(
            Reason::DiskFailing,
            "etcd has used up its quota and takes no writes until there is room again",
        )
    } else if voting < count {
        Verdict::yes(
            Reason::PodsNotReady,
            format!("{voting} of {count} members serve"),
        )
    } else {
        Verdict::yes(
            Reason::AsExpected,
            format!("{voting} of {count} members serve"),
        )
    };
    if actions.is_empty() {
        actions.extend(next(seen).or_else(|| make_room(seen)));
    }
    decision(actions, verdict)
}

/// A file that is smaller than this is left as it is, in bytes.
const SMALL: u64 = 64 * 1024 * 1024;

/// Lets one member at a time, the leader last, give back what its file takes and does not hold: where that is more than half
/// of it, or any where there is no room. It serves nobody meanwhile.
fn make_room(seen: &Observed) -> Option<Action> {
    let answers: Vec<Answer> = seen
        .replicas
        .iter()
        .filter_map(|replica| replica.answer)
        .collect();
    if answers.len() < seen.replicas.len()
        || !seen
            .replicas
            .iter()
            .all(|replica| replica.ready && replica.votes())
    {
        return None;
    }
    let full = answers.iter().any(|answer| answer.full);
    let wasteful = |answer: &Answer| match full {
        true => answer.in_use < answer.size / 10 * 9,
        false => answer.size >= SMALL && answer.in_use < answer.size / 2,
    };
    let first = (0..answers.len())
        .filter(|ordinal| wasteful(&answers[*ordinal]))
        .min_by_key(|ordinal| answers[*ordinal].leads);
    first
        .map(Action::Defragment)
        .or_else(|| full.then_some(Action::Disarm))
}

/// One that ends again and again while all the others serve, and not because of a template that is about to go.
fn is_of_no_use(seen: &Observed, ordinal: usize) -> bool {
    let mut others = (0..seen.replicas.len()).filter(|other| *other != ordinal);
    let one = &seen.replicas[ordinal];
    seen.replicas.len() > 1
        && one.crashing
        && !one.outdated
        && others.all(|other| seen.replicas[other].votes())
}

/// Whether it is only the operator that can't reach etcd.
fn is_out_of_reach(seen: &Observed, quorum: usize) -> bool {
    let ready = seen.replicas.iter().filter(|replica| replica.ready).count();
    ready >= quorum && seen.replicas.iter().all(|replica| replica.answer.is_none())
}

/// Nothing was ever formed: all begin together, and are latched when all are there.
fn form(seen: &Observed, voting: usize) -> Decision {
    let count = seen.replicas.len();
    let decision = |actions, verdict| Decision {
        actions,
        verdict,
        existing: false,
    };
    if voting == count && count > 0 {
        let verdict = Verdict::yes(
            Reason::AsExpected,
            format!("{voting} of {count} members serve"),
        );
        return decision((0..count).map(Action::MarkBootstrapped).collect(), verdict);
    }
    // Whoever waits was made to join what is not there any more.
    let waits = |ordinal: &usize| seen.replicas[*ordinal].waiting && seen.replicas[*ordinal].stale;
    let actions: Vec<Action> = (0..count).filter(waits).map(Action::Restart).collect();
    let actions = if actions.is_empty() {
        broken(seen).into_iter().collect()
    } else {
        actions
    };
    decision(
        actions,
        Verdict::no(
            Reason::Starting,
            format!("{voting} of {count} members serve"),
        ),
    )
}

/// The next to take the new template: one at a time, and only while all are there; one that does not serve, first.
fn next(seen: &Observed) -> Option<Action> {
    if let Some(broken) = broken(seen) {
        return Some(broken);
    }
    let whole = seen
        .replicas
        .iter()
        .all(|replica| replica.ready && replica.votes());
    let outdated = seen
        .replicas
        .iter()
        .rposition(|replica| replica.outdated)
        .filter(|_| whole);
    outdated.map(Action::Restart)
}

/// One that does not answer and whose template has changed: what it has may not work.
fn broken(seen: &Observed) -> Option<Action> {
    let broken = |replica: &Replica| replica.outdated && !replica.ready && replica.answer.is_none();
    seen.replicas.iter().rposition(broken).map(Action::Restart)
}

fn pod(seen: &Observed, ordinal: usize) -> String {
    format!("{}-etcd-{ordinal}", seen.name)
}

fn data_lost(seen: &Observed, lost: &[usize]) -> String {
    let (namespace, name) = (&seen.namespace, &seen.name);
    let pods: Vec<String> = lost.iter().map(|ordinal| pod(seen, *ordinal)).collect();
    format!(
        "the volumes of {} are empty, so there is no majority any more. If they can't be brought back: etcd holds only who is there, which connect and logic write again by themselves. Form it anew with: kubectl -n {namespace} delete pvc,pod -l imcluster.io/cluster={name},app.kubernetes.io/component=etcd --wait=false && kubectl -n {namespace} annotate imc {name} {ANEW}=true",
        pods.join(" and ")
    )
}

#[cfg(test)]
mod tests;
