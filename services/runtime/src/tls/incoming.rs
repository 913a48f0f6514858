//! Connections that have shown a certificate.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use prometheus::{IntCounterVec, register_int_counter_vec};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{HANDSHAKE, Tls};

/// Strangers that may be coming to terms at a time; further ones wait in the system's queue.
const AT_ONCE: usize = 256;
/// After accepting failed, as it does when files run out.
const PAUSE: Duration = Duration::from_millis(50);

static HANDSHAKES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "TLS handshakes on internal ports, by result: done, refused (no or a wrong certificate), late.";
    register_int_counter_vec!("im_tls_handshakes_total", help, &["result"]).expect("registered once")
});

/// Connections of processes of this cluster. Ends never; dropping it closes the listener.
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
    /// Begins to accept. Called within a tokio runtime.
    pub fn new(tls: Arc<Tls>, listener: TcpListener) -> Self {
        LazyLock::force(&HANDSHAKES);
        let (sender, accepted) = mpsc::channel(AT_ONCE);
        Self { accepted, task: tokio::spawn(accept(tls, listener, sender)).abort_handle() }
    }
}

impl Stream for Incoming {
    type Item = io::Result<TlsStream<TcpStream>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.accepted.poll_recv(context).map(|stream| stream.map(Ok))
    }
}

async fn accept(tls: Arc<Tls>, listener: TcpListener, to: mpsc::Sender<TlsStream<TcpStream>>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (acceptor, to) = (TlsAcceptor::from(tls.server()), to.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let result = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
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
            drop(place);
        });
    }
}
