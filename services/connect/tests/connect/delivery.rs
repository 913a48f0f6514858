//! Each room in order, without gap and repeat, whatever the bus and the store do.

use std::time::Duration;

use im_connect::Options;
use im_proto::v1::call;
use im_wire::code::{CloseCode, ErrorCode};
use im_wire::native::{ClientOp, ServerOp, SubscribedRoom};

use crate::raw::{Raw, from, room};
use crate::world::World;
use crate::{eventually, node, options};

fn numbered(range: std::ops::RangeInclusive<u64>) -> Vec<String> {
    range.map(|number| format!("#{number} m{number}")).collect()
}

fn say(world: &World, name: &str, range: std::ops::RangeInclusive<u64>) {
    range.for_each(|number| assert_eq!(world.say(name, &format!("m{number}")), number));
}

#[tokio::test]
async fn a_client_hears_what_it_missed_and_then_what_is_said() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            fetch_entries: 7,
            ..options()
        },
    );
    say(&world, "r", 1..=50);
    let mut resumed = Raw::session(node.tcp_address(), "ann", vec![from("r", 1, Some(20))]).await;
    let mut fresh = Raw::session(node.tcp_address(), "cy", vec![from("r", 0, None)]).await;
    let mut all = Raw::session(node.tcp_address(), "eve", vec![from("r", 0, Some(0))]).await;
    assert_eq!(resumed.heard(30).await, numbered(21..=50));
    assert_eq!(all.heard(50).await, numbered(1..=50));
    say(&world, "r", 51..=60);
    for client in [&mut resumed, &mut fresh, &mut all] {
        assert_eq!(client.heard(10).await, numbered(51..=60));
        client.hears_nothing().await;
    }
}

#[tokio::test]
async fn catching_up_while_much_is_said_leaves_no_gap() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            fetch_entries: 10,
            ..options()
        },
    );
    say(&world, "r", 1..=500);
    let speaking = world.clone();
    let speaker = tokio::spawn(async move {
        for number in 501..=1500 {
            say(&speaking, "r", number..=number);
            if number % 20 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let mut clients = Vec::new();
    for seq in [0, 100, 499, 500] {
        clients.push((
            seq,
            Raw::session(node.tcp_address(), "ann", vec![from("r", 1, Some(seq))]).await,
        ));
    }
    for (seq, client) in &mut clients {
        assert_eq!(
            client.heard(1500 - *seq as usize).await,
            numbered(*seq + 1..=1500)
        );
    }
    speaker.await.unwrap();
}

#[tokio::test]
async fn what_retention_removed_is_announced_before_what_follows() {
    let world = World::new();
    let node = node(&world, options());
    say(&world, "r", 1..=30);
    world.forget_before("r", 21);
    let mut client = Raw::session(node.tcp_address(), "ann", vec![from("r", 1, Some(5))]).await;
    assert_eq!(
        client.heard(11).await,
        [vec!["gone 6-20".to_owned()], numbered(21..=30)].concat()
    );
    let mut up_to_date = Raw::session(node.tcp_address(), "cy", vec![from("r", 1, Some(20))]).await;
    assert_eq!(up_to_date.heard(10).await, numbered(21..=30));
}

#[tokio::test]
async fn what_the_bus_loses_is_fetched_and_what_it_repeats_is_dropped() {
    let world = World::new();
    let node = node(&world, options());
    let mut client = Raw::session(node.tcp_address(), "ann", vec![from("r", 0, Some(0))]).await;
    say(&world, "r", 1..=3);
    assert_eq!(client.heard(3).await, numbered(1..=3));
    world.lose_publications(4);
    say(&world, "r", 4..=8);
    assert_eq!(client.heard(5).await, numbered(4..=8));
    world.repeat_publications();
    say(&world, "r", 9..=20);
    assert_eq!(client.heard(12).await, numbered(9..=20));
    client.hears_nothing().await;
}

#[tokio::test]
async fn a_lost_last_message_is_found_by_comparing_heads() {
    for disturbed in [true, false] {
        let world = World::new();
        let head_compare = if disturbed {
            Duration::from_secs(3600)
        } else {
            Duration::from_millis(100)
        };
        let node = node(
            &world,
            Options {
                head_compare,
                ..options()
            },
        );
        let mut client = Raw::session(node.tcp_address(), "ann", vec![from("r", 0, Some(0))]).await;
        say(&world, "r", 1..=1);
        assert_eq!(client.heard(1).await, numbered(1..=1));
        // What is asked because the bus carries the room from now on would find it.
        eventually("the room is heard", || world.is_idle()).await;
        world.lose_publications(1);
        say(&world, "r", 2..=2);
        if disturbed {
            client.hears_nothing().await;
            world.disturb();
        }
        assert_eq!(client.heard(1).await, numbered(2..=2));
    }
}

#[tokio::test]
async fn many_disturbances_at_once_make_two_comparisons() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            shards: 1,
            ..options()
        },
    );
    let mut client = Raw::session(node.tcp_address(), "ann", vec![from("r", 0, Some(0))]).await;
    let comparisons = || world.calls(|op| matches!(op, call::Op::Heads(_)));
    world.set_answering(false);
    world.disturb();
    eventually("heads are asked for", || comparisons() == 1).await;
    for _ in 0..10 {
        world.disturb();
    }
    // Behind them on the bus: once it is heard, so are they.
    say(&world, "r", 1..=1);
    assert_eq!(client.heard(1).await, numbered(1..=1));
    assert_eq!(comparisons(), 1);
    // Found by the second comparison only: the first had asked before.
    world.lose_publications(1);
    say(&world, "r", 2..=2);
    world.set_answering(true);
    assert_eq!(client.heard(1).await, numbered(2..=2));
    assert_eq!(comparisons(), 2);
}

