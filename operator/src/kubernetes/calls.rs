//! Around every call to the API server: counted by verb and kind, ended where no answer comes, and no write passes that
//! a replica makes without leading.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use kube::client::Body;
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

use crate::metrics;

/// How long the API server may take to begin its answer.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(15);

/// Why a call was not made or has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The API server did not answer in time.
    #[error("the API server did not answer within {TIMEOUT:?}")]
    Timeout,
    /// A write by a replica that does not lead.
    #[error("this replica is not the leader: write refused")]
    NotLeading,
}

/// Until when this replica may write. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Mutex<Until>>);

#[derive(Debug, Clone, Copy)]
enum Until {
    Always,
    Never,
    Then(Instant),
}

impl Gate {
    /// Lets everything pass: for a replica that needs no election.
    pub(crate) fn open() -> Self {
        Self(Arc::new(Mutex::new(Until::Always)))
    }

    /// Lets nothing pass but an election's own writes.
    pub(crate) fn shut() -> Self {
        Self(Arc::new(Mutex::new(Until::Never)))
    }

    /// Lets writes pass until then: even a process that was stopped for a while writes nothing too late.
    pub(crate) fn allow_until(&self, end: Instant) {
        self.set(Until::Then(end));
    }

    /// Lets nothing pass from now on.
    pub(crate) fn close(&self) {
        self.set(Until::Never);
    }

    /// Whether a write may pass now.
    pub(crate) fn is_open(&self) -> bool {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Until::Always => true,
            Until::Never => false,
            Until::Then(end) => Instant::now() < end,
        }
    }

    fn set(&self, until: Until) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// Wraps a service that takes requests to the API server.
#[derive(Debug, Clone)]
pub(crate) struct Calls {
    /// Which writes may pass.
    pub(crate) gate: Gate,
}

impl<S> Layer<S> for Calls {
    type Service = CallsService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallsService {
            inner,
            gate: self.gate.clone(),
        }
    }
}

/// See [`Calls`].
#[derive(Debug, Clone)]
pub(crate) struct CallsService<S> {
    inner: S,
    gate: Gate,
}

impl<S, B> Service<Request<Body>> for CallsService<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<UnsyncBoxBody<Bytes, BoxError>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (verb, kind) = (verb(&request), kind(request.uri().path()));
        if is_write(verb) {
            if kind != "leases" && !self.gate.is_open() {
                return Box::pin(std::future::ready(Err(Error::NotLeading.into())));
            }
            metrics::WRITES
                .with_label_values(&[verb, kind.as_str()])
                .inc();
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            // A watch answers at once too: only its body is long.
            let answer = tokio::time::timeout(TIMEOUT, answer).await;
            let (outcome, answer) = match answer {
                Ok(Ok(answer)) => (answer.status().as_str().to_owned(), Ok(answer)),
                Ok(Err(error)) => ("error".to_owned(), Err(error.into())),
                Err(_) => ("timeout".to_owned(), Err(Error::Timeout.into())),
            };
            metrics::REQUESTS
                .with_label_values(&[verb, kind.as_str(), outcome.as_str()])
                .inc();
            answer.map(|answer| {
                answer.map(|body| note_activity(body, (verb == "watch").then_some(kind)))
            })
        })
    }
}

/// The body of an answer; where it is a watch's, the time of its last sign of life is noted.
fn note_activity<B>(body: B, watched: Option<String>) -> UnsyncBoxBody<Bytes, BoxError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let body = body.map_err(Into::into);
    let Some(kind) = watched else {
        return body.boxed_unsync();
    };
    let seen = metrics::WATCH_SEEN.with_label_values(&[kind.as_str()]);
    seen.set(jiff::Timestamp::now().as_second());
    let body = body.map_frame(move |frame| {
        seen.set(jiff::Timestamp::now().as_second());
        frame
    });
    body.boxed_unsync()
}

/// Whether a verb changes anything.
pub(crate) fn is_write(verb: &str) -> bool {
    !matches!(verb, "get" | "watch")
}

