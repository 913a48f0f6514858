//! Rooms that a user becomes a member of, for connections that follow all of them.

use std::rc::Rc;

use im_proto::v1::SubscribedRoom as Answer;
use im_wire::ids::RoomId;
use im_wire::native::ServerOp;

use super::Shard;
use super::rights::{self, Pace, Pauses};
use crate::connection::Client;
use crate::hub::LogPosition;

/// The user has become a member of rooms, and the connection follows all of them: heard from their beginning of
/// membership on. Where logic does not answer, it is asked again a few times; after that the comparison of the user's list
/// finds the rooms.
pub(crate) async fn follow(shard: Rc<Shard>, client: Client, rooms: Vec<RoomId>) {
    const TRIES: usize = 4;
    let mut pauses = Pauses::new();
    for rooms in rooms.chunks(rights::MAX_ROOMS) {
        for attempt in 1.. {
            match rights::ask(
                &shard,
                &client,
                rooms.iter().map(RoomId::to_string).collect(),
                false,
                Pace::Users,
            )
            .await
            {
                Ok(answers) => {
                    answers
                        .rooms
                        .into_iter()
                        .for_each(|answer| follow_one(&shard, &client, answer));
                    break;
                }
                Err(_) if attempt < TRIES => tokio::time::sleep(pauses.next()).await,
                Err(_) => {
                    client.list_digest.set(0);
                    return;
                }
            }
        }
    }
}

fn follow_one(shard: &Rc<Shard>, client: &Client, answer: Answer) {
    let Ok(room) = RoomId::new(&answer.room) else {
        return;
    };
    if answer.fault.is_some() || shard.is_gone(&client.connection) {
        if answer.fault.is_some_and(|fault| fault.retryable) {
            client.list_digest.set(0);
        }
        return;
    }
    if client.rooms.borrow().contains_key(&room) {
        return client.checked(&room, answer.head);
    }
    let full = client.rooms.borrow().len() >= shard.options.max_rooms;
    if !client.follows_all.get() {
        return client.write(
            &client
                .encoding
                .get()
                .response(0, joined(room, false, "joined")),
        );
    }
    let reason = if full { "limit_reached" } else { "joined" };
    client.write(
        &client
            .encoding
            .get()
            .response(0, joined(room.clone(), !full, reason)),
    );
    if full {
        return;
    }
    let head = LogPosition {
        epoch: answer.epoch,
        seq: answer.head,
    };
    // A direct room comes into being with its first message, which the user has not had; a group begins at joining.
    let after = LogPosition {
        epoch: answer.epoch,
        seq: answer.joined.min(answer.head),
    };
    client.follow_again(&room);
    shard.join(client, &room, after, head);
}

fn joined(room: RoomId, subscribed: bool, reason: &str) -> ServerOp {
    ServerOp::RoomChanged {
        room,
        subscribed,
        reason: reason.to_owned(),
    }
}
