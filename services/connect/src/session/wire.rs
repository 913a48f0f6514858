//! A session's socket: what the client says comes out of [`Wire::next`]; what waits in the outbox leaves meanwhile.

use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Instant;

use im_wire::code::CloseCode;
use tokio::io::Interest;

use super::connection::Connection;
use super::intake::{Inbound, Intake};
use crate::metrics;
use crate::shard::Shard;

pub(crate) struct Wire {
    pub(crate) shard: Rc<Shard>,
    pub(crate) connection: Rc<Connection>,
    intake: Intake,
}

impl Wire {
    pub(crate) fn new(shard: Rc<Shard>, connection: Rc<Connection>, tcp: bool) -> Self {
        let intake = Intake::new(tcp, shard.options.max_body);
        Self { shard, connection, intake }
    }

    pub(crate) fn is_upgrading(&self) -> bool {
        self.intake.is_upgrading()
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
                    Ok(Some(inbound)) => return Some(inbound),
                    Ok(None) => {}
                    Err(()) => return None,
                }
            }
            tokio::select! {
                () = connection.woken() => {}
                readable = connection.stream().readable(), if may_read => {
                    if readable.is_err() || !self.read() {
                        connection.set_broken();
                        return None;
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
        let next = self.intake.next(&mut output);
        if !output.is_empty() {
            self.connection.write(&output.into());
        }
        next.map_err(|broken| {
            metrics::MALFORMED.with_label_values(&[broken.code().name()]).inc();
            self.connection.end(broken.code(), broken.to_string());
        })
    }

    /// Takes what the socket has. `false`: the client has gone.
    fn read(&mut self) -> bool {
        let mut buffer = self.shard.read_buffer.borrow_mut();
        match self.connection.stream().try_read(&mut buffer) {
            Ok(0) => false,
            Ok(length) => {
                self.connection.last_heard.set(Instant::now());
                self.intake.feed(&buffer[..length]);
                if length < buffer.len() {
                    self.forget_readiness();
                }
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
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
        if self.connection.is_broken() || self.connection.ending().is_none_or(|e| e.code == CloseCode::Normal) {
            return;
        }
        let socket = socket2::SockRef::from(self.connection.stream());
        if socket.shutdown(std::net::Shutdown::Write).is_err() {
            return;
        }
        let mut scrap = [0; 1024];
        while self.connection.stream().readable().await.is_ok() {
            match self.connection.stream().try_read(&mut scrap) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}
