//! Who comes and goes.

use std::collections::HashMap;
use std::time::Duration;

use im_wire::ids::{RoomId, Seq};
use tokio::time::Instant;

use super::super::{Hub, Item, LogPosition, Member, Next, Turn};
use super::{hear, hub_of, limits};

#[test]
fn rooms_that_everybody_has_left_cost_nothing() {
    let mut hub = Hub::new(limits());
    let mut effects = Vec::new();
    let now = Instant::now();
    let rooms: Vec<RoomId> = (0..100_000)
        .map(|number| RoomId::new(format!("r-{number}")).unwrap())
        .collect();
    let start = LogPosition { epoch: 1, seq: 0 };
    for room in &rooms {
        hub.join(room, 1, start, start, &mut effects);
        hub.leave(room, 1, now);
    }
    hub.join(&rooms[7], 2, start, start, &mut effects);
    assert_eq!(hub.len(), rooms.len());
    effects.clear();
    hub.tick(now + Duration::from_secs(2), &mut effects);
    assert_eq!(effects.len(), rooms.len() - 1, "all but one are forgotten");
    assert_eq!(hub.len(), 1);
    assert!(
        hub.rooms.capacity() < 2_000,
        "room for {}",
        hub.rooms.capacity()
    );
}

#[test]
fn who_comes_and_goes_while_a_large_room_is_delivered_changes_nothing_for_the_others() {
    let mut hub = hub_of(&[("large", 500)]);
    let large = RoomId::new("large").unwrap();
    let mut heard: HashMap<Member, Vec<Seq>> = HashMap::new();
    let deliver = |hub: &mut Hub, heard: &mut HashMap<Member, Vec<Seq>>| {
        hub.deliver(
            Turn {
                members: 64,
                now: Instant::now(),
                hold: Duration::ZERO,
            },
            |_, part| {
                let seqs = part.items.iter().map(|item| match item {
                    Item::Message(message) => message.seq,
                    other => panic!("{other:?}"),
                });
                let seqs: Vec<Seq> = seqs.collect();
                part.members
                    .iter()
                    .for_each(|member| heard.entry(*member).or_default().extend(&seqs));
            },
        )
    };
    let mut effects = Vec::new();
    let now = Instant::now();
    hear(&mut hub, "large", 1);
    for round in 0..4_u32 {
        deliver(&mut hub, &mut heard);
        // Of those who were handed it, of those who are still owed it, and of those who joined since.
        for member in [round, 499 - round, 60 + round * 30, 1_000 + round] {
            hub.leave(&large, member, now);
            heard.remove(&member);
        }
        let head = hub.head(&large).unwrap();
        hub.join(&large, 1_001 + round, head, head, &mut effects);
        hear(&mut hub, "large", head.seq + 1);
        hub.join(
            &large,
            2_001 + round,
            LogPosition {
                epoch: 1,
                seq: head.seq + 1,
            },
            head,
            &mut effects,
        );
    }
    while deliver(&mut hub, &mut heard) == Next::Now {}
    assert!(effects.is_empty(), "{effects:?}");
    let head = hub.head(&large).unwrap().seq;
    for member in 0..500 {
        let gone = (0..4).any(|round| [round, 499 - round, 60 + round * 30].contains(&member));
        let expected = (!gone).then(|| (1..=head).collect::<Vec<Seq>>());
        assert_eq!(heard.get(&member).cloned(), expected, "member {member}");
    }
    assert_eq!(
        heard[&1_004],
        [5],
        "who came while something waited hears what came after"
    );
    assert_eq!(
        (heard.get(&2_001).cloned(), heard.get(&2_004).cloned()),
        (Some(vec![3, 4, 5]), None)
    );
}
