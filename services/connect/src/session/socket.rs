//! A session's socket: what the client says comes out of [`SocketIo::next`]; what waits in the outbox leaves meanwhile.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::rc::Rc;

use im_runtime::limits::address::is_in;
use im_wire::code::CloseCode;
use im_wire::dialect::Entrance;
use tokio::io::Interest;
use tokio::time::Instant;

use super::decoder::{Decoder, Inbound};
use crate::accept::admission::{Permit, Refusal};
use crate::connection::Connection;
use crate::metrics;
use crate::shard::Shard;
use crate::shard::early::FREE;

/// What a client that has been told to go may still send before it is cut off.
const LAST_WORDS: usize = 1 << 20;

pub(crate) struct SocketIo {
    pub(crate) shard: Rc<Shard>,
    pub(crate) connection: Rc<Connection>,
    pub(crate) permit: Permit,
    decoder: Decoder,
    /// Bytes that the client has sent before it was authenticated.
    early: usize,
    /// The client's address has as many as it may, as is known since somebody has said whose the connection is.
    refusal: Option<Refusal>,
}

impl SocketIo {
    pub(crate) fn new(
        shard: Rc<Shard>,
        connection: Rc<Connection>,
        tcp: bool,
        permit: Permit,
    ) -> Self {
        let proxied = is_in(&shard.options.proxy_protocol_from, connection.address());
        let decoder = Decoder::new(tcp, proxied, shard.options.max_body);
        Self {
            shard,
            connection,
            permit,
            decoder,
            early: 0,
            refusal: None,
        }
    }

    pub(crate) fn is_upgrading(&self) -> bool {
        self.decoder.is_upgrading()
    }

    /// Ends a connection for which there was no place, once there is a way to say so.
    pub(crate) fn turn_away(&self) {
        if let Some(refusal) = self.permit.refusal().or(self.refusal) {
            self.connection
                .end_after(CloseCode::TooManyConnections, refusal.text(), 5_000);
        }
    }

    /// Somebody who is believed has said whose connection it is: from now on it counts as that address'.
    fn claim(&mut self, address: IpAddr) {
        self.connection.set_address(address);
        self.shard.refuse_banned(&self.connection);
        let too_fast = || {
            (!self.shard.rates.accept(address, Instant::now())).then_some(Refusal::AddressTooFast)
        };
        self.refusal = self.permit.claim(address).err().or_else(too_fast);
        if let Some(refusal) = self.refusal {
            metrics::REFUSED.with_label_values(&[refusal.name()]).inc();
        }
    }

    /// What comes before the client itself says anything.
    fn proxied(&mut self, address: Option<IpAddr>) {
        let address = address.unwrap_or(self.connection.address());
        let tcp = self.connection.entrance == Entrance::Tcp;
        if !tcp && is_in(&self.shard.options.forwarded_from, address) {
            // One that passes on passes on for another, which will say more.
            return self.connection.set_address(address);
        }
        self.claim(address);
        if tcp {
            self.turn_away();
        }
    }

    /// The client has a name: what it sends is counted elsewhere.
    pub(crate) fn identified(&mut self) {
        let early = std::mem::take(&mut self.early);
        self.shard.early.give_bytes(early.saturating_sub(FREE));
    }

    /// Nothing that the client has said is of use any more: who lingers holds no memory but the socket's.
    pub(crate) fn forget(&mut self) {
        self.decoder = Decoder::new(true, false, 0);
        self.identified();
    }

    /// Counts what a client without a name has sent. `false`: it is too much, with what others have.
    fn may_send(&mut self, length: usize) -> bool {
        let taken = self.early.saturating_sub(FREE);
        let more = (self.early + length).saturating_sub(FREE) - taken;
        let may = self.shard.early.take_bytes(more);
        if may {
            self.early += length;
        }
        may
    }

