//! Asks etcd's members what they are, all at the same time.

use futures::future::join_all;

use super::client::{Tls, call};
use super::decide::{ANEW, Answer, Member, Observed, Replica};
use crate::api::{ImCluster, Tier};
use crate::build;
use crate::context::Context;
use crate::kubernetes::key::Key;
use crate::secrets::Credentials;
use crate::secrets::authority::Rotation;
use crate::tiers::stateful;

/// Asks all members of etcd at the same time.
pub(crate) async fn observe(
    context: &Context,
    key: &Key,
    cluster: &ImCluster,
    credentials: &Credentials,
) -> Observed {
    let count = usize::try_from(cluster.spec.etcd.replicas).unwrap_or_default();
    let hosts = build::etcd_members(key, count);
    let peers: Vec<String> = hosts.iter().map(|host| host.peer.clone()).collect();
    let asked = hosts
        .iter()
        .map(|host| member(&host.client, Tls::of(credentials), &peers));
    let answers = join_all(asked).await;
    let members = answers
        .iter()
        .flatten()
        .find_map(|(_, members)| members.clone());
    let replicas = stateful::replicas(context, key, Tier::Etcd, count)
        .into_iter()
        .zip(answers)
        .enumerate();
    // It reads whom to believe when it starts.
    let introduced = credentials
        .change
        .filter(|(phase, _)| *phase == Rotation::Introducing)
        .map(|(_, since)| since);
    let ignorant = |number| {
        introduced.is_some_and(|since| stateful::is_older(context, key, Tier::Etcd, number, since))
    };
    let replica =
        |(number, (replica, answer)): (usize, (stateful::Replica, Option<(Answer, _)>))| Replica {
            bootstrapped: replica.bootstrapped,
            ready: replica.ready,
            outdated: replica.outdated || ignorant(number),
            stale: replica.stale,
            waiting: replica.joining,
            crashing: replica.crashing,
            answer: answer.map(|(answer, _)| answer),
        };
    let status = cluster
        .status
        .as_ref()
        .and_then(|status| status.etcd.as_ref());
    Observed {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        replicas: replicas.map(replica).collect(),
        members,
        mirrored: status.is_some_and(|etcd| etcd.bootstrapped),
        anew: cluster.is_asked_for(ANEW),
    }
}

/// What the member at this endpoint says of itself, and, if it is part of a quorum and has a vote, of all members.
/// `peers` are the members' peer URLs, by their pods' numbers.
pub(crate) async fn member(
    endpoint: &str,
    tls: Tls<'_>,
    peers: &[String],
) -> Option<(Answer, Option<Vec<Member>>)> {
    let asked = call(endpoint, tls, async |client| {
        let status = client.status().await?;
        let bytes = |size: i64| u64::try_from(size).unwrap_or_default();
        let answer = Answer {
            led: status.leader() != 0,
            learner: status.is_learner(),
            leads: status
                .header()
                .is_some_and(|header| header.member_id() == status.leader()),
            size: bytes(status.db_size()),
            in_use: bytes(status.raft_used_db_size()),
            full: status
                .errors()
                .iter()
                .any(|error| error.contains("NOSPACE")),
        };
        if answer.learner || !answer.led {
            return Ok((answer, None));
        }
        let list = client.member_list().await?;
        let member = |member: &etcd_client::Member| Member {
            id: member.id(),
            ordinal: peers
                .iter()
                .position(|url| member.peer_urls().contains(url)),
            started: !member.name().is_empty(),
            learner: member.is_learner(),
        };
        Ok((answer, Some(list.members().iter().map(member).collect())))
    });
    match asked.await {
        Ok(answer) => Some(answer),
        Err(error) => {
            tracing::debug!(endpoint, %error, "etcd member did not answer");
            None
        }
    }
}
