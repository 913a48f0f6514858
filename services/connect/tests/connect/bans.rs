//! Bans and revocations: open connections end on every node, nobody slips in, and the list outlives logic's absence.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use im_proto::v1::{Ban, KickRequest, call};
use im_wire::code::CloseCode;
use im_wire::native::{ClientOp, ServerOp};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::raw::Raw;
use crate::world::{ISSUED, World};
use crate::{eventually, node, options};

fn user(user: &str) -> Ban {
    Ban {
        user: user.to_owned(),
        ..Ban::default()
    }
}

fn device(user: &str, device: &str) -> Ban {
    Ban {
        user: user.to_owned(),
        device: device.to_owned(),
        ..Ban::default()
    }
}

fn address(address: &str) -> Ban {
    Ban {
        address: address.to_owned(),
        ..Ban::default()
    }
}

fn revoked(user: &str, issued_before_ms: u64) -> Ban {
    Ban {
        user: user.to_owned(),
        issued_before_ms,
        ..Ban::default()
    }
}

async fn lives(client: &mut Raw) {
    client.ask(ClientOp::Ping).await;
    client
        .until(|op| matches!(op, ServerOp::Pong { .. }).then_some(()))
        .await;
}

/// Tries to get in until it is refused; the close code.
async fn refused(address: std::net::SocketAddr, user: &str) -> Option<CloseCode> {
    let began = Instant::now();
    loop {
        let mut client = Raw::connect(address).await;
        let token = user.to_owned();
        let device = Some("raw".to_owned());
        client
            .ask(ClientOp::Auth {
                token,
                device,
                resume: Vec::new(),
                all: false,
                agent: None,
            })
            .await;
        match client.next().await.map(|response| response.op) {
            Some(ServerOp::AuthOk { .. }) => {
                assert!(began.elapsed() < Duration::from_secs(5), "still let in")
            }
            Some(ServerOp::Close { code, .. }) => return Some(code),
            Some(other) => panic!("{other:?}"),
            None => return None,
        }
    }
}

#[tokio::test]
async fn open_connections_end_within_a_second_on_every_node_and_only_those_that_are_meant() {
    let world = World::new();
    let nodes = [node(&world, options()), node(&world, options())];
    for (ban, meant, others, code) in [
        (
            user("ann"),
            vec!["ann"],
            vec!["bob", "anna"],
            CloseCode::Banned,
        ),
        (
            device("bob", "raw"),
            vec!["bob"],
            vec!["cat"],
            CloseCode::Banned,
        ),
        (
            device("dan", "other"),
            vec![],
            vec!["dan"],
            CloseCode::Banned,
        ),
        // Only of tokens that carry it: what a client calls itself is nobody's fault.
        (
            device("", "raw"),
            vec!["signed-eve"],
            vec!["eve"],
            CloseCode::Banned,
        ),
        (
            revoked("fay", ISSUED + 1),
            vec!["fay"],
            vec!["gus"],
            CloseCode::Unauthenticated,
        ),
        (
            revoked("hal", ISSUED),
            vec![],
            vec!["hal"],
            CloseCode::Unauthenticated,
        ),
    ] {
        let (mut ended, mut stayed) = (Vec::new(), Vec::new());
        for node in &nodes {
            for name in &meant {
                ended.push(Raw::session(node.tcp_address(), name, Vec::new()).await);
            }
            for name in &others {
                stayed.push(Raw::session(node.tcp_address(), name, Vec::new()).await);
            }
        }
        let began = Instant::now();
        let id = world.ban(ban);
        for client in &mut ended {
            assert_eq!(client.closed().await, Some(code), "{id}");
        }
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{id}: {:?}",
            began.elapsed()
        );
        for client in &mut stayed {
            lives(client).await;
        }
        for name in &meant {
            assert_eq!(
                refused(nodes[1].tcp_address(), name).await,
                Some(code),
                "{id}"
            );
        }
        world.lift(&id);
        // Both have to know before others come who have to do with it.
        for (name, node) in meant
            .iter()
            .flat_map(|name| nodes.iter().map(move |node| (name, node)))
        {
            eventually_in(node.tcp_address(), name).await;
        }
    }
}

