//! A shard by itself, on a paused clock: sockets are connected before time matters, and nothing is read from them.

use std::cell::{Cell, RefCell};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use im_wire::code::CloseCode;
use im_wire::dialect::Entrance;
use im_wire::ids::UserId;
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Shard;
use super::mailbox::DrainPlan;
use super::paces::Paces;
use super::rates::Rates;
use crate::accept::admission::Admission;
use crate::connection::{Authenticated, Client, Connection, TokenFacts};
use crate::downlink::router::Router;
use crate::nobody::Nobody;
use crate::options::Options;
use crate::uplink::shared::Shared;

fn shard() -> Rc<Shard> {
    let options = Arc::new(Options::default());
    let logic = Shared::new(Arc::new(Nobody), &options);
    let router = Arc::new(Router::new(Arc::new(Nobody), Vec::new(), &options.node));
    let admission = Admission::new(&options);
    Shard::new(
        0,
        options,
        logic,
        admission,
        router,
        CancellationToken::new(),
        Arc::default(),
    )
}

/// Both ends of a connection.
fn sockets() -> (TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let theirs = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    (TcpStream::from_std(ours).unwrap(), theirs)
}

/// A client whose handshake is over.
fn client(shard: &Shard, user: &str, stream: TcpStream) -> Client {
    let bounds = (1 << 20, Rc::clone(&shard.outboxes));
    let address = Ipv4Addr::LOCALHOST.into();
    let new = |key| Connection::new(key, user.to_owned(), Entrance::Tcp, address, stream, bounds);
    let connection = shard.enter(new);
    shard.enter_early(&connection);
    let identity = Authenticated {
        user: id(user),
        device: String::new(),
        token: Cell::new(TokenFacts::default()),
        grant: RefCell::new(Bytes::new()),
        expires_ms: Cell::new(0),
    };
    let client = Client::new(&connection, identity);
    shard.identified(&client);
    client
}

fn id(user: &str) -> UserId {
    UserId::new(user).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_draining_shard_tells_its_clients_at_a_pace_and_closes_the_rest_at_the_deadline() {
    let drain = async {
        let shard = shard();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut others = Vec::new();
        let clients = ["ann", "bob", "cy", "dee", "eve"].map(|user| {
            let (ours, theirs) = sockets();
            others.push(theirs);
            client(&shard, user, ours)
        });
        let (late, _theirs) = sockets();
        let told = || clients.iter().filter(|client| client.moved.get()).count();
        let plan = DrainPlan {
            per_second: 2.0,
            accept: Duration::from_secs(1),
            deadline: at(10_000),
            to: Arc::default(),
        };
        shard.begin_drain(plan);
        for (ms, expected) in [(1, 1), (499, 1), (501, 2), (999, 2)] {
            sleep_until(at(ms)).await;
            assert_eq!(
                (told(), shard.accepting.is_cancelled()),
                (expected, false),
                "after {ms} ms"
            );
        }
        let late = client(&shard, "late", late);
        shard.greet_while_draining(&late);
        assert!(
            late.moved.get(),
            "who comes while the node leaves is told at once"
        );
        sleep_until(at(1_001)).await;
        assert_eq!((told(), shard.accepting.is_cancelled()), (3, true));
        sleep_until(at(9_999)).await;
        assert_eq!(
            (
                told(),
                clients.iter().any(|client| client.ending().is_some())
            ),
            (5, false)
        );
        sleep_until(at(10_001)).await;
        for client in clients.iter().chain([&late]) {
            assert_eq!(
                client.ending().map(|ending| ending.code),
                Some(CloseCode::GoingAway)
            );
        }
    };
    LocalSet::new().run_until(drain).await;
}

#[tokio::test(start_paused = true)]
async fn housekeeping_ends_silent_clients_and_handshakes_that_take_too_long() {
    let shard = shard();
    let options = Options::default();
    let (ours, _theirs) = sockets();
    let ann = client(&shard, "ann", ours);
    let (ours, _theirs) = sockets();
    let nobody = shard.enter(|key| {
        let bounds = (1 << 20, Rc::clone(&shard.outboxes));
        Connection::new(
            key,
            "x".to_owned(),
            Entrance::Tcp,
            Ipv4Addr::LOCALHOST.into(),
            ours,
            bounds,
        )
    });
    let codes = || {
        shard.check_connections();
        [&ann.connection, &nobody].map(|connection| connection.ending().map(|ending| ending.code))
    };
    tokio::time::advance(options.handshake_timeout).await;
    assert_eq!(codes(), [None, None]);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(codes(), [None, Some(CloseCode::HandshakeTimeout)]);
    tokio::time::advance(options.heartbeat_timeout).await;
    assert_eq!(codes()[0], Some(CloseCode::HeartbeatTimeout));
}

#[tokio::test(start_paused = true)]
async fn reads_wait_for_their_users_turn_and_are_refused_where_it_is_too_far_off() {
    let options = Options {
        user_read_bytes_per_second: 1_000,
        user_rooms_per_second: 100,
        ..Options::default()
    };
    let paces = Paces::new(&options);
    let (ann, bob) = (id("ann"), id("bob"));
    let start = Instant::now();
    drop(paces.turn(&ann).await.unwrap());
    assert_eq!(start.elapsed(), Duration::ZERO, "nothing was read yet");
    // A second's worth is there at once.
    paces.has_read(&ann, 3_000);
    assert!(!paces.may_read(&ann) && paces.may_read(&bob));
    drop(paces.turn(&ann).await.unwrap());
    assert!(
        (2_000..2_010).contains(&start.elapsed().as_millis()),
        "{:?}",
        start.elapsed()
    );
    paces.has_read(&ann, 100_000);
    let start = Instant::now();
    let refused = paces.turn(&ann).await.unwrap_err();
    assert_eq!(
        (refused.code.as_str(), refused.retryable),
        ("rate_limited", true)
    );
    assert_eq!(start.elapsed().as_secs(), 20);

    let start = Instant::now();
    for _ in 0..4 {
        paces.rooms(&bob, 50).await.unwrap();
    }
    let passed = start.elapsed().as_millis();
    assert!(
        (1_250..1_300).contains(&passed),
        "150 before the last one, of them 25 at once: {passed}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_users_requests_and_bytes_come_back_with_time() {
    let options = Options {
        user_requests_per_second: 10,
        user_bytes_per_second: 1_000,
        ..Options::default()
    };
    let rates = Rates::new(&options);
    let (ann, bob) = (id("ann"), id("bob"));
    let request = |user: &UserId, bytes| rates.user_request(user, bytes, Instant::now());
    for _ in 0..20 {
        assert_eq!(request(&ann, 1), Ok(()));
    }
    assert_eq!((request(&ann, 1), request(&bob, 1)), (Err("user"), Ok(())));
    tokio::time::advance(Duration::from_millis(100)).await;
    assert_eq!(
        (request(&ann, 10_000), request(&ann, 1)),
        (Ok(()), Err("user"))
    );
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(
        request(&ann, 1),
        Err("user_bytes"),
        "eight seconds' worth at once, and more was taken"
    );
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(request(&ann, 1), Ok(()));
}
