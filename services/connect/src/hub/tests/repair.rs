//! What is missing: asked for again and again, given up at last, bounded meanwhile.

use std::sync::Arc;
use std::time::Duration;

use im_wire::ids::{RoomId, Seq};
use im_wire::native::{Body, Message};
use tokio::time::Instant;

use super::super::{Answer, Asker, Effect, Failure, Hub, Item, LogPosition, Turn};
use super::{hear, hub_of, limits, message, room};

fn answer(head: Seq, entries: impl IntoIterator<Item = Seq>) -> Answer {
    let entries = entries
        .into_iter()
        .map(|seq| Arc::new(message("r", seq)))
        .collect();
    Answer {
        head: LogPosition {
            epoch: 1,
            seq: head,
        },
        entries,
        ..Answer::default()
    }
}

#[test]
fn what_continues_the_head_is_delivered_whatever_the_room_waits_for() {
    let mut hub = hub_of(&[("r", 2)]);
    let mut effects = Vec::new();
    let now = Instant::now();
    let place = |seq| LogPosition { epoch: 1, seq };
    let deliver = |hub: &mut Hub| {
        let mut told = 0;
        let turn = Turn {
            members: usize::MAX,
            now,
            hold: Duration::ZERO,
        };
        hub.deliver(turn, |_, part| {
            told += part.members.len() * part.items.len()
        });
        told
    };
    hear(&mut hub, "r", 1);
    assert_eq!(deliver(&mut hub), 2);
    // Somebody joins and sees that the log is further than the bus: the room is not held up by that.
    hub.join(&room(), 9, place(0), place(1), &mut effects);
    hub.fetched(
        &room(),
        Asker::Member(9),
        place(0),
        answer(2, 1..=2),
        now,
        &mut effects,
    );
    effects.clear();
    hear(&mut hub, "r", 2);
    assert_eq!(deliver(&mut hub), 3, "at once, to all three");
    // What was suspected has come by itself: nobody is asked.
    hub.tick(now + limits().retry, &mut effects);
    assert_eq!(effects, []);
    // The same while the log is asked; its answer is good for what it still adds.
    hub.subscribed(&room(), &mut effects);
    assert_eq!(
        effects,
        [Effect::Fetch {
            room: room(),
            asker: Asker::Room,
            after: place(2)
        }]
    );
    hear(&mut hub, "r", 3);
    assert_eq!(deliver(&mut hub), 3);
    effects.clear();
    hub.fetched(
        &room(),
        Asker::Room,
        place(2),
        answer(4, 3..=4),
        now,
        &mut effects,
    );
    assert_eq!((deliver(&mut hub), effects), (3, vec![]));
}

#[test]
fn a_room_that_the_bus_does_not_carry_yet_is_compared_like_any_other() {
    let mut hub = Hub::new(limits());
    let mut effects = Vec::new();
    let start = LogPosition { epoch: 1, seq: 0 };
    hub.join(&room(), 1, start, start, &mut effects);
    effects.clear();
    hub.compared(
        &room(),
        start,
        LogPosition { epoch: 1, seq: 1 },
        &mut effects,
    );
    assert_eq!(
        effects,
        [Effect::Fetch {
            room: room(),
            asker: Asker::Room,
            after: start
        }]
    );
    hub.fetched(
        &room(),
        Asker::Room,
        start,
        answer(1, [1]),
        Instant::now(),
        &mut effects,
    );
    assert_eq!(hub.head(&room()), Some(LogPosition { epoch: 1, seq: 1 }));
}

/// Fails whatever is asked, and says after how long it was asked again each time.
fn pauses(hub: &mut Hub, asker: Asker, failure: Failure, times: usize) -> Vec<Duration> {
    let mut now = Instant::now();
    let mut effects = Vec::new();
    let mut pauses = Vec::new();
    for _ in 0..times {
        let failed = now;
        hub.fetch_failed(&room(), asker, failure, now, &mut effects);
        while !effects
            .iter()
            .any(|effect| matches!(effect, Effect::Fetch { .. }))
        {
            if effects
                .iter()
                .any(|effect| matches!(effect, Effect::GiveUp { .. }))
                || now - failed > limits().longest
            {
                return pauses;
            }
            now += Duration::from_millis(5);
            hub.tick(now, &mut effects);
        }
        effects.clear();
        pauses.push(now - failed);
    }
    pauses
}

