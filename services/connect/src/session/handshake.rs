//! Before auth: the first frame tells the dialect and must be auth. Nothing else can be done here.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use im_proto::v1::{self as pb, Authenticate, Fault, call, reply};
use im_runtime::clock::unix_ms;
use im_wire::code::{CloseCode, ErrorCode};
use im_wire::dialect::{Entrance, First, tell};
use im_wire::ids::UserId;
use im_wire::native::{ClientOp, Position, Request, ServerOp, json};
use im_wire::{goim, golang_im};
use tokio::time::Instant;

use super::Dialect;
use super::decoder::Inbound;
use super::established::Established;
use super::native;
use super::socket::SocketIo;
use super::subscribe;
use crate::connection::encoding::Encoding;
use crate::connection::{Authenticated, Client, TokenFacts};
use crate::metrics;
use crate::translate;

/// WebSocket pings and pongs that may come before auth.
const EARLY_CONTROLS: u32 = 16;

/// The first pause of those who wait for logic to be found, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// How long an auth waits at most for those before it.
const TURN: Duration = Duration::from_millis(500);

/// Shown in the gauge as long as it lives. Those who wait are bounded as all who have no name yet are.
struct Waiting;

impl Waiting {
    fn begin() -> Self {
        metrics::WAITING_FOR_LOGIC.inc();
        Self
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        metrics::WAITING_FOR_LOGIC.dec();
    }
}

/// A connection nobody has put a name to.
pub(crate) struct Unidentified<'a> {
    socket: &'a mut SocketIo,
}

/// Auth in whichever dialect.
enum Hello {
    Native {
        req: u32,
        token: String,
        device: Option<String>,
        resume: Vec<Position>,
        all: bool,
        agent: Option<String>,
    },
    Goim(u32, goim::Auth),
    GolangIm(u32, golang_im::Auth),
}

impl Hello {
    fn token(&self) -> &str {
        match self {
            Self::Native { token, .. } => token,
            Self::Goim(_, auth) => &auth.token,
            Self::GolangIm(_, auth) => &auth.token,
        }
    }
}

impl<'a> Unidentified<'a> {
    pub(crate) fn new(socket: &'a mut SocketIo) -> Self {
        Self { socket }
    }

    /// Waits for auth and asks logic. `None`: the session is over before it began.
    pub(crate) async fn identify(self) -> Option<Established> {
        let mut entrance = self.socket.connection.entrance;
        let mut controls = 0;
        loop {
            let hello = match self.socket.next().await? {
                Inbound::Control if controls < EARLY_CONTROLS => {
                    controls += 1;
                    continue;
                }
                Inbound::Control => {
                    metrics::RATE_LIMITED
                        .with_label_values(&["handshake"])
                        .inc();
                    self.socket.connection.end_after(
                        CloseCode::Flood,
                        "pings and pongs instead of auth",
                        5_000,
                    );
                    return None;
                }
                Inbound::Upgraded(path, _) => {
                    entrance = path;
                    self.socket.turn_away();
                    continue;
                }
                Inbound::Text(text) => self.native_text(text.as_bytes()),
                Inbound::Frame(frame) => match tell(entrance, &frame) {
                    Ok(First::Native(request)) => self.native_binary(request),
                    Ok(First::Goim(auth)) => Some(Hello::Goim(frame.seq, auth)),
                    Ok(First::GolangIm(auth)) => Some(Hello::GolangIm(frame.seq, auth)),
                    Err(error) => {
                        self.socket
                            .connection
                            .end(CloseCode::WrongState, error.to_string());
                        None
                    }
                },
                Inbound::Proxied(_) => continue,
                Inbound::Close => return None,
            };
            return self.authenticate(hello?).await;
        }
    }

    fn native_text(&self, text: &[u8]) -> Option<Hello> {
        self.socket.connection.encoding.set(Encoding::NativeText);
        match json::decode_request(text) {
            Ok(request) => self.hello(request),
            Err(rejected) => {
                self.socket
                    .connection
                    .end(CloseCode::ProtocolError, rejected.error.text);
                None
            }
        }
    }

    fn native_binary(&self, request: Request) -> Option<Hello> {
        let tcp = self.socket.connection.entrance == Entrance::Tcp;
        self.socket.connection.encoding.set(if tcp {
            Encoding::NativeTcp
        } else {
            Encoding::NativeWs
        });
        self.hello(request)
    }

