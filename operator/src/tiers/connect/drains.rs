//! What connect pods say of their connections and drains: `GET /drain` of their admin port, asked beside reconciliations and
//! never during one. A pod that does not answer is unknown: not empty.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;

use crate::kubernetes::key::Key;
use crate::metrics;

/// How long a pod may take to answer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);
/// Pods asked at the same time.
const CONCURRENCY: usize = 32;
/// An answer is short.
const MAX_ANSWER: usize = 64 * 1024;
/// The admin port of every pod.
const PORT: u16 = 9100;

/// What a pod says of itself.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Reading {
    /// Of this format; fields are only added within one.
    pub(crate) version: u32,
    /// Whether it still takes clients.
    pub(crate) phase: Phase,
    /// Clients it has.
    pub(crate) connections: u64,
    /// Clients it had when its drain began.
    pub(crate) initial: Option<u64>,
    /// Clients told to move per second.
    pub(crate) rate: Option<f64>,
    /// When its drain began, in milliseconds since 1970.
    pub(crate) since_ms: Option<u64>,
    /// When the rest is closed, in milliseconds since 1970.
    pub(crate) deadline_ms: Option<u64>,
}

/// Whether a pod still takes clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// It does.
    Serving,
    /// It moves them away.
    Draining,
}

/// Why there is no reading.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No connection, or it broke.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// No answer in [`TIMEOUT`].
    #[error("no answer within {TIMEOUT:?}")]
    Timeout,
    /// An answer that is none.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
}

/// The last readings, by the pods' UIDs. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readings(Arc<RwLock<HashMap<String, Option<Reading>>>>);

impl Readings {
    /// What a pod said last. `None`: it was asked and did not answer, or was not asked yet.
    pub(crate) fn get(&self, uid: &str) -> Option<Reading> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(uid)
            .cloned()
            .flatten()
    }

    #[cfg(test)]
    pub(crate) fn all(&self) -> HashMap<String, Option<Reading>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes an answer, or that there was none; says whether that is worth a reconciliation.
    pub(crate) fn put(&self, uid: &str, reading: Option<Reading>) -> bool {
        let mut readings = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before = readings.insert(uid.to_owned(), reading.clone());
        match (before, reading) {
            (Some(Some(before)), Some(now)) => {
                before.phase != now.phase || moved(before.connections, now.connections)
            }
            (Some(None), None) => false,
            _ => true,
        }
    }

    /// Forgets all pods but these.
    pub(crate) fn retain(&self, uids: &HashSet<String>) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|uid, _| uids.contains(uid));
    }
}

/// Whether a count moved by 5 % or more, or from or to nothing.
pub(crate) fn moved(before: u64, now: u64) -> bool {
    let change = before.abs_diff(now);
    change > 0 && (before == 0 || now == 0 || change * 20 >= before)
}

/// Asks pods.
#[derive(Debug, Clone)]
pub(crate) struct DrainClient {
    client: Client<HttpConnector, Empty<Bytes>>,
    port: u16,
}

impl Default for DrainClient {
    fn default() -> Self {
        Self::at(PORT)
    }
}

