//! Connections to etcd's members, with the operator's own certificate.

use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::time::timeout;

use crate::secrets::Credentials;

/// One of them may take so long for anything.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(3);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The member refused, or cannot be reached.
    #[error("{0}")]
    Etcd(#[from] etcd_client::Error),
    /// Nothing in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// What is shown to members and believed of them, as PEM.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tls<'a> {
    /// The authority.
    pub(crate) authority: &'a str,
    /// The own certificate.
    pub(crate) certificate: &'a str,
    /// Its key.
    pub(crate) key: &'a str,
}

impl<'a> Tls<'a> {
    /// What the operator shows.
    pub(crate) fn of(credentials: &'a Credentials) -> Self {
        Self {
            authority: &credentials.authority,
            certificate: &credentials.own.certificate,
            key: &credentials.own.key,
        }
    }
}

/// Calls one member.
///
/// # Errors
/// [`Error`].
pub(crate) async fn call<T>(
    endpoint: &str,
    tls: Tls<'_>,
    call: impl AsyncFnOnce(&mut Client) -> Result<T, etcd_client::Error>,
) -> Result<T, Error> {
    call_within(TIMEOUT, endpoint, tls, call).await
}

/// The same, of what takes longer.
///
/// # Errors
/// [`Error`].
pub(crate) async fn call_within<T>(
    limit: Duration,
    endpoint: &str,
    tls: Tls<'_>,
    call: impl AsyncFnOnce(&mut Client) -> Result<T, etcd_client::Error>,
) -> Result<T, Error> {
    let mut options = ConnectOptions::new().with_connect_timeout(TIMEOUT);
    if endpoint.starts_with("https://") {
        let authority = Certificate::from_pem(tls.authority);
        let identity = Identity::from_pem(tls.certificate, tls.key);
        options = options.with_tls(
            TlsOptions::new()
                .ca_certificate(authority)
                .identity(identity),
        );
    }
    let work = async {
        let mut client = Client::connect([endpoint], Some(options)).await?;
        Ok(call(&mut client).await?)
    };
    timeout(limit, work)
        .await
        .unwrap_or(Err(Error::Timeout(limit)))
}