    fn hello(&self, request: Request) -> Option<Hello> {
        let req = request.req;
        let ClientOp::Auth {
            token,
            device,
            resume,
            all,
            agent,
        } = request.op
        else {
            self.socket
                .connection
                .end(CloseCode::WrongState, "auth must come first");
            return None;
        };
        Some(Hello::Native {
            req,
            token,
            device,
            resume,
            all,
            agent,
        })
    }

    async fn authenticate(self, hello: Hello) -> Option<Established> {
        let (shard, connection) = (
            Rc::clone(&self.socket.shard),
            Rc::clone(&self.socket.connection),
        );
        self.set_encoding(&hello);
        let op = call::Op::Authenticate(self.question(&hello));
        let began = Instant::now();
        connection.has_asked.set(true);
        let answer = match self.ask(op, hello.token()).await {
            Ok(reply::Result::Authenticated(answer)) => {
                shard.admission.attempts.succeeded(hello.token());
                answer
            }
            Ok(_) => return self.refuse(&hello, translate::unexpected()),
            Err(fault) => {
                if fault.code == ErrorCode::Unauthenticated.name() {
                    shard.admission.attempts.failed(connection.address().into());
                }
                if fault.retryable {
                    shard.never_began(&connection);
                }
                return self.refuse(&hello, fault);
            }
        };
        let pb::Authenticated {
            grant,
            user,
            device,
            expires_ms,
            issued_ms,
            device_unproven,
        } = answer;
        let Ok(user) = UserId::new(user) else {
            return self.refuse(&hello, translate::unexpected());
        };
        let named = self.socket.permit.name(&user);
        let identity = Authenticated {
            user,
            device,
            token: Cell::new(TokenFacts {
                issued_ms,
                device_unproven,
            }),
            grant: RefCell::new(grant),
            expires_ms: Cell::new(expires_ms),
        };
        let client = Client::new(&connection, identity);
        if let Err(refusal) = named {
            metrics::REFUSED.with_label_values(&[refusal.name()]).inc();
            connection.end_after(CloseCode::TooManyConnections, refusal.text(), 5_000);
        }
        shard.identified(&client);
        // Whoever was banned or kicked meanwhile was not found by their name before.
        shard.refuse_banned(&connection);
        shard.apply_kicks(&connection, began);
        if connection.ending().is_some() {
            // Or the handshake took too long, or the user has too many; presence is taken back by the caller.
            return None;
        }
        self.socket.identified();
        Some(self.welcome(client, hello).await)
    }

