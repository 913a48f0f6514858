//! What a stranger or a user can cause is bounded, and those beside them do not notice.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use im_connect::{Handle, Options};
use im_wire::code::CloseCode;
use im_wire::native::{Body, ClientOp, Position, Request, ServerOp, binary};
use im_wire::{frame, goim};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::raw::{Raw, SOON, from, room};
use crate::world::World;
use crate::{eventually, node, options};

/// The sum of a counter of this process over the labels that have this value.
fn counted(name: &str, label: &str) -> f64 {
    let families = prometheus::gather();
    let metrics = families
        .iter()
        .filter(|family| family.name() == name)
        .flat_map(|family| family.get_metric());
    let fits = |metric: &&prometheus::proto::Metric| {
        label.is_empty() || metric.get_label().iter().any(|one| one.value() == label)
    };
    metrics
        .filter(fits)
        .map(|metric| metric.get_counter().get_value())
        .sum()
}

/// Asks for a WebSocket; the stream and what was answered.
async fn upgrade(address: SocketAddr, headers: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: im\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let status = String::from_utf8(head)
        .unwrap()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    (stream, status)
}

async fn websocket(address: SocketAddr) -> TcpStream {
    let (stream, status) = upgrade(address, "").await;
    assert!(status.starts_with("HTTP/1.1 101"), "{status}");
    stream
}

/// A client's frame, its mask all zeros.
fn masked(first: u8, payload: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    im_wire::websocket::put_masked(&mut frame, first, payload.as_bytes());
    frame
}

/// Sends the same again and again, as fast as it goes, and reads until the server has closed: the code it gave.
async fn flood(mut stream: TcpStream, first: &[u8], again: &[u8], times: usize) -> Option<u16> {
    let (mut reading, mut writing) = stream.split();
    let write = async {
        let chunk = again.repeat(1_000);
        let _closed = writing.write_all(first).await;
        for _ in 0..times / 1_000 {
            if writing.write_all(&chunk).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let mut said = Vec::new();
    let read = async {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = reading.read(&mut buffer).await {
            said.extend_from_slice(&buffer[..length]);
        }
    };
    timeout(3 * SOON, async {
        tokio::select! {
            () = write => {}
            () = read => {}
        }
    })
    .await
    .expect("the server closes");
    close_code(&said)
}

/// The code of the close frame that these bytes of a server end with.
fn close_code(said: &[u8]) -> Option<u16> {
    let mut rest = said;
    while let Some(length) = im_wire::websocket::length(rest) {
        if rest[0] == 0x88 {
            return Some(u16::from_be_bytes([rest[2], rest[3]]));
        }
        rest = rest.get(length..)?;
    }
    None
}

/// The longest that one who behaves waits for a pong, asked for again and again until `over`.
async fn worst_pong(
    node: &Handle,
    over: impl Future<Output = Option<u16>>,
) -> (Option<u16>, Duration) {
    let mut neighbour = Raw::session(node.tcp_address(), "neighbour", Vec::new()).await;
    let mut worst = Duration::ZERO;
    let mut over = std::pin::pin!(over);
    loop {
        let begun = Instant::now();
        let pong = async {
            neighbour.ask(ClientOp::Ping).await;
            neighbour
                .until(|op| matches!(op, ServerOp::Pong { .. }).then_some(()))
                .await;
        };
        let mut pong = std::pin::pin!(pong);
        tokio::select! {
            code = &mut over => {
                pong.await;
                return (code, worst);
            }
            () = &mut pong => worst = worst.max(begun.elapsed()),
        }
    }
}

/// What a neighbour may have to wait on a machine that does other things too.
const FAST: Duration = Duration::from_millis(500);

#[tokio::test]
async fn pongs_before_auth_end_in_flood_and_a_neighbour_does_not_notice() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            shards: 1,
            ..options()
        },
    );
    let before = counted("im_connect_rate_limited_total", "handshake");
    let stranger = websocket(node.ws_address()).await;
    let (code, worst) = worst_pong(
        &node,
        Box::pin(flood(stranger, b"", &masked(0x8a, ""), 100_000)),
    )
    .await;
    assert_eq!(code, Some(CloseCode::Flood.number()));
    assert!(counted("im_connect_rate_limited_total", "handshake") > before);
    assert!(worst < FAST, "{worst:?}");
}

