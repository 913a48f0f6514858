//! Renewed certificates of redis and Sentinel: redis is told to read its files again, Sentinels, which cannot, restart one at
//! a time. Connect, logic and etcd look at their files themselves. Which certificate a server presents is the only proof that
//! a renewed one is in use.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::api::Tier;
use crate::context::Context;
use crate::kubernetes::key::Key;
use crate::secrets::Credentials;
use crate::tiers::redis::act::renew;
use crate::tiers::redis::decide::{Observed, Sentinel};
use crate::tiers::stateful;
use crate::{build, metrics};

const fn port(number: i32) -> u16 {
    number.unsigned_abs() as u16
}

/// Sees to the servers that show another certificate than they should. Until a pod's volume has the new files, which takes
/// the kubelet a minute or two, it shows the old one; it is seen to again the next time.
pub(crate) async fn renew_all(
    context: &Context,
    key: &Key,
    credentials: &Credentials,
    seen: &Observed,
) {
    if let Some(wanted) = &credentials.redis_certificate {
        for server in seen.servers.iter().filter(|server| server.answer.is_some()) {
            // Whom it believes does not show.
            if credentials.change.is_none()
                && is_current(&server.host, port(build::REDIS_PORT), wanted, credentials).await
            {
                continue;
            }
            match renew(
                &server.host,
                build::REDIS_PORT,
                credentials,
                build::TLS_FOLDER,
            )
            .await
            {
                Ok(()) => {
                    metrics::CERTIFICATES
                        .with_label_values(&[Tier::Redis.name()])
                        .inc();
                    tracing::info!(cluster = %key, host = server.host, "redis reloaded its certificate");
                }
                Err(error) => {
                    tracing::warn!(cluster = %key, host = server.host, %error, "cannot reload the certificate of redis")
                }
            }
        }
    }
    let Some(wanted) = &credentials.sentinel_certificate else {
        return;
    };
    if !seen.sentinels.iter().all(Sentinel::knows_one) {
        return;
    }
    for number in (0..seen.sentinels.len()).rev() {
        let ordinal = i32::try_from(number).unwrap_or(i32::MAX);
        let host = context.pod_host(key, Tier::Sentinel, ordinal);
        if is_current(&host, port(build::SENTINEL_PORT), wanted, credentials).await {
            continue;
        }
        match stateful::restart(context, key, Tier::Sentinel, number).await {
            Ok(()) => {
                metrics::CERTIFICATES
                    .with_label_values(&[Tier::Sentinel.name()])
                    .inc();
                tracing::info!(cluster = %key, host, "restarting Sentinel to load its renewed certificate");
            }
            Err(error) => tracing::warn!(cluster = %key, host, %error, "cannot restart Sentinel"),
        }
        // The next one when this one is back.
        return;
    }
}

/// How long a handshake may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Why it is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The server cannot be reached, or the handshake failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// What we hold is of no use.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// What we hold cannot be read.
    #[error("{0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// Not the name of a host.
    #[error("{0}")]
    Name(#[from] rustls::pki_types::InvalidDnsNameError),
    /// Nothing in time.
    #[error("no handshake within {TIMEOUT:?}")]
    Timeout,
}

/// The certificate that the server at `host:port` shows, unless it is none of the internal authority's.
///
/// # Errors
/// [`Error`].
pub(crate) async fn presented(
    host: &str,
    port: u16,
    credentials: &Credentials,
) -> Result<Option<CertificateDer<'static>>, Error> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(credentials.authority.as_bytes()) {
        roots.add(authority?)?;
    }
    let own = CertificateDer::from_pem_slice(credentials.own.certificate.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(credentials.own.key.as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![own], key)?;
    let name = ServerName::try_from(host.to_owned())?;
    let shake = async {
        let socket = TcpStream::connect((host, port)).await?;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await?;
        let (_, session) = stream.get_ref();
        let chain = session.peer_certificates().unwrap_or_default();
        Ok(chain.first().map(|leaf| leaf.clone().into_owned()))
    };
    timeout(TIMEOUT, shake).await.unwrap_or(Err(Error::Timeout))
}

/// Whether the server shows the certificate that it should. One that is not to be reached is not known to show another.
pub(crate) async fn is_current(
    host: &str,
    port: u16,
    wanted: &str,
    credentials: &Credentials,
) -> bool {
    let Ok(wanted) = CertificateDer::from_pem_slice(wanted.as_bytes()) else {
        return true;
    };
    match presented(host, port, credentials).await {
        Ok(found) => found.is_none_or(|found| found == wanted),
        Err(error) => {
            tracing::debug!(host, %error, "cannot determine the presented certificate");
            true
        }
    }
}
