//! What clients, large rooms and outages may make a node do: so much at a time, and no more the longer it lasts.

use std::time::Duration;

use im_connect::Options;
use im_proto::v1::{self as pb, call};
use im_wire::native::{Body, ClientOp, Position, ServerOp};

use crate::raw::{Raw, from, room};
use crate::world::World;
use crate::{eventually, node, options};

/// How many pages were asked for, of rooms of [`behind`].
fn pages(world: &World) -> usize {
    let is_page = |after: &pb::Position| after.room.starts_with("r-") && after.seq == 0;
    world.calls(
        |op| matches!(op, call::Op::Fetch(fetch) if fetch.after.as_ref().is_some_and(is_page)),
    )
}

/// So many rooms of so many messages each, and a client's wish to have all of them.
fn behind(world: &World, rooms: usize, messages: usize, body: usize) -> Vec<Position> {
    let filler = "x".repeat(body);
    for name in (0..rooms).map(|number| format!("r-{number}")) {
        for number in 0..messages {
            world.say(&name, &format!("{number} {filler}"));
        }
    }
    (0..rooms)
        .map(|number| from(&format!("r-{number}"), 1, Some(0)))
        .collect()
}

/// Everything of these rooms comes, each room in order.
async fn hears_all(client: &mut Raw, rooms: usize, messages: usize) {
    let mut heads = vec![0; rooms];
    for _ in 0..rooms * messages {
        let (name, seq) = client
            .until(|op| match op {
                ServerOp::Message(message) => Some((message.room.to_string(), message.seq)),
                ServerOp::Close { code, .. } => panic!("closed: {code}"),
                _ => None,
            })
            .await;
        let head = &mut heads[name.trim_start_matches("r-").parse::<usize>().unwrap()];
        *head += 1;
        assert_eq!(seq, *head, "{name}");
    }
}

#[tokio::test]
async fn a_fast_reader_that_is_far_behind_in_many_rooms_is_served_and_not_closed() {
    for (rooms, messages, body) in [(40, 100, 16 << 10), (1_000, 5, 2 << 10)] {
        let world = World::new();
        let node = node(&world, options());
        let positions = behind(&world, rooms, messages, body);
        let mut client = Raw::session(node.tcp_address(), "ann", positions).await;
        hears_all(&mut client, rooms, messages).await;
        world.say("r-7", "now");
        assert_eq!(client.heard(1).await, [format!("#{} now", messages + 1)]);
    }
}

