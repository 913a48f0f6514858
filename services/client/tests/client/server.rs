//! A server for tests: the real protocol over real sockets, logs in memory, and misbehaviour on demand.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::BytesMut;
use futures::{SinkExt, StreamExt};
use im_wire::code::{CloseCode, ErrorCode};
use im_wire::frame;
use im_wire::ids::{Epoch, RoomId, Seq, UserId};
use im_wire::native::{
    Body, ClientOp, Error, Message, Position, Request, Response, ServerOp, SubscribedRoom, binary,
    json,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message as WsMessage;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

const LIMIT: usize = 1 << 20;

/// What a connection is told.
enum Order {
    Say(Response),
    /// These bytes, whatever they are.
    Raw(Vec<u8>),
    /// The WebSocket close frame alone.
    CloseFrame(u16, &'static str),
    /// End without a word.
    Cut,
}

struct Conn {
    orders: mpsc::UnboundedSender<Order>,
    heard: HashMap<RoomId, (Epoch, Seq)>,
    user: String,
    server: usize,
}

#[derive(Default)]
struct Log {
    epoch: Epoch,
    bases: Vec<(Epoch, Seq)>,
    messages: Vec<Message>,
    /// By sender and client id.
    stored: HashMap<(String, String), Seq>,
}

impl Log {
    fn head(&self) -> Seq {
        self.messages.len() as Seq
    }

    fn reset_to(&self, epoch: Epoch, seq: Seq) -> Option<Seq> {
        let bases = self
            .bases
            .iter()
            .filter(|(began, _)| *began > epoch)
            .map(|(_, base)| *base);
        bases.chain([self.head()]).filter(|base| seq > *base).min()
    }
}

/// What the server does wrong, or differently.
pub(crate) struct Script {
    /// Store so many sends and cut the connection instead of acknowledging.
    pub(crate) cut_before_ack: u32,
    /// Answer so many sends with this.
    pub(crate) refuse_sends: (u32, ErrorCode),
    /// Answer nothing at all, as a half-open connection.
    pub(crate) mute: bool,
    /// Tokens that are refused.
    pub(crate) expired: HashSet<String>,
    /// How long a token lives, milliseconds; 0: for ever.
    pub(crate) token_life_ms: u64,
    pub(crate) heartbeat_ms: u32,
    /// Rooms that nobody may hear.
    pub(crate) forbidden: HashSet<String>,
}

#[derive(Default)]
struct World {
    rooms: HashMap<RoomId, Log>,
    conns: HashMap<u64, Conn>,
    next_conn: u64,
    servers: usize,
    script: Option<Script>,
    asked: Vec<ClientOp>,
}

/// Several of these may share one world, as nodes of one cluster do.
#[derive(Clone)]
pub(crate) struct Server {
    world: Arc<Mutex<World>>,
    number: usize,
    pub(crate) tcp: SocketAddr,
    pub(crate) ws: SocketAddr,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let script = Script {
            cut_before_ack: 0,
            refuse_sends: (0, ErrorCode::RateLimited),
            mute: false,
            expired: HashSet::new(),
            token_life_ms: 0,
            heartbeat_ms: 30_000,
            forbidden: HashSet::new(),
        };
        let world = World {
            script: Some(script),
            ..World::default()
        };
        Self::join(Arc::new(Mutex::new(world))).await
    }

    /// Another node of the same cluster.
    pub(crate) async fn another(&self) -> Self {
        Self::join(Arc::clone(&self.world)).await
    }

    async fn join(world: Arc<Mutex<World>>) -> Self {
        let tcp_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ws_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let number = {
            let mut world = world.lock().unwrap();
            world.servers += 1;
            world.servers
        };
        let tcp = tcp_listener.local_addr().unwrap();
        let ws = ws_listener.local_addr().unwrap();
        let server = Self {
            world,
            number,
            tcp,
            ws,
        };
        tokio::spawn(server.clone().accept(tcp_listener, false));
        tokio::spawn(server.clone().accept(ws_listener, true));
        server
    }

    pub(crate) fn tcp_address(&self) -> String {
        format!("tcp://{}", self.tcp)
    }

    pub(crate) fn ws_address(&self) -> String {
        format!("ws://{}/ws", self.ws)
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub(crate) fn script(&self, change: impl FnOnce(&mut Script)) {
        change(self.world().script.as_mut().unwrap());
    }

    /// Everything that clients have asked.
    pub(crate) fn asked(&self) -> Vec<ClientOp> {
        self.world().asked.clone()
    }

    /// The bodies stored in a room, in order.
    pub(crate) fn stored(&self, room: &str) -> Vec<String> {
        let world = self.world();
        let log = world.rooms.get(&RoomId::new(room).unwrap());
        let text = |message: &Message| String::from_utf8_lossy(message.body.bytes()).into_owned();
        log.map(|log| log.messages.iter().map(text).collect())
            .unwrap_or_default()
    }

    /// Users with a connection to this node.
    pub(crate) fn online(&self) -> Vec<String> {
        let world = self.world();
        world
            .conns
            .values()
            .filter(|conn| conn.server == self.number)
            .map(|conn| conn.user.clone())
            .collect()
    }

    /// Somebody says something.
    pub(crate) fn append(&self, room: &str, from: &str, text: &str) {
        let room = RoomId::new(room).unwrap();
        let client_id = format!("{from}-{text}");
        let body = Body::Text(bytes::Bytes::copy_from_slice(text.as_bytes()));
        self.world().append(&room, from, &client_id, "text", body);
    }

    /// The store loses a room's messages beyond `keep`.
    pub(crate) fn failover(&self, room: &str, keep: usize) {
        let mut world = self.world();
        let log = world.log(&RoomId::new(room).unwrap());
        log.messages.truncate(keep);
        log.stored.retain(|_, seq| *seq <= keep as Seq);
        log.epoch += 1;
        let base = (log.epoch, log.head());
        log.bases.push(base);
        world.publish();
    }

    /// Says something to every connection of this node.
    pub(crate) fn say(&self, op: &ServerOp) {
        self.order(|| {
            Order::Say(Response {
                req: 0,
                op: op.clone(),
            })
        });
    }

    pub(crate) fn raw(&self, bytes: &[u8]) {
        self.order(|| Order::Raw(bytes.to_vec()));
    }

    pub(crate) fn close_frame(&self, code: u16, text: &'static str) {
        self.order(|| Order::CloseFrame(code, text));
    }

    pub(crate) fn cut(&self) {
        self.order(|| Order::Cut);
    }

    pub(crate) fn close(&self, code: CloseCode) {
        let text = String::new();
        let reconnect = code.reconnect();
        self.say(&ServerOp::Close {
            code,
            text,
            reconnect,
            after_ms: 0,
        });
        self.cut();
    }

    fn order(&self, order: impl Fn() -> Order) {
        let world = self.world();
        for conn in world
            .conns
            .values()
            .filter(|conn| conn.server == self.number)
        {
            let _ = conn.orders.send(order());
        }
    }

    async fn accept(self, listener: TcpListener, websocket: bool) {
        while let Ok((stream, _)) = listener.accept().await {
            let (orders, ordered) = mpsc::unbounded_channel();
            let number = {
                let mut world = self.world();
                world.next_conn += 1;
                let number = world.next_conn;
                let conn = Conn {
                    orders,
                    heard: HashMap::new(),
                    user: String::new(),
                    server: self.number,
                };
                world.conns.insert(number, conn);
                number
            };
            let server = self.clone();
            tokio::spawn(async move {
                if websocket {
                    server.serve_websocket(number, stream, ordered).await;
                } else {
                    server.serve_tcp(number, stream, ordered).await;
                }
                server.world().conns.remove(&number);
            });
        }
    }

    async fn serve_tcp(
        &self,
        number: u64,
        mut stream: TcpStream,
        mut ordered: mpsc::UnboundedReceiver<Order>,
    ) {
        let mut buffer = BytesMut::new();
        loop {
            tokio::select! {
                order = ordered.recv() => match order {
                    Some(Order::Say(response)) => {
                        let mut out = BytesMut::new();
                        binary::encode_response(&response, &mut out);
                        if stream.write_all(&out).await.is_err() { return; }
                    }
                    Some(Order::Raw(bytes)) => if stream.write_all(&bytes).await.is_err() { return; },
                    Some(Order::CloseFrame(..) | Order::Cut) | None => return,
                },
                read = stream.read_buf(&mut buffer) => {
                    if read.is_err() || read.is_ok_and(|read| read == 0) { return; }
                    while let Some(frame) = frame::decode(&mut buffer, LIMIT).unwrap() {
                        self.world().take(number, binary::decode_request(&frame).unwrap());
                    }
                }
            }
        }
    }

    async fn serve_websocket(
        &self,
        number: u64,
        stream: TcpStream,
        mut ordered: mpsc::UnboundedReceiver<Order>,
    ) {
        let Ok(mut stream) = tokio_tungstenite::accept_async(stream).await else {
            return;
        };
        let mut text = false;
        loop {
            tokio::select! {
                order = ordered.recv() => {
                    let message = match order {
                        Some(Order::Say(response)) if text => {
                            WsMessage::Text(json::encode_response(&response).try_into().unwrap())
                        }
                        Some(Order::Say(response)) => {
                            let mut out = BytesMut::new();
                            binary::encode_response(&response, &mut out);
                            WsMessage::Binary(out.freeze())
                        }
                        Some(Order::Raw(bytes)) => WsMessage::Binary(bytes.into()),
                        Some(Order::CloseFrame(code, reason)) => {
                            WsMessage::Close(Some(CloseFrame { code: code.into(), reason: reason.into() }))
                        }
                        Some(Order::Cut) | None => return,
                    };
                    if stream.send(message).await.is_err() { return; }
                }
                message = stream.next() => match message {
                    Some(Ok(WsMessage::Text(frame))) => {
                        text = true;
                        self.world().take(number, json::decode_request(frame.as_bytes()).unwrap());
                    }
                    Some(Ok(WsMessage::Binary(message))) => {
                        let frame = frame::decode_exact(message, LIMIT).unwrap();
                        self.world().take(number, binary::decode_request(&frame).unwrap());
                    }
                    Some(Ok(_)) => {}
                    _ => return,
                },
            }
        }
    }
}

/// The `sub` of a JWT, believed; of any other token what stands before `#`.
fn user_of(token: &str) -> String {
    let payload = token
        .split('.')
        .nth(1)
        .and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok());
    match payload.and_then(|payload| serde_json::from_slice::<serde_json::Value>(&payload).ok()) {
        Some(claims) => claims["sub"].as_str().unwrap_or_default().to_owned(),
        None => token.split('#').next().unwrap_or_default().to_owned(),
    }
}

fn refusal(code: ErrorCode) -> Error {
    Error {
        code,
        text: "as the test wants it".to_owned(),
        retryable: code.retryable(),
        field: None,
    }
}

impl World {
    fn log(&mut self, room: &RoomId) -> &mut Log {
        self.rooms.entry(room.clone()).or_insert_with(|| Log {
            epoch: 1,
            ..Log::default()
        })
    }

    fn append(
        &mut self,
        room: &RoomId,
        from: &str,
        client_id: &str,
        kind: &str,
        body: Body,
    ) -> (Seq, Epoch, bool) {
        let log = self.log(room);
        let (epoch, seq) = (log.epoch, log.head() + 1);
        let key = (from.to_owned(), client_id.to_owned());
        if let Some(first) = log.stored.get(&key) {
            return (*first, epoch, true);
        }
        log.stored.insert(key, seq);
        log.messages.push(Message {
            room: room.clone(),
            epoch,
            seq,
            id: format!("{room}-{epoch}-{seq}"),
            from: from.to_owned(),
            client_id: client_id.to_owned(),
            kind: kind.to_owned(),
            body,
            time_ms: 1_700_000_000_000 + seq,
        });
        self.publish();
        (seq, epoch, false)
    }

    fn publish(&mut self) {
        let Self { rooms, conns, .. } = self;
        for conn in conns.values_mut() {
            let Conn { orders, heard, .. } = conn;
            for (room, (epoch, seq)) in heard {
                let Some(log) = rooms.get(room) else { continue };
                let say = |op| drop(orders.send(Order::Say(Response { req: 0, op })));
                if let Some(base) = log.reset_to(*epoch, *seq) {
                    say(ServerOp::Reset {
                        room: room.clone(),
                        epoch: log.epoch,
                        seq: base,
                    });
                    *seq = base;
                }
                *epoch = log.epoch;
                for message in &log.messages[*seq as usize..] {
                    say(ServerOp::Message(message.clone()));
                    *seq = message.seq;
                }
            }
        }
    }

    fn take(&mut self, number: u64, Request { req, op }: Request) {
        self.asked.push(op.clone());
        let script = self.script.as_mut().unwrap();
        if script.mute {
            return;
        }
        let Some(conn) = self.conns.get_mut(&number) else {
            return;
        };
        let (orders, user, server) = (conn.orders.clone(), conn.user.clone(), conn.server);
        let say = |op| drop(orders.send(Order::Say(Response { req, op })));
        match op {
            ClientOp::Auth {
                token,
                device,
                resume,
                ..
            } => {
                if script.expired.contains(&token) {
                    say(ServerOp::Error(refusal(ErrorCode::TokenExpired)));
                    return;
                }
                conn.user = user_of(&token);
                let time_ms = 1_700_000_000_000;
                say(ServerOp::AuthOk {
                    user: UserId::new(&conn.user).unwrap(),
                    device: device.unwrap_or_else(|| "device".to_owned()),
                    conn: number.to_string(),
                    node: format!("node-{server}"),
                    heartbeat_ms: script.heartbeat_ms,
                    time_ms,
                    expires_ms: if script.token_life_ms == 0 {
                        0
                    } else {
                        time_ms + script.token_life_ms
                    },
                });
                if !resume.is_empty() {
                    self.subscribe(number, req, resume);
                }
            }
            ClientOp::Subscribe { rooms, .. } => self.subscribe(number, req, rooms),
            ClientOp::Unsubscribe { rooms } => {
                conn.heard.retain(|room, _| !rooms.contains(room));
                say(ServerOp::Done);
            }
            ClientOp::Send {
                room,
                client_id,
                kind,
                body,
            } => {
                if script.refuse_sends.0 > 0 {
                    script.refuse_sends.0 -= 1;
                    say(ServerOp::Error(refusal(script.refuse_sends.1)));
                    return;
                }
                let cut = script.cut_before_ack > 0;
                script.cut_before_ack = script.cut_before_ack.saturating_sub(1);
                let (seq, epoch, duplicate) = self.append(&room, &user, &client_id, &kind, body);
                if cut {
                    let _ = orders.send(Order::Cut);
                    return;
                }
                let id = format!("{room}-{epoch}-{seq}");
                say(ServerOp::Ack {
                    room,
                    client_id,
                    id,
                    epoch,
                    seq,
                    time_ms: 1_700_000_000_000 + seq,
                    duplicate,
                });
            }
            ClientOp::Signal { room, kind, body } => {
                say(ServerOp::Done);
                for conn in self
                    .conns
                    .values()
                    .filter(|conn| conn.heard.contains_key(&room))
                {
                    let room = room.to_string();
                    let from = user.clone();
                    let op = ServerOp::Signal {
                        room,
                        from,
                        kind: kind.clone(),
                        body: body.clone(),
                        operation: 0,
                    };
                    let _ = conn.orders.send(Order::Say(Response { req: 0, op }));
                }
            }
            ClientOp::History {
                room,
                after,
                before,
                limit,
            } => {
                let log = self.log(&room);
                let limit = if limit == 0 { 50 } else { limit as usize };
                let messages: Vec<_> = match (after, before) {
                    (Some(after), _) => log
                        .messages
                        .iter()
                        .filter(|m| m.seq > after)
                        .take(limit)
                        .cloned()
                        .collect(),
                    (None, before) => {
                        let before = before.unwrap_or(Seq::MAX);
                        let older: Vec<_> = log
                            .messages
                            .iter()
                            .filter(|m| m.seq < before)
                            .cloned()
                            .collect();
                        older[older.len().saturating_sub(limit)..].to_vec()
                    }
                };
                say(ServerOp::History {
                    room,
                    epoch: log.epoch,
                    head: log.head(),
                    truncated: None,
                    messages,
                });
            }
            ClientOp::Read { room, seq } => {
                let head = self.log(&room).head();
                say(ServerOp::ReadState {
                    room,
                    read: seq.min(head),
                    head,
                    unread: head.saturating_sub(seq),
                });
            }
            ClientOp::Refresh { .. } => {
                let expires_ms = 1_700_000_000_000 + 10 * script.token_life_ms;
                say(ServerOp::Refreshed { expires_ms });
            }
            ClientOp::Ping => say(ServerOp::Pong {
                time_ms: 1_700_000_000_000,
            }),
        }
    }

    fn subscribe(&mut self, number: u64, req: u32, positions: Vec<Position>) {
        let forbidden = &self.script.as_ref().unwrap().forbidden;
        let (refused, allowed): (Vec<_>, Vec<_>) = positions
            .into_iter()
            .partition(|position| forbidden.contains(position.room.as_str()));
        let refuse = |position: Position| {
            let error = refusal(ErrorCode::NotAMember);
            SubscribedRoom::Refused {
                room: position.room,
                error,
            }
        };
        let mut rooms: Vec<_> = refused.into_iter().map(refuse).collect();
        for Position { room, epoch, seq } in allowed {
            let log = self.log(&room);
            let (now, head) = (log.epoch, log.head());
            let kind = "open".to_owned();
            rooms.push(SubscribedRoom::Ok {
                room: room.clone(),
                kind,
                epoch: now,
                head,
                read: 0,
                joined: 0,
            });
            let Some(conn) = self.conns.get_mut(&number) else {
                return;
            };
            conn.heard.insert(room, (epoch, seq.unwrap_or(head)));
        }
        if let Some(conn) = self.conns.get(&number) {
            let _ = conn.orders.send(Order::Say(Response {
                req,
                op: ServerOp::Subscribed { rooms },
            }));
        }
        self.publish();
    }
}