/// Gets in, sooner or later.
async fn eventually_in(address: std::net::SocketAddr, user: &str) {
    let began = Instant::now();
    loop {
        let mut client = Raw::connect(address).await;
        let token = user.to_owned();
        let device = Some("raw".to_owned());
        client
            .ask(ClientOp::Auth {
                token,
                device,
                resume: Vec::new(),
                all: false,
                agent: None,
            })
            .await;
        if let Some(ServerOp::AuthOk { .. }) = client.next().await.map(|response| response.op) {
            return;
        }
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{user} is still refused"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_banned_address_is_cut_off_and_refused_at_the_door_until_the_ban_is_over() {
    let world = World::new();
    let node = node(&world, options());
    let mut client = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    let mut nobody = Raw::connect(node.tcp_address()).await;
    world.ban(address("198.51.100.0/24"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let until = now + Duration::from_millis(2_500);
    let began = Instant::now();
    world.ban(Ban {
        until_ms: u64::try_from(until.as_millis()).unwrap(),
        ..address("127.0.0.0/8")
    });
    assert_eq!(client.closed().await, Some(CloseCode::Banned));
    assert_eq!(
        nobody.closed().await,
        Some(CloseCode::Banned),
        "also one that has said nothing yet"
    );
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        refused(node.tcp_address(), "bob").await,
        None,
        "closed without a word"
    );
    // Nobody lifts it.
    eventually_in(node.tcp_address(), "bob").await;
    assert!(SystemTime::now().duration_since(UNIX_EPOCH).unwrap() >= until);
}

#[tokio::test]
async fn who_is_banned_or_kicked_while_being_authenticated_does_not_slip_in() {
    let world = World::new();
    let node = node(&world, options());
    let begin = async |user: &str| {
        let mut client = Raw::connect(node.tcp_address()).await;
        let before = world.calls(|op| matches!(op, call::Op::Authenticate(_)));
        let token = user.to_owned();
        let device = Some("raw".to_owned());
        client
            .ask(ClientOp::Auth {
                token,
                device,
                resume: Vec::new(),
                all: false,
                agent: None,
            })
            .await;
        let asked = || world.calls(|op| matches!(op, call::Op::Authenticate(_))) > before;
        eventually("logic has been asked, and has said yes", asked).await;
        client
    };
    world.set_identifying(false);
    let mut ann = begin("ann").await;
    let mut bob = begin("bob").await;
    let mut cat = begin("cat").await;
    world.ban(user("ann"));
    // Banned before the node knows who it is, and with nobody of that name to be found in the sweep.
    let heard = || world.calls(|op| matches!(op, call::Op::Bans(ask) if ask.since > 0)) > 0;
    eventually("the node has the list", heard).await;
    assert_eq!(
        node.kick(KickRequest {
            user: "bob".to_owned(),
            code: 4006,
            ..KickRequest::default()
        })
        .await,
        0
    );
    world.set_identifying(true);
    assert_eq!(ann.closed().await, Some(CloseCode::Banned));
    assert_eq!(bob.closed().await, Some(CloseCode::Kicked));
    assert!(matches!(
        cat.next().await.unwrap().op,
        ServerOp::AuthOk { .. }
    ));
    // A kick is about those that are there or just coming, not about those that come again.
    eventually_in(node.tcp_address(), "bob").await;
}

#[tokio::test]
async fn a_newer_token_keeps_a_connection_open_through_a_revocation() {
    let world = World::new();
    let node = node(&world, options());
    let mut careful = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    let mut forgetful = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    careful
        .ask(ClientOp::Refresh {
            token: "newer".to_owned(),
        })
        .await;
    careful
        .until(|op| matches!(op, ServerOp::Refreshed { .. }).then_some(()))
        .await;
    world.ban(revoked("ann", ISSUED + 1));
    assert_eq!(forgetful.closed().await, Some(CloseCode::Unauthenticated));
    lives(&mut careful).await;
    world.ban(revoked("ann", ISSUED + 3));
    assert_eq!(careful.closed().await, Some(CloseCode::Unauthenticated));
}

#[tokio::test]
async fn while_logic_is_away_the_list_that_is_known_stays_in_force() {
    let world = World::new();
    let node = node(&world, options());
    let mut other = Raw::session(node.tcp_address(), "bob", Vec::new()).await;
    world.ban(address("127.0.0.2/32"));
    world.ban(user("ann"));
    assert_eq!(
        refused(node.tcp_address(), "ann").await,
        Some(CloseCode::Banned)
    );
    world.set_down(true);
    let asked = world.calls(|op| matches!(op, call::Op::Bans(_)));
    eventually("it has been asked for in vain", || {
        world.calls(|op| matches!(op, call::Op::Bans(_))) > asked + 3
    })
    .await;
    lives(&mut other).await;
    let from = std::net::SocketAddr::from(([127, 0, 0, 2], 0));
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(from).unwrap();
    let mut stream = socket.connect(node.tcp_address()).await.unwrap();
    let read = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 16]).await;
    assert!(
        matches!(read, Ok(0) | Err(_)),
        "refused at the door: {read:?}"
    );
}