#[tokio::test]
async fn pongs_after_auth_count_as_requests_and_end_in_flood() {
    let world = World::new();
    let limits = Options {
        requests_per_second: 100,
        flood_after: Duration::from_millis(800),
        shards: 1,
        ..options()
    };
    let node = node(&world, limits);
    let before = counted("im_connect_rate_limited_total", "connection");
    let auth = masked(0x81, r#"{"op":"auth","req":1,"token":"ann"}"#);
    let client = websocket(node.ws_address()).await;
    let (code, worst) = worst_pong(
        &node,
        Box::pin(flood(client, &auth, &masked(0x8a, ""), 100_000)),
    )
    .await;
    assert_eq!(code, Some(CloseCode::Flood.number()));
    assert!(counted("im_connect_rate_limited_total", "connection") > before);
    assert!(worst < FAST, "{worst:?}");
}

#[tokio::test]
async fn a_message_of_endless_empty_frames_ends_the_connection() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            shards: 1,
            ..options()
        },
    );
    let auth = masked(0x81, r#"{"op":"auth","req":1,"token":"ann"}"#);
    for first in [masked(0x01, ""), [auth, masked(0x01, "")].concat()] {
        let client = websocket(node.ws_address()).await;
        let (code, worst) = worst_pong(
            &node,
            Box::pin(flood(client, &first, &masked(0x00, ""), 100_000)),
        )
        .await;
        assert_eq!(code, Some(CloseCode::ProtocolError.number()));
        assert!(worst < FAST, "{worst:?}");
    }
}

#[tokio::test]
async fn pages_of_origins_that_are_not_listed_open_no_websocket() {
    let world = World::new();
    let status = async |allowed: &[&str], headers: &str| {
        let allowed = allowed.iter().map(|&origin| origin.to_owned()).collect();
        let node = node(
            &world,
            Options {
                ws_allowed_origins: allowed,
                ..options()
            },
        );
        let status = upgrade(node.ws_address(), headers).await.1;
        status.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let ours = "Origin: https://Chat.example.org\r\n";
    let other = "Origin: https://chat.example.org.evil.example\r\n";
    assert_eq!(
        status(&[], other).await,
        "101",
        "not looked at where nothing is listed"
    );
    let listed = ["https://chat.example.org"];
    assert_eq!(status(&listed, ours).await, "101");
    assert_eq!(status(&listed, other).await, "403");
    assert_eq!(status(&listed, "Origin: null\r\n").await, "403");
    assert_eq!(status(&listed, "").await, "101", "no browser");
    assert_eq!(status(&["*"], other).await, "101");
}

/// Sends so many messages of so many bytes without waiting, and then waits for every answer.
async fn pour(client: &mut Raw, name: &str, messages: usize, bytes: usize) {
    let mut out = BytesMut::new();
    for number in 0..messages {
        let body = Body::Text("x".repeat(bytes).into());
        let room = room("r");
        let client_id = format!("{name}-{number}");
        let kind = "text".to_owned();
        let op = ClientOp::Send {
            room,
            client_id,
            kind,
            body,
        };
        binary::encode_request(
            &Request {
                req: number as u32 + 1,
                op,
            },
            &mut out,
        );
    }
    let (mut reading, mut writing) = client.stream.split();
    let write = async { writing.write_all(&out).await.unwrap() };
    let read = async {
        let mut buffer = BytesMut::new();
        let mut next = 1;
        while next <= messages as u32 {
            while let Some(frame) = frame::decode(&mut buffer, 1 << 20).unwrap() {
                let response = binary::decode_response(&frame).unwrap();
                assert!(matches!(response.op, ServerOp::Ack { .. }), "{response:?}");
                assert_eq!(response.req, next, "in the order in which they were sent");
                next += 1;
            }
            if next <= messages as u32 {
                assert!(
                    reading.read_buf(&mut buffer).await.unwrap() > 0,
                    "the connection has ended"
                );
            }
        }
    };
    timeout(3 * SOON, async { tokio::join!(write, read) })
        .await
        .expect("all are answered");
}

#[tokio::test]
async fn a_connection_sends_no_more_bytes_than_its_rate_and_all_in_order() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            bytes_per_second: 100_000,
            ..options()
        },
    );
    let mut client = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    let before = counted("im_connect_rate_limited_total", "connection_bytes");
    let begun = Instant::now();
    pour(&mut client, "one", 30, 32 << 10).await;
    assert!(
        begun.elapsed() > Duration::from_millis(1_200),
        "980 KB at 100 KB/s and 800 KB at once: {:?}",
        begun.elapsed()
    );
    assert!(counted("im_connect_rate_limited_total", "connection_bytes") > before);
}

