//! One address in front of several servers, as a Service, a DNS name or a proxy is: what connects goes to the server that
//! is behind it just then, and stays there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Forwards TCP connections; ends with all of them when dropped.
pub(crate) struct Forwarder {
    port: u16,
    behind: Arc<AtomicU16>,
    _task: JoinSet<()>,
}

impl Forwarder {
    /// In front of the server at this port of loopback.
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let own = listener.local_addr().expect("it is bound").port();
        let behind = Arc::new(AtomicU16::new(port));
        let mut task = JoinSet::new();
        task.spawn(forward(listener, Arc::clone(&behind)));
        Self {
            port: own,
            behind,
            _task: task,
        }
    }

    /// New connections go to this port from now on; the others stay where they are.
    pub(crate) fn switch(&self, port: u16) {
        self.behind.store(port, Ordering::Release);
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

async fn forward(listener: TcpListener, behind: Arc<AtomicU16>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((mut near, _)) = listener.accept() => {
                let port = behind.load(Ordering::Acquire);
                connections.spawn(async move {
                    let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
