//! Hearing rooms: logic says which ones the user may, the shard does the rest.

use std::collections::HashMap;
use std::rc::Rc;

use im_proto::v1::{Fault, SubscribedRoom as Answer, call, reply};
use im_wire::code::ErrorCode;
use im_wire::ids::{RoomId, Seq};
use im_wire::native::{Error, Position, ServerOp, SubscribedRoom};

use super::connection::Connection;
use crate::hub::Place;
use crate::shard::Shard;
use crate::uplink::translate;

async fn ask(shard: &Shard, connection: &Connection, rooms: Vec<String>, all: bool) -> Result<Vec<Answer>, Fault> {
    let grant = connection.grant.borrow().clone();
    let op = call::Op::Subscribe(im_proto::v1::Subscribe { rooms, all });
    match shard.logic.call(grant, &connection.id, op).await? {
        reply::Result::Subscribed(answer) => Ok(answer.rooms),
        _ => Err(translate::unexpected()),
    }
}

/// A native client's subscription: the results first, then what it missed, then live.
pub(crate) async fn subscribe(
    shard: Rc<Shard>,
    connection: Rc<Connection>,
    req: u32,
    positions: Vec<Position>,
    all: bool,
) {
    let encoding = connection.encoding.get();
    let names = positions.iter().map(|position| position.room.to_string()).collect();
    let answers = match ask(&shard, &connection, names, all).await {
        Ok(answers) => answers,
        Err(fault) => {
            connection.write(&encoding.response(req, ServerOp::Error(translate::error(fault))));
            return;
        }
    };
    if all {
        connection.follows_all.set(true);
    }
    let from: HashMap<RoomId, (u64, Option<Seq>)> =
        positions.into_iter().map(|position| (position.room, (position.epoch, position.seq))).collect();
    let mut results = Vec::with_capacity(answers.len());
    let mut joins = Vec::new();
    let mut hears = connection.rooms.borrow().len();
    for answer in answers {
        let Ok(room) = RoomId::new(&answer.room) else { continue };
        let new = !connection.rooms.borrow().contains_key(&room);
        let result = if new && answer.fault.is_none() && hears >= shard.options.max_rooms {
            SubscribedRoom::Refused { room: room.clone(), error: too_many(shard.options.max_rooms) }
        } else {
            result(room.clone(), answer)
        };
        if let SubscribedRoom::Ok { epoch, head, .. } = &result {
            hears += usize::from(new);
            let head = Place { epoch: *epoch, seq: *head };
            let after = match from.get(&room) {
                Some((epoch, Some(seq))) => Some(Place { epoch: *epoch, seq: *seq }),
                // From now on; a room that is heard already goes on as it is.
                _ if new => Some(head),
                _ => None,
            };
            joins.extend(after.map(|after| (room, after, head)));
        }
        results.push(result);
    }
    connection.write(&encoding.response(req, ServerOp::Subscribed { rooms: results }));
    if is_gone(&shard, &connection) {
        return;
    }
    for (room, after, head) in joins {
        shard.join(&connection, &room, after, head);
    }
}

/// The user has become a member of rooms, and the connection follows all of them: heard from their beginning of
/// membership on.
pub(crate) async fn follow(shard: Rc<Shard>, connection: Rc<Connection>, rooms: Vec<RoomId>) {
    let names = rooms.iter().map(RoomId::to_string).collect();
    let Ok(answers) = ask(&shard, &connection, names, false).await else { return };
    for answer in answers {
        let Ok(room) = RoomId::new(&answer.room) else { continue };
        let full = connection.rooms.borrow().len() >= shard.options.max_rooms;
        let heard = connection.rooms.borrow().contains_key(&room);
        if answer.fault.is_some() || full || heard || is_gone(&shard, &connection) {
            continue;
        }
        let head = Place { epoch: answer.epoch, seq: answer.head };
        // A direct room comes into being with its first message, which the user has not had; a group begins at joining.
        let after = Place { epoch: answer.epoch, seq: answer.joined.min(answer.head) };
        let op = ServerOp::RoomChanged { room: room.clone(), subscribed: true, reason: "joined".to_owned() };
        connection.write(&connection.encoding.get().response(0, op));
        shard.join(&connection, &room, after, head);
    }
}

/// A goim or golang-im client enters a room, from now on, and leaves the one it was in. Returns whether it may.
pub(crate) async fn enter(shard: &Rc<Shard>, connection: &Rc<Connection>, room: &str) -> bool {
    let Ok(room) = RoomId::new(room) else { return false };
    let Ok(answers) = ask(shard, connection, vec![room.to_string()], false).await else { return false };
    let Some(answer) = answers.into_iter().find(|answer| answer.fault.is_none()) else { return false };
    if is_gone(shard, connection) {
        return false;
    }
    let before = connection.room.borrow_mut().replace(room.clone());
    if let Some(before) = before.filter(|before| *before != room) {
        shard.leave(connection, &before);
    }
    let head = Place { epoch: answer.epoch, seq: answer.head };
    if !connection.rooms.borrow().contains_key(&room) {
        shard.join(connection, &room, head, head);
    }
    true
}

/// The connection may have ended while logic was asked: it must not be put into rooms then.
fn is_gone(shard: &Shard, connection: &Rc<Connection>) -> bool {
    shard.connection(connection.key).is_none_or(|current| !Rc::ptr_eq(&current, connection))
}

fn result(room: RoomId, answer: Answer) -> SubscribedRoom {
    match answer.fault {
        Some(fault) => SubscribedRoom::Refused { room, error: translate::error(fault) },
        None => SubscribedRoom::Ok {
            room,
            kind: answer.kind,
            epoch: answer.epoch,
            head: answer.head,
            read: answer.read,
            joined: answer.joined,
        },
    }
}

fn too_many(limit: usize) -> Error {
    Error {
        code: ErrorCode::LimitReached,
        text: format!("a connection hears {limit} rooms at most: leave one first"),
        retryable: false,
        field: Some("rooms".to_owned()),
    }
}
