//! Does what was decided.

use std::time::Duration;

use etcd_client::{AlarmAction, AlarmOptions, AlarmType, MemberAddOptions};

use super::client::{self, Tls, call_within};
use super::decide::{ANEW, Action};
use crate::api::Tier;
use crate::build;
use crate::context::Context;
use crate::kubernetes::key::Key;
use crate::secrets::Credentials;
use crate::tiers::stateful;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Etcd.
    #[error("{0}")]
    Etcd(#[from] client::Error),
    /// The API server.
    #[error("{0}")]
    Api(#[from] kube::Error),
}

/// Does one thing; `serving` is a pod whose member has a vote.
///
/// # Errors
/// It is not done, or not known to be; the next round sees what is so.
pub(crate) async fn act(
    context: &Context,
    key: &Key,
    credentials: &Credentials,
    serving: usize,
    action: Action,
) -> Result<(), Error> {
    tracing::info!(cluster = %key, ?action, "etcd action");
    match action {
        Action::MarkBootstrapped(ordinal) => {
            Ok(stateful::mark_bootstrapped(context, key, Tier::Etcd, ordinal).await?)
        }
        Action::Restart(ordinal) => Ok(stateful::restart(context, key, Tier::Etcd, ordinal).await?),
        Action::Remove(_)
        | Action::Add(_)
        | Action::Promote(_)
        | Action::Defragment(_)
        | Action::Disarm => {
            let hosts = build::etcd_members(
                key,
                usize::try_from(build::MAX_ETCD_MEMBERS).unwrap_or_default(),
            );
            let serving = if let Action::Defragment(ordinal) = action {
                ordinal
            } else {
                serving
            };
            let endpoint = hosts
                .get(serving)
                .map(|host| host.client.clone())
                .unwrap_or_default();
            let peers: Vec<String> = hosts.into_iter().map(|host| host.peer).collect();
            Ok(change(&endpoint, Tls::of(credentials), &peers, action).await?)
        }
        Action::RemoveAnnotation => Ok(stateful::remove_annotation(context, key, ANEW).await?),
    }
}

/// How long a member may take to write its file anew: 2 GiB at most.
const DEFRAGMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Changes the members by way of the one at this endpoint, or this one itself; `peers` are the peer URLs, by the pods' numbers. What is none of
/// its business is left alone.
///
/// # Errors
/// Etcd refuses, as it does for a learner that is not in step yet, or does not answer.
pub(crate) async fn change(
    endpoint: &str,
    tls: Tls<'_>,
    peers: &[String],
    action: Action,
) -> Result<(), client::Error> {
    let limit = if let Action::Defragment(_) = action {
        DEFRAGMENT_TIMEOUT
    } else {
        client::TIMEOUT
    };
    call_within(limit, endpoint, tls, async |client| match action {
        Action::Remove(id) => client.member_remove(id).await.map(drop),
        Action::Promote(id) => client.member_promote(id).await.map(drop),
        Action::Add(ordinal) => {
            let learner = MemberAddOptions::new().with_is_learner();
            client
                .member_add(peers.get(ordinal).cloned().as_slice(), Some(learner))
                .await
                .map(drop)
        }
        Action::Defragment(_) => client.defragment().await.map(drop),
        Action::Disarm => {
            let raised = client
                .alarm(AlarmAction::Get, AlarmType::Nospace, None)
                .await?;
            for member in raised.alarms() {
                let mut of = AlarmOptions::new();
                of.with_member(member.member_id());
                client
                    .alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(of))
                    .await?;
            }
            Ok(())
        }
        Action::MarkBootstrapped(_) | Action::Restart(_) | Action::RemoveAnnotation => Ok(()),
    })
    .await
}
