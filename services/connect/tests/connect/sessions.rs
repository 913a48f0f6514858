//! Sessions from handshake to close: order of sends, rates, credentials, what logic's absence means, pushes and kicks.

use std::time::Duration;

use im_connect::Options;
use im_proto::v1::{KickRequest, Names, PushRequest, Signal, call, push_request};
use im_wire::code::{CloseCode, ErrorCode};
use im_wire::native::{ClientOp, ServerOp};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::raw::{Raw, from};
use crate::world::World;
use crate::{eventually, node, options};

#[tokio::test]
async fn pipelined_sends_are_stored_and_acknowledged_in_order_also_beyond_the_rate() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            requests_per_second: 200,
            max_in_flight: 16,
            ..options()
        },
    );
    let mut client = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    let begin = Instant::now();
    let mut asked = Vec::new();
    for number in 0..600 {
        asked.push(client.say("r", &number.to_string()).await);
    }
    for req in asked {
        let answer = client.next().await.expect("an answer");
        assert!(matches!(answer.op, ServerOp::Ack { .. }), "{answer:?}");
        assert_eq!(answer.req, req);
    }
    assert!(
        begin.elapsed() > Duration::from_millis(500),
        "the rate was held"
    );
    assert_eq!(
        world.stored("r"),
        (0..600)
            .map(|number| number.to_string())
            .collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn refused_credentials_are_told_and_close_the_connection() {
    let world = World::new();
    let node = node(&world, options());
    for (token, code, close) in [
        (
            "forged",
            ErrorCode::Unauthenticated,
            CloseCode::Unauthenticated,
        ),
        ("expired", ErrorCode::TokenExpired, CloseCode::TokenExpired),
    ] {
        let mut client = Raw::connect(node.tcp_address()).await;
        let token = token.to_owned();
        let device = None;
        let resume = Vec::new();
        client
            .ask(ClientOp::Auth {
                token,
                device,
                resume,
                all: false,
                agent: None,
            })
            .await;
        let refused = client.next().await.unwrap();
        assert!(matches!(refused.op, ServerOp::Error(error) if error.code == code));
        assert_eq!(client.closed().await, Some(close));
    }
}

#[tokio::test]
async fn without_logic_nobody_gets_in_and_sends_fail_fast() {
    let world = World::new();
    // One shard, which has found logic: before that newcomers wait.
    let node = node(
        &world,
        Options {
            shards: 1,
            ..options()
        },
    );
    let mut client = Raw::session(node.tcp_address(), "ann", vec![from("r", 0, Some(0))]).await;
    world.set_down(true);
    let begin = Instant::now();
    client.say("r", "lost").await;
    let error = client.until(|op| match op {
        ServerOp::Error(error) => Some(error.clone()),
        _ => None,
    });
    let error = error.await;
    assert!(error.retryable && error.code == ErrorCode::Unavailable);
    let mut stranger = Raw::connect(node.tcp_address()).await;
    let token = "cy".to_owned();
    let device = None;
    let resume = Vec::new();
    stranger
        .ask(ClientOp::Auth {
            token,
            device,
            resume,
            all: false,
            agent: None,
        })
        .await;
    assert_eq!(stranger.closed().await, Some(CloseCode::Unavailable));
    assert!(begin.elapsed() < Duration::from_secs(5));
    world.set_down(false);
    client.say("r", "found").await;
    assert_eq!(client.heard(1).await, ["#1 found"]);
}

#[tokio::test]
async fn silence_ends_connections_before_and_after_auth() {
    let world = World::new();
    let short = Duration::from_millis(300);
    let node = node(
        &world,
        Options {
            handshake_timeout: short,
            heartbeat_timeout: short,
            ..options()
        },
    );
    let mut mute = Raw::connect(node.tcp_address()).await;
    let mut half = Raw::connect(node.tcp_address()).await;
    half.stream.write_all(&[0, 0, 0]).await.unwrap();
    let mut idle = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    assert!(matches!(
        mute.closed().await,
        None | Some(CloseCode::HandshakeTimeout)
    ));
    assert!(matches!(
        half.closed().await,
        None | Some(CloseCode::HandshakeTimeout)
    ));
    assert_eq!(idle.closed().await, Some(CloseCode::HeartbeatTimeout));

    let mut alive = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    let begin = Instant::now();
    while begin.elapsed() < short * 4 {
        tokio::time::sleep(short / 4).await;
        alive.ask(ClientOp::Ping).await;
        alive
            .until(|op| matches!(op, ServerOp::Pong { .. }).then_some(()))
            .await;
    }
}

#[tokio::test]
async fn nonsense_costs_one_connection() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            max_body: 1 << 10,
            ..options()
        },
    );
    let mut neighbour = Raw::session(node.tcp_address(), "ann", vec![from("r", 0, Some(0))]).await;
    let oversize = [0, 0, 0x80, 0, 0, 16, 0, 1, 0, 0, 0, 104, 0, 0, 0, 1];
    let short = [0, 0, 0, 4, 0, 16, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1];
    let header = [0, 0, 0, 16, 0, 20, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1];
    for (nonsense, code) in [
        (oversize, CloseCode::TooLarge),
        (short, CloseCode::ProtocolError),
        (header, CloseCode::ProtocolError),
    ] {
        let mut client = Raw::session(node.tcp_address(), "cy", Vec::new()).await;
        client.stream.write_all(&nonsense).await.unwrap();
        assert_eq!(client.closed().await, Some(code));
        let mut stranger = Raw::connect(node.tcp_address()).await;
        stranger.stream.write_all(&nonsense).await.unwrap();
        stranger.closed().await;
    }
    let mut early = Raw::connect(node.tcp_address()).await;
    early.ask(ClientOp::Ping).await;
    assert_eq!(early.closed().await, Some(CloseCode::WrongState));
    let mut twice = Raw::session(node.tcp_address(), "cy", Vec::new()).await;
    let token = "cy".to_owned();
    let device = None;
    let resume = Vec::new();
    twice
        .ask(ClientOp::Auth {
            token,
            device,
            resume,
            all: false,
            agent: None,
        })
        .await;
    let refused = twice.next().await.unwrap();
    assert!(matches!(refused.op, ServerOp::Error(error) if error.code == ErrorCode::WrongState));

    world.say("r", "unharmed");
    assert_eq!(neighbour.heard(1).await, ["#1 unharmed"]);
    drop((neighbour, twice));
    eventually("everybody is gone", || node.connections() == 0).await;
    eventually("logic is told of each who was in", || {
        world.calls(|op| matches!(op, call::Op::Disconnected(_))) >= 5
    })
    .await;
}