#[tokio::test]
async fn what_a_failover_took_back_is_reset_before_what_took_its_place() {
    let world = World::new();
    let node = node(&world, options());
    let mut client = Raw::session(node.tcp_address(), "ann", vec![from("r", 0, Some(0))]).await;
    let mut short = Raw::session(node.tcp_address(), "cy", vec![from("r", 0, Some(0))]).await;
    say(&world, "r", 1..=10);
    assert_eq!(client.heard(10).await, numbered(1..=10));
    assert_eq!(short.heard(10).await, numbered(1..=10));
    drop(short);
    world.fail_over("r", 7);
    for (seq, text) in [(8, "instead"), (9, "and on")] {
        assert_eq!(world.say("r", text), seq);
    }
    assert_eq!(
        client.heard(3).await,
        ["reset 7", "#8 instead", "#9 and on"]
    );

    // The same for those who come back: beyond what stands, at it, and before it.
    let mut beyond = Raw::session(node.tcp_address(), "cy", vec![from("r", 1, Some(10))]).await;
    assert_eq!(
        beyond.heard(3).await,
        ["reset 7", "#8 instead", "#9 and on"]
    );
    let mut same_seq = Raw::session(node.tcp_address(), "cy", vec![from("r", 1, Some(9))]).await;
    assert_eq!(
        same_seq.heard(3).await,
        ["reset 7", "#8 instead", "#9 and on"]
    );
    let mut before = Raw::session(node.tcp_address(), "cy", vec![from("r", 1, Some(6))]).await;
    assert_eq!(before.heard(3).await, ["#7 m7", "#8 instead", "#9 and on"]);
}

#[tokio::test]
async fn a_failover_in_an_idle_room_is_found_by_comparing_heads() {
    let world = World::new();
    let node = node(&world, options());
    let mut client = Raw::session(node.tcp_address(), "ann", vec![from("r", 0, Some(0))]).await;
    say(&world, "r", 1..=5);
    assert_eq!(client.heard(5).await, numbered(1..=5));
    // What is asked because the bus carries the room from now on would find it.
    eventually("the room is heard", || world.is_idle()).await;
    world.fail_over("r", 3);
    client.hears_nothing().await;
    world.disturb();
    assert_eq!(client.heard(1).await, ["reset 3"]);
}

#[tokio::test]
async fn a_slow_reader_is_closed_with_a_code_that_says_resume_and_harms_nobody() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            outbox_bytes: 64 << 10,
            fetch_bytes: 32 << 10,
            ..options()
        },
    );
    let mut healthy = Raw::session(node.tcp_address(), "ann", vec![from("r", 0, Some(0))]).await;
    let mut slow = Raw::session(node.tcp_address(), "cy", vec![from("r", 0, Some(0))]).await;
    let filler = "x".repeat(8 << 10);
    let mut said = 0;
    while node.connections() == 2 && said < 20_000 {
        said += 1;
        world.say("r", &format!("{said} {filler}"));
        assert!(healthy.heard(1).await[0].starts_with(&format!("#{said} ")));
    }
    assert!(said < 20_000, "the slow one was never closed");
    let mut heard = 0;
    let code = loop {
        match slow.next().await.map(|response| response.op) {
            Some(ServerOp::Message(message)) => {
                heard += 1;
                assert_eq!(message.seq, heard, "in order and without gap up to the end");
            }
            Some(ServerOp::Close {
                code, reconnect, ..
            }) => {
                assert!(reconnect);
                break Some(code);
            }
            Some(_) => {}
            None => break None,
        }
    };
    // The close frame is the last in an outbox that is full: it is said where the socket still takes it.
    assert!(code.is_none_or(|code| code == CloseCode::SlowReader));
    let mut again = Raw::session(node.tcp_address(), "cy", vec![from("r", 1, Some(heard))]).await;
    let rest = again.heard((said - heard) as usize).await;
    assert!(rest[0].starts_with(&format!("#{} ", heard + 1)));
    assert!(rest.last().unwrap().starts_with(&format!("#{said} ")));
}