#[tokio::test]
async fn a_ban_of_an_address_is_about_whom_a_proxy_speaks_for_and_not_about_the_proxy() {
    let world = World::new();
    let believed = vec!["127.0.0.0/8".parse().unwrap()];
    let node = node(
        &world,
        im_connect::Options {
            proxy_protocol_from: believed,
            ..options()
        },
    );
    let through = async |client: &str| {
        let mut raw = Raw::connect(node.tcp_address()).await;
        let header = format!("PROXY TCP4 {client} 198.51.100.1 4711 3101\r\n");
        raw.stream.write_all(header.as_bytes()).await.unwrap();
        raw
    };
    let mut ann = through("192.0.2.1").await;
    let mut bob = through("192.0.2.2").await;
    ann.auth("ann", Vec::new(), false).await;
    bob.auth("bob", Vec::new(), false).await;
    world.ban(address("127.0.0.1/32"));
    let id = world.ban(address("192.0.2.1/32"));
    assert_eq!(ann.closed().await, Some(CloseCode::Banned));
    lives(&mut bob).await;
    assert_eq!(
        through("192.0.2.1").await.closed().await,
        Some(CloseCode::Banned),
        "before it says anything"
    );
    through("192.0.2.3")
        .await
        .auth("cat", Vec::new(), false)
        .await;
    world.lift(&id);
    let lifted = async {
        loop {
            let mut raw = through("192.0.2.1").await;
            let token = "ann".to_owned();
            let device = None;
            raw.ask(ClientOp::Auth {
                token,
                device,
                resume: Vec::new(),
                all: false,
                agent: None,
            })
            .await;
            if matches!(
                raw.next().await.map(|response| response.op),
                Some(ServerOp::AuthOk { .. })
            ) {
                return;
            }
        }
    };
    tokio::time::timeout(crate::raw::SOON, lifted)
        .await
        .expect("let in again");
}

#[tokio::test]
async fn whom_a_process_with_an_older_list_refuses_is_told_to_try_again() {
    let world = World::new();
    let node = node(&world, options());
    world.group("g", &["ann"]);
    world.refuse_as_banned(2);
    let mut ann = Raw::connect(node.tcp_address()).await;
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
    for _ in 0..2 {
        let refused = ann
            .until(|op| {
                if let ServerOp::Error(error) = op {
                    Some(error.clone())
                } else {
                    None
                }
            })
            .await;
        assert!(refused.retryable, "{refused:?}");
        ann.ask(ClientOp::Subscribe {
            rooms: Vec::new(),
            all: true,
        })
        .await;
    }
    let rooms = ann
        .until(|op| {
            if let ServerOp::Subscribed { rooms } = op {
                Some(rooms.len())
            } else {
                None
            }
        })
        .await;
    assert_eq!(rooms, 1);
    // Where the node's list says so too, the connection ends.
    world.ban(user("ann"));
    assert_eq!(ann.closed().await, Some(CloseCode::Banned));
}
