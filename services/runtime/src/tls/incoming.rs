//! Connections that have shown a certificate.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use prometheus::{IntCounterVec, register_int_counter_vec};
use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::limits::address::Network;
use crate::limits::shares::Shares;

use super::{HANDSHAKE, ServerName, Tls};

/// Strangers that may be coming to terms at a time; further ones wait in the system's queue.
const AT_ONCE: usize = 256;
/// Strangers of one address that may: others must not wait for them. Further ones are closed.
const AT_ONCE_PER_ADDRESS: usize = 64;
/// After accepting failed, as it does when files run out.
const PAUSE: Duration = Duration::from_millis(50);

static HANDSHAKES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "TLS handshakes on internal ports, by result: done, refused (no or a wrong certificate), other_tier, late, crowded (too many of one address).";
    register_int_counter_vec!("im_tls_handshakes_total", help, &["result"])
        .expect("registered once")
});

/// Connections of one tier's processes of this cluster. Ends never; dropping it closes the listener.
#[derive(Debug)]
pub struct Incoming {
    accepted: mpsc::Receiver<TlsStream<TcpStream>>,
    task: tokio::task::AbortHandle,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Incoming {
    /// Begins to accept those whose certificate names `tier`. Called within a tokio runtime.
    pub fn new(tls: Arc<Tls>, listener: TcpListener, tier: ServerName<'static>) -> Self {
        LazyLock::force(&HANDSHAKES);
        let (sender, accepted) = mpsc::channel(AT_ONCE);
        Self {
            accepted,
            task: tokio::spawn(accept(tls, listener, tier, sender)).abort_handle(),
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<TlsStream<TcpStream>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.accepted
            .poll_recv(context)
            .map(|stream| stream.map(Ok))
    }
}

async fn accept(
    tls: Arc<Tls>,
    listener: TcpListener,
    tier: ServerName<'static>,
    to: mpsc::Sender<TlsStream<TcpStream>>,
) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let shares = Shares::new(AT_ONCE_PER_ADDRESS);
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(share) = shares.take(Network::from(peer.ip())) else {
            HANDSHAKES.with_label_values(&["crowded"]).inc();
            continue;
        };
        let acceptor = TlsAcceptor::from(tls.server());
        let to = to.clone();
        let tier = tier.clone();
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let result = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) if !names(&stream, &tier) => {
                    tracing::warn!(tier = %tier.to_str(), "a connection was refused: its certificate is that of another tier");
                    "other_tier"
                }
                Ok(Ok(stream)) => {
                    // Fails only when nobody serves any more.
                    let _ = to.send(stream).await;
                    "done"
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a connection was refused");
                    "refused"
                }
                Err(_) => "late",
            };
            HANDSHAKES.with_label_values(&[result]).inc();
            drop((place, share));
        });
    }
}

/// Whether the client's certificate names this tier. The authority signs for every process of the cluster, redis and etcd
/// among them: belonging to it is not enough to call this port.
fn names(stream: &TlsStream<TcpStream>, tier: &ServerName<'_>) -> bool {
    let shown = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first());
    let parsed = shown.and_then(|certificate| ParsedCertificate::try_from(certificate).ok());
    parsed.is_some_and(|certificate| verify_server_name(&certificate, tier).is_ok())
}