#[tokio::test]
async fn a_user_sends_no_more_bytes_over_all_their_connections_than_their_rate() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            user_bytes_per_second: 100_000,
            shards: 1,
            ..options()
        },
    );
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Raw::session(node.tcp_address(), "ann", Vec::new()).await);
    }
    let begun = Instant::now();
    let pouring = clients
        .iter_mut()
        .enumerate()
        .map(async |(number, client)| {
            pour(client, &number.to_string(), 8, 32 << 10).await;
        });
    futures::future::join_all(pouring).await;
    assert!(
        begun.elapsed() > Duration::from_millis(1_200),
        "{:?}",
        begun.elapsed()
    );
    assert!(counted("im_connect_rate_limited_total", "user_bytes") > 0.0);
}

#[tokio::test]
async fn a_subscription_weighs_as_much_as_its_rooms() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            requests_per_second: 1_000,
            ..options()
        },
    );
    let mut client = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    let rooms: Vec<Position> = (0..500)
        .map(|number| from(&format!("r{number}"), 0, None))
        .collect();
    let begun = Instant::now();
    for _ in 0..40 {
        client
            .ask(ClientOp::Subscribe {
                rooms: rooms.clone(),
                all: false,
            })
            .await;
        client
            .until(|op| matches!(op, ServerOp::Subscribed { .. }).then_some(()))
            .await;
    }
    assert!(
        begun.elapsed() > Duration::from_millis(1_500),
        "4,000 at 1,000/s, 2,000 at once: {:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_goim_client_that_names_too_many_operations_is_refused() {
    let world = World::new();
    let node = node(&world, options());
    let ask = async |stream: &mut TcpStream, operation: i32, body: &[u8]| {
        let mut out = BytesMut::new();
        frame::encode(&mut out, goim::VERSION, operation, 1, body);
        stream.write_all(&out).await.unwrap();
        let mut buffer = BytesMut::new();
        loop {
            if let Some(frame) = frame::decode(&mut buffer, 1 << 20).unwrap() {
                return frame;
            }
            assert!(
                stream.read_buf(&mut buffer).await.unwrap() > 0,
                "the connection has ended"
            );
        }
    };
    let many = |count: i32| {
        (0..count)
            .map(|number| number.to_string())
            .collect::<Vec<_>>()
            .join(",")
    };
    let auth = |accepts: &str| {
        format!(r#"{{"token":"ann","key":"k","platform":"web","accepts":[{accepts}]}}"#)
    };
    let mut greedy = TcpStream::connect(node.tcp_address()).await.unwrap();
    assert_eq!(
        ask(&mut greedy, goim::AUTH, auth(&many(2_000)).as_bytes())
            .await
            .operation,
        goim::DISCONNECT
    );

    let mut client = TcpStream::connect(node.tcp_address()).await.unwrap();
    assert_eq!(
        ask(&mut client, goim::AUTH, auth(&many(1_024)).as_bytes())
            .await
            .operation,
        goim::AUTH_REPLY
    );
    let begun = Instant::now();
    for _ in 0..20 {
        let refused = ask(&mut client, goim::UNSUBSCRIBE, many(9_000).as_bytes()).await;
        assert!(
            refused.body.starts_with(b"bad_request: accepts"),
            "{refused:?}"
        );
    }
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(
        ask(&mut client, goim::UNSUBSCRIBE, b"5,6").await.operation,
        goim::UNSUBSCRIBE_REPLY
    );
    assert_eq!(
        ask(&mut client, goim::SUBSCRIBE, b"5").await.operation,
        goim::SUBSCRIBE_REPLY
    );
}

#[tokio::test]
async fn a_user_has_so_many_connections_and_the_next_is_told_why_not() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            max_connections_per_user: 2,
            ..options()
        },
    );
    let first = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    let mut second = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    let ask = async || {
        let mut third = Raw::connect(node.tcp_address()).await;
        let token = "ann".to_owned();
        let device = None;
        let resume = Vec::new();
        third
            .ask(ClientOp::Auth {
                token,
                device,
                resume,
                all: false,
                agent: None,
            })
            .await;
        third
    };
    assert_eq!(
        ask().await.closed().await,
        Some(CloseCode::TooManyConnections)
    );
    second.hears_nothing().await;
    Raw::session(node.tcp_address(), "cy", Vec::new()).await;
    drop(first);
    let mut again = ask().await;
    while !matches!(
        again.next().await.map(|response| response.op),
        Some(ServerOp::AuthOk { .. })
    ) {
        again = ask().await;
    }
}