    /// Asks logic. After too many failures from the address that waits for a while; and where this node has just started
    /// and has not found logic yet, the client waits for it as long as its handshake may take.
    async fn ask(&self, op: call::Op, token: &str) -> Result<reply::Result, Fault> {
        let (shard, connection) = (&self.socket.shard, &self.socket.connection);
        if let Err(pause) = shard
            .admission
            .attempts
            .admit(connection.address().into(), token)
        {
            metrics::AUTH_DELAYED.inc();
            self.socket.busy(Box::pin(tokio::time::sleep(pause))).await;
        }
        let give_up = connection.since + shard.options.handshake_timeout.mul_f64(0.8);
        let mut waits = None;
        let mut pause = FIRST_PAUSE;
        loop {
            // Nobody waits long for a turn: where logic does not answer, all are to find out.
            let turn = tokio::time::timeout(TURN, shard.identifying.acquire()).await;
            let asked = Box::pin(shard.logic.call(Bytes::new(), &connection.id, op.clone())).await;
            drop(turn);
            let may_wait = |fault: &Fault| {
                fault.code == ErrorCode::Unavailable.name() && !shard.logic.has_answered()
            };
            match asked {
                Err(fault)
                    if may_wait(&fault)
                        && Instant::now() < give_up
                        && connection.ending().is_none() =>
                {
                    waits.get_or_insert_with(Waiting::begin);
                    // The last question leaves time to say what came of it.
                    let left = give_up.saturating_duration_since(Instant::now());
                    let jittered = pause.mul_f64(rand::random_range(0.5..1.0)).min(left);
                    self.socket
                        .busy(Box::pin(tokio::time::sleep(jittered)))
                        .await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
                answered => return answered,
            }
        }
    }

    fn set_encoding(&self, hello: &Hello) {
        let tcp = self.socket.connection.entrance == Entrance::Tcp;
        match hello {
            Hello::Native { .. } => {}
            Hello::Goim(..) => self.socket.connection.encoding.set(if tcp {
                Encoding::GoimTcp
            } else {
                Encoding::GoimWs
            }),
            Hello::GolangIm(..) => {
                self.socket.connection.encoding.set(if tcp {
                    Encoding::GolangImTcp
                } else {
                    Encoding::GolangImWs
                });
            }
        }
    }

    fn question(&self, hello: &Hello) -> Authenticate {
        let remote_ip = self.socket.connection.address().to_string();
        let node = self.socket.shard.options.node.clone();
        let place = self.socket.shard.place(self.socket.connection.key);
        let common = Authenticate {
            remote_ip,
            node,
            place,
            ..Default::default()
        };
        match hello {
            Hello::Native {
                token,
                device,
                agent,
                ..
            } => Authenticate {
                token: token.clone(),
                device: device.clone().unwrap_or_default(),
                platform: agent.clone().unwrap_or_default(),
                dialect: pb::Dialect::Native.into(),
                ..common
            },
            Hello::Goim(_, auth) => Authenticate {
                token: auth.token.clone(),
                device: auth.key.clone(),
                unsigned_user: auth.mid.clone().unwrap_or_default(),
                platform: auth.platform.clone(),
                dialect: pb::Dialect::Goim.into(),
                ..common
            },
            Hello::GolangIm(_, auth) => Authenticate {
                token: auth.token.clone(),
                device: auth.device_id.clone(),
                unsigned_user: auth.user_id.clone().unwrap_or_default(),
                platform: auth.platform.clone(),
                dialect: pb::Dialect::GolangIm.into(),
                ..common
            },
        }
    }

    /// Says why, in the dialect's way, and ends: nobody stays unidentified.
    fn refuse<T>(&self, hello: &Hello, fault: Fault) -> Option<T> {
        let connection = &self.socket.connection;
        let error = translate::error(fault);
        let code = match error.code {
            ErrorCode::TokenExpired => CloseCode::TokenExpired,
            ErrorCode::Banned => CloseCode::Banned,
            _ if error.retryable => CloseCode::Unavailable,
            _ => CloseCode::Unauthenticated,
        };
        let text = error.text.clone();
        match hello {
            Hello::Native { req, .. } => {
                connection.write(
                    &connection
                        .encoding
                        .get()
                        .response(*req, ServerOp::Error(error)),
                );
            }
            Hello::Goim(..) => {}
            Hello::GolangIm(seq, _) => {
                connection.write(&connection.encoding.get().frame(
                    goim::MESSAGE,
                    *seq,
                    text.as_bytes(),
                ));
            }
        }
        connection.end(code, text);
        None
    }

    async fn welcome(self, client: Client, hello: Hello) -> Established {
        let shard = Rc::clone(&self.socket.shard);
        let encoding = client.encoding.get();
        let mut weight = 0;
        let dialect = match hello {
            Hello::Native {
                req, resume, all, ..
            } => {
                let op = ServerOp::AuthOk {
                    user: client.user().clone(),
                    device: client.identity.device.clone(),
                    conn: client.id.clone(),
                    node: shard.options.node.clone(),
                    heartbeat_ms: u32::try_from(shard.options.heartbeat_timeout.as_millis())
                        .unwrap_or(u32::MAX),
                    time_ms: unix_ms(),
                    expires_ms: client.identity.expires_ms.get(),
                };
                client.write(&encoding.response(req, op));
                weight = native::rooms_weight(resume.len());
                if all || !resume.is_empty() {
                    let shard = Rc::clone(&shard);
                    let client = client.clone();
                    tokio::task::spawn_local(async move {
                        subscribe::subscribe(&shard, &client, req, resume, all).await;
                    });
                }
                Dialect::Native
            }
            Hello::Goim(seq, auth) => {
                let named = client.accepts.borrow_mut().add(auth.accepts);
                if let Err(refused) = named {
                    metrics::MALFORMED
                        .with_label_values(&[CloseCode::ProtocolError.name()])
                        .inc();
                    client.end(CloseCode::ProtocolError, refused.to_string());
                    return Established::new(client, Dialect::Goim, &shard.options);
                }
                if let Some(room) = auth.room {
                    subscribe::enter(&shard, &client, &room).await;
                }
                client.write(&encoding.frame(goim::AUTH_REPLY, seq, b""));
                Dialect::Goim
            }
            Hello::GolangIm(seq, _) => {
                client.write(&encoding.frame(goim::AUTH_REPLY, seq, golang_im::AUTH_OK));
                Dialect::GolangIm
            }
        };
        shard.greet_while_draining(&client);
        let mut established = Established::new(client, dialect, &shard.options);
        established.owe(weight);
        established
    }
}
