//! The floor: the least that a server can do. One thread, no checks, no store: it reads what clients send and writes it to
//! everybody in the room, one write per delivery. What it reaches is what the machine and its TCP allow, so a server is
//! measured as a share of it. It speaks as much of the native protocol over TCP as the clients of a run need.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use bytes::BytesMut;
use im_client::{RoomId, UserId};
use im_wire::frame;
use im_wire::native::{ClientOp, Message, Request, Response, ServerOp, SubscribedRoom, binary};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};

use im_cli::failure::Failure;

const LISTENER: Token = Token(usize::MAX - 1);

struct Link {
    socket: TcpStream,
    rest: BytesMut,
    /// What the socket did not take.
    backlog: Vec<u8>,
    open: bool,
}

#[derive(Default)]
struct Room {
    members: Vec<usize>,
    seq: u64,
    /// Messages of this round, each encoded.
    fresh: Vec<BytesMut>,
}

struct Floor {
    poll: Poll,
    listener: TcpListener,
    links: Vec<Link>,
    rooms: HashMap<RoomId, Room>,
    /// Rooms with something to be written.
    touched: Vec<RoomId>,
    joins: bool,
}

/// `im-bench floor`: prints the address it listens on and serves until its standard input ends.
pub(crate) fn run(joins: bool) -> Result<(), Failure> {
    // Where that fails, connecting says why.
    let _ = im_runtime::raise_descriptor_limit();
    let poll = Poll::new()?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(4096)?;
    let mut listener = TcpListener::from_std(socket.into());
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let address = listener.local_addr()?;
    writeln!(io::stdout(), "{address}")?;
    std::thread::spawn(|| {
        // Nobody writes here: it ends with whoever started this process.
        let _end = io::copy(&mut io::stdin().lock(), &mut io::sink());
        std::process::exit(0);
    });
    let links = Vec::new();
    let rooms = HashMap::new();
    let touched = Vec::new();
    Ok(Floor {
        poll,
        listener,
        links,
        rooms,
        touched,
        joins,
    }
    .serve()?)
}

impl Floor {
    fn serve(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                if event.token() == LISTENER {
                    self.accept()?;
                    continue;
                }
                let number = event.token().0;
                if event.is_writable() {
                    self.links[number].flush();
                }
                if event.is_readable() && self.links[number].open {
                    self.read(number, &mut buffer);
                }
            }
            self.deliver();
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((mut socket, _)) => {
                    socket.set_nodelay(true)?;
                    let token = Token(self.links.len());
                    self.poll.registry().register(
                        &mut socket,
                        token,
                        Interest::READABLE | Interest::WRITABLE,
                    )?;
                    self.links.push(Link {
                        socket,
                        rest: BytesMut::new(),
                        backlog: Vec::new(),
                        open: true,
                    });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => {}
            }
        }
    }

    fn read(&mut self, number: usize, buffer: &mut [u8]) {
        loop {
            match self.links[number].socket.read(buffer) {
                Ok(length) if length > 0 => {
                    self.links[number].rest.extend_from_slice(&buffer[..length]);
                    while let Ok(Some(frame)) = frame::decode(&mut self.links[number].rest, 1 << 20)
                    {
                        if let Ok(request) = binary::decode_request(&frame) {
                            self.take(number, request);
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => {
                    self.links[number].open = false;
                    return;
                }
            }
        }
    }

    fn take(&mut self, number: usize, request: Request) {
        let req = request.req;
        match request.op {
            ClientOp::Auth { resume, .. } => {
                let Ok(user) = UserId::new("floor") else {
                    return;
                };
                let device = Default::default();
                let conn = Default::default();
                let node = Default::default();
                let let_in = ServerOp::AuthOk {
                    user,
                    device,
                    conn,
                    node,
                    heartbeat_ms: 0,
                    time_ms: 0,
                    expires_ms: 0,
                };
                self.links[number].say(req, let_in);
                for position in resume {
                    self.rooms
                        .entry(position.room.clone())
                        .or_default()
                        .members
                        .push(number);
                    let kind = Default::default();
                    let epoch = Default::default();
                    let head = Default::default();
                    let read = Default::default();
                    let joined = Default::default();
                    let room = SubscribedRoom::Ok {
                        room: position.room,
                        kind,
                        epoch,
                        head,
                        read,
                        joined,
                    };
                    self.links[number].say(req, ServerOp::Subscribed { rooms: vec![room] });
                }
            }
            ClientOp::Send {
                room,
                client_id,
                kind,
                body,
            } => {
                let Some(entry) = self.rooms.get_mut(&room) else {
                    return;
                };
                entry.seq += 1;
                let seq = entry.seq;
                let id = String::from("floor");
                let from = String::from("floor");
                let message = Message {
                    room: room.clone(),
                    epoch: 1,
                    seq,
                    id,
                    from,
                    client_id,
                    kind,
                    body,
                    time_ms: 1,
                };
                let mut bytes = BytesMut::new();
                binary::encode_response(
                    &Response {
                        req: 0,
                        op: ServerOp::Message(message),
                    },
                    &mut bytes,
                );
                if entry.fresh.is_empty() {
                    self.touched.push(room.clone());
                }
                entry.fresh.push(bytes);
                let client_id = String::new();
                let id = String::new();
                self.links[number].say(
                    req,
                    ServerOp::Ack {
                        room,
                        client_id,
                        id,
                        epoch: 1,
                        seq,
                        time_ms: 1,
                        duplicate: false,
                    },
                );
            }
            ClientOp::Ping => self.links[number].say(req, ServerOp::Pong { time_ms: 1 }),
            _ => {}
        }
    }

    fn deliver(&mut self) {
        for room in std::mem::take(&mut self.touched) {
            let Some(room) = self.rooms.get_mut(&room) else {
                continue;
            };
            let mut fresh = std::mem::take(&mut room.fresh);
            if self.joins {
                let joined: Vec<u8> = fresh.concat();
                fresh = vec![BytesMut::from(joined.as_slice())];
            }
            for bytes in fresh {
                for member in &room.members {
                    self.links[*member].write(&bytes);
                }
            }
        }
    }
}

impl Link {
    fn say(&mut self, req: u32, op: ServerOp) {
        let mut bytes = BytesMut::new();
        binary::encode_response(&Response { req, op }, &mut bytes);
        self.write(&bytes);
    }

    fn write(&mut self, bytes: &[u8]) {
        if !self.open {
            return;
        }
        if !self.backlog.is_empty() {
            return self.backlog.extend_from_slice(bytes);
        }
        match self.socket.write(bytes) {
            Ok(written) if written == bytes.len() => {}
            Ok(written) => self.backlog.extend_from_slice(&bytes[written..]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.backlog.extend_from_slice(bytes)
            }
            Err(_) => self.open = false,
        }
    }

    fn flush(&mut self) {
        let backlog = std::mem::take(&mut self.backlog);
        if !backlog.is_empty() {
            self.write(&backlog);
        }
    }
}
