//! What a node says of the connections it has: ends, and rounds that put right what was lost.

use std::collections::BTreeSet;
use std::time::Duration;

use im_connect::Options;
use im_proto::v1::{
    KickRequest, Names, PushRequest, Signal, Stray, UserDevice, call, push_request,
};
use im_wire::code::CloseCode;
use im_wire::native::{ClientOp, ServerOp};

use crate::raw::Raw;
use crate::world::World;
use crate::{eventually, node, options};

fn ends(op: &call::Op) -> bool {
    matches!(op, call::Op::Disconnected(_))
}

#[tokio::test]
async fn an_end_is_told_until_it_is_answered() {
    let world = World::new();
    let node = node(&world, options());
    let client = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    world.set_down(true);
    drop(client);
    eventually("it is told again and again", || world.calls(ends) >= 3).await;
    assert!(world.ended().is_empty());
    world.set_down(false);
    eventually("it is answered", || world.ended().len() == 1).await;
    assert_eq!(world.ended()[0].0, "ann");
}

#[tokio::test]
async fn an_auth_that_was_never_answered_is_taken_back() {
    let world = World::new();
    let node = node(&world, options());
    world.set_down(true);
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
    world.set_down(false);
    eventually("it is taken back", || world.ended().len() == 1).await;
    let (grant, gone) = world.ended().remove(0);
    assert!(
        grant.is_empty() && gone.user.is_empty() && gone.place > 0 && gone.node == "connect",
        "{gone:?}"
    );
    // Who was refused was never there.
    let mut forged = Raw::connect(node.tcp_address()).await;
    let token = "forged".to_owned();
    let device = None;
    let resume = Vec::new();
    forged
        .ask(ClientOp::Auth {
            token,
            device,
            resume,
            all: false,
            agent: None,
        })
        .await;
    assert_eq!(forged.closed().await, Some(CloseCode::Unauthenticated));
    drop(Raw::session(node.tcp_address(), "ann", Vec::new()).await);
    eventually("the next end is told", || world.ended().len() >= 2).await;
    assert_eq!(
        world
            .ended()
            .iter()
            .map(|(grant, _)| grant.as_str())
            .collect::<Vec<_>>(),
        ["", "ann"]
    );
}

#[tokio::test]
async fn every_connection_is_asserted_again_and_again_and_what_is_not_here_is_ended() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            lease: Duration::from_millis(400),
            ..options()
        },
    );
    let mut clients = Vec::new();
    for number in 0..20 {
        clients.push(Raw::session(node.tcp_address(), &format!("user{number}"), Vec::new()).await);
    }
    let everybody: BTreeSet<String> = (0..20).map(|number| format!("user{number}")).collect();
    eventually("all are named", || world.asserted_since(0) == everybody).await;
    let mark = world.assertions();
    eventually("and again", || world.asserted_since(mark) == everybody).await;

    let known = world
        .held()
        .into_iter()
        .find(|held| held.user == "user7")
        .expect("it was named");
    let ghost = Stray {
        conn: "ghost".to_owned(),
        user: "eve".to_owned(),
    };
    world.set_strays(vec![
        (1, ghost),
        (
            known.place,
            Stray {
                conn: known.conn,
                user: known.user,
            },
        ),
    ]);
    eventually("the ghost is ended", || {
        world.ended().iter().any(|(_, gone)| gone.user == "eve")
    })
    .await;
    world.set_strays(Vec::new());
    assert!(
        world.ended().iter().all(|(_, gone)| gone.user != "user7"),
        "who is here stays"
    );
    drop(clients.pop());
    eventually("the one that has gone is named no more", || {
        let mark = world.assertions();
        mark > 8 && !world.asserted_since(mark - 4).contains("user19")
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
async fn who_only_calls_their_device_like_anothers_is_not_taken_for_it() {
    let world = World::new();
    let node = node(&world, options());
    let mut ann = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    // The same device name, but no token of hers says so.
    let mut mallory = Raw::session(node.tcp_address(), "mallory", Vec::new()).await;
    let push = |target| {
        node.push(PushRequest {
            target: Some(target),
            signal: signal(),
            speed: 0,
        })
    };
    let devices = push_request::Target::Devices(Names {
        names: vec!["raw".to_owned()],
    });
    assert_eq!(push(devices).await, 1);
    ann.until(|op| matches!(op, ServerOp::Signal { kind, .. } if kind == "push").then_some(()))
        .await;
    mallory.hears_nothing_at_all().await;

    let of = |user: &str, device: &str| {
        push_request::Target::UserDevice(UserDevice {
            user: user.to_owned(),
            device: device.to_owned(),
        })
    };
    for (user, device, reached) in [
        ("ann", "raw", 1),
        ("mallory", "raw", 1),
        ("ann", "other", 0),
        ("eve", "raw", 0),
    ] {
        assert_eq!(push(of(user, device)).await, reached, "{user} {device}");
    }
    mallory
        .until(|op| matches!(op, ServerOp::Signal { kind, .. } if kind == "push").then_some(()))
        .await;

    let kick = |user: &str| KickRequest {
        user: user.to_owned(),
        device: "raw".to_owned(),
        ..KickRequest::default()
    };
    assert_eq!(node.kick(kick("")).await, 1);
    assert_eq!(ann.closed().await, Some(CloseCode::Kicked));
    mallory.hears_nothing_at_all().await;
    assert_eq!(node.kick(kick("mallory")).await, 1);
    assert_eq!(mallory.closed().await, Some(CloseCode::Kicked));
}
