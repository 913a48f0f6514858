//! The page's listener: bounded connections, slow headers cut off, an orderly end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Open connections at most; beyond, new ones wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// For a request's header, also on an idle connection.
const PATIENCE: Duration = Duration::from_secs(15);
/// For a connection as a whole; browsers open another.
const LONGEST: Duration = Duration::from_secs(120);
/// After the system has refused a connection (no descriptors left), the next is tried this much later.
const PAUSE: Duration = Duration::from_millis(100);
/// A guest's wish is a name.
const MAX_BODY: usize = 4 << 10;

/// Serves until `end`; open connections finish what they are about.
pub(crate) async fn serve(listener: TcpListener, router: Router, end: CancellationToken) -> Result<(), std::io::Error> {
    let router = router.layer(DefaultBodyLimit::max(MAX_BODY));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    tokio::spawn(connection(stream, peer, router.clone(), place, end.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the page's server cannot accept");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            () = end.cancelled() => return Ok(()),
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    place: OwnedSemaphorePermit,
    end: CancellationToken,
) {
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.clone().oneshot(request.map(Body::new))
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::time::timeout(LONGEST, async {
        tokio::select! {
            ended = serving.as_mut() => ended,
            () = end.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        }
    });
    if let Ok(Err(error)) = ended.await {
        tracing::debug!(%error, "a connection to the page broke");
    }
    drop(place);
}
