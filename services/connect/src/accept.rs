//! Admission: every shard listens on the same ports (SO_REUSEPORT), counts who comes, and starts a session for each.

pub(crate) mod admission;
pub(crate) mod relay;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use im_proto::bans::Who;
use im_runtime::clock::unix_ms;
use im_runtime::limits::address::is_in;
use im_runtime::limits::rate::{Bucket, Rate};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::metrics;
use crate::session;
use crate::shard::Shard;
use admission::{Permit, Refusal};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 4096;
/// Data that is not acknowledged for so long ends a connection, in the kernel.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Binds `shards` listeners to one address; port 0: the first picks, the others follow.
pub(crate) fn bind(
    address: SocketAddr,
    shards: usize,
) -> io::Result<(SocketAddr, Vec<std::net::TcpListener>)> {
    let first = listen(address)?;
    let bound = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..shards {
        listeners.push(listen(bound)?);
    }
    Ok((bound, listeners))
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the shard stops accepting.
pub(crate) async fn accept(shard: Rc<Shard>, listener: TcpListener, tcp: bool) {
    let rate = Rate::of_arrivals(shard.options.accepts_per_second);
    let mut bucket = Bucket::full(rate, Instant::now().into_std());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shard.accepting.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                #[cfg(test)]
                crate::planted::pass(&shard.options.node, shard.number, "accept");
                let address = peer.ip().to_canonical();
                if !is_relay(&shard, address, tcp) && !shard.rates.accept(address, Instant::now()) {
                    refuse(&shard, stream, address, tcp, Refusal::AddressTooFast);
                    continue;
                }
                while bucket.take(rate, Instant::now().into_std()).is_err() {
                    metrics::REFUSED
                        .with_label_values(&["accept_rate_delayed"])
                        .inc();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                enter(&shard, stream, address, tcp);
            }
            Err(error) => {
                // Out of descriptors or memory: those that leave make room. Nothing is gained by asking at once.
                metrics::REFUSED.with_label_values(&["accept_failed"]).inc();
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn enter(shard: &Rc<Shard>, stream: TcpStream, address: IpAddr, tcp: bool) {
    let own = (!is_relay(shard, address, tcp)).then_some(address);
    if shard
        .bans
        .refuses(
            &Who {
                address: own,
                ..Who::default()
            },
            unix_ms,
        )
        .is_some()
    {
        metrics::REFUSED.with_label_values(&["banned"]).inc();
        return;
    }
    match shard.admission.enter(own) {
        Ok(permit) => serve(shard, stream, address, tcp, permit),
        Err(refusal) => refuse(shard, stream, address, tcp, refusal),
    }
}

/// Whether the peer passes on what others send and says whose it is: limits per address are for those.
fn is_relay(shard: &Shard, peer: IpAddr, tcp: bool) -> bool {
    let options = &shard.options;
    is_in(&options.proxy_protocol_from, peer) || !tcp && is_in(&options.forwarded_from, peer)
}

/// Says so, where not too many are being told already.
fn refuse(shard: &Rc<Shard>, stream: TcpStream, address: IpAddr, tcp: bool, refusal: Refusal) {
    metrics::REFUSED.with_label_values(&[refusal.name()]).inc();
    if let Some(permit) = shard.admission.turn_away(refusal) {
        serve(shard, stream, address, tcp, permit);
    }
}

fn serve(shard: &Rc<Shard>, stream: TcpStream, address: IpAddr, tcp: bool, permit: Permit) {
    if let Err(error) = tune(&stream) {
        tracing::debug!(%error, "cannot set socket options");
    }
    tokio::task::spawn_local(session::serve(
        Rc::clone(shard),
        stream,
        address,
        tcp,
        permit,
    ));
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(Duration::from_secs(60))
            .with_interval(Duration::from_secs(15)),
    )
}
