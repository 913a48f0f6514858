//! Who may hear a room hears it, and who may no more does not: whatever is late, lost or out of order.

use std::time::Duration;

use bytes::BytesMut;
use im_connect::{Handle, Options};
use im_proto::v1::{RoomsChangedRequest, call};
use im_wire::code::ErrorCode;
use im_wire::frame;
use im_wire::goim;
use im_wire::native::{ClientOp, ServerOp, SubscribedRoom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::raw::{Raw, SOON, from, room};
use crate::world::World;
use crate::{eventually, node, options};

fn one_shard() -> Options {
    Options {
        shards: 1,
        ..options()
    }
}

/// So many messages in `g`.
fn say(world: &World, count: u64) {
    (1..=count).for_each(|number| assert_eq!(world.say("g", &format!("m{number}")), number));
}

fn questions(world: &World) -> usize {
    world.calls(|op| matches!(op, call::Op::Subscribe(_)))
}

async fn added(node: &Handle, user: &str, name: &str, seq: u64) {
    let user = user.to_owned();
    let added = vec![name.to_owned()];
    node.rooms_changed(RoomsChangedRequest {
        user,
        added,
        removed: Vec::new(),
        seq,
    })
    .await;
}

async fn removed(node: &Handle, user: &str, name: &str, seq: u64) {
    let user = user.to_owned();
    let removed = vec![name.to_owned()];
    node.rooms_changed(RoomsChangedRequest {
        user,
        added: Vec::new(),
        removed,
        seq,
    })
    .await;
}

fn subscribed(op: &ServerOp) -> Option<Vec<SubscribedRoom>> {
    match op {
        ServerOp::Subscribed { rooms } => Some(rooms.clone()),
        _ => None,
    }
}

fn refused(result: &SubscribedRoom) -> bool {
    matches!(result, SubscribedRoom::Refused { error, .. } if error.code == ErrorCode::NotAMember)
}

/// What a room_changed says: the room, whether it is heard, why.
fn changed(op: &ServerOp) -> Option<(String, bool, String)> {
    match op {
        ServerOp::RoomChanged {
            room,
            subscribed,
            reason,
        } => Some((room.to_string(), *subscribed, reason.clone())),
        _ => None,
    }
}

/// How the end of a membership becomes known on the node while an answer from before it is under way.
#[derive(Debug, Clone, Copy)]
enum Known {
    Log,
    Notification,
    Both,
    OlderNotification,
}

#[tokio::test]
async fn a_late_answer_does_not_bring_back_who_has_left() {
    use Known::{Both, Log, Notification, OlderNotification};
    for known in [Log, Notification, Both, OlderNotification] {
        for (position, all) in [
            (None, false),
            (Some(9), false),
            (Some(10), false),
            (Some(3), true),
            (None, true),
        ] {
            let case = format!("{known:?} from {position:?}, all: {all}");
            let world = World::new();
            let node = node(&world, one_shard());
            world.group("g", &["ann", "bob"]);
            say(&world, 9);
            // Somebody else keeps the room at its head on the shard.
            let mut bob = Raw::session(node.tcp_address(), "bob", vec![from("g", 0, None)]).await;
            let mut ann =
                Raw::session(node.tcp_address(), "ann", vec![from("other", 0, None)]).await;
            world.set_judging(false);
            let before = questions(&world);
            ann.ask(ClientOp::Subscribe {
                rooms: vec![from("g", 1, position)],
                all,
            })
            .await;
            eventually("asked", || questions(&world) == before + 1).await;
            if matches!(known, Notification | OlderNotification) {
                world.lose_publications(1);
            }
            assert_eq!(world.leave("g", "ann"), 10, "{case}");
            match known {
                Log => {}
                Notification | Both => removed(&node, "ann", "g", 10).await,
                OlderNotification => removed(&node, "ann", "g", 0).await,
            }
            world.say("g", "m11");
            assert_eq!(bob.heard(2).await.len(), 2, "{case}");
            world.set_judging(true);
            let results = ann.until(subscribed).await;
            assert!(results.iter().any(refused), "{case}: {results:?}");
            world.say("g", "behind her back");
            assert_eq!(bob.heard(1).await, ["#12 behind her back"]);
            ann.hears_nothing().await;
        }
    }
}

#[tokio::test]
async fn who_catches_up_hears_of_the_own_departure_and_nothing_after_it() {
    for position in [None, Some(0), Some(9), Some(10)] {
        let world = World::new();
        let node = node(&world, one_shard());
        world.group("g", &["ann", "bob"]);
        say(&world, 9);
        let mut ann = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
        world.set_judging(false);
        let before = questions(&world);
        ann.ask(ClientOp::Subscribe {
            rooms: vec![from("g", 1, position)],
            all: false,
        })
        .await;
        eventually("asked", || questions(&world) == before + 1).await;
        // Nobody on the node hears the room: the log alone tells of it.
        world.leave("g", "ann");
        world.say("g", "behind her back");
        world.set_judging(true);
        let left = ann.until(|op| match op {
            ServerOp::Message(message) if message.seq > 10 => Some(Err(message.seq)),
            other => changed(other).map(Ok),
        });
        assert_eq!(
            left.await,
            Ok(("g".to_owned(), false, "left".to_owned())),
            "{position:?}"
        );
        world.say("g", "and later");
        ann.hears_nothing().await;
    }
}

#[tokio::test]
async fn what_comes_with_a_departure_is_not_heard_by_who_departs() {
    let world = World::new();
    let node = node(&world, one_shard());
    world.group("g", &["ann", "bob"]);
    let mut ann = Raw::session(node.tcp_address(), "ann", vec![from("g", 0, None)]).await;
    let mut bob = Raw::session(node.tcp_address(), "bob", vec![from("g", 0, None)]).await;
    world.say("g", "m1");
    assert_eq!((ann.heard(1).await.len(), bob.heard(1).await.len()), (1, 1));
    // All of it in one answer of the log.
    world.lose_publications(2);
    world.leave("g", "ann");
    world.say("g", "m3");
    world.say("g", "m4");
    assert_eq!(bob.heard(3).await[1..], ["#3 m3", "#4 m4"]);
    let heard = ann.until(|op| match op {
        ServerOp::Message(message) if message.seq > 2 => Some(Err(message.seq)),
        other => changed(other).map(Ok),
    });
    assert_eq!(heard.await, Ok(("g".to_owned(), false, "left".to_owned())));
    ann.hears_nothing().await;
}

#[tokio::test]
async fn a_foreign_client_does_not_enter_by_a_late_answer() {
    let world = World::new();
    let node = node(&world, one_shard());
    world.group("g", &["ann", "bob"]);
    let mut bob = Raw::session(node.tcp_address(), "bob", vec![from("g", 0, None)]).await;
    let mut stream = TcpStream::connect(node.tcp_address()).await.unwrap();
    let mut say = BytesMut::new();
    let auth = r#"{"token":"ann","key":"k","room_id":"","platform":"x","accepts":[]}"#;
    frame::encode(&mut say, 1, goim::AUTH, 1, auth.as_bytes());
    frame::encode(&mut say, 1, goim::CHANGE_ROOM, 2, b"g");
    world.set_judging(false);
    let before = questions(&world);
    stream.write_all(&say).await.unwrap();
    eventually("asked", || questions(&world) == before + 1).await;
    world.leave("g", "ann");
    assert_eq!(bob.heard(1).await.len(), 1);
    world.set_judging(true);
    world.say("g", "behind her back");
    assert_eq!(bob.heard(1).await.len(), 1);
    say.clear();
    frame::encode(&mut say, 1, goim::HEARTBEAT, 3, b"");
    stream.write_all(&say).await.unwrap();
    let mut buffer = BytesMut::new();
    let read = async {
        loop {
            while let Some(frame) = frame::decode(&mut buffer, 1 << 20).unwrap() {
                let text = String::from_utf8_lossy(&frame.body).into_owned();
                assert!(
                    !text.contains("behind her back"),
                    "heard after leaving: {text}"
                );
                if frame.operation == goim::HEARTBEAT_REPLY {
                    return;
                }
            }
            assert_ne!(stream.read_buf(&mut buffer).await.unwrap(), 0);
        }
    };
    tokio::time::timeout(SOON, read).await.unwrap();
}

#[tokio::test]
async fn a_narrower_token_ends_what_it_does_not_cover() {
    let world = World::new();
    let node = node(&world, one_shard());
    world.group("g", &["ann"]);
    let mut ann = Raw::session(
        node.tcp_address(),
        "ann/live",
        vec![from("live:1", 0, None), from("g", 0, None)],
    )
    .await;
    world.say("live:1", "covered");
    assert_eq!(ann.heard(1).await, ["#1 covered"]);
    // The first answer is lost: it is asked again.
    world.fail_subscriptions(1);
    ann.ask(ClientOp::Refresh {
        token: "ann".to_owned(),
    })
    .await;
    assert_eq!(
        ann.until(changed).await,
        ("live:1".to_owned(), false, "left".to_owned())
    );
    world.say("live:1", "not covered any more");
    world.say("g", "still a member");
    assert_eq!(ann.heard(1).await, ["#1 still a member"]);
    ann.hears_nothing().await;
}

#[tokio::test]
async fn an_answer_for_an_older_token_opens_nothing() {
    let world = World::new();
    let node = node(&world, one_shard());
    let mut ann = Raw::session(node.tcp_address(), "ann/live", Vec::new()).await;
    world.set_judging(false);
    let before = questions(&world);
    ann.ask(ClientOp::Subscribe {
        rooms: vec![from("live:1", 0, None)],
        all: false,
    })
    .await;
    eventually("asked", || questions(&world) == before + 1).await;
    ann.ask(ClientOp::Refresh {
        token: "ann".to_owned(),
    })
    .await;
    ann.until(|op| matches!(op, ServerOp::Refreshed { .. }).then_some(()))
        .await;
    world.set_judging(true);
    let results = ann.until(subscribed).await;
    assert!(results.iter().all(refused), "{results:?}");
    world.say("live:1", "not covered");
    ann.hears_nothing().await;
}

#[tokio::test]
async fn kicked_and_added_again_hears_the_room_in_whichever_order_it_is_told() {
    for order in 0..4 {
        let world = World::new();
        let node = node(&world, one_shard());
        world.group("g", &["ann"]);
        let mut ann = Raw::connect(node.tcp_address()).await;
        ann.auth("ann", Vec::new(), true).await;
        world.say("g", "m1");
        assert_eq!(ann.heard(1).await, ["#1 m1"]);
        // The bus is slower than the notifications: only the last entry makes the room look at the log.
        world.lose_publications(2);
        assert_eq!((world.leave("g", "ann"), world.add("g", "ann")), (2, 3));
        let end = removed(&node, "ann", "g", 2);
        let beginning = added(&node, "ann", "g", 3);
        match order {
            0 => (end.await, beginning.await),
            1 => {
                beginning.await;
                eventually("looked at again", || questions(&world) >= 2).await;
                (end.await, ())
            }
            // Told by a logic that does not say where in the log.
            2 => (
                removed(&node, "ann", "g", 0).await,
                added(&node, "ann", "g", 0).await,
            ),
            _ => (beginning.await, ()),
        };
        world.say("g", "m4");
        world.say("g", "m5");
        let last = ann.until(|op| match op {
            ServerOp::Message(message) if message.seq == 5 => Some(message.seq),
            _ => None,
        });
        assert_eq!(last.await, 5, "order {order}");
    }
}

#[tokio::test]
async fn a_room_that_comes_while_all_are_asked_for_is_followed() {
    let world = World::new();
    let node = node(&world, one_shard());
    let mut ann = Raw::connect(node.tcp_address()).await;
    world.set_judging(false);
    let token = "ann".to_owned();
    let device = Some("raw".to_owned());
    ann.ask(ClientOp::Auth {
        token,
        device,
        resume: Vec::new(),
        all: true,
        agent: None,
    })
    .await;
    eventually("asked", || questions(&world) == 1).await;
    world.group("new", &["ann"]);
    added(&node, "ann", "new", 0).await;
    world.set_judging(true);
    ann.until(subscribed).await;
    assert_eq!(
        ann.until(changed).await,
        ("new".to_owned(), true, "joined".to_owned())
    );
    world.say("new", "welcome");
    assert_eq!(ann.heard(1).await, ["#1 welcome"]);
}

#[tokio::test]
async fn a_new_room_is_found_though_nobody_tells_and_a_lost_one_is_too() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            rooms_compare: Duration::from_secs(1),
            ..one_shard()
        },
    );
    world.group("old", &["ann", "bob"]);
    let (mut ann, mut bob) = (
        Raw::connect(node.tcp_address()).await,
        Raw::connect(node.tcp_address()).await,
    );
    ann.auth("ann", Vec::new(), true).await;
    bob.auth("bob", Vec::new(), true).await;
    world.say("old", "to members");
    assert_eq!((ann.heard(1).await.len(), bob.heard(1).await.len()), (1, 1));
    world.group("new", &["ann", "bob"]);
    for client in [&mut ann, &mut bob] {
        assert_eq!(
            client.until(changed).await,
            ("new".to_owned(), true, "joined".to_owned())
        );
    }
    world.say("new", "welcome");
    assert_eq!(
        (ann.heard(1).await, bob.heard(1).await),
        (vec!["#1 welcome".to_owned()], vec!["#1 welcome".to_owned()])
    );
    // What she leaves herself she does not find herself in again.
    ann.ask(ClientOp::Unsubscribe {
        rooms: vec![room("new")],
    })
    .await;
    world.group("newer", &["ann"]);
    assert_eq!(
        ann.until(changed).await,
        ("newer".to_owned(), true, "joined".to_owned())
    );
    world.forget_member("old", "ann");
    assert_eq!(
        ann.until(changed).await,
        ("old".to_owned(), false, "left".to_owned())
    );
    world.say("old", "behind her back");
    world.say("new", "not to her");
    assert_eq!(bob.heard(2).await.len(), 2);
    ann.hears_nothing().await;
}