#[tokio::test]
async fn who_finds_no_place_is_told_so_on_both_ports() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            max_connections_per_ip: 1,
            ..options()
        },
    );
    let mut first = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    assert_eq!(
        Raw::connect(node.tcp_address()).await.closed().await,
        Some(CloseCode::TooManyConnections)
    );
    let refused = websocket(node.ws_address()).await;
    assert_eq!(
        flood(refused, b"", b"", 0).await,
        Some(CloseCode::TooManyConnections.number())
    );
    assert_eq!(node.connections(), 1);
    first.hears_nothing().await;
}

#[tokio::test]
async fn who_comes_before_logic_is_found_waits_for_it() {
    const CLIENTS: usize = 100;
    let world = World::new();
    world.set_down(true);
    let node = node(&world, options());
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Raw::connect(node.tcp_address()).await;
        let token = "ann".to_owned();
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
        clients.push(client);
    }
    let auths = |op: &im_proto::v1::call::Op| matches!(op, im_proto::v1::call::Op::Authenticate(_));
    eventually("each has been asked for twice", || {
        world.calls(auths) >= 2 * CLIENTS
    })
    .await;
    world.set_down(false);
    for client in &mut clients {
        let answer = client.next().await.expect("not closed").op;
        assert!(matches!(answer, ServerOp::AuthOk { .. }), "{answer:?}");
    }
}

#[tokio::test]
async fn who_waits_for_logic_in_vain_is_told_before_the_handshake_is_over() {
    let world = World::new();
    world.set_down(true);
    let node = node(
        &world,
        Options {
            handshake_timeout: Duration::from_secs(2),
            ..options()
        },
    );
    let mut client = Raw::connect(node.tcp_address()).await;
    let token = "ann".to_owned();
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
    assert_eq!(client.closed().await, Some(CloseCode::Unavailable));
}