#[tokio::test]
async fn few_pages_of_one_connection_are_under_way_and_its_neighbours_do_not_wait() {
    let world = World::new();
    let options = Options {
        shards: 1,
        catch_up_at_once: 4,
        catch_up_bytes: 10 * (256 << 10),
        ..options()
    };
    let node = node(&world, options);
    let positions = behind(&world, 300, 1, 10);
    let mut neighbour =
        Raw::session(node.tcp_address(), "bob", vec![from("beside", 0, None)]).await;
    let here = (0..300)
        .map(|number| from(&format!("r-{number}"), 0, None))
        .collect();
    let _up_to_date = Raw::session(node.tcp_address(), "eve", here).await;
    eventually("the rooms are heard", || world.is_idle()).await;
    world.set_paging(false);
    let mut greedy = Raw::session(node.tcp_address(), "ann", positions).await;
    eventually("pages are asked for", || pages(&world) == 4).await;
    // Two more of the kind: all of them together have ten.
    let mut others = Vec::new();
    for user in ["cy", "dee"] {
        // Of their own: questions that are the same share an answer.
        let positions = (0..300)
            .map(|number| from(&format!("r-{number}"), 2, Some(0)))
            .collect();
        others.push(Raw::session(node.tcp_address(), user, positions).await);
    }
    eventually("they have theirs", || pages(&world) >= 8).await;
    for number in 1..=20 {
        neighbour.say("beside", &format!("m{number}")).await;
        assert_eq!(neighbour.heard(1).await, [format!("#{number} m{number}")]);
    }
    assert!(pages(&world) <= 10, "{} under way", pages(&world));
    // A gap in the neighbour's room is asked about although no page may be.
    world.lose_publications(1);
    let repairs = || {
        world.calls(
            |op| matches!(op, call::Op::Fetch(f) if f.after.as_ref().is_some_and(|a| a.seq == 20)),
        )
    };
    world.say("beside", "lost");
    world.say("beside", "jump");
    eventually("the room is repaired", || repairs() == 1).await;
    world.set_paging(true);
    assert_eq!(neighbour.heard(2).await, ["#21 lost", "#22 jump"]);
    hears_all(&mut greedy, 300, 1).await;
    for other in &mut others {
        hears_all(other, 300, 1).await;
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_read_ends_the_subscription_and_is_not_asked_for_ever() {
    let world = World::new();
    let node = node(&world, options());
    world.say("r", "unreadable");
    world.spoil("r");
    let mut client = Raw::session(
        node.tcp_address(),
        "ann",
        vec![from("r", 1, Some(0)), from("good", 0, None)],
    )
    .await;
    let ended = client.until(|op| match op {
        ServerOp::RoomChanged {
            room,
            subscribed: false,
            reason,
        } => Some((room.to_string(), reason.clone())),
        _ => None,
    });
    assert_eq!(ended.await, ("r".to_owned(), "unreadable".to_owned()));
    world.say("good", "other rooms go on");
    assert_eq!(client.heard(1).await, ["#1 other rooms go on"]);
    let asked = world.calls(
        |op| matches!(op, call::Op::Fetch(fetch) if fetch.after.as_ref().unwrap().room == "r"),
    );
    // By the room, when the bus carried it, and by the member.
    assert!((5..=10).contains(&asked), "asked {asked} times");
    eventually("nobody asks any more", || world.is_idle()).await;
}

#[tokio::test]
async fn an_outage_of_logic_makes_no_more_work_the_longer_it_lasts() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            shards: 1,
            head_compare: Duration::from_secs(1),
            ..options()
        },
    );
    let mut client = Raw::session(node.tcp_address(), "ann", vec![from("r", 0, Some(0))]).await;
    world.say("r", "before");
    assert_eq!(client.heard(1).await, ["#1 before"]);
    world.set_down(true);
    world.lose_publications(1);
    world.say("r", "lost");
    world.say("r", "jump");
    let questions = || world.calls(|op| matches!(op, call::Op::Heads(_) | call::Op::Fetch(_)));
    let mut rates = Vec::new();
    for _ in 0..4 {
        let before = questions();
        tokio::time::sleep(Duration::from_secs(2)).await;
        rates.push(questions() - before);
    }
    assert!(
        rates[3] <= rates[0].max(4),
        "questions in each two seconds: {rates:?}"
    );
    world.set_down(false);
    assert_eq!(client.heard(2).await, ["#2 lost", "#3 jump"]);
}

#[tokio::test]
async fn a_room_first_joined_while_the_bus_is_away_is_compared_like_any_other() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            head_compare: Duration::from_secs(1),
            ..options()
        },
    );
    world.take_bus_away();
    let mut client = Raw::session(node.tcp_address(), "ann", vec![from("r", 0, None)]).await;
    for number in 1..=3 {
        world.say("r", &format!("m{number}"));
        assert_eq!(client.heard(1).await, [format!("#{number} m{number}")]);
    }
}

#[tokio::test]
async fn a_read_mark_reaches_its_users_connections_in_the_room_and_nobody_else() {
    let world = World::new();
    let node = node(&world, options());
    let positions = || vec![from("r", 0, None)];
    let mut phone = Raw::session(node.tcp_address(), "ann", positions()).await;
    let mut desk = Raw::session(node.tcp_address(), "ann", positions()).await;
    let mut elsewhere = Raw::session(node.tcp_address(), "ann", vec![from("other", 0, None)]).await;
    let mut bob = Raw::session(node.tcp_address(), "bob", positions()).await;
    eventually("the rooms are heard", || world.is_idle()).await;
    world.say("r", "hello");
    world.tell_read("r", "ann", 1);
    world.say("r", "done");
    world.say("other", "done");
    let marks_before = |op: &ServerOp, marks: &mut Vec<u64>, last: u64| match op {
        ServerOp::ReadState { read, .. } => {
            marks.push(*read);
            None
        }
        ServerOp::Message(message) => (message.seq == last).then_some(()),
        ServerOp::Signal { kind, .. } => panic!("a signal {kind}"),
        _ => None,
    };
    for (client, last, expected) in [
        (&mut bob, 2, 0),
        (&mut elsewhere, 1, 0),
        (&mut phone, 2, 1),
        (&mut desk, 2, 1),
    ] {
        let mut marks = Vec::new();
        client.until(|op| marks_before(op, &mut marks, last)).await;
        if expected > marks.len() {
            // It waits for nothing, and nothing waits for it: it may come before or after.
            client
                .until(|op| matches!(op, ServerOp::ReadState { .. }).then_some(()))
                .await;
            marks.push(1);
        }
        assert_eq!(marks, vec![1; expected]);
    }
}

