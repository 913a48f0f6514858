//! Whose turn it is, and who is held back.

use std::time::Duration;

use im_wire::ids::RoomId;
use tokio::time::Instant;

use super::super::{Hub, Next, Part, Turn};
use super::{hear, hub_of, typing};

#[test]
fn a_large_room_lets_others_pass() {
    let mut hub = hub_of(&[("large", 1_000), ("small", 2)]);
    for seq in 1..=2 {
        ["large", "small"]
            .into_iter()
            .for_each(|room| hear(&mut hub, room, seq));
    }
    let mut turns = Vec::new();
    let mut next = Next::Now;
    while next == Next::Now {
        let note = |room: &RoomId, part: Part<'_>| {
            (
                room.to_string(),
                part.members.len(),
                part.items.len(),
                part.last,
            )
        };
        let turn = Turn {
            members: 300,
            now: Instant::now(),
            hold: Duration::ZERO,
        };
        next = hub.deliver(turn, |room, part| turns.push(note(room, part)));
    }
    let turn = |room: &str, members, last| (room.to_owned(), members, 2, last);
    let large = |last| turn("large", if last { 102 } else { 300 }, last);
    let expected = [
        large(false),
        turn("small", 2, true),
        turn("large", 298, false),
        large(false),
        large(true),
    ];
    assert_eq!(turns, expected);
}

#[test]
fn a_busy_room_of_a_busy_shard_is_held_back_and_an_idle_one_never() {
    let mut hub = hub_of(&[("busy", 3), ("idle", 2)]);
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let deliver = |hub: &mut Hub, now| {
        let mut told = Vec::new();
        let turn = Turn {
            members: 64,
            now,
            hold: Duration::from_millis(20),
        };
        let next = hub.deliver(turn, |room, part| {
            told.push((room.to_string(), part.items.len()))
        });
        (told, next)
    };
    let told = |room: &str, items| (room.to_owned(), items);

    hear(&mut hub, "busy", 1);
    assert_eq!(
        deliver(&mut hub, at(0)),
        (vec![told("busy", 1)], Next::Arrival),
        "the first waits for nothing"
    );
    hear(&mut hub, "busy", 2);
    assert_eq!(deliver(&mut hub, at(5)), (vec![], Next::At(at(20))));
    hear(&mut hub, "busy", 3);
    hear(&mut hub, "idle", 1);
    assert_eq!(
        deliver(&mut hub, at(6)),
        (vec![told("idle", 1)], Next::At(at(20))),
        "another room passes"
    );
    assert_eq!(deliver(&mut hub, at(19)), (vec![], Next::At(at(20))));
    assert_eq!(
        deliver(&mut hub, at(20)),
        (vec![told("busy", 2)], Next::Arrival),
        "both in one batch"
    );
    assert_eq!(hub.counts.held, 1);

    hear(&mut hub, "busy", 4);
    assert_eq!(deliver(&mut hub, at(25)), (vec![], Next::At(at(40))));
    // Neither who types nor who comes and goes makes the room hurry; signals beyond their bound are dropped.
    let busy = RoomId::new("busy").unwrap();
    (0..5).for_each(|number| hub.signal(&busy, typing(number)));
    let mut effects = Vec::new();
    let head = hub.head(&busy).unwrap();
    hub.join(&busy, 70, head, head, &mut effects);
    hub.leave(&busy, 2, at(26));
    assert_eq!(
        (deliver(&mut hub, at(26)), effects),
        ((vec![], Next::At(at(40))), vec![])
    );
    assert_eq!(
        deliver(&mut hub, at(40)),
        (vec![told("busy", 4)], Next::Arrival)
    );
    assert_eq!(hub.counts.signals_dropped, 2);
    hear(&mut hub, "busy", 5);
    assert_eq!(
        deliver(&mut hub, at(60)),
        (vec![told("busy", 1)], Next::Arrival)
    );
}
