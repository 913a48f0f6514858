//! The native dialect's requests, one function each: a call to logic, and its answer in the client's encoding.

use std::rc::Rc;

use bytes::Bytes;
use im_proto::v1::{self as pb, call, reply};
use im_runtime::clock::unix_ms;
use im_wire::code::ErrorCode;
use im_wire::ids::{RoomId, Seq};
use im_wire::native::{Body, ClientOp, Error, Request, ServerOp};

use super::subscribe;
use crate::connection::{Client, Connection, TokenFacts};
use crate::metrics;
use crate::shard::{Shard, rights};
use crate::translate;

/// Takes one request of an established session. Never waits: what needs logic goes on by itself.
pub(crate) fn take(shard: &Rc<Shard>, client: &Client, request: Request) {
    let req = request.req;
    metrics::REQUESTS
        .with_label_values(&[name(&request.op)])
        .inc();
    match request.op {
        ClientOp::Auth { .. } => {
            let text = "this connection is authenticated: use refresh for a newer token".to_owned();
            let error = Error {
                code: ErrorCode::WrongState,
                text,
                retryable: false,
                field: None,
            };
            answer(client, req, ServerOp::Error(error));
        }
        ClientOp::Ping => answer(client, req, ServerOp::Pong { time_ms: unix_ms() }),
        ClientOp::Subscribe { rooms, all } => {
            in_flight(shard, client, async move |shard, client| {
                subscribe::subscribe(shard, client, req, rooms, all).await;
            });
        }
        ClientOp::Unsubscribe { rooms } => {
            for room in &rooms {
                shard.leave(client, room);
                client.unfollow(room, shard.options.max_rooms);
            }
            answer(client, req, ServerOp::Done);
        }
        ClientOp::Send {
            room,
            client_id,
            kind,
            body,
        } => send(shard, client, req, room, client_id, kind, body),
        ClientOp::Signal { room, kind, body } => signal(shard, client, req, &room, kind, body),
        ClientOp::History {
            room,
            after,
            before,
            limit,
        } => history(shard, client, req, room, (after, before), limit),
        ClientOp::Read { room, seq } => read(shard, client, req, room, seq),
        ClientOp::Refresh { token } => refresh(shard, client, req, token),
    }
}

/// How many requests more than one it is as much as: rooms cost logic and store something each.
pub(super) fn weight(op: &ClientOp) -> u32 {
    match op {
        ClientOp::Subscribe { rooms, .. } => rooms_weight(rooms.len()),
        ClientOp::Unsubscribe { rooms } => rooms_weight(rooms.len()),
        _ => 0,
    }
}

/// A fifth of a request for each room.
pub(super) fn rooms_weight(rooms: usize) -> u32 {
    u32::try_from(rooms / 5).unwrap_or(u32::MAX)
}

fn name(op: &ClientOp) -> &'static str {
    match op {
        ClientOp::Auth { .. } => "auth",
        ClientOp::Subscribe { .. } => "subscribe",
        ClientOp::Unsubscribe { .. } => "unsubscribe",
        ClientOp::Send { .. } => "send",
        ClientOp::Signal { .. } => "signal",
        ClientOp::History { .. } => "history",
        ClientOp::Read { .. } => "read",
        ClientOp::Refresh { .. } => "refresh",
        ClientOp::Ping => "ping",
    }
}

fn answer(connection: &Connection, req: u32, op: ServerOp) {
    connection.write(&connection.encoding.get().response(req, op));
}

/// Runs beside the session and counts against its bound.
fn in_flight(
    shard: &Rc<Shard>,
    client: &Client,
    work: impl AsyncFnOnce(&Rc<Shard>, &Client) + 'static,
) {
    client.in_flight.set(client.in_flight.get() + 1);
    let shard = Rc::clone(shard);
    let client = client.clone();
    tokio::task::spawn_local(async move {
        work(&shard, &client).await;
        let before = client.in_flight.get();
        client.in_flight.set(before - 1);
        if before >= shard.options.max_in_flight {
            // The session has not been reading.
            client.wake();
        }
    });
}

/// One call, and what becomes of its answer; `None` from `read`: an answer of another kind.
fn ask(
    shard: &Rc<Shard>,
    client: &Client,
    req: u32,
    op: call::Op,
    read: impl FnOnce(&Rc<Shard>, &Client, reply::Result) -> Option<ServerOp> + 'static,
) {
    // Which end of a page of history is the one that was asked for.
    let forward = matches!(&op, call::Op::History(pb::History { after: Some(_), .. }));
    in_flight(shard, client, async move |shard, client| {
        let op = match shard.call(client, op).await {
            Ok(result) => read(shard, client, result).ok_or_else(translate::unexpected),
            Err(fault) => Err(fault),
        };
        let op = op.unwrap_or_else(|fault| ServerOp::Error(translate::error(fault)));
        shard.answer(
            &client.connection,
            &fitting(shard, client, req, op, forward),
        );
    });
}

