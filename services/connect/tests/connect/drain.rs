//! A node that leaves: clients are told to move, served until they have, and closed at the deadline.

use std::time::Duration;

use im_client::{Backoff, Client, Event, Options as ClientOptions};
use im_wire::code::CloseCode;
use im_wire::native::{ClientOp, ServerOp};
use tokio::time::{Instant, timeout};

use crate::raw::{Raw, SOON, from};
use crate::world::World;
use crate::{eventually, node, options};

#[tokio::test]
async fn clients_are_told_to_move_and_served_until_they_have_gone() {
    let world = World::new();
    let node = node(&world, options());
    let mut client = Raw::session(node.tcp_address(), "ann", vec![from("r", 0, Some(0))]).await;
    world.set_answering(false);
    let req = client.say("r", "in flight").await;
    assert_eq!(client.heard(1).await, ["#1 in flight"]);
    let draining = tokio::spawn({
        let node = node.clone();
        async move {
            node.drain(Duration::from_secs(30), vec!["elsewhere:3101".to_owned()])
                .await
        }
    });
    let to = client.until(|op| match op {
        ServerOp::Move {
            to, deadline_ms, ..
        } => {
            assert!(*deadline_ms > 0 && *deadline_ms <= 30_000);
            Some(to.clone())
        }
        _ => None,
    });
    assert_eq!(to.await, ["elsewhere:3101"]);
    world.say("r", "still delivered");
    assert_eq!(client.heard(1).await, ["#2 still delivered"]);
    world.set_answering(true);
    loop {
        let response = client.next().await.expect("an answer");
        if matches!(response.op, ServerOp::Ack { .. }) {
            assert_eq!(response.req, req);
            break;
        }
    }
    client.say("r", "and taken").await;
    client
        .until(|op| matches!(op, ServerOp::Ack { .. }).then_some(()))
        .await;
    drop(client);
    let drained = timeout(SOON, draining).await.unwrap().unwrap();
    assert_eq!((drained.initial, drained.forced), (1, 0));
    assert_eq!(
        world.stored("r"),
        ["in flight", "still delivered", "and taken"]
    );
}

#[tokio::test]
async fn who_does_not_move_is_closed_at_the_deadline_with_a_code_that_says_resume() {
    let world = World::new();
    let node = node(&world, options());
    let mut client = Raw::session(node.tcp_address(), "ann", vec![from("r", 0, None)]).await;
    let begin = Instant::now();
    let draining = tokio::spawn({
        let node = node.clone();
        async move { node.drain(Duration::from_millis(700), Vec::new()).await }
    });
    let code = client.closed().await.expect("a close frame");
    assert!(
        matches!(code, CloseCode::GoingAway | CloseCode::Moved) && code.reconnect(),
        "{code}"
    );
    assert!(
        begin.elapsed() >= Duration::from_millis(600),
        "not before the deadline"
    );
    let drained = timeout(SOON, draining).await.unwrap().unwrap();
    assert_eq!((drained.initial, drained.forced), (1, 1));
}

#[tokio::test]
async fn who_comes_while_the_node_leaves_is_told_to_move_and_later_turned_away() {
    let world = World::new();
    let node = node(
        &world,
        crate::Options {
            drain_accept: Duration::from_millis(500),
            ..options()
        },
    );
    let stays = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    let draining = tokio::spawn({
        let node = node.clone();
        async move {
            node.drain(Duration::from_secs(5), vec!["elsewhere:3101".to_owned()])
                .await
        }
    });
    eventually("draining", || node.draining().is_some()).await;
    let mut late = Raw::session(node.tcp_address(), "cy", Vec::new()).await;
    late.until(|op| matches!(op, ServerOp::Move { .. }).then_some(()))
        .await;
    late.ask(ClientOp::Ping).await;
    late.until(|op| matches!(op, ServerOp::Pong { .. }).then_some(()))
        .await;
    drop(late);
    let turned_away = async {
        while tokio::net::TcpStream::connect(node.tcp_address())
            .await
            .is_ok()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, turned_away)
        .await
        .expect("the port is closed in the end");
    drop(stays);
    timeout(SOON, draining).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_crowd_moves_to_another_node_without_missing_a_message() {
    const CLIENTS: usize = 60;
    let world = World::new();
    let (old, new) = (node(&world, options()), node(&world, options()));
    let client_options = ClientOptions {
        reconnect: Backoff {
            base: Duration::from_millis(10),
            max: Duration::from_millis(200),
        },
        ..ClientOptions::default()
    };
    let mut listeners = Vec::new();
    for number in 0..CLIENTS {
        let name = format!("r{}", number % 3);
        let address = if number % 2 == 0 {
            format!("tcp://{}", old.tcp_address())
        } else {
            format!("ws://{}/ws", old.ws_address())
        };
        let builder = Client::builder()
            .address(address)
            .token("ann".to_owned())
            .device(format!("d{number}"));
        let builder = builder
            .subscribe([from(&name, 0, Some(0))])
            .options(client_options.clone());
        let (client, mut events) = builder.build().unwrap();
        client.connected().await.unwrap();
        listeners.push(tokio::spawn(async move {
            let mut last = 0;
            while last < 400 {
                match events.next().await.expect("the client goes on") {
                    Event::Message(message) => {
                        assert_eq!(message.seq, last + 1);
                        last = message.seq;
                    }
                    Event::Disconnected { reason, .. } => {
                        panic!("client {number} was cut off: {reason}")
                    }
                    _ => {}
                }
            }
            client.stats()
        }));
    }
    assert_eq!(old.connections(), CLIENTS);
    let speaking = world.clone();
    let speaker = tokio::spawn(async move {
        for _ in 0..400 {
            ["r0", "r1", "r2"].iter().for_each(|room| {
                speaking.say_next(room);
            });
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    // A hint without scheme keeps the transport; the two ports differ, so each transport gets its own.
    let to = vec![
        format!("tcp://{}", new.tcp_address()),
        format!("ws://{}/ws", new.ws_address()),
    ];
    let drained = timeout(SOON, old.drain(Duration::from_secs(8), to))
        .await
        .unwrap();
    assert_eq!((drained.initial, drained.forced), (CLIENTS, 0));
    speaker.await.unwrap();
    for listener in listeners {
        let stats = timeout(SOON, listener).await.unwrap().unwrap();
        assert_eq!((stats.moves, stats.outages.len(), stats.gaps), (1, 0, 0));
    }
}

#[tokio::test]
async fn the_page_of_a_drain_says_who_is_left_and_until_when() {
    let world = World::new();
    let node = node(&world, options());
    let client = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    eventually("counted", || node.connections() == 1).await;
    let serving = im_connect::drain::page(&node);
    assert_eq!(
        serving,
        serde_json::json!({"version": 1, "phase": "serving", "connections": 1})
    );
    let draining = tokio::spawn({
        let node = node.clone();
        async move { node.drain(Duration::from_secs(30), Vec::new()).await }
    });
    eventually("draining", || node.draining().is_some()).await;
    let page = im_connect::drain::page(&node);
    assert_eq!(
        (&page["version"], &page["phase"]),
        (&1.into(), &"draining".into())
    );
    assert_eq!(
        (&page["connections"], &page["initial"], &page["current"]),
        (&1.into(), &1.into(), &1.into())
    );
    assert!(page["rate"].as_f64().unwrap() > 0.0);
    let time = |key: &str| page[key].as_u64().unwrap();
    assert!(
        (29_000..=30_000).contains(&(time("deadline_ms") - time("since_ms"))),
        "{page}"
    );
    drop(client);
    timeout(SOON, draining).await.unwrap().unwrap();
}
