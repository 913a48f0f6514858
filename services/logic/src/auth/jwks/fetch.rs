//! One GET of a key set, over TLS with the system's roots or, on this machine, without.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, Uri, header};
use hyper_util::rt::TokioIo;
use im_runtime::settings::mask_secrets;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Error;
use crate::auth::{Options, key};

/// A fetch is given up after this.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest key set that is read, in bytes.
const MAX_SET: usize = 256 * 1024;

/// Whether a key set can be fetched from there: what a setting is checked with.
///
/// # Errors
/// What is wrong with the URL.
pub fn check(url: &str) -> Result<(), String> {
    Source::at(url).map(drop).map_err(|error| match error {
        key::Error::BadUrl { problem, .. } => format!("it {problem}"),
        other => other.to_string(),
    })
}

/// Whether a host is this machine, where nobody is on the way.
fn is_here(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Where the key set is.
pub(crate) struct Source {
    url: String,
    uri: Uri,
    host: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Source {
    /// `None` where none is configured.
    ///
    /// # Errors
    /// A URL that cannot be used.
    pub(crate) fn new(options: &Options) -> Result<Option<Self>, key::Error> {
        if options.jwks_url.is_empty() {
            return Ok(None);
        }
        Self::at(&options.jwks_url).map(Some)
    }

    fn at(url: &str) -> Result<Self, key::Error> {
        let bad = |problem| key::Error::BadUrl {
            url: mask_secrets(url),
            problem,
        };
        let uri: Uri = url.parse().map_err(|_| bad("is no URL"))?;
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| bad("names no host"))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let tls = match uri.scheme_str() {
            Some("http") if !is_here(&host) => {
                return Err(bad(
                    "begins with http://: who is on the way could give keys of their own. Write https://, or an address of this machine",
                ));
            }
            Some("http") => None,
            Some("https") => {
                let name = ServerName::try_from(host.clone()).map_err(|_| bad("names no host"))?;
                Some((connector(), name))
            }
            _ => return Err(bad("begins with neither https:// nor http://")),
        };
        if uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'))
        {
            return Err(bad(
                "names a user: the key set is fetched without credentials, take it out",
            ));
        }
        Ok(Self {
            url: mask_secrets(url),
            uri,
            host,
            tls,
        })
    }

    /// As it was given, secrets hidden.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The key set's bytes.
    ///
    /// # Errors
    /// Why there are none.
    pub(crate) async fn fetch(&self) -> Result<Bytes, Error> {
        tokio::time::timeout(TIMEOUT, self.ask())
            .await
            .map_err(|_| Error::Timeout(TIMEOUT))?
    }

    async fn ask(&self) -> Result<Bytes, Error> {
        let port = self
            .uri
            .port_u16()
            .unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let stream = TcpStream::connect((self.host.as_str(), port))
            .await
            .map_err(unreachable)?;
        match &self.tls {
            None => self.get(stream).await,
            Some((tls, name)) => {
                self.get(
                    tls.connect(name.clone(), stream)
                        .await
                        .map_err(unreachable)?,
                )
                .await
            }
        }
    }

    async fn get<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
    ) -> Result<Bytes, Error> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(unreachable)?;
        // It ends with the sender, or with an error that the answer reports.
        let connection = tokio::spawn(connection);
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = self
            .uri
            .authority()
            .map(|authority| authority.as_str())
            .unwrap_or_default();
        let request = Request::get(path)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/json");
        let request = request.body(Empty::<Bytes>::new()).map_err(unreachable)?;
        let answer = sender.send_request(request).await.map_err(unreachable)?;
        if answer.status() != 200 {
            return Err(Error::Status(answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), MAX_SET).collect().await;
        connection.abort();
        let body =
            body.map_err(
                |error| match error.downcast::<http_body_util::LengthLimitError>() {
                    Ok(_) => Error::TooLarge(MAX_SET),
                    Err(error) => unreachable(error),
                },
            )?;
        Ok(body.to_bytes())
    }
}

fn unreachable(error: impl std::fmt::Display) -> Error {
    Error::Unreachable(error.to_string())
}

fn connector() -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has what TLS 1.2 and 1.3 need")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}