#[tokio::test]
async fn signals_keep_their_place_among_messages() {
    let world = World::new();
    let node = node(&world, options());
    let mut ann = Raw::session(node.tcp_address(), "ann", vec![from("r", 0, None)]).await;
    let mut bob = Raw::session(node.tcp_address(), "bob", vec![from("r", 0, None)]).await;
    eventually("the room is heard", || world.is_idle()).await;
    for number in 1..=100_u64 {
        bob.say("r", &format!("m{number}")).await;
        let kind = "typing".to_owned();
        let body = Body::Text(number.to_string().into());
        bob.ask(ClientOp::Signal {
            room: room("r"),
            kind,
            body,
        })
        .await;
    }
    let mut last = 0;
    let mut signals = 0;
    while last < 100 || signals < 100 {
        ann.until(|op| match op {
            ServerOp::Message(message) => {
                last = message.seq;
                Some(())
            }
            ServerOp::Signal { body, .. } => {
                let number: u64 = std::str::from_utf8(body.bytes()).unwrap().parse().unwrap();
                assert!(
                    last >= number,
                    "typing {number} came before the message: {last}"
                );
                signals += 1;
                Some(())
            }
            _ => None,
        })
        .await;
    }
}

#[tokio::test]
async fn a_push_to_everybody_and_a_kick_reach_each_connection_once() {
    let world = World::new();
    let node = node(&world, options());
    let mut clients = Vec::new();
    for number in 0..150 {
        let user = format!("user-{}", number % 50);
        clients.push(Raw::session(node.tcp_address(), &user, vec![]).await);
    }
    let signal = |text: &str| pb::Signal {
        r#type: "news".to_owned(),
        body: text.to_owned().into(),
        ..Default::default()
    };
    let push = |target, text: &str| pb::PushRequest {
        signal: Some(signal(text)),
        target: Some(target),
        speed: 0,
    };
    let everyone = pb::push_request::Target::Everyone(true);
    let first = node.push(push(everyone.clone(), "one"));
    let second = node.push(push(everyone, "two"));
    assert_eq!(tokio::join!(first, second), (150, 150));
    let names = |names: &[&str]| pb::Names {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    let users = pb::push_request::Target::Users(names(&["user-3", "user-4", "nobody"]));
    assert_eq!(node.push(push(users, "three")).await, 6);
    let devices = pb::push_request::Target::Devices(names(&["raw"]));
    assert_eq!(node.push(push(devices, "four")).await, 150);
    let text = |op: &ServerOp| match op {
        ServerOp::Signal { body, .. } => Some(String::from_utf8_lossy(body.bytes()).into_owned()),
        _ => None,
    };
    for (number, client) in clients.iter_mut().enumerate() {
        let to_some = matches!(number % 50, 3 | 4).then_some("three");
        for expected in ["one", "two"].into_iter().chain(to_some).chain(["four"]) {
            assert_eq!(client.until(text).await, expected);
        }
    }
    let kick = |user: &str, device: &str| pb::KickRequest {
        user: user.to_owned(),
        device: device.to_owned(),
        ..pb::KickRequest::default()
    };
    assert_eq!(node.kick(kick("user-7", "")).await, 3);
    assert_eq!(node.kick(kick("", "other")).await, 0);
    assert_eq!(node.kick(kick("", "raw")).await, 147);
    eventually("all are gone", || node.connections() == 0).await;
}
