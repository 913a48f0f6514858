//! The listener of the HTTP API: HTTP/1.1, bounded connections, slow headers cut off, an orderly end.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt;

use super::metrics;
use crate::service::{Core, Phase, Service, reached};

/// After the system has refused a connection (no descriptors left), the next is tried this much later.
const PAUSE: Duration = Duration::from_millis(50);

impl Service {
    /// Serves the HTTP API on this listener. Returns once [`Service::drain`] ends things: connections that are open then
    /// finish what they are about.
    pub async fn serve_http(&self, listener: TcpListener) {
        let handle = self.handle();
        let core = Arc::clone(&handle.core);
        let router = handle.http_router();
        let places = Arc::new(Semaphore::new(core.options.http.max_connections));
        let mut phase = core.phase.subscribe();
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let connection = connection(Arc::clone(&core), router.clone(), stream, place);
                        core.under_way.spawn(connection);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "an HTTP connection was not accepted");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                () = reached(&mut phase, Phase::Ending) => return,
            }
        }
    }
}

async fn connection(core: Arc<Core>, router: axum::Router, stream: TcpStream, place: OwnedSemaphorePermit) {
    let _ = stream.set_nodelay(true);
    metrics::CONNECTIONS.inc();
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        router.clone().oneshot(request.map(axum::body::Body::new))
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(core.options.http.header_timeout)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let mut phase = core.phase.subscribe();
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = reached(&mut phase, Phase::Ending) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
    metrics::CONNECTIONS.dec();
    drop(place);
}