impl DrainClient {
    /// Of pods whose admin port is this.
    pub(crate) fn at(port: u16) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(TIMEOUT));
        Self {
            client: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(connector),
            port,
        }
    }

    /// What the pod at an address says.
    ///
    /// # Errors
    /// [`Error`], after [`TIMEOUT`] at the latest.
    pub(crate) async fn read(&self, address: &str) -> Result<Reading, Error> {
        let host = if address.contains(':') {
            format!("[{address}]")
        } else {
            address.to_owned()
        };
        let uri = format!("http://{host}:{}/drain", self.port);
        let uri = uri
            .parse()
            .map_err(|error: http::uri::InvalidUri| Error::Unreachable(error.to_string()))?;
        let asked = async {
            let answer = self
                .client
                .get(uri)
                .await
                .map_err(|error| Error::Unreachable(error.to_string()))?;
            if !answer.status().is_success() {
                return Err(Error::Unexpected(answer.status().to_string()));
            }
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            let body = body
                .map_err(|error| Error::Unreachable(error.to_string()))?
                .to_bytes();
            let reading: Reading = serde_json::from_slice(&body)
                .map_err(|error| Error::Unexpected(error.to_string()))?;
            if reading.version == 1 {
                Ok(reading)
            } else {
                Err(Error::Unexpected(format!("version {}", reading.version)))
            }
        };
        tokio::time::timeout(TIMEOUT, asked)
            .await
            .unwrap_or(Err(Error::Timeout))
    }

    /// Asks all these pods once; returns the ImClusters for which something has changed.
    pub(crate) async fn read_all(&self, pods: &[Arc<Pod>], readings: &Readings) -> HashSet<Key> {
        let askable = pods.iter().filter_map(|pod| {
            let address = pod.status.as_ref()?.pod_ip.clone()?;
            Some((
                Key::of_cluster(pod.as_ref())?,
                pod.metadata.uid.clone()?,
                address,
            ))
        });
        let askable: Vec<_> = askable.collect();
        readings.retain(&askable.iter().map(|(_, uid, _)| uid.clone()).collect());
        let answers = futures::stream::iter(askable).map(|(cluster, uid, address)| async move {
            let reading = self.read(&address).await;
            let outcome = match &reading {
                Ok(_) => "answered",
                Err(Error::Unreachable(_)) => "unreachable",
                Err(Error::Timeout) => "silent",
                Err(Error::Unexpected(_)) => "strange",
            };
            metrics::DRAIN_READS.with_label_values(&[outcome]).inc();
            if let Err(error) = &reading {
                tracing::debug!(%cluster, uid, %error, "connect pod did not answer");
            }
            readings.put(&uid, reading.ok()).then_some(cluster)
        });
        answers
            .buffer_unordered(CONCURRENCY)
            .filter_map(std::future::ready)
            .collect()
            .await
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::Router;
    use axum::routing::get;

    use super::*;

    const LINE: &str = r#"{"version":1,"phase":"draining","connections":7,"initial":12,"current":7,"rate":16.5,"since_ms":1,"deadline_ms":2,"more":true}"#;

    async fn serve(router: Router) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    #[tokio::test]
    async fn a_pod_that_answers_is_read() {
        let address = serve(Router::new().route("/drain", get(async || LINE))).await;
        let reading = DrainClient::at(address.port())
            .read("127.0.0.1")
            .await
            .unwrap();
        assert_eq!(
            (reading.phase, reading.connections, reading.initial),
            (Phase::Draining, 7, Some(12))
        );
        assert_eq!(reading.rate, Some(16.5));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error() {
        let nobody = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let asked = DrainClient::at(nobody.port()).read("127.0.0.1").await;
        assert!(matches!(asked, Err(Error::Unreachable(_))), "{asked:?}");

        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let asked = DrainClient::at(silent.local_addr().unwrap().port())
            .read("127.0.0.1")
            .await;
        assert!(matches!(asked, Err(Error::Timeout)), "{asked:?}");

        for strange in ["[]", r#"{"version":2,"phase":"serving","connections":0}"#] {
            let address = serve(Router::new().route("/drain", get(async move || strange))).await;
            let asked = DrainClient::at(address.port()).read("127.0.0.1").await;
            assert!(matches!(asked, Err(Error::Unexpected(_))), "{asked:?}");
        }
    }

    #[test]
    fn a_silent_pod_is_unknown_and_small_moves_are_no_news() {
        let readings = Readings::default();
        let reading = |connections| {
            Some(Reading {
                connections,
                ..serde_json::from_str::<Reading>(LINE).unwrap()
            })
        };
        assert!(readings.put("a", reading(1000)));
        assert!(!readings.put("a", reading(1049)));
        assert!(readings.put("a", reading(1200)));
        assert!(readings.put("a", None));
        assert_eq!(readings.get("a"), None);
        assert!(!readings.put("a", None));
        assert!(readings.put("a", reading(1)) && readings.put("a", reading(0)));
        readings.retain(&HashSet::new());
        assert!(readings.all().is_empty());
    }
}