/// An answer that fits the outbox: a page of history is cut, any other that does not is an error.
fn fitting(
    shard: &Shard,
    connection: &Connection,
    req: u32,
    mut op: ServerOp,
    forward: bool,
) -> Bytes {
    let encoding = connection.encoding.get();
    let most = shard.options.outbox_bytes / 2;
    loop {
        let bytes = encoding.response(req, op.clone());
        if bytes.len() <= most {
            return bytes;
        }
        match &mut op {
            ServerOp::History { messages, .. } if messages.len() > 1 => {
                // As many as are likely to fit, and fewer than before in any case.
                let kept = (messages.len() * most / bytes.len()).clamp(1, messages.len() - 1);
                if forward {
                    messages.truncate(kept);
                } else {
                    messages.drain(..messages.len() - kept);
                }
            }
            ServerOp::Error(_) => return bytes,
            _ => op = ServerOp::Error(too_long(bytes.len(), most)),
        }
    }
}

fn too_long(length: usize, most: usize) -> Error {
    let text = format!(
        "the answer takes {length} bytes, and {most} fit a connection's outbox: ask for less"
    );
    Error {
        code: ErrorCode::TooLarge,
        text,
        retryable: false,
        field: None,
    }
}

fn send(
    shard: &Rc<Shard>,
    client: &Client,
    req: u32,
    room: RoomId,
    client_id: String,
    kind: String,
    body: Body,
) {
    let (body, encoding) = translate::parts(body);
    let client_id = if client_id.is_empty() {
        uuid::Uuid::now_v7().to_string()
    } else {
        client_id
    };
    let op = pb::Send {
        room: room.to_string(),
        client_id: client_id.clone(),
        r#type: kind,
        body,
        encoding,
    };
    ask(
        shard,
        client,
        req,
        call::Op::Send(op),
        move |_, _, result| match result {
            reply::Result::Stored(pb::Stored {
                id,
                epoch,
                seq,
                time_ms,
                duplicate,
            }) => Some(ServerOp::Ack {
                room,
                client_id,
                id,
                epoch,
                seq,
                time_ms,
                duplicate,
            }),
            _ => None,
        },
    );
}

fn signal(shard: &Rc<Shard>, client: &Client, req: u32, room: &RoomId, kind: String, body: Body) {
    let (body, encoding) = translate::parts(body);
    let op = pb::SendSignal {
        room: room.to_string(),
        r#type: kind,
        body,
        encoding,
    };
    ask(shard, client, req, call::Op::Signal(op), |_, _, result| {
        matches!(result, reply::Result::Done(_)).then_some(ServerOp::Done)
    });
}

fn history(
    shard: &Rc<Shard>,
    client: &Client,
    req: u32,
    room: RoomId,
    (after, before): (Option<Seq>, Option<Seq>),
    limit: u32,
) {
    let op = pb::History {
        room: room.to_string(),
        after,
        before,
        limit,
    };
    ask(
        shard,
        client,
        req,
        call::Op::History(op),
        move |_, _, result| match result {
            reply::Result::History(page) => {
                let entry = |logged: pb::LogEntry| {
                    Some(translate::message(
                        &room,
                        page.epoch,
                        logged.seq,
                        logged.entry?,
                    ))
                };
                let messages = page.entries.into_iter().filter_map(entry).collect();
                let truncated = page.truncated.map(|range| (range.from, range.to));
                Some(ServerOp::History {
                    room,
                    epoch: page.epoch,
                    head: page.head,
                    truncated,
                    messages,
                })
            }
            _ => None,
        },
    );
}

fn read(shard: &Rc<Shard>, client: &Client, req: u32, room: RoomId, seq: Seq) {
    let op = pb::Read {
        room: room.to_string(),
        seq,
    };
    ask(
        shard,
        client,
        req,
        call::Op::Read(op),
        move |_, _, result| match result {
            reply::Result::Read(state) => Some(ServerOp::ReadState {
                room,
                read: state.read,
                head: state.head,
                unread: state.unread,
            }),
            _ => None,
        },
    );
}

fn refresh(shard: &Rc<Shard>, client: &Client, req: u32, token: String) {
    let op = call::Op::Refresh(pb::Refresh { token });
    ask(
        shard,
        client,
        req,
        op,
        |shard, client, result| match result {
            reply::Result::Refreshed(pb::Refreshed {
                grant,
                expires_ms,
                as_wide,
                issued_ms,
                device_unproven,
            }) => {
                *client.identity.grant.borrow_mut() = grant;
                client.identity.expires_ms.set(expires_ms);
                client.identity.token.set(TokenFacts {
                    issued_ms,
                    device_unproven,
                });
                shard.refuse_banned(client);
                let rooms: Vec<RoomId> = client.rooms.borrow().keys().cloned().collect();
                if !as_wide && !rooms.is_empty() {
                    tokio::task::spawn_local(rights::recheck(
                        Rc::clone(shard),
                        client.clone(),
                        rooms,
                    ));
                }
                Some(ServerOp::Refreshed { expires_ms })
            }
            _ => None,
        },
    );
}
