//! What one user has others read goes at that user's pace, and nobody else waits for it.

use std::time::Duration;

use im_connect::Options;
use im_proto::v1::call;
use im_wire::native::{ClientOp, Position, ServerOp};
use tokio::time::{Instant, timeout};

use crate::raw::{Raw, from, room};
use crate::world::World;
use crate::{eventually, node, options};

/// A room with so many messages of 10 kB.
fn full(world: &World, name: &str, messages: usize) {
    for number in 0..messages {
        world.say(name, &format!("{number:064}{}", "x".repeat(10_000)));
    }
}

fn page(name: &str) -> ClientOp {
    ClientOp::History {
        room: room(name),
        after: None,
        before: None,
        limit: 1_000,
    }
}

async fn paged(client: &mut Raw) {
    client
        .until(|op| matches!(op, ServerOp::History { .. }).then_some(()))
        .await;
}

#[tokio::test]
async fn pages_of_history_go_at_their_users_pace_and_others_do_not_wait() {
    let world = World::new();
    full(&world, "team", 20);
    let node = node(
        &world,
        Options {
            user_read_bytes_per_second: 400_000,
            shards: 1,
            ..options()
        },
    );
    let mut ann = [
        Raw::session(node.tcp_address(), "ann", Vec::new()).await,
        Raw::session(node.tcp_address(), "ann", Vec::new()).await,
    ];
    let mut bob = Raw::session(node.tcp_address(), "bob", Vec::new()).await;
    let begun = Instant::now();
    for client in &mut ann {
        for _ in 0..5 {
            client.ask(page("team")).await;
        }
    }
    bob.ask(page("team")).await;
    timeout(Duration::from_secs(1), paged(&mut bob))
        .await
        .expect("bob has read nothing yet");
    for client in &mut ann {
        for _ in 0..5 {
            paged(client).await;
        }
    }
    // 2 MB at 400 kB/s and 400 kB at once; the last two of 200 kB each may begin together.
    assert!(
        begun.elapsed() > Duration::from_millis(2_000),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_user_has_a_few_pages_of_history_read_at_once_over_all_connections() {
    let world = World::new();
    full(&world, "team", 1);
    let node = node(
        &world,
        Options {
            shards: 1,
            ..options()
        },
    );
    world.set_paging(false);
    let mut ann = Vec::new();
    for _ in 0..3 {
        let mut client = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
        for _ in 0..4 {
            client.ask(page("team")).await;
        }
        ann.push(client);
    }
    let mut bob = Raw::session(node.tcp_address(), "bob", Vec::new()).await;
    bob.ask(page("team")).await;
    let pages = || world.calls(|op| matches!(op, call::Op::History(_)));
    eventually("two of ann's and one of bob's are read", || pages() == 3).await;
    bob.ask(ClientOp::Ping).await;
    bob.until(|op| matches!(op, ServerOp::Pong { .. }).then_some(()))
        .await;
    assert_eq!(pages(), 3, "the others wait");
    world.set_paging(true);
    for client in &mut ann {
        for _ in 0..4 {
            paged(client).await;
        }
    }
    assert_eq!(pages(), 13);
}

#[tokio::test]
async fn who_catches_up_with_much_gets_it_at_the_users_pace() {
    let world = World::new();
    full(&world, "live", 200);
    let node = node(
        &world,
        Options {
            user_read_bytes_per_second: 800_000,
            shards: 1,
            ..options()
        },
    );
    let begun = Instant::now();
    let resume = |name: &str| vec![from(name, 0, Some(0))];
    let mut ann = Raw::session(node.tcp_address(), "ann/live", resume("live")).await;
    assert_eq!(ann.heard(200).await.len(), 200);
    let mut again = Raw::session(node.tcp_address(), "ann/live", resume("live")).await;
    assert_eq!(again.heard(200).await.len(), 200);
    assert!(
        begun.elapsed() > Duration::from_millis(2_000),
        "4 MB at 800 kB/s, which are there at once: {:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn rooms_are_looked_up_in_pieces_at_their_users_pace() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            user_rooms_per_second: 500,
            shards: 1,
            ..options()
        },
    );
    let mut ann = Raw::session(node.tcp_address(), "ann/live", Vec::new()).await;
    let rooms: Vec<Position> = (0..750)
        .map(|number| from(&format!("live{number}"), 0, None))
        .collect();
    let begun = Instant::now();
    ann.ask(ClientOp::Subscribe { rooms, all: false }).await;
    let answered = ann.until(|op| match op {
        ServerOp::Subscribed { rooms } => Some(rooms.len()),
        _ => None,
    });
    assert_eq!(answered.await, 750, "one answer all the same");
    assert!(
        begun.elapsed() > Duration::from_millis(900),
        "at 500/s and 125 at once: {:?}",
        begun.elapsed()
    );
    let pieces = world.calls(|op| matches!(op, call::Op::Subscribe(ask) if ask.rooms.len() > 100));
    assert_eq!(pieces, 0, "no more than a hundred in one question");
}