#[tokio::test]
async fn lists_are_compared_soon_after_a_disturbance() {
    let world = World::new();
    let node = node(&world, one_shard());
    let mut ann = Raw::connect(node.tcp_address()).await;
    ann.auth("ann", Vec::new(), true).await;
    world.group("new", &["ann"]);
    world.disturb();
    assert_eq!(
        ann.until(changed).await,
        ("new".to_owned(), true, "joined".to_owned())
    );
}

#[tokio::test]
async fn lists_are_compared_soon_after_logic_could_not_tell_of_a_change() {
    let world = World::new();
    let node = node(&world, one_shard());
    let mut ann = Raw::connect(node.tcp_address()).await;
    ann.auth("ann", Vec::new(), true).await;
    world.group("new", &["ann"]);
    node.rooms_changed(RoomsChangedRequest::default()).await;
    assert_eq!(
        ann.until(changed).await,
        ("new".to_owned(), true, "joined".to_owned())
    );
}

#[tokio::test]
async fn a_question_that_fails_is_asked_again_until_the_new_room_is_heard() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            rooms_compare: Duration::from_secs(1),
            ..one_shard()
        },
    );
    let mut ann = Raw::connect(node.tcp_address()).await;
    ann.auth("ann", Vec::new(), true).await;
    world.group("new", &["ann"]);
    // More often than it is tried at once.
    world.fail_subscriptions(6);
    added(&node, "ann", "new", 0).await;
    assert_eq!(
        ann.until(changed).await,
        ("new".to_owned(), true, "joined".to_owned())
    );
    world.say("new", "welcome");
    assert_eq!(ann.heard(1).await, ["#1 welcome"]);
}