#[tokio::test]
async fn a_page_of_history_fits_the_outbox() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            outbox_bytes: 64 << 10,
            ..options()
        },
    );
    for number in 0..100 {
        world.say("r", &format!("{number:064} {}", "x".repeat(2_000)));
    }
    let mut client = Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    for (after, seqs) in [(None, 90..=100), (Some(0), 1..=10)] {
        client
            .ask(ClientOp::History {
                room: room("r"),
                after,
                before: None,
                limit: 100,
            })
            .await;
        let page = client.until(|op| match op {
            ServerOp::History { messages, head, .. } => Some((messages.clone(), *head)),
            _ => None,
        });
        let (messages, head) = page.await;
        let bytes: usize = messages
            .iter()
            .map(|message| message.body.bytes().len())
            .sum();
        assert!(bytes <= 32 << 10 && bytes > 20 << 10, "{bytes}");
        assert_eq!(head, 100);
        let had: Vec<u64> = messages.iter().map(|message| message.seq).collect();
        assert!(
            seqs.clone().all(|seq| had.contains(&seq)),
            "{had:?} of {seqs:?}"
        );
    }
}

#[tokio::test]
async fn silent_sockets_give_way_to_those_who_come_to_be_let_in() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            max_unidentified: 64,
            handshake_timeout: Duration::from_secs(60),
            ..options()
        },
    );
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(Raw::connect(node.tcp_address()).await);
    }
    for number in 0..20 {
        Raw::session(node.tcp_address(), &format!("user-{number}"), Vec::new()).await;
    }
    eventually("the others have gone", || node.connections() <= 64 + 20).await;
    assert_eq!(silent[0].closed().await, Some(CloseCode::HandshakeTimeout));
}

#[tokio::test]
async fn what_strangers_have_sent_is_bounded_in_bytes() {
    let world = World::new();
    let node = node(
        &world,
        Options {
            handshake_bytes: 64 << 10,
            shards: 1,
            ..options()
        },
    );
    // A frame of 60,000 bytes, of which 40,000 come.
    let mut begun = vec![0, 0, 0xea, 0x60, 0, 16, 0, 1, 0, 0, 0, 101, 0, 0, 0, 1];
    begun.resize(40_000, b'x');
    let mut strangers = Vec::new();
    for _ in 0..6 {
        let mut stranger = Raw::connect(node.tcp_address()).await;
        stranger.stream.write_all(&begun).await.unwrap();
        strangers.push(stranger);
    }
    eventually("those that are too much have gone", || {
        node.connections() <= 2
    })
    .await;
    assert_eq!(
        strangers[5].closed().await,
        Some(CloseCode::TooManyConnections)
    );
    Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    drop(strangers);
    eventually("all have gone", || node.connections() == 0).await;
    let mut again = Raw::connect(node.tcp_address()).await;
    again.stream.write_all(&begun).await.unwrap();
    again.stream.write_all(&vec![b'x'; 20_000]).await.unwrap();
    assert_eq!(
        again.closed().await,
        Some(CloseCode::WrongState),
        "there is room again, and the frame was read"
    );
}

#[tokio::test]
async fn guesses_from_one_address_wait_longer_and_longer_and_nobody_is_locked_out() {
    let world = World::new();
    let limits = Options {
        auth_failures_per_ip: 2,
        handshake_timeout: Duration::from_secs(4),
        ..options()
    };
    let node = node(&world, limits);
    Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    let begun = Instant::now();
    for _ in 0..5 {
        let mut client = Raw::connect(node.tcp_address()).await;
        let token = "forged".to_owned();
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
        assert_eq!(client.closed().await, Some(CloseCode::Unauthenticated));
    }
    assert!(
        begun.elapsed() > Duration::from_millis(2_900),
        "one second, then two: {:?}",
        begun.elapsed()
    );
    assert_eq!(counted("im_connect_auth_delayed_total", ""), 2.0);
    Raw::session(node.tcp_address(), "ann", Vec::new()).await;
    assert_eq!(
        counted("im_connect_auth_delayed_total", ""),
        2.0,
        "a token that was good waits for nothing"
    );
    Raw::session(node.tcp_address(), "bob", Vec::new()).await;
    assert_eq!(
        counted("im_connect_auth_delayed_total", ""),
        3.0,
        "another waits, and is let in"
    );
}