#[test]
fn what_is_not_answered_is_asked_again_after_growing_pauses() {
    for asker in [Asker::Room, Asker::Member(5)] {
        let mut hub = hub_of(&[("r", 1)]);
        hear(&mut hub, "r", 1);
        hub.join(
            &room(),
            5,
            LogPosition { epoch: 1, seq: 0 },
            LogPosition { epoch: 1, seq: 1 },
            &mut Vec::new(),
        );
        let pauses = pauses(&mut hub, asker, Failure::Passing, 12);
        assert_eq!(pauses.len(), 12, "for as long as nobody answers");
        // Once anything is answered again nobody waits for their pause.
        let mut effects = Vec::new();
        let now = Instant::now();
        hub.fetch_failed(&room(), asker, Failure::Passing, now, &mut effects);
        hub.tick(now, &mut effects);
        assert_eq!(effects, []);
        hub.end_pauses(now);
        hub.tick(now, &mut effects);
        assert!(matches!(effects[..], [Effect::Fetch { .. }]), "{effects:?}");
        for (tries, pause) in pauses.iter().enumerate() {
            let whole = limits().longest.min(limits().retry * (1 << tries.min(8)));
            assert!(
                (whole / 2..=whole + Duration::from_millis(5)).contains(pause),
                "{pauses:?}"
            );
        }
    }
}

#[test]
fn what_fails_for_good_is_given_up_and_said() {
    // A member that cannot be told what it has missed no longer hears the room.
    let mut hub = hub_of(&[("r", 1)]);
    hear(&mut hub, "r", 1);
    hub.join(
        &room(),
        5,
        LogPosition { epoch: 1, seq: 0 },
        LogPosition { epoch: 1, seq: 1 },
        &mut Vec::new(),
    );
    assert_eq!(
        pauses(&mut hub, Asker::Member(5), Failure::Lasting, 20).len(),
        4
    );
    assert_eq!(hub.counts.given_up, 1);

    // A room whose gap cannot be filled says so, and goes on behind it.
    let mut hub = hub_of(&[("r", 2)]);
    let mut effects = Vec::new();
    hub.logged(Arc::new(message("r", 3)), &mut effects);
    assert_eq!(pauses(&mut hub, Asker::Room, Failure::Lasting, 20).len(), 4);
    let mut told = Vec::new();
    hub.deliver(
        Turn {
            members: 64,
            now: Instant::now(),
            hold: Duration::ZERO,
        },
        |_, part| told.extend(part.items.to_vec()),
    );
    assert!(
        matches!(
            told[..],
            [Item::Truncated { from: 1, to: 2 }, Item::Message(_)]
        ),
        "{told:?}"
    );
    hear(&mut hub, "r", 4);

    // So does an answer that names more than it gives, again and again.
    let mut hub = hub_of(&[("r", 1)]);
    let mut now = Instant::now();
    let mut asked = 0;
    let start = LogPosition { epoch: 1, seq: 0 };
    hub.compared(
        &room(),
        start,
        LogPosition { epoch: 1, seq: 9 },
        &mut effects,
    );
    for _ in 0..200 {
        for effect in std::mem::take(&mut effects) {
            assert!(matches!(effect, Effect::Fetch { .. }));
            asked += 1;
            hub.fetched(
                &room(),
                Asker::Room,
                start,
                answer(9, []),
                now,
                &mut effects,
            );
        }
        now += Duration::from_millis(100);
        hub.tick(now, &mut effects);
    }
    assert_eq!((asked, hub.counts.given_up), (5, 1));
}

#[test]
fn what_waits_for_repairs_is_bounded_in_bytes_over_all_rooms() {
    let mut hub = hub_of(&[("a", 1), ("b", 1)]);
    let mut effects = Vec::new();
    let long = |room: &str, seq| {
        let body = Body::Binary(vec![0; 1_000].into());
        Arc::new(Message {
            body,
            ..message(room, seq)
        })
    };
    for seq in 2..=3 {
        ["a", "b"]
            .into_iter()
            .for_each(|room| hub.logged(long(room, seq), &mut effects));
    }
    assert_eq!((hub.pending_bytes(), hub.counts.overflows), (3 * 1_256, 1));
    // What was dropped is fetched, and what has waited leaves its place to others.
    for name in ["a", "b"] {
        let room = RoomId::new(name).unwrap();
        let start = LogPosition { epoch: 1, seq: 0 };
        let now = Instant::now();
        let missing = Answer {
            head: LogPosition { epoch: 1, seq: 3 },
            entries: vec![long(name, 1)],
            ..Answer::default()
        };
        hub.fetched(&room, Asker::Room, start, missing, now, &mut effects);
    }
    assert_eq!(hub.pending_bytes(), 0);
    assert!(
        matches!(
            effects.last(),
            Some(Effect::Fetch {
                after: LogPosition { seq: 2, .. },
                ..
            })
        ),
        "{effects:?}"
    );
}
