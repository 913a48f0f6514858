//! The listener of the HTTP API: HTTP/1.1, connections bounded in all and per address, slow headers and slow readers cut
//! off, an orderly end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use im_runtime::limits::address::{Network, is_in};
use im_runtime::limits::rate::{Bucket, Rate};
use im_runtime::limits::shares::{Share, Shares};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt;

use super::ask::Peer;
use super::guard::Held;
use super::metrics;
use super::stream::{Unsent, WriteTimeout};
use crate::call::Handle;
use crate::core::Core;
use crate::phase::{Phase, reached};

/// After the system has refused a connection (no descriptors left), the next is tried this much later.
const PAUSE: Duration = Duration::from_millis(50);
/// A request's header, with its line, has at most so many bytes. Beyond: 431.
const MAX_HEADER: usize = 64 * 1024;
/// What a connection is told that is not taken.
const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
    connection: close\r\ncontent-length: 98\r\n\r\n\
    {\"error\":{\"code\":\"rate_limited\",\"text\":\"too many connections from your address\",\"retryable\":true}}";

/// What a connection holds while it is open.
struct Places {
    _all: OwnedSemaphorePermit,
    /// None of a proxy: it has those of all its clients.
    _own: Option<Share<Network>>,
}

/// Serves the API and `others` until logic ends. Connections that are open then finish what they are about.
pub(crate) async fn serve(handle: Handle, others: Router<Handle>, listener: TcpListener) {
    let router = super::router(&handle, others);
    let core = handle.core;
    let places = Arc::new(Semaphore::new(core.options.http.max_connections));
    let by_address = Shares::new(core.options.http.max_connections_per_ip);
    let mut phase = core.phase.subscribe();
    let rate = Rate::of_arrivals(core.options.http.accepts_per_second);
    let mut accepts = Bucket::full(rate, Instant::now());
    loop {
        while let Err(wait) = accepts.take(rate, Instant::now()) {
            tokio::time::sleep(wait).await;
        }
        // The semaphore is never closed.
        let Ok(all) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let peer = Peer(peer.ip());
                    let own = if is_in(&core.options.http.forwarded_from, peer.0) {
                        None
                    } else if let Some(own) = by_address.take(peer.0.into()) {
                        Some(own)
                    } else {
                        refuse(stream);
                        continue;
                    };
                    let places = Places { _all: all, _own: own };
                    let connection = connection(Arc::clone(&core), router.clone(), stream, peer, places);
                    core.under_way.spawn(connection);
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept an HTTP connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            () = reached(&mut phase, Phase::Ending) => return,
        }
    }
}

/// Says why, as far as the socket takes it at once, and ends the connection.
fn refuse(stream: TcpStream) {
    metrics::CONNECTIONS_REFUSED.inc();
    let _ = stream.try_write(TOO_MANY);
    // Nothing is waited for: whoever opens so many connections must not cost a task each.
    drop(stream);
}

async fn connection(
    core: Arc<Core>,
    router: Router,
    stream: TcpStream,
    peer: Peer,
    places: Places,
) {
    let _ = stream.set_nodelay(true);
    metrics::CONNECTIONS.inc();
    let unsent = Unsent::<Held>::default();
    let sending = unsent.clone();
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let router = router.clone();
        let sending = sending.clone();
        async move {
            let mut request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(peer);
            let mut answered = router.oneshot(request).await;
            if let Ok(answer) = &mut answered {
                // Given back once the client has taken its answer.
                sending.put(answer.extensions_mut().remove::<Held>());
            }
            answered
        }
    });
    let stream = WriteTimeout::new(stream, core.options.http.request_timeout, unsent);
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(core.options.http.header_timeout)
        .max_buf_size(MAX_HEADER)
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
        tracing::debug!(%error, "HTTP connection ended early");
    }
    metrics::CONNECTIONS.dec();
    drop(places);
}
