//! One address in front of several redis servers, as a Service, a DNS name or a proxy is. It tells connections for
//! subscriptions from those for commands and can cut off either.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::accept_each;

/// What a connection is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Subscriptions: such a connection starts with `HELLO 3`, which push messages need.
    Subscriptions,
    /// Everything else.
    Commands,
}

/// `HELLO 3` as it is on the wire.
const HELLO_3: &[u8] = b"HELLO\r\n$1\r\n3\r\n";
/// How much of a connection is read before its use is known: clients begin with one write.
const FIRST_READ: usize = 4096;

#[derive(Debug)]
struct Shared {
    /// Port of the server that new connections go to.
    upstream: AtomicU16,
    cut: watch::Sender<Option<Traffic>>,
    /// Connections opened so far, by [`Traffic`].
    opened: [AtomicUsize; 2],
}

/// Forwards TCP connections on loopback; closes all of them when dropped.
#[derive(Debug)]
pub(crate) struct RedisProxy {
    port: u16,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

impl RedisProxy {
    /// Starts in front of the server at this port.
    pub(crate) async fn start(upstream: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (cut, _) = watch::channel(None);
        let shared = Arc::new(Shared {
            upstream: AtomicU16::new(upstream),
            cut,
            opened: Default::default(),
        });
        let accept = accept_each(listener, {
            let shared = Arc::clone(&shared);
            move |client| forward(client, Arc::clone(&shared))
        });
        Ok(Self {
            port,
            shared,
            _task: AbortOnDropHandle::new(tokio::spawn(accept)),
        })
    }

    /// The port it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Sends new connections to this port; open ones stay where they are.
    pub(crate) fn switch(&self, upstream: u16) {
        self.shared.upstream.store(upstream, Ordering::Release);
    }

    /// Cuts off this kind of traffic: its open connections go silent, its new ones are closed.
    ///
    /// # Errors
    /// There never was such a connection: nothing would be cut.
    pub(crate) fn cut(&self, traffic: Traffic) -> Result<()> {
        let opened = self.shared.opened[traffic as usize].load(Ordering::Relaxed);
        ensure!(
            opened > 0,
            "no connection for {traffic:?} was opened, of {:?}",
            self.shared.opened
        );
        self.shared.cut.send_replace(Some(traffic));
        Ok(())
    }

    /// Lets everything through again and closes the connections that went silent.
    pub(crate) fn mend(&self) {
        self.shared.cut.send_replace(None);
    }
}

/// Copies until one side ends or the connection is cut and mended. An error ends the connection, which is all a client sees.
async fn forward(mut client: TcpStream, shared: Arc<Shared>) {
    let mut first = vec![0; FIRST_READ];
    let Ok(length) = client.read(&mut first).await else {
        return;
    };
    let first = &first[..length];
    let subscribes = first
        .windows(HELLO_3.len())
        .any(|bytes| bytes.eq_ignore_ascii_case(HELLO_3));
    let traffic = if subscribes {
        Traffic::Subscriptions
    } else {
        Traffic::Commands
    };
    let mut cut = shared.cut.subscribe();
    if *cut.borrow_and_update() == Some(traffic) {
        return;
    }
    let upstream = shared.upstream.load(Ordering::Acquire);
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", upstream)).await else {
        return;
    };
    if server.write_all(first).await.is_err() {
        return;
    }
    shared.opened[traffic as usize].fetch_add(1, Ordering::Relaxed);
    let is_cut = tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => false,
        was_cut = cut.wait_for(|cut| *cut == Some(traffic)) => was_cut.is_ok(),
    };
    if is_cut {
        // Both sides stay open and receive nothing.
        let _ = cut.wait_for(|cut| *cut != Some(traffic)).await;
    }
}
