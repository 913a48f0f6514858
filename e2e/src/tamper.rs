//! A proxy that spoils what a server sends: shows that the audit sees it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use bytes::BytesMut;
use im_wire::frame::{self, Frame};
use im_wire::native::binary::{MESSAGE, SUBSCRIBED};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

const LARGEST: usize = 1 << 20;

/// What is done to one message on its way to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tamper {
    /// It is left out.
    Drop,
    /// It comes twice.
    Repeat,
    /// It comes after its successor.
    Swap,
    /// The connection is cut, and of what the client then missed the first is left out: what a server that skips one when
    /// clients resume would do.
    SkipOnResume,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    None,
    Do(Tamper),
    /// The cut is made; the next connection that resumes is to miss one.
    Skip,
}

/// The proxy, for the binary protocol over TCP; it ends when dropped.
pub struct Proxy {
    /// `127.0.0.1:port` for clients.
    pub address: String,
    order: Arc<Mutex<Order>>,
    spoiled: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// In front of the server at `to`.
    pub async fn start(to: &str) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?.to_string();
        let (order, spoiled) = (Arc::new(Mutex::new(Order::None)), Arc::new(AtomicU64::new(0)));
        let (to, shared) = (to.to_owned(), (Arc::clone(&order), Arc::clone(&spoiled)));
        let accept = async move {
            while let Ok((client, _)) = listener.accept().await {
                let (to, (order, spoiled)) = (to.clone(), shared.clone());
                tokio::spawn(async move {
                    // A connection that ends, ends.
                    let _ = pass(client, &to, &order, &spoiled).await;
                });
            }
        };
        Ok(Self { address, order, spoiled, _task: AbortOnDropHandle::new(tokio::spawn(accept)) })
    }

    /// Does this to the next message, whoever it is for.
    pub fn spoil(&self, tamper: Tamper) {
        *lock(&self.order) = Order::Do(tamper);
    }

    /// How many messages were spoiled.
    pub fn spoiled(&self) -> u64 {
        self.spoiled.load(Ordering::Relaxed)
    }
}

async fn pass(client: TcpStream, to: &str, order: &Mutex<Order>, spoiled: &AtomicU64) -> std::io::Result<()> {
    let server = TcpStream::connect(to).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async { tokio::io::copy(&mut from_client, &mut to_server).await.map(|_| ()) };
    let down = async {
        let (mut buffer, mut held) = (BytesMut::new(), None);
        let mut resumes = false;
        while from_server.read_buf(&mut buffer).await? > 0 {
            while let Some(frame) = frame::decode(&mut buffer, LARGEST).map_err(std::io::Error::other)? {
                resumes |= frame.operation == SUBSCRIBED;
                let Some(out) = spoil(frame, resumes, order, spoiled, &mut held) else { return Ok(()) };
                to_client.write_all(&out).await?;
            }
        }
        Ok(())
    };
    tokio::select! {
        done = up => done,
        done = down => done,
    }
}

/// What goes on to the client in place of a frame; `None` cuts the connection.
fn spoil(
    frame: Frame,
    resumes: bool,
    order: &Mutex<Order>,
    spoiled: &AtomicU64,
    held: &mut Option<Frame>,
) -> Option<BytesMut> {
    let bytes = frame.to_bytes();
    let mut out = BytesMut::new();
    if frame.operation != MESSAGE {
        out.extend_from_slice(&bytes);
        return Some(out);
    }
    if let Some(earlier) = held.take() {
        out.extend_from_slice(&bytes);
        out.extend_from_slice(&earlier.to_bytes());
        return Some(out);
    }
    let mut order = lock(order);
    let (left, wanted) = match *order {
        Order::None => {
            out.extend_from_slice(&bytes);
            return Some(out);
        }
        Order::Skip if !resumes => (Order::Skip, None),
        Order::Skip => (Order::None, Some(Tamper::Drop)),
        Order::Do(Tamper::SkipOnResume) => {
            *order = Order::Skip;
            return None;
        }
        Order::Do(tamper) => (Order::None, Some(tamper)),
    };
    *order = left;
    match wanted {
        None => out.extend_from_slice(&bytes),
        Some(tamper) => {
            spoiled.fetch_add(1, Ordering::Relaxed);
            match tamper {
                Tamper::Drop | Tamper::SkipOnResume => {}
                Tamper::Repeat => {
                    out.extend_from_slice(&bytes);
                    out.extend_from_slice(&bytes);
                }
                Tamper::Swap => *held = Some(frame),
            }
        }
    }
    Some(out)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
