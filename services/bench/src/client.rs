//! One client of a run: its socket, what has not left or not come whole yet, and how far it has got.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use im_client::RoomId;
use mio::net::TcpStream;
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Protocol, Socket, Type};

use crate::plan::{Target, Who};
use crate::tally::Track;
use crate::wire::Wire;

/// How far a client has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The socket connects.
    Connecting,
    /// The WebSocket upgrade is under way.
    Upgrading,
    /// Credentials are under way.
    Entering,
    /// In its room.
    In,
    /// Closed.
    Gone,
}

/// See the module's top.
pub(crate) struct Client {
    pub(crate) who: Who,
    pub(crate) room: RoomId,
    pub(crate) state: State,
    pub(crate) socket: TcpStream,
    pub(crate) wire: Wire,
    /// The beginning of a frame that has not come whole.
    pub(crate) rest: Vec<u8>,
    /// What the socket has not taken.
    out: Vec<u8>,
    next: u32,
    /// Sends that wait for their answer: number and when they were due.
    waiting: VecDeque<(u32, u64)>,
    /// One per sender of the room.
    pub(crate) tracks: Vec<Track>,
    pub(crate) last_seq: u64,
    /// Rooms that are still to be heard and left.
    pub(crate) to_visit: u32,
    /// Those that are being heard.
    pub(crate) visiting: Vec<RoomId>,
}

/// Opens a socket without waiting for it. On loopback every worker has an address of its own, another one in every run:
/// ports are few, and those of connections that have just ended are taken for a minute.
pub(crate) fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(
        Domain::for_address(target),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if target.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        let own = Ipv4Addr::new(127, 1 + high % 250, middle, low);
        // The port is chosen with the target: chosen now, it would serve one target instead of each.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::from((own, 0)).into())?;
    }
    match socket.connect(&target.into()) {
        Err(error)
            if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
        {
            Err(error)
        }
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

impl Client {
    pub(crate) fn new(who: Who, room: RoomId, socket: TcpStream, wire: Wire) -> Self {
        Self {
            who,
            room,
            state: State::Connecting,
            socket,
            wire,
            rest: Vec::new(),
            out: Vec::new(),
            next: 1,
            waiting: VecDeque::new(),
            tracks: Vec::new(),
            last_seq: 0,
            to_visit: 0,
            visiting: Vec::new(),
        }
    }

    /// The socket is connected: the first words.
    pub(crate) fn begin(&mut self, target: &Target, token: &str) {
        if let Some(path) = &target.path {
            let upgrade = format!(
                "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: aW1jdGwgYmVuY2ggMTIzNA==\r\n\r\n",
                target.address
            );
            self.out.extend_from_slice(upgrade.as_bytes());
            self.state = State::Upgrading;
        } else {
            self.enter(token);
        }
        self.flush();
    }

    fn enter(&mut self, token: &str) {
        self.wire.auth(token, &self.room, &mut self.out);
        self.state = State::Entering;
    }

    /// Looks for the end of the upgrade's answer at the front of `bytes`; returns where the frames begin.
    ///
    /// # Errors
    /// The server does not upgrade.
    pub(crate) fn upgraded(
        &mut self,
        bytes: &[u8],
        token: &str,
    ) -> Result<Option<usize>, &'static str> {
        let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
            return Ok(None);
        };
        if !bytes.starts_with(b"HTTP/1.1 101") {
            return Err("the server does not upgrade to WebSocket");
        }
        self.enter(token);
        self.flush();
        Ok(Some(end + 4))
    }

    fn number(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1).max(2);
        self.next
    }

    pub(crate) fn send(&mut self, client_id: String, body: String, due: u64) {
        let req = self.number();
        self.wire
            .send(req, &self.room, client_id, body, &mut self.out);
        self.waiting.push_back((req, due));
        self.flush();
    }

    /// Hears further rooms for a moment.
    pub(crate) fn visit(&mut self, rooms: Vec<RoomId>) {
        let req = self.number();
        self.wire.hear(req, &rooms, &mut self.out);
        self.visiting = rooms;
        self.flush();
    }

    /// Leaves them.
    pub(crate) fn leave_visited(&mut self) {
        let req = self.number();
        self.wire.leave(req, self.visiting.clone(), &mut self.out);
        self.flush();
    }

    pub(crate) fn ping(&mut self) {
        let req = self.number();
        self.wire.ping(req, &mut self.out);
        self.flush();
    }

    pub(crate) fn pong(&mut self) {
        crate::wire::put_pong(&mut self.out);
        self.flush();
    }

    /// The send with this number was answered: when it was due.
    pub(crate) fn answered(&mut self, req: u32) -> Option<u64> {
        let place = self.waiting.iter().position(|(number, _)| *number == req)?;
        self.waiting.remove(place).map(|(_, due)| due)
    }

    pub(crate) fn unanswered(&self) -> usize {
        self.waiting.len()
    }

    /// Forgets what a phase that is over left unanswered.
    pub(crate) fn begin_phase(&mut self, senders: usize) {
        self.waiting.clear();
        self.tracks.clear();
        self.tracks.resize(senders, Track::default());
    }

    /// Writes what waits, as far as the socket takes it. Errors show when it is read.
    pub(crate) fn flush(&mut self) {
        let mut written = 0;
        while written < self.out.len() {
            match self.socket.write(&self.out[written..]) {
                Ok(n) if n > 0 => written += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        if written == self.out.len() {
            self.out = Vec::new()
        } else {
            drop(self.out.drain(..written))
        }
    }

    /// Reads into `buffer`; `None`: nothing more for now.
    ///
    /// # Errors
    /// The connection is over.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.socket.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => return Ok(Some(length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
