//! Subscriptions to rooms: logic says which ones the user may have, the shard does the rest.

use std::collections::HashMap;
use std::rc::Rc;

use im_proto::v1::SubscribedRoom as Answer;
use im_wire::code::ErrorCode;
use im_wire::ids::{RoomId, Seq};
use im_wire::native::{Error, Position, ServerOp, SubscribedRoom};

use crate::connection::Client;
use crate::hub::{Item, LogPosition};
use crate::shard::Shard;
use crate::shard::follow::follow;
use crate::shard::rights::{self, Answers, Pace};
use crate::translate;

/// A native client's subscription: the results first, then what it missed, then live.
pub(crate) async fn subscribe(
    shard: &Rc<Shard>,
    client: &Client,
    req: u32,
    positions: Vec<Position>,
    all: bool,
) {
    let encoding = client.encoding.get();
    let names = positions
        .iter()
        .map(|position| position.room.to_string())
        .collect();
    let Answers {
        rooms: answers,
        added,
    } = match rights::ask(shard, client, names, all, Pace::Users).await {
        Ok(answers) => answers,
        Err(fault) => {
            if all {
                // Rooms that came meanwhile were kept for this answer.
                client.list_digest.set(0);
            }
            client.write(&encoding.response(req, ServerOp::Error(translate::error(fault))));
            return;
        }
    };
    if all {
        client.follows_all.set(true);
        client.list_digest.set(0);
    }
    let from: HashMap<RoomId, (u64, Option<Seq>)> = positions
        .into_iter()
        .map(|position| (position.room, (position.epoch, position.seq)))
        .collect();
    let mut results = Vec::with_capacity(answers.len());
    let mut joins = Vec::new();
    let mut hears = client.rooms.borrow().len();
    for answer in answers {
        let Ok(room) = RoomId::new(&answer.room) else {
            continue;
        };
        let new = !client.rooms.borrow().contains_key(&room);
        let result = if new && answer.fault.is_none() && hears >= shard.options.max_rooms {
            SubscribedRoom::Refused {
                room: room.clone(),
                error: too_many(shard.options.max_rooms),
            }
        } else {
            result(room.clone(), answer)
        };
        if let SubscribedRoom::Ok { epoch, head, .. } = &result {
            hears += usize::from(new);
            let head = LogPosition {
                epoch: *epoch,
                seq: *head,
            };
            let after = match from.get(&room) {
                Some((epoch, Some(seq))) => Some(LogPosition {
                    epoch: *epoch,
                    seq: *seq,
                }),
                // From now on; a room that is heard already goes on as it is.
                _ if new => Some(head),
                _ => None,
            };
            client.follow_again(&room);
            joins.extend(after.map(|after| (room, after, head)));
        }
        results.push(result);
    }
    client.write(&encoding.response(req, ServerOp::Subscribed { rooms: results }));
    if shard.is_gone(&client.connection) {
        return;
    }
    for (room, mut after, head) in joins {
        if after.epoch == head.epoch && after.seq > head.seq {
            // The log did not have it when logic looked: what follows that look, were it the user's own end, must be told.
            client.write(&encoding.items(&room, &[Item::Reset(head)], true));
            after = head;
        }
        shard.join(client, &room, after, head);
    }
    let added: Vec<RoomId> = added
        .into_iter()
        .filter(|room| !client.rooms.borrow().contains_key(room))
        .collect();
    if !added.is_empty() {
        tokio::task::spawn_local(follow(Rc::clone(shard), client.clone(), added));
    }
}

/// A goim or golang-im client enters a room, from now on, and leaves the one it was in. Returns whether it may.
pub(crate) async fn enter(shard: &Rc<Shard>, client: &Client, room: &str) -> bool {
    let Ok(room) = RoomId::new(room) else {
        return false;
    };
    let Ok(answers) = rights::ask(shard, client, vec![room.to_string()], false, Pace::Users).await
    else {
        return false;
    };
    let Some(answer) = answers
        .rooms
        .into_iter()
        .find(|answer| answer.fault.is_none())
    else {
        return false;
    };
    if shard.is_gone(&client.connection) {
        return false;
    }
    let before = client.room.borrow_mut().replace(room.clone());
    if let Some(before) = before.filter(|before| *before != room) {
        shard.leave(client, &before);
    }
    let head = LogPosition {
        epoch: answer.epoch,
        seq: answer.head,
    };
    if !client.rooms.borrow().contains_key(&room) {
        shard.join(client, &room, head, head);
    }
    true
}

fn result(room: RoomId, answer: Answer) -> SubscribedRoom {
    match answer.fault {
        Some(fault) => SubscribedRoom::Refused {
            room,
            error: translate::error(fault),
        },
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