fn signal() -> Option<Signal> {
    Some(Signal {
        r#type: "push".to_owned(),
        body: "hey".to_owned().into(),
        ..Signal::default()
    })
}

#[tokio::test]
async fn pushes_reach_whom_they_name() {
    let world = World::new();
    let node = node(&world, options());
    let mut ann = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    let mut cy = Raw::session(node.tcp_address(), "cy", Vec::new()).await;
    let users = push_request::Target::Users(Names {
        names: vec!["ann".to_owned(), "nobody".to_owned()],
    });
    let reached = node
        .push(PushRequest {
            target: Some(users),
            signal: signal(),
            speed: 0,
        })
        .await;
    assert_eq!(reached, 1);
    ann.until(|op| matches!(op, ServerOp::Signal { kind, .. } if kind == "push").then_some(()))
        .await;
    let devices = push_request::Target::Devices(Names {
        names: vec!["raw".to_owned()],
    });
    assert_eq!(
        node.push(PushRequest {
            target: Some(devices),
            signal: signal(),
            speed: 0
        })
        .await,
        2
    );
    let everyone = push_request::Target::Everyone(true);
    assert_eq!(
        node.push(PushRequest {
            target: Some(everyone),
            signal: signal(),
            speed: 0
        })
        .await,
        2
    );
    for _ in 0..2 {
        cy.until(|op| matches!(op, ServerOp::Signal { kind, .. } if kind == "push").then_some(()))
            .await;
    }
}

#[tokio::test]
async fn a_kick_ends_those_who_match_and_only_them() {
    let world = World::new();
    let node = node(&world, options());
    let mut ann = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    let mut cy = Raw::session(node.tcp_address(), "cy", Vec::new()).await;
    let kick = KickRequest {
        user: "ann".to_owned(),
        code: u32::from(CloseCode::Kicked.number()),
        text: "enough".to_owned(),
        ..KickRequest::default()
    };
    assert_eq!(node.kick(kick).await, 1);
    assert_eq!(ann.closed().await, Some(CloseCode::Kicked));
    cy.hears_nothing().await;
}

#[tokio::test]
async fn signals_reach_the_room_and_are_not_stored() {
    let world = World::new();
    let node = node(&world, options());
    let mut ann = Raw::session(node.tcp_address(), "ann", vec![from("r", 0, None)]).await;
    let mut cy = Raw::session(node.tcp_address(), "cy", vec![from("r", 0, None)]).await;
    cy.hears_nothing().await;
    let body = im_wire::native::Body::Text("…".into());
    ann.ask(ClientOp::Signal {
        room: crate::raw::room("r"),
        kind: "typing".to_owned(),
        body,
    })
    .await;
    let heard = cy.until(|op| match op {
        ServerOp::Signal { from, kind, .. } => Some((from.clone(), kind.clone())),
        _ => None,
    });
    assert_eq!(heard.await, ("ann".to_owned(), "typing".to_owned()));
    assert!(world.stored("r").is_empty());
}

#[tokio::test]
async fn who_is_not_known_to_logic_any_more_comes_again_and_loses_nothing() {
    let world = World::new();
    let node = node(&world, options());
    let mut ann = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    world.set_seal_lost(true);
    ann.say("r", "one").await;
    assert_eq!(
        ann.closed().await,
        Some(CloseCode::Unavailable),
        "so that the client authenticates again"
    );
    world.set_seal_lost(false);
    let mut ann = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    ann.say("r", "one").await;
    assert!(matches!(
        ann.next().await.expect("an answer").op,
        ServerOp::Ack { .. }
    ));
}