#[tokio::test]
async fn a_room_beyond_the_bound_of_a_connection_is_named() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            max_rooms: 1,
            ..one_shard()
        },
    );
    world.group("first", &["ann"]);
    let mut ann = Raw::connect(node.tcp_address()).await;
    ann.auth("ann", Vec::new(), true).await;
    world.group("second", &["ann"]);
    added(&node, "ann", "second", 0).await;
    assert_eq!(
        ann.until(changed).await,
        ("second".to_owned(), false, "limit_reached".to_owned())
    );
}

#[tokio::test]
async fn a_membership_that_a_failover_took_back_is_looked_at_again() {
    let world = World::new();
    let node = node(&world, one_shard());
    world.group("g", &["ann", "bob"]);
    say(&world, 9);
    let mut ann = Raw::session(node.tcp_address(), "ann", vec![from("g", 1, Some(9))]).await;
    world.forget_member("g", "ann");
    world.fail_over("g", 5);
    world.say("g", "instead");
    assert_eq!(
        ann.until(changed).await,
        ("g".to_owned(), false, "left".to_owned())
    );

    // An end behind the failover is news although its seq is an old one.
    let mut bob = Raw::session(node.tcp_address(), "bob", vec![from("g", 2, Some(6))]).await;
    world.fail_over("g", 3);
    world.leave("g", "bob");
    assert_eq!(
        bob.until(changed).await,
        ("g".to_owned(), false, "left".to_owned())
    );
    world.say("g", "behind his back");
    bob.hears_nothing().await;
}
