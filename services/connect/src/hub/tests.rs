//! The hub on its own, in the order of a message's path: the whole against a model, members that come and go, whose turn it
//! is, what is missing.

mod membership;
mod model;
mod repair;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use im_wire::ids::{RoomId, Seq};
use im_wire::native::{Body, Message};
use tokio::time::Instant;

use super::{Answer, Asker, Hub, Limits, LogPosition};
use crate::translate::Signal;

fn limits() -> Limits {
    Limits {
        pending: 4,
        pending_bytes: 4_000,
        signals: 3,
        linger: Duration::from_secs(1),
        retry: Duration::from_millis(100),
        longest: Duration::from_millis(800),
        seed: 7,
    }
}

fn room() -> RoomId {
    RoomId::new("r").expect("a room id")
}

/// The message of this seq in the first epoch.
fn message(room: &str, seq: Seq) -> Message {
    let room = RoomId::new(room).unwrap();
    let kind = "text".to_owned();
    let body = Body::Text(Default::default());
    let id = seq.to_string();
    let from = "a".to_owned();
    let client_id = seq.to_string();
    Message {
        room,
        epoch: 1,
        seq,
        id,
        from,
        client_id,
        kind,
        body,
        time_ms: 0,
    }
}

/// A signal that carries a number.
fn typing(number: Seq) -> Arc<Signal> {
    let room = "r".to_owned();
    let from = "a".to_owned();
    let kind = "typing".to_owned();
    Arc::new(Signal {
        room,
        from,
        kind,
        body: Body::Text(Default::default()),
        operation: number as i32,
    })
}

/// Rooms with so many members each, heard from the beginning.
fn hub_of(rooms: &[(&str, u32)]) -> Hub {
    let mut hub = Hub::new(limits());
    let mut effects = Vec::new();
    let start = LogPosition { epoch: 1, seq: 0 };
    for (room, members) in rooms {
        let room = RoomId::new(*room).unwrap();
        (0..*members).for_each(|member| hub.join(&room, member, start, start, &mut effects));
        hub.subscribed(&room, &mut effects);
        let nothing = Answer {
            head: start,
            ..Answer::default()
        };
        hub.fetched(
            &room,
            Asker::Room,
            start,
            nothing,
            Instant::now(),
            &mut effects,
        );
    }
    hub
}

/// The bus brings a room's next message.
fn hear(hub: &mut Hub, room: &str, seq: Seq) {
    let mut effects = Vec::new();
    hub.logged(Arc::new(message(room, seq)), &mut effects);
    assert!(effects.is_empty(), "{effects:?}");
}
