//! Mutual TLS between the processes of a cluster: one certificate per process, one authority for all, read again when the
//! files change. Open connections go on as they are; new ones use what was read last.

mod incoming;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper_util::rt::TokioIo;
use prometheus::{IntCounterVec, register_int_counter_vec};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::settings::Reader;
use crate::shutdown::Shutdown;

pub use incoming::Incoming;
pub use rustls::pki_types::ServerName;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// How long the other side may take to come to terms.
const HANDSHAKE: Duration = Duration::from_secs(5);

static RELOADS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Times the certificate files had changed, by result: taken, or refused (the last good ones stay in use).";
    register_int_counter_vec!("im_tls_reloads_total", help, &["result"]).expect("registered once")
});

/// Where the certificates are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// This process' certificate and what leads from it to the authority, as PEM.
    pub certificate: PathBuf,
    /// Its private key, as PEM.
    pub key: PathBuf,
    /// The authority's certificates, as PEM: who shows one of theirs belongs to the cluster.
    pub authority: PathBuf,
}

impl Files {
    /// Asks for them: all three or none.
    pub fn read(from: &mut Reader<'_>) -> Option<Self> {
        from.group("TLS between processes");
        let certificate = from
            .path("tls_cert_file", "This process' certificate as PEM. With it the internal gRPC ports speak TLS and let in only processes with a certificate of the same authority; it is shown to `rediss://` and `https://` etcd too. Read again when it changes.")
            .optional();
        let key = from
            .path(
                "tls_key_file",
                "The private key of `tls_cert_file`, as PEM.",
            )
            .optional();
        let authority = from
            .path("tls_ca_file", "The certificates of the authority that signed those of all processes, as PEM. Redis and etcd may also show a certificate that the system trusts.")
            .optional();
        let given = [
            ("tls_cert_file", certificate.is_some()),
            ("tls_key_file", key.is_some()),
            ("tls_ca_file", authority.is_some()),
        ];
        if given.iter().any(|(_, given)| *given) {
            for (field, _) in given.iter().filter(|(_, given)| !given) {
                from.mistake(field, "tls_cert_file, tls_key_file and tls_ca_file go together: give all three or none");
            }
        }
        Some(Self {
            certificate: certificate?,
            key: key?,
            authority: authority?,
        })
    }
}

/// Why the certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{field} {path}: {error}")]
    Unreadable {
        /// The setting.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file holds something else.
    #[error("{field} {path}: {text}")]
    Unusable {
        /// The setting.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        text: String,
    },
    /// Key and certificate are not a pair, or the like.
    #[error("tls_cert_file and tls_key_file are of no use together: {0}")]
    Pair(rustls::Error),
}

/// The contents of the files.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    /// See [`Files::certificate`].
    pub certificate: Vec<u8>,
    /// See [`Files::key`].
    pub key: Vec<u8>,
    /// See [`Files::authority`].
    pub authority: Vec<u8>,
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pem").finish_non_exhaustive()
    }
}

impl Pem {
    /// The authority's certificates, followed by those that the system trusts.
    pub fn authority_and_system(&self) -> Vec<u8> {
        static SYSTEM: LazyLock<Vec<u8>> = LazyLock::new(|| {
            let certificates = rustls_native_certs::load_native_certs().certs;
            certificates
                .iter()
                .flat_map(|certificate| to_pem(certificate))
                .collect()
        });
        [self.authority.as_slice(), b"\n", SYSTEM.as_slice()].concat()
    }
}

fn to_pem(certificate: &CertificateDer<'_>) -> Vec<u8> {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = b"-----BEGIN CERTIFICATE-----\n".to_vec();
    for line in text.as_bytes().chunks(64) {
        pem.extend_from_slice(line);
        pem.push(b'\n');
    }
    pem.extend_from_slice(b"-----END CERTIFICATE-----\n");
    pem
}

#[derive(Debug)]
struct Loaded {
    pem: Pem,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// The certificates in force.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    loaded: ArcSwap<Loaded>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// One that names the file that is missing or of no use.
    pub fn load(files: Files) -> Result<Arc<Self>, Error> {
        LazyLock::force(&RELOADS);
        let loaded = Loaded::new(&files, pem(&files)?)?;
        Ok(Arc::new(Self {
            files,
            loaded: ArcSwap::from_pointee(loaded),
        }))
    }

