//! HTTP/1.1, in one way: a server with one set of limits, and small requests.
//!
//! A listener accepts no more connections than it may have; whoever has too many of them is refused; slow heads are cut
//! off; and at the end connections finish what they are about.

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper::{Request, body};
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

pub use im_http::{Answer, Error, Limits as RequestLimits, get, segment, send, send_over};

use crate::limits::address::{Network, is_in};
use crate::limits::rate::{Bucket, Rate};
use crate::limits::shares::Shares;

/// After the system has refused a connection (no descriptors left), the next is tried this much later.
const PAUSE: Duration = Duration::from_millis(100);
/// A request's head, with its line, has at most so many bytes. Beyond: 431.
const MAX_HEAD: usize = 64 << 10;

/// What the connections of a server may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// What the log calls the server.
    pub name: &'static str,
    /// Open connections; more wait to be accepted.
    pub connections: usize,
    /// Open connections of one address; more are refused.
    pub per_address: usize,
    /// Proxies: they have the connections of all their clients, as many as they want.
    pub proxies: Vec<IpNet>,
    /// Connections accepted per second; more wait. `None`: as many as come.
    pub arrivals: Option<Rate>,
    /// How long a request's head may take, also on an idle connection.
    pub header_timeout: Duration,
    /// How long a connection may stay, whatever it asks.
    pub life: Duration,
    /// What a connection is told, and counted as, before it is closed because its address has too many.
    pub refuse: fn(&TcpStream),
}

impl Limits {
    /// 256 connections, 15 s for a head, nothing else bounded.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            connections: 256,
            per_address: usize::MAX,
            proxies: Vec::new(),
            arrivals: None,
            header_timeout: Duration::from_secs(15),
            life: Duration::MAX,
            refuse: |_| {},
        }
    }
}

/// Serves a router until `end`. Requests carry the caller's [`SocketAddr`] as an extension.
///
/// Returns when nothing more is accepted: the `tasks` are the connections that are still open.
pub async fn serve(
    listener: TcpListener,
    limits: Limits,
    router: Router,
    tasks: TaskTracker,
    end: CancellationToken,
) {
    let connection = move |stream: TcpStream, peer: SocketAddr| {
        let router = router.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            router.clone().oneshot(request)
        });
        (stream, service)
    };
    serve_with(listener, limits, connection, tasks, end).await;
}

/// Serves what `connection` makes of each connection: what is read and written, and what answers.
///
/// Returns when nothing more is accepted: the `tasks` are the connections that are still open.
pub async fn serve_with<I, S, B>(
    listener: TcpListener,
    limits: Limits,
    connection: impl Fn(TcpStream, SocketAddr) -> (I, S),
    tasks: TaskTracker,
    end: CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: HttpService<Incoming, ResBody = B> + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    B: body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let permits = Arc::new(Semaphore::new(limits.connections));
    let shares = Shares::new(limits.per_address);
    let mut arrivals = limits
        .arrivals
        .map(|rate| (rate, Bucket::full(rate, Instant::now())));
    let accepting = async {
        loop {
            while let Some((rate, bucket)) = &mut arrivals
                && let Err(wait) = bucket.take(*rate, Instant::now())
            {
                tokio::time::sleep(wait).await;
            }
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: others must end first.
                    tracing::warn!(%error, "the {} cannot accept connections", limits.name);
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let share = shares.take(Network::from(peer.ip()));
            if share.is_none() && !is_in(&limits.proxies, peer.ip()) {
                tracing::debug!(%peer, "too many connections from one address to the {}", limits.name);
                (limits.refuse)(&stream);
                continue;
            }
            let _ = stream.set_nodelay(true);
            let (stream, service) = connection(stream, peer);
            let served = serve_one(
                stream,
                service,
                limits.header_timeout,
                limits.life,
                end.clone(),
            );
            let name = limits.name;
            tasks.spawn(async move {
                if let Err(error) = served.await {
                    tracing::debug!(%error, %peer, "a connection to the {name} broke");
                }
                drop((permit, share));
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = end.cancelled() => {}
    }
}

async fn serve_one<I, S, B>(
    stream: I,
    service: S,
    header_timeout: Duration,
    life: Duration,
    end: CancellationToken,
) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: HttpService<Incoming, ResBody = B> + Send + 'static,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    B: body::Body + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(MAX_HEAD);
    let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let whole = async {
        tokio::select! {
            ended = serving.as_mut() => ended,
            () = end.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        }
    };
    tokio::time::timeout(life, whole).await.unwrap_or(Ok(()))
}
