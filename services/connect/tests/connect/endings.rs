//! Rooms that are deleted: whoever hears one is told, whoever missed that finds it out, and a room that takes the id is
//! another one.

use std::time::Duration;

use im_connect::Options;
use im_proto::v1::call;
use im_wire::code::ErrorCode;
use im_wire::native::{ClientOp, ServerOp, SubscribedRoom};

use crate::raw::{Raw, from};
use crate::world::World;
use crate::{eventually, node, options};

const END: &str = r#"{"by":"root"}"#;

fn one_shard() -> Options {
    Options {
        shards: 1,
        ..options()
    }
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

fn ended(name: &str) -> (String, bool, String) {
    (name.to_owned(), false, "deleted".to_owned())
}

/// Rooms have asked the log what was said before the bus carried them, and have the answer. A room that asks behind its end
/// finds it by that, as whoever missed it does.
async fn have_begun(world: &World, rooms: usize, clients: &mut [Raw]) {
    eventually("the rooms ask", || {
        world.calls(|op| matches!(op, call::Op::Fetch(_))) >= rooms
    })
    .await;
    for client in clients {
        client.hears_nothing_at_all().await;
    }
}

#[tokio::test]
async fn whoever_hears_a_room_is_told_its_end_and_hears_nothing_of_the_next_one() {
    // More than are written to in one turn of a shard.
    const MEMBERS: usize = 150;
    let world = World::new();
    let node = node(&world, options());
    let names: Vec<String> = (0..MEMBERS).map(|number| format!("user{number}")).collect();
    world.group("g", &names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut all = Vec::new();
    for name in &names {
        all.push(
            Raw::session(
                node.tcp_address(),
                name,
                vec![from("g", 0, None), from("lobby", 0, None)],
            )
            .await,
        );
    }
    // On both shards.
    have_begun(&world, 4, &mut all).await;
    for name in ["g", "lobby"] {
        assert_eq!(world.say(name, "one"), 1);
        assert_eq!(world.delete(name), 2);
        for client in &mut all {
            assert_eq!(
                client.heard(2).await,
                ["#1 one".to_owned(), format!("#2 {END}")]
            );
            assert_eq!(client.until(changed).await, ended(name));
        }
        assert_eq!(world.say(name, "of another room"), 1);
    }
    for client in &mut all {
        client.hears_nothing().await;
    }
}

#[tokio::test]
async fn the_next_room_of_the_id_is_heard_from_its_beginning() {
    let world = World::new();
    let node = node(&world, one_shard());
    let mut ann = Raw::session(node.tcp_address(), "ann", vec![from("lobby", 0, None)]).await;
    have_begun(&world, 1, std::slice::from_mut(&mut ann)).await;
    for text in ["one", "two", "three"] {
        world.say("lobby", text);
    }
    assert_eq!(ann.heard(3).await.len(), 3);
    assert_eq!(world.delete("lobby"), 4);
    assert_eq!(ann.until(changed).await, ended("lobby"));
    // Before anything is said there, with all positions that a client may have kept.
    let mut early = Vec::new();
    for seq in [2, 3, 4] {
        early
            .push(Raw::session(node.tcp_address(), "bob", vec![from("lobby", 1, Some(seq))]).await);
    }
    for text in ["again one", "again two"] {
        world.say("lobby", text);
    }
    let mut late = Vec::new();
    for seq in [1, 2, 3, 4, 9] {
        late.push(Raw::session(node.tcp_address(), "bob", vec![from("lobby", 1, Some(seq))]).await);
    }
    late.push(ann);
    let back = late.last_mut().expect("ann");
    back.ask(ClientOp::Subscribe {
        rooms: vec![from("lobby", 1, Some(4))],
        all: false,
    })
    .await;
    for client in early.iter_mut().chain(&mut late) {
        assert_eq!(
            client.heard(3).await,
            ["reset 0", "#1 again one", "#2 again two"]
        );
    }
    world.say("lobby", "again three");
    for client in early.iter_mut().chain(&mut late) {
        assert_eq!(client.heard(1).await, ["#3 again three"]);
    }
}

#[tokio::test]
async fn who_missed_the_end_finds_it_by_comparing_heads() {
    let world = World::new();
    let node = node(&world, one_shard());
    world.group("g", &["ann"]);
    let mut ann = Raw::session(
        node.tcp_address(),
        "ann",
        vec![from("g", 0, None), from("lobby", 0, None)],
    )
    .await;
    have_begun(&world, 2, std::slice::from_mut(&mut ann)).await;
    for name in ["g", "lobby"] {
        world.say(name, "one");
        assert_eq!(ann.heard(1).await, ["#1 one"]);
        world.lose_publications(1);
        world.delete(name);
    }
    // Heads are compared now and then in any case: this is not to take long.
    world.disturb();
    assert_eq!(ann.heard(2).await, ["reset 0", "reset 0"]);
    // Looked at again within two seconds; of an open room the right is the token's, and stays.
    assert_eq!(ann.until(changed).await, ended("g"));
    world.say("lobby", "again");
    assert_eq!(ann.heard(1).await, ["#1 again"]);
}

#[tokio::test]
async fn an_answer_from_before_the_end_opens_nothing() {
    let world = World::new();
    let node = node(&world, one_shard());
    world.group("g", &["ann", "bob"]);
    world.say("g", "one");
    let mut bob = Raw::session(node.tcp_address(), "bob", vec![from("g", 0, None)]).await;
    have_begun(&world, 1, std::slice::from_mut(&mut bob)).await;
    let mut ann = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    world.set_judging(false);
    let questions = || world.calls(|op| matches!(op, call::Op::Subscribe(_)));
    let before = questions();
    ann.ask(ClientOp::Subscribe {
        rooms: vec![from("g", 1, Some(1))],
        all: false,
    })
    .await;
    eventually("asked", || questions() == before + 1).await;
    world.delete("g");
    assert_eq!(bob.until(changed).await, ended("g"));
    world.group("g", &["eve"]);
    world.say("g", "not for ann");
    world.set_judging(true);
    let results = ann.until(|op| match op {
        ServerOp::Subscribed { rooms } => Some(rooms.clone()),
        _ => None,
    });
    let results = results.await;
    let refused = |one: &SubscribedRoom| matches!(one, SubscribedRoom::Refused { error, .. } if error.code == ErrorCode::NotAMember);
    assert!(results.iter().all(refused), "{results:?}");
    ann.hears_nothing().await;
}

#[tokio::test]
async fn a_group_made_again_is_found_though_the_list_is_the_same() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            rooms_compare: Duration::from_secs(1),
            ..one_shard()
        },
    );
    world.group("g", &["ann"]);
    let mut ann = Raw::connect(node.tcp_address()).await;
    ann.auth("ann", Vec::new(), true).await;
    let compared = || world.calls(|op| matches!(op, call::Op::KnownRooms(_)));
    eventually("the list is known", || compared() >= 2).await;
    world.delete("g");
    world.group("g", &["ann"]);
    assert_eq!(ann.until(changed).await, ended("g"));
    assert_eq!(
        ann.until(changed).await,
        ("g".to_owned(), true, "joined".to_owned())
    );
    world.say("g", "welcome back");
    assert_eq!(ann.heard(1).await, ["#1 welcome back"]);
}
