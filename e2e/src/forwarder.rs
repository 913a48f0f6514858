//! One address in front of several redis servers, as a Service, a DNS name or a proxy is. It tells the bus' connections from
//! those of commands and can cut either.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// Subscriptions: such a connection begins with `HELLO 3`, as pushes need it.
    Bus,
    /// Everything else.
    Commands,
}

/// The first words of a connection that can take pushes, as they are on the wire.
const PUSHES: &[u8] = b"HELLO\r\n$1\r\n3\r\n";
/// What is read of a connection before it is told what it is for: clients begin with one write.
const FIRST: usize = 4096;

#[derive(Debug)]
struct Shared {
    /// Where new connections go.
    behind: AtomicU16,
    cut: watch::Sender<Option<Traffic>>,
    /// Connections that have stood so far, by what they are for.
    seen: [AtomicUsize; 2],
}

/// Forwards TCP connections; ends with all of them when dropped.
#[derive(Debug)]
pub struct Forwarder {
    port: u16,
    shared: Arc<Shared>,
    _task: JoinSet<()>,
}

impl Forwarder {
    /// In front of the server at this port of loopback.
    pub async fn to(port: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let own = listener.local_addr()?.port();
        let (cut, _) = watch::channel(None);
        let shared = Arc::new(Shared { behind: AtomicU16::new(port), cut, seen: Default::default() });
        let mut task = JoinSet::new();
        let each = Arc::clone(&shared);
        task.spawn(accept_each(listener, move |near| forward(near, Arc::clone(&each))));
        Ok(Self { port: own, shared, _task: task })
    }

    /// Where it listens on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// New connections go to this port from now on; the others stay where they are.
    pub fn switch(&self, port: u16) {
        self.shared.behind.store(port, Ordering::Release);
    }

    /// Nothing more comes through on connections of this kind: those that stand fall silent, new ones are closed.
    ///
    /// # Errors
    /// There never was such a connection: nothing would be cut.
    pub fn cut(&self, traffic: Traffic) -> Result<()> {
        let seen = self.shared.seen[traffic as usize].load(Ordering::Relaxed);
        ensure!(seen > 0, "no connection for {traffic:?} has stood, of {:?}", self.shared.seen);
        self.shared.cut.send_replace(Some(traffic));
        Ok(())
    }

    /// Everything comes through again. Connections that fell silent are closed.
    pub fn mend(&self) {
        self.shared.cut.send_replace(None);
    }
}

/// Serves every connection that comes; ends with all of them when dropped.
pub(crate) async fn accept_each<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((near, _)) = listener.accept() => drop(connections.spawn(serve(near))),
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Until one side ends or it is cut and mended. Whatever goes wrong ends the connection, which is all that a client sees.
async fn forward(mut near: TcpStream, shared: Arc<Shared>) {
    let mut first = vec![0; FIRST];
    let Ok(length) = near.read(&mut first).await else { return };
    let first = &first[..length];
    let is_bus = first.windows(PUSHES.len()).any(|words| words.eq_ignore_ascii_case(PUSHES));
    let traffic = if is_bus { Traffic::Bus } else { Traffic::Commands };
    let mut cut = shared.cut.subscribe();
    if *cut.borrow_and_update() == Some(traffic) {
        return;
    }
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", shared.behind.load(Ordering::Acquire))).await else { return };
    if far.write_all(first).await.is_err() {
        return;
    }
    shared.seen[traffic as usize].fetch_add(1, Ordering::Relaxed);
    let is_cut = tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => false,
        was_cut = cut.wait_for(|cut| *cut == Some(traffic)) => was_cut.is_ok(),
    };
    if is_cut {
        // Both sides stay open and hear nothing.
        let _ = cut.wait_for(|cut| *cut != Some(traffic)).await;
    }
}