    /// What the client says next; `None`: the session is over. A client with too many calls under way is not read.
    pub(crate) async fn next(&mut self) -> Option<Inbound> {
        let connection = Rc::clone(&self.connection);
        loop {
            if connection.ending().is_some() || connection.is_broken() {
                return None;
            }
            let may_read = connection.in_flight.get() < self.shard.options.max_in_flight;
            if may_read {
                match self.decode() {
                    Ok(Some(Inbound::Close)) => return None,
                    Ok(Some(Inbound::Proxied(address))) => {
                        self.proxied(address);
                        continue;
                    }
                    Ok(Some(Inbound::Upgraded(path, client))) => {
                        if !self.permit.is_claimed() && self.refusal.is_none() {
                            self.claim(client);
                        }
                        return Some(Inbound::Upgraded(path, client));
                    }
                    Ok(Some(inbound)) => return Some(inbound),
                    Ok(None) => {}
                    Err(()) => return None,
                }
            }
            tokio::select! {
                () = connection.woken() => {}
                readable = connection.stream().readable(), if may_read => {
                    let taken = if readable.is_ok() { self.read() } else { Taken::End };
                    match taken {
                        Taken::All => {}
                        // As long as the socket has more, the runtime would never ask whether others wait for this thread.
                        Taken::Part => tokio::task::yield_now().await,
                        Taken::End => {
                            connection.set_broken();
                            return None;
                        }
                    }
                }
                writable = connection.stream().writable(), if connection.has_waiting() => {
                    if writable.is_err() {
                        connection.set_broken();
                    } else {
                        connection.flush();
                    }
                }
            }
        }
    }

    /// Does something that waits, while what is in the outbox leaves.
    pub(crate) async fn busy(&self, work: impl Future<Output = ()>) {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                () = &mut work => return,
                () = self.connection.woken() => {}
                writable = self.connection.stream().writable(), if self.connection.has_waiting() => {
                    if writable.is_err() {
                        self.connection.set_broken();
                        return;
                    }
                    self.connection.flush();
                }
            }
        }
    }

    fn decode(&mut self) -> Result<Option<Inbound>, ()> {
        let mut output = Vec::new();
        let next = self
            .decoder
            .next(&mut output, &self.shard.options, self.connection.address());
        if !output.is_empty() {
            self.connection.write(&output.into());
        }
        next.map_err(|broken| {
            metrics::MALFORMED
                .with_label_values(&[broken.code().name()])
                .inc();
            self.connection.end(broken.code(), broken.to_string());
        })
    }

    /// Takes what the socket has, as far as the buffer goes.
    fn read(&mut self) -> Taken {
        let shard = Rc::clone(&self.shard);
        let mut buffer = shard.read_buffer.borrow_mut();
        match self.connection.stream().try_read(&mut buffer) {
            Ok(0) => Taken::End,
            Ok(length) => {
                self.connection.last_heard.set(Instant::now());
                self.decoder.feed(&buffer[..length]);
                let taken = if length == buffer.len() {
                    Taken::Part
                } else {
                    Taken::All
                };
                drop(buffer);
                if matches!(taken, Taken::All) {
                    self.forget_readiness();
                }
                if self.connection.authenticated().is_none() && !self.may_send(length) {
                    metrics::RATE_LIMITED
                        .with_label_values(&["handshake_bytes"])
                        .inc();
                    let text =
                        "too many long handshakes at once: authenticate with fewer rooms, or later";
                    self.connection
                        .end_after(CloseCode::TooManyConnections, text, 1_000);
                }
                taken
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Taken::All
            }
            Err(_) => Taken::End,
        }
    }

    /// The socket gave less than was asked for, so it is empty: the runtime would find out by one more read. What comes
    /// later makes it readable anew.
    fn forget_readiness(&self) {
        let empty = || -> std::io::Result<()> { Err(ErrorKind::WouldBlock.into()) };
        let _empty = self.connection.stream().try_io(Interest::READABLE, empty);
    }

    /// Waits until the client has closed its side, so that our last words are not lost to a reset.
    pub(crate) async fn until_closed(&self) {
        if self.connection.is_broken()
            || self
                .connection
                .ending()
                .is_none_or(|e| e.code == CloseCode::Normal)
        {
            return;
        }
        let socket = socket2::SockRef::from(self.connection.stream());
        if socket.shutdown(std::net::Shutdown::Write).is_err() {
            return;
        }
        let mut budget = LAST_WORDS;
        while budget > 0 && self.connection.stream().readable().await.is_ok() {
            let read = self
                .connection
                .stream()
                .try_read(&mut self.shard.read_buffer.borrow_mut());
            match read {
                Ok(0) => return,
                Ok(length) => {
                    budget = budget.saturating_sub(length);
                    tokio::task::yield_now().await;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

impl Drop for SocketIo {
    fn drop(&mut self) {
        self.identified();
    }
}

/// What a read has left in the socket.
enum Taken {
    /// Nothing.
    All,
    /// Perhaps more.
    Part,
    /// The client has gone.
    End,
}