/// A socket that takes little: what the server says waits at the server.
async fn narrow(address: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.connect(address).await.unwrap()
}

#[tokio::test]
async fn outboxes_together_hold_no_more_than_their_bound_and_readers_go_on() {
    let world = World::new();
    let limits = Options {
        outbox_bytes: 64 << 20,
        outbox_total: 8 << 20,
        shards: 1,
        ..options()
    };
    let node = node(&world, limits);
    let before = counted("im_connect_outboxes_shed_total", "");
    let mut slow = Vec::new();
    for number in 0..8 {
        let mut client = Raw {
            stream: narrow(node.tcp_address()).await,
            ..Raw::connect(node.tcp_address()).await
        };
        client
            .auth(&format!("slow-{number}"), vec![from("r", 0, None)], false)
            .await;
        slow.push(client);
    }
    let mut reader = Raw::session(node.tcp_address(), "ann", vec![from("r", 0, None)]).await;
    for number in 0..200 {
        world.say("r", &format!("{number:064} {}", "x".repeat(60_000)));
        assert_eq!(
            reader.heard(1).await[0].split(' ').next(),
            Some(format!("#{}", number + 1).as_str())
        );
    }
    eventually("some were closed", || {
        counted("im_connect_outboxes_shed_total", "") > before
    })
    .await;
    eventually("so many as were too much", || node.connections() < 9).await;
    reader.hears_nothing().await;
}

const LOOPBACK: &str = "127.0.0.0/8";

fn believed() -> Vec<ipnet::IpNet> {
    vec![LOOPBACK.parse().unwrap()]
}

fn remote_ips(world: &World) -> Vec<String> {
    world
        .authenticated()
        .into_iter()
        .map(|asked| asked.remote_ip)
        .collect()
}

