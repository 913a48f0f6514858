//! The connection to etcd: made anew after every failure, with a timeout on every wait.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};

use im_runtime::settings::Reader;
use im_runtime::tls::Tls;

use crate::Kind;

/// Where etcd is and how patiently it is asked.
#[derive(Debug, Clone)]
pub struct Options {
    /// `http://host:port` or `https://host:port`, one or several members.
    pub endpoints: Vec<String>,
    /// What is shown to `https://` members and believed of them.
    pub tls: Option<Arc<Tls>>,
    /// What all keys begin with; no slash at the end.
    pub prefix: String,
    /// How long an entry outlives its process; whole seconds, 2 s at least.
    pub lease: Duration,
    /// How long a request to etcd may take.
    pub timeout: Duration,
    /// The first pause after a failure; later ones double, with jitter.
    pub pause_min: Duration,
    /// The longest pause.
    pub pause_max: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:2379".to_owned()],
            tls: None,
            prefix: "/imcluster".to_owned(),
            lease: Duration::from_secs(10),
            timeout: Duration::from_secs(3),
            pause_min: Duration::from_millis(100),
            pause_max: Duration::from_secs(3),
        }
    }
}

/// What went wrong with etcd.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It refused, or cannot be reached.
    #[error("etcd: {0}")]
    Etcd(#[from] etcd_client::Error),
    /// No answer in time.
    #[error("etcd did not answer within {0:?}")]
    Timeout(Duration),
    /// The lease has run out: the entry is gone.
    #[error("the lease was lost")]
    LeaseLost,
    /// The stream of changes ended.
    #[error("the watch ended: {0}")]
    WatchEnded(String),
}

/// etcd refuses clients that ping more often than every 5 s.
const PING_INTERVAL: Duration = Duration::from_secs(6);

impl Options {
    /// Asks for them.
    pub fn read(from: &mut Reader<'_>) -> Self {
        let default = Self::default();
        let known = |text: &str| text.starts_with("http://") || text.starts_with("https://");
        let parse = move |text: &str| match known(text) {
            true => Ok(text.to_owned()),
            false => Err("write http://HOST:PORT or https://HOST:PORT".to_owned()),
        };
        let help = "The members of the etcd in which processes find each other.";
        Self {
            endpoints: from
                .list(
                    "etcd_endpoints",
                    "URL: http://host:port, https://host:port",
                    parse,
                    String::clone,
                    help,
                )
                .check(|all| {
                    if all.is_empty() {
                        Err("name one member at least".to_owned())
                    } else {
                        Ok(())
                    }
                })
                .required(default.endpoints),
            prefix: from
                .text("etcd_prefix", "What all keys in etcd begin with.")
                .or(default.prefix),
            lease: from
                .duration(
                    "etcd_lease",
                    "How long the entry of a process that died stays.",
                )
                .within(Duration::from_secs(2)..=Duration::from_secs(600))
                .or(default.lease),
            ..default
        }
    }

    pub(crate) async fn client(&self) -> Result<Client, Error> {
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(self.timeout)
            .with_keep_alive(PING_INTERVAL, self.timeout)
            .with_keep_alive_while_idle(true);
        if let Some(tls) = &self.tls {
            // Read anew for each connection, as certificates are renewed.
            let pem = tls.pem();
            let identity = Identity::from_pem(&pem.certificate, &pem.key);
            let authority = Certificate::from_pem(pem.authority_and_system());
            connect = connect.with_tls(
                TlsOptions::new()
                    .ca_certificate(authority)
                    .identity(identity),
            );
        }
        self.within(Client::connect(&self.endpoints, Some(connect)))
            .await
    }

    pub(crate) async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Error::Timeout(self.timeout)),
        }
    }

    pub(crate) fn folder(&self, kind: Kind) -> String {
        format!("{}/{kind}/", self.prefix)
    }

    /// Pauses without end.
    pub(crate) fn pauses(&self) -> ExponentialBackoff {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(self.pause_min)
            .with_max_delay(self.pause_max);
        pauses.with_jitter().without_max_times().build()
    }
}