    /// What was read last.
    pub fn pem(&self) -> Pem {
        self.loaded.load().pem.clone()
    }

    /// Looks at the files from time to time until the process ends, and takes what is new in them.
    ///
    /// # Errors
    /// None: what is of no use is told and left.
    pub async fn follow(
        self: Arc<Self>,
        shutdown: Shutdown,
    ) -> Result<(), std::convert::Infallible> {
        let mut every = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                _ = every.tick() => self.look(),
                () = shutdown.begun() => return Ok(()),
            }
        }
    }

    /// Looks at the files now, and takes what is new in them.
    pub fn look(&self) {
        let read = pem(&self.files);
        if read
            .as_ref()
            .is_ok_and(|pem| *pem == self.loaded.load().pem)
        {
            return;
        }
        match read.and_then(|pem| Loaded::new(&self.files, pem)) {
            Ok(loaded) => {
                self.loaded.store(Arc::new(loaded));
                RELOADS.with_label_values(&["taken"]).inc();
                tracing::info!(certificate = %self.files.certificate.display(), "new certificates are in use");
            }
            Err(error) => {
                RELOADS.with_label_values(&["refused"]).inc();
                tracing::warn!(%error, "the new certificates are of no use: the old ones stay");
            }
        }
    }

    fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.loaded.load().server)
    }

    /// Opens a connection to `address` (`host:port`), whose certificate must name `name`.
    ///
    /// # Errors
    /// It cannot be reached, or does not belong to the cluster.
    pub async fn connect(
        &self,
        address: &str,
        name: ServerName<'static>,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::clone(&self.loaded.load().client));
        match tokio::time::timeout(HANDSHAKE, connector.connect(name, stream)).await {
            Ok(connected) => connected,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "no TLS handshake in time",
            )),
        }
    }

    /// [`Tls::connect`] as tonic and hyper want it: a service from a URI to a connection.
    pub fn connector(
        self: &Arc<Self>,
        name: ServerName<'static>,
    ) -> impl tower::Service<
        hyper::Uri,
        Response = TokioIo<tokio_rustls::client::TlsStream<TcpStream>>,
        Error = io::Error,
        Future: Send,
    > + Clone
    + Send
    + 'static {
        let tls = Arc::clone(self);
        tower::service_fn(move |uri: hyper::Uri| {
            let tls = Arc::clone(&tls);
            let name = name.clone();
            async move {
                let address = uri.authority().map(ToString::to_string).unwrap_or_default();
                tls.connect(&address, name).await.map(TokioIo::new)
            }
        })
    }
}

impl Loaded {
    fn new(files: &Files, pem: Pem) -> Result<Self, Error> {
        let unusable = |field, path: &Path, text: String| Error::Unusable {
            field,
            path: path.to_owned(),
            text,
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem.certificate).collect();
        let chain = chain
            .map_err(|error| unusable("tls_cert_file", &files.certificate, error.to_string()))?;
        if chain.is_empty() {
            return Err(unusable(
                "tls_cert_file",
                &files.certificate,
                "it holds no certificate".to_owned(),
            ));
        }
        let key = || {
            PrivateKeyDer::from_pem_slice(&pem.key)
                .map_err(|error| unusable("tls_key_file", &files.key, error.to_string()))
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem.authority) {
            let certificate = certificate
                .map_err(|error| unusable("tls_ca_file", &files.authority, error.to_string()))?;
            roots
                .add(certificate)
                .map_err(|error| unusable("tls_ca_file", &files.authority, error.to_string()))?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build();
        let verifier = verifier
            .map_err(|error| unusable("tls_ca_file", &files.authority, error.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(Error::Pair)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key()?)
            .map_err(Error::Pair)?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Error::Pair)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key()?)
            .map_err(Error::Pair)?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            pem,
            server: Arc::new(server),
            client: Arc::new(client),
        })
    }
}

fn pem(files: &Files) -> Result<Pem, Error> {
    let read = |field, path: &Path| {
        std::fs::read(path).map_err(|error| Error::Unreadable {
            field,
            path: path.to_owned(),
            error,
        })
    };
    Ok(Pem {
        certificate: read("tls_cert_file", &files.certificate)?,
        key: read("tls_key_file", &files.key)?,
        authority: read("tls_ca_file", &files.authority)?,
    })
}