#[tokio::test]
async fn a_peer_that_is_believed_says_whose_connection_it_is_and_limits_count_that_address() {
    let world = World::new();
    let limits = Options {
        proxy_protocol_from: believed(),
        max_connections_per_ip: 1,
        ..options()
    };
    let node = node(&world, limits);
    let through = async |client: &str| {
        let mut raw = Raw::connect(node.tcp_address()).await;
        let header = format!("PROXY TCP4 {client} 198.51.100.1 4711 3101\r\n");
        raw.stream.write_all(header.as_bytes()).await.unwrap();
        raw
    };
    let mut first = through("192.0.2.1").await;
    first.auth("ann", Vec::new(), false).await;
    let mut second = through("192.0.2.2").await;
    second.auth("bob", Vec::new(), false).await;
    assert_eq!(remote_ips(&world), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(
        through("192.0.2.1").await.closed().await,
        Some(CloseCode::TooManyConnections)
    );
    second.hears_nothing().await;

    let before = counted("im_connect_malformed_total", "protocol_error");
    let mut bare = Raw::connect(node.tcp_address()).await;
    bare.ask(ClientOp::Ping).await;
    assert_eq!(bare.closed().await, Some(CloseCode::ProtocolError));
    assert!(counted("im_connect_malformed_total", "protocol_error") > before);
}

fn hello() -> ClientOp {
    ClientOp::Auth {
        token: "ann".to_owned(),
        device: None,
        resume: Vec::new(),
        all: false,
        agent: None,
    }
}

#[tokio::test]
async fn an_address_that_connects_too_often_is_refused_and_others_are_not() {
    let world = World::new();
    let limits = Options {
        accepts_per_second_per_ip: 2,
        shards: 1,
        ..options()
    };
    let node = node(
        &world,
        Options {
            proxy_protocol_from: vec!["127.0.0.9/32".parse().unwrap()],
            ..limits
        },
    );
    let before = counted("im_connect_refused_total", "accept_rate_per_ip");
    // At once four come in, and then two a second.
    let begun = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..12 {
        clients.push(Raw::connect(node.tcp_address()).await);
    }
    let mut refused = 0;
    for client in &mut clients {
        client.ask(hello()).await;
        match client.next().await.map(|response| response.op) {
            Some(ServerOp::AuthOk { .. }) => {}
            Some(ServerOp::Close { code, .. }) => {
                assert_eq!(code, CloseCode::TooManyConnections);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    let more = (begun.elapsed().as_secs_f64() * 2.0).ceil() as usize;
    assert!(
        refused <= 8 && refused + more >= 8,
        "{refused} of 12, {more} more may come in"
    );
    assert!(counted("im_connect_refused_total", "accept_rate_per_ip") >= before + refused as f64);
    // Neither another address nor those whom a proxy speaks for have used any of that; each of those has its own.
    let from = async |own: [u8; 4], header: &str| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((own, 0).into()).unwrap();
        let stream = socket.connect(node.tcp_address()).await.unwrap();
        let mut raw = Raw {
            stream,
            buffer: BytesMut::new(),
            req: 0,
        };
        raw.stream.write_all(header.as_bytes()).await.unwrap();
        raw
    };
    from([127, 0, 0, 2], "")
        .await
        .auth("bob", Vec::new(), false)
        .await;
    let header = |client: u8| format!("PROXY TCP4 192.0.2.{client} 198.51.100.1 4711 3101\r\n");
    for client in 0..8 {
        from([127, 0, 0, 9], &header(client))
            .await
            .auth("cat", Vec::new(), false)
            .await;
    }
    for _ in 0..40 {
        clients.push(from([127, 0, 0, 9], &header(99)).await);
    }
    assert_eq!(
        clients.last_mut().unwrap().closed().await,
        Some(CloseCode::TooManyConnections)
    );
    // Whoever waits is let in.
    let waited = async {
        loop {
            let mut client = Raw::connect(node.tcp_address()).await;
            client.ask(hello()).await;
            if matches!(
                client.next().await.map(|response| response.op),
                Some(ServerOp::AuthOk { .. })
            ) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(SOON, waited).await.expect("let in again");
}

#[tokio::test]
async fn who_begins_a_proxy_header_and_does_not_end_it_is_sent_away_in_time() {
    let world = World::new();
    let short = Duration::from_millis(300);
    let node = node(
        &world,
        Options {
            proxy_protocol_from: believed(),
            handshake_timeout: short,
            ..options()
        },
    );
    let mut slow = Raw::connect(node.tcp_address()).await;
    slow.stream.write_all(b"PROXY TCP4 192.0").await.unwrap();
    assert_eq!(slow.closed().await, Some(CloseCode::HandshakeTimeout));
}

#[tokio::test]
async fn x_forwarded_for_is_believed_of_the_peers_that_are_named_and_of_no_others() {
    for (from, expected) in [(believed(), "192.0.2.7"), (Vec::new(), "127.0.0.1")] {
        let world = World::new();
        let node = node(
            &world,
            Options {
                forwarded_from: from,
                ..options()
            },
        );
        let headers = "X-Forwarded-For: 203.0.113.1, 192.0.2.7\r\n";
        let (mut stream, status) = upgrade(node.ws_address(), headers).await;
        assert!(status.starts_with("HTTP/1.1 101"), "{status}");
        stream
            .write_all(&masked(0x81, r#"{"op":"auth","req":1,"token":"ann"}"#))
            .await
            .unwrap();
        eventually("logic is asked", || !world.authenticated().is_empty()).await;
        assert_eq!(remote_ips(&world), [expected]);
    }
    let world = World::new();
    let node = node(
        &world,
        Options {
            forwarded_from: believed(),
            ..options()
        },
    );
    let (_stream, status) = upgrade(node.ws_address(), "X-Forwarded-For: somebody\r\n").await;
    assert!(status.starts_with("HTTP/1.1 400"), "{status}");
}