#[tokio::test]
async fn catching_up_goes_at_the_pace_of_the_reader() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            outbox_bytes: 64 << 10,
            fetch_bytes: 32 << 10,
            ..options()
        },
    );
    let filler = "x".repeat(16 << 10);
    for number in 1..=1500 {
        world.say("r", &format!("{number} {filler}"));
    }
    let mut client = Raw::session(node.tcp_address(), "ann", vec![from("r", 1, Some(0))]).await;
    // Long enough for a server that does not wait for its reader to have sent far more than it may.
    eventually("pages are held back", || world.is_idle()).await;
    assert_eq!(
        node.connections(),
        1,
        "closed although it was only slow to take the past"
    );
    assert_eq!(client.heard(1500).await.len(), 1500);
}

#[tokio::test]
async fn one_connection_hears_many_rooms_and_leaves_some() {
    let world = World::new();
    let node = node(&world, options());
    let mut client = Raw::session(node.tcp_address(), "ann", vec![from("a", 0, None)]).await;
    client
        .ask(ClientOp::Subscribe {
            rooms: vec![from("b", 0, None), from("secret", 0, None)],
            all: false,
        })
        .await;
    let results = client.until(|op| match op {
        ServerOp::Subscribed { rooms } => Some(rooms.clone()),
        _ => None,
    });
    let results = results.await;
    let refused = |result: &SubscribedRoom| matches!(result, SubscribedRoom::Refused { error, .. } if error.code == ErrorCode::NotAMember);
    assert_eq!(
        (
            results.len(),
            results.iter().filter(|result| refused(result)).count()
        ),
        (2, 1)
    );
    world.say("a", "in a");
    assert_eq!(client.heard(1).await, ["#1 in a"]);
    world.say("b", "in b");
    assert_eq!(client.heard(1).await, ["#1 in b"]);
    client
        .ask(ClientOp::Unsubscribe {
            rooms: vec![room("a")],
        })
        .await;
    client
        .until(|op| matches!(op, ServerOp::Done).then_some(()))
        .await;
    world.say("a", "unheard");
    client.hears_nothing().await;
}

#[tokio::test]
async fn membership_changes_reach_open_connections() {
    let world = World::new();
    let node = node(&world, options());
    world.join("old", "ann");
    let mut client = Raw::connect(node.tcp_address()).await;
    client.auth("ann", Vec::new(), true).await;
    world.say("old", "to members");
    assert_eq!(client.heard(1).await, ["#1 to members"]);

    world.join("new", "ann");
    let changed = im_proto::v1::RoomsChangedRequest {
        user: "ann".to_owned(),
        added: vec!["new".to_owned()],
        removed: Vec::new(),
        seq: 0,
    };
    assert_eq!(node.rooms_changed(changed).await, 1);
    let joined = client.until(|op| match op {
        ServerOp::RoomChanged {
            room,
            subscribed: true,
            ..
        } => Some(room.to_string()),
        _ => None,
    });
    assert_eq!(joined.await, "new");
    world.say("new", "welcome");
    assert_eq!(client.heard(1).await, ["#1 welcome"]);

    // The entry alone does it: the call to the node may be lost.
    world.leave("old", "ann");
    let left = client.until(|op| match op {
        ServerOp::RoomChanged {
            room,
            subscribed: false,
            ..
        } => Some(room.to_string()),
        _ => None,
    });
    assert_eq!(left.await, "old");
    world.say("old", "behind her back");
    client.hears_nothing().await;
}

#[tokio::test]
async fn a_room_nobody_is_in_is_given_up_and_heard_again() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            room_linger: Duration::from_millis(50),
            ..options()
        },
    );
    let mut client = Raw::session(node.tcp_address(), "ann", vec![from("r", 0, Some(0))]).await;
    say(&world, "r", 1..=2);
    assert_eq!(client.heard(2).await, numbered(1..=2));
    drop(client);
    eventually("unsubscribed", || !world.is_heard("r")).await;
    say(&world, "r", 3..=4);
    let mut client = Raw::session(node.tcp_address(), "ann", vec![from("r", 1, Some(2))]).await;
    assert_eq!(client.heard(2).await, numbered(3..=4));
    say(&world, "r", 5..=5);
    assert_eq!(client.heard(1).await, numbered(5..=5));
}