/// The verb in Kubernetes' words; "apply" is a server-side apply.
pub(crate) fn verb<B>(request: &Request<B>) -> &'static str {
    let content = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    match *request.method() {
        Method::GET
            if request
                .uri()
                .query()
                .is_some_and(|query| query.contains("watch=true")) =>
        {
            "watch"
        }
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::DELETE => "delete",
        _ if content.is_some_and(|content| content.starts_with("application/apply-patch")) => {
            "apply"
        }
        _ => "patch",
    }
}

/// The plural name of what a path of the API is about, with its subresource: `deployments`, `imclusters/status`.
pub(crate) fn kind(path: &str) -> String {
    let mut parts = path.trim_matches('/').split('/');
    let group_and_version = match parts.next() {
        Some("api") => 1,
        Some("apis") => 2,
        _ => return "other".to_owned(),
    };
    let mut rest: Vec<&str> = parts.skip(group_and_version).collect();
    if rest.first() == Some(&"namespaces") && rest.len() > 2 {
        rest.drain(..2);
    }
    match rest.as_slice() {
        [] => "discovery".to_owned(),
        [plural] | [plural, _] => (*plural).to_owned(),
        [plural, _, subresource, ..] => format!("{plural}/{subresource}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_tell_kinds() {
        for (path, wanted) in [
            ("/api/v1/namespaces/demo/pods", "pods"),
            ("/api/v1/namespaces/demo", "namespaces"),
            ("/apis/apps/v1/deployments", "deployments"),
            (
                "/apis/apps/v1/namespaces/demo/deployments/demo-connect",
                "deployments",
            ),
            (
                "/apis/imcluster.io/v1alpha1/namespaces/demo/imclusters/demo/status",
                "imclusters/status",
            ),
            ("/apis/monitoring.coreos.com/v1", "discovery"),
            ("/version", "other"),
        ] {
            assert_eq!(kind(path), wanted, "{path}");
        }
    }

    #[test]
    fn requests_tell_verbs() {
        let request = |method: &str, uri: &str, content: &str| {
            Request::builder()
                .method(method)
                .uri(uri)
                .header(header::CONTENT_TYPE, content)
                .body(())
                .unwrap()
        };
        assert_eq!(verb(&request("GET", "/api/v1/pods?limit=5", "")), "get");
        assert_eq!(
            verb(&request("GET", "/api/v1/pods?limit=5&watch=true", "")),
            "watch"
        );
        assert_eq!(
            verb(&request(
                "PATCH",
                "/api/v1/pods/a",
                "application/apply-patch+yaml"
            )),
            "apply"
        );
        assert_eq!(
            verb(&request(
                "PATCH",
                "/api/v1/pods/a",
                "application/merge-patch+json"
            )),
            "patch"
        );
        assert!(is_write("delete") && is_write("apply") && !is_write("watch"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_closes_by_itself() {
        let gate = Gate::shut();
        assert!(!gate.is_open());
        gate.allow_until(Instant::now() + Duration::from_secs(12));
        assert!(gate.is_open());
        tokio::time::advance(Duration::from_secs(12)).await;
        assert!(!gate.is_open());
    }

    #[tokio::test]
    async fn who_does_not_lead_reads_and_elects_but_writes_nothing() {
        let api = tower::service_fn(|_: Request<Body>| async {
            Ok::<_, BoxError>(Response::new(http_body_util::Full::new(Bytes::new())))
        });
        let mut calls = Calls { gate: Gate::shut() }.layer(api);
        let mut answer = async |method: &str, uri: &str| {
            let request = Request::builder()
                .method(method)
                .uri(uri)
                .body(Body::empty())
                .unwrap();
            calls
                .call(request)
                .await
                .map(|_| ())
                .map_err(|error| error.downcast_ref::<Error>().copied())
        };
        assert_eq!(answer("GET", "/api/v1/namespaces/a/pods").await, Ok(()));
        assert_eq!(
            answer(
                "PUT",
                "/apis/coordination.k8s.io/v1/namespaces/a/leases/im-operator"
            )
            .await,
            Ok(())
        );
        assert_eq!(
            answer("DELETE", "/api/v1/namespaces/a/pods/b").await,
            Err(Some(Error::NotLeading))
        );
    }
}
