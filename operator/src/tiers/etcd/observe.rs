//! Asks etcd's members, with the operator's own certificate.

use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::time::timeout;

use super::decide::{Answer, Member};
use crate::secrets::Known;

/// One of them may take so long for anything.
pub const PATIENCE: Duration = Duration::from_secs(3);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The member refused, or cannot be reached.
    #[error("{0}")]
    Etcd(#[from] etcd_client::Error),
    /// Nothing in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// What is shown to members and believed of them, as PEM.
#[derive(Debug, Clone, Copy)]
pub struct Tls<'a> {
    /// The authority.
    pub authority: &'a str,
    /// The own certificate.
    pub certificate: &'a str,
    /// Its key.
    pub key: &'a str,
}

impl<'a> Tls<'a> {
    /// What the operator shows.
    pub fn of(known: &'a Known) -> Self {
        Self { authority: &known.authority, certificate: &known.own.certificate, key: &known.own.key }
    }
}

/// Calls one member.
///
/// # Errors
/// [`Error`].
pub async fn call<T>(
    endpoint: &str,
    tls: Tls<'_>,
    call: impl AsyncFnOnce(&mut Client) -> Result<T, etcd_client::Error>,
) -> Result<T, Error> {
    call_within(PATIENCE, endpoint, tls, call).await
}

/// The same, of what takes longer.
///
/// # Errors
/// [`Error`].
pub async fn call_within<T>(
    patience: Duration,
    endpoint: &str,
    tls: Tls<'_>,
    call: impl AsyncFnOnce(&mut Client) -> Result<T, etcd_client::Error>,
) -> Result<T, Error> {
    let mut options = ConnectOptions::new().with_connect_timeout(PATIENCE);
    if endpoint.starts_with("https://") {
        let authority = Certificate::from_pem(tls.authority);
        let identity = Identity::from_pem(tls.certificate, tls.key);
        options = options.with_tls(TlsOptions::new().ca_certificate(authority).identity(identity));
    }
    let work = async {
        let mut client = Client::connect([endpoint], Some(options)).await?;
        Ok(call(&mut client).await?)
    };
    timeout(patience, work).await.unwrap_or(Err(Error::Timeout(patience)))
}

/// What the member at this endpoint says of itself, and, if it is part of a quorum and has a vote, of all members.
/// `places` are the members' peer URLs, by their pods' numbers.
pub async fn member(endpoint: &str, tls: Tls<'_>, places: &[String]) -> Option<(Answer, Option<Vec<Member>>)> {
    let asked = call(endpoint, tls, async |client| {
        let status = client.status().await?;
        let bytes = |size: i64| u64::try_from(size).unwrap_or_default();
        let answer = Answer {
            led: status.leader() != 0,
            learner: status.is_learner(),
            leads: status.header().is_some_and(|header| header.member_id() == status.leader()),
            size: bytes(status.db_size()),
            in_use: bytes(status.raft_used_db_size()),
            full: status.errors().iter().any(|error| error.contains("NOSPACE")),
        };
        if answer.learner || !answer.led {
            return Ok((answer, None));
        }
        let list = client.member_list().await?;
        let member = |member: &etcd_client::Member| Member {
            id: member.id(),
            place: places.iter().position(|url| member.peer_urls().contains(url)),
            started: !member.name().is_empty(),
            learner: member.is_learner(),
        };
        Ok((answer, Some(list.members().iter().map(member).collect())))
    });
    match asked.await {
        Ok(answer) => Some(answer),
        Err(error) => {
            tracing::debug!(endpoint, %error, "an etcd member does not answer");
            None
        }
    }
}
