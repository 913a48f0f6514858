//! The client over real sockets, against a server that speaks the protocol and misbehaves on demand.

mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use im_client::{
    Backoff, Body, Builder, Client, CloseCode, Encoding, End, ErrorCode, Event, Events, Options,
    Outgoing, Part, Position, RequestError, RoomId, SendError, State, SubscribedRoom,
};
use im_wire::native::{ClientOp, ServerOp};
use server::Server;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

fn room(name: &str) -> RoomId {
    RoomId::new(name).unwrap()
}

fn from(name: &str, seq: Option<u64>) -> Position {
    Position {
        room: room(name),
        epoch: 0,
        seq,
    }
}

fn options() -> Options {
    Options {
        connect_timeout: Duration::from_secs(2),
        reconnect: Backoff {
            base: Duration::from_millis(5),
            max: Duration::from_millis(50),
        },
        resend: Backoff {
            base: Duration::from_millis(5),
            max: Duration::from_millis(50),
        },
        ..Options::default()
    }
}

fn builder(user: &'static str) -> Builder {
    Client::builder()
        .token(user)
        .device("test")
        .options(options())
}

fn text(body: &Body) -> String {
    String::from_utf8(body.bytes().to_vec()).unwrap()
}

async fn until<T>(events: &mut Events, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
    let found = timeout(SOON, async {
        loop {
            let event = events.next().await.expect("the client ended");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    });
    found.await.expect("the event did not come")
}

async fn resumed(events: &mut Events) {
    until(events, |event| {
        matches!(event, Event::Resumed { .. }).then_some(())
    })
    .await;
}

/// The next messages' texts; every other event is passed over.
async fn texts(events: &mut Events, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.len() < count {
        let next = until(events, |event| match event {
            Event::Message(message) => Some(text(&message.body)),
            _ => None,
        });
        texts.push(next.await);
    }
    texts
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(SOON, wait)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}

fn numbers(count: u32) -> Vec<String> {
    (1..=count).map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn two_users_talk_over_every_transport_and_encoding() {
    let server = Server::start().await;
    let kinds = [
        (server.tcp_address(), Encoding::Binary),
        (server.ws_address(), Encoding::Binary),
        (server.ws_address(), Encoding::Json),
    ];
    for (number, (address, encoding)) in kinds.into_iter().enumerate() {
        let lobby = format!("lobby-{number}");
        let build = |user| {
            let builder = builder(user)
                .address(&address)
                .encoding(encoding)
                .subscribe([from(&lobby, None)]);
            builder.build().unwrap()
        };
        let ((ann, mut ann_hears), (bob, mut bob_hears)) = (build("ann"), build("bob"));
        resumed(&mut ann_hears).await;
        resumed(&mut bob_hears).await;
        let first = ann
            .send(Outgoing::text(room(&lobby), "hello"))
            .await
            .unwrap();
        let second = bob
            .send(Outgoing::text(room(&lobby), "hi ann"))
            .await
            .unwrap();
        assert_eq!((first.seq, second.seq, first.duplicate), (1, 2, false));
        assert_eq!(texts(&mut ann_hears, 2).await, ["hello", "hi ann"]);
        assert_eq!(texts(&mut bob_hears, 2).await, ["hello", "hi ann"]);

        let body = Body::Json(r#"{"emoji":"👋"}"#.into());
        bob.signal(room(&lobby), "wave", body.clone())
            .await
            .unwrap();
        let heard = until(&mut ann_hears, |event| match event {
            Event::Signal {
                from, kind, body, ..
            } => Some((from.clone(), kind.clone(), body.clone())),
            _ => None,
        });
        assert_eq!(heard.await, ("bob".to_owned(), "wave".to_owned(), body));

        let page = ann.history(room(&lobby), Part::Latest, 1).await.unwrap();
        assert_eq!(
            (page.head, page.messages.len(), page.messages[0].seq),
            (2, 1, 2)
        );
        let state = ann.read(room(&lobby), 1).await.unwrap();
        assert_eq!((state.read, state.head, state.unread), (1, 2, 1));
        ann.close().await;
        assert_eq!(ann.state(), State::Ended(End::Closed));
        assert!(matches!(
            ann.send(Outgoing::text(room(&lobby), "late")).await,
            Err(SendError::Ended)
        ));
    }
}

#[tokio::test]
async fn a_send_whose_acknowledgement_is_lost_is_stored_once() {
    let server = Server::start().await;
    server.script(|script| script.cut_before_ack = 2);
    let (client, _events) = builder("ann")
        .address(server.tcp_address())
        .build()
        .unwrap();
    let sent = client
        .send(Outgoing::text(room("r"), "once"))
        .await
        .unwrap();
    assert!(sent.duplicate);
    assert_eq!(server.stored("r"), ["once"]);
    let stats = client.stats();
    assert_eq!(
        (
            stats.acked,
            stats.duplicate_acks,
            stats.retries,
            stats.reconnects
        ),
        (1, 1, 2, 2)
    );
}

#[tokio::test]
async fn sends_in_flight_are_stored_in_order_through_many_cuts() {
    let server = Server::start().await;
    let (client, events) = builder("ann")
        .address(server.tcp_address())
        .build()
        .unwrap();
    drop(events);
    let mut tickets = Vec::new();
    for number in numbers(300) {
        if tickets.len() % 40 == 20 {
            server.script(|script| script.cut_before_ack = 1);
        }
        tickets.push(
            client
                .enqueue(Outgoing::text(room("r"), number))
                .await
                .unwrap(),
        );
    }
    for ticket in tickets {
        timeout(SOON, ticket).await.unwrap().unwrap();
    }
    assert_eq!(server.stored("r"), numbers(300));
    assert!(client.stats().reconnects >= 1);
}

#[tokio::test]
async fn messages_come_in_order_and_once_through_many_cuts() {
    let server = Server::start().await;
    let addresses = [server.tcp_address(), server.ws_address()];
    let (client, mut events) = builder("ann")
        .addresses(addresses)
        .subscribe([from("r", Some(0))])
        .build()
        .unwrap();
    let speaker = server.clone();
    let speaking = tokio::spawn(async move {
        for (index, number) in numbers(400).into_iter().enumerate() {
            speaker.append("r", "bob", &number);
            if index % 40 == 39 {
                speaker.cut();
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(texts(&mut events, 400).await, numbers(400));
    speaking.await.unwrap();
    let stats = client.stats();
    assert_eq!((stats.gaps, stats.live + stats.resumed), (0, 400));
}

#[tokio::test]
async fn a_move_hint_is_followed_without_missing_anything() {
    let old = Server::start().await;
    let new = old.another().await;
    let (client, mut events) = builder("ann")
        .address(old.tcp_address())
        .subscribe([from("r", Some(0))])
        .build()
        .unwrap();
    resumed(&mut events).await;
    old.append("r", "bob", "1");
    let to = vec![new.tcp.to_string()];
    old.say(&ServerOp::Move {
        after_ms: 1,
        deadline_ms: 5_000,
        to,
        reason: "draining".to_owned(),
    });
    let mut heard = Vec::new();
    let speaking = old.clone();
    let mut said = 1;
    let node = timeout(SOON, async {
        loop {
            tokio::select! {
                event = events.next() => match event.expect("the client ended") {
                    Event::Message(message) => heard.push(text(&message.body)),
                    Event::Moved { node, .. } => return node,
                    Event::Disconnected { reason, .. } => panic!("disconnected: {reason}"),
                    _ => {}
                },
                () = tokio::time::sleep(Duration::from_millis(1)) => {
                    said += 1;
                    speaking.append("r", "bob", &said.to_string());
                }
            }
        }
    });
    assert_eq!(node.await.unwrap(), "node-2");
    let sent = client
        .send(Outgoing::text(room("r"), "here"))
        .await
        .unwrap();
    while heard.len() < sent.seq as usize {
        heard.extend(texts(&mut events, 1).await);
    }
    let mut expected = numbers(said);
    expected.push("here".to_owned());
    assert_eq!(heard, expected);
    eventually("the old connection ends", || old.online().is_empty()).await;
    assert_eq!(new.online(), ["ann"]);
    assert_eq!((client.stats().moves, client.stats().outages.len()), (1, 0));
}

#[tokio::test]
async fn a_code_that_forbids_to_come_back_is_obeyed() {
    let server = Server::start().await;
    for websocket_close_only in [false, true] {
        let (client, mut events) = builder("ann").address(server.ws_address()).build().unwrap();
        client.connected().await.unwrap();
        if websocket_close_only {
            server.close_frame(CloseCode::Kicked.number(), "enough");
        } else {
            server.close(CloseCode::Kicked);
        }
        let end = until(&mut events, |event| match event {
            Event::Ended(end) => Some(end.clone()),
            _ => None,
        });
        let text = if websocket_close_only {
            "enough".to_owned()
        } else {
            String::new()
        };
        let end = end.await;
        assert_eq!(
            end,
            End::ByServer {
                code: CloseCode::Kicked,
                text
            }
        );
        assert_eq!(client.connected().await, Err(end));
        assert!(events.next().await.is_none());
    }
}

#[tokio::test]
async fn an_address_that_fails_is_followed_by_the_next() {
    let server = Server::start().await;
    let nobody = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("tcp://{}", listener.local_addr().unwrap())
    };
    for _ in 0..8 {
        let (client, _events) = builder("ann")
            .addresses([nobody.clone(), server.tcp_address()])
            .build()
            .unwrap();
        timeout(SOON, client.connected()).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_application_that_does_not_read_stops_the_reading_of_the_socket_and_loses_nothing() {
    let server = Server::start().await;
    let options = Options {
        event_queue: 4,
        ping_interval: Some(Duration::from_millis(20)),
        ..options()
    };
    let builder = builder("ann")
        .address(server.tcp_address())
        .subscribe([from("r", Some(0))])
        .options(options);
    let (client, mut events) = builder.build().unwrap();
    resumed(&mut events).await;
    (1..=500).for_each(|number| server.append("r", "bob", &number.to_string()));
    let pings = || {
        server
            .asked()
            .iter()
            .filter(|op| matches!(op, ClientOp::Ping))
            .count()
    };
    let before = pings();
    eventually("pings go on meanwhile", || pings() > before + 8).await;
    assert_eq!(texts(&mut events, 500).await, numbers(500));
    assert_eq!(
        client.stats().connects,
        1,
        "the connection did not count as dead"
    );
}

#[tokio::test]
async fn a_connection_that_has_gone_silent_is_replaced() {
    let server = Server::start().await;
    let options = Options {
        ping_interval: Some(Duration::from_millis(30)),
        auth_timeout: Duration::from_millis(100),
        ..options()
    };
    let (client, mut events) = builder("ann")
        .address(server.tcp_address())
        .options(options)
        .build()
        .unwrap();
    resumed(&mut events).await;
    server.script(|script| script.mute = true);
    until(&mut events, |event| {
        matches!(event, Event::Disconnected { .. }).then_some(())
    })
    .await;
    until(&mut events, |event| {
        matches!(event, Event::ConnectFailed { .. }).then_some(())
    })
    .await;
    server.script(|script| script.mute = false);
    resumed(&mut events).await;
    assert_eq!(client.stats().outages.len(), 1);
}

#[tokio::test]
async fn tokens_are_asked_for_anew_and_refreshed_on_the_open_connection() {
    let server = Server::start().await;
    server.script(|script| {
        script.expired.insert("ann#1".to_owned());
        script.token_life_ms = 200;
    });
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let source = im_client::token::from_fn(move || {
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        async move { Ok(format!("ann#{number}")) }
    });
    let (client, _events) = builder("")
        .token(source)
        .address(server.tcp_address())
        .build()
        .unwrap();
    timeout(SOON, client.connected()).await.unwrap().unwrap();
    let refreshed = || {
        server.asked().contains(&ClientOp::Refresh {
            token: "ann#3".to_owned(),
        })
    };
    eventually("a refresh with the third token", refreshed).await;
    assert_eq!(client.stats().connects, 1);

    let (client, mut events) = builder("ann#1")
        .address(server.tcp_address())
        .build()
        .unwrap();
    let end = until(&mut events, |event| match event {
        Event::Ended(end) => Some(end.clone()),
        _ => None,
    });
    assert!(matches!(end.await, End::Refused(error) if error.code == ErrorCode::TokenExpired));
    drop(client);
}

#[tokio::test]
async fn positions_are_those_of_what_the_application_has_read() {
    let server = Server::start().await;
    numbers(10)
        .iter()
        .for_each(|number| server.append("r", "bob", number));
    let (client, mut events) = builder("ann")
        .address(server.tcp_address())
        .subscribe([from("r", Some(3))])
        .build()
        .unwrap();
    assert_eq!(texts(&mut events, 4).await, ["4", "5", "6", "7"]);
    let kept = client.positions();
    assert_eq!(
        kept,
        [Position {
            room: room("r"),
            epoch: 1,
            seq: Some(7)
        }]
    );
    drop((client, events));
    let (_client, mut events) = builder("ann")
        .address(server.tcp_address())
        .subscribe(kept)
        .build()
        .unwrap();
    assert_eq!(texts(&mut events, 3).await, ["8", "9", "10"]);
}

#[tokio::test]
async fn what_a_failover_took_back_is_said_before_what_took_its_place() {
    let server = Server::start().await;
    let (_client, mut events) = builder("ann")
        .address(server.tcp_address())
        .subscribe([from("r", Some(0))])
        .build()
        .unwrap();
    numbers(5)
        .iter()
        .for_each(|number| server.append("r", "bob", number));
    assert_eq!(texts(&mut events, 5).await, numbers(5));
    server.failover("r", 3);
    server.append("r", "bob", "instead");
    let reset = until(&mut events, |event| match event {
        Event::Reset { seq, epoch, .. } => Some((*seq, *epoch)),
        Event::Message(message) => panic!("{message:?}"),
        _ => None,
    });
    assert_eq!(reset.await, (3, 2));
    assert_eq!(texts(&mut events, 1).await, ["instead"]);

    // The same while away.
    server.cut();
    server.failover("r", 2);
    server.append("r", "bob", "again");
    let reset = until(&mut events, |event| match event {
        Event::Reset { seq, .. } => Some(*seq),
        Event::Message(message) => panic!("{message:?}"),
        _ => None,
    });
    assert_eq!(reset.await, 2);
    assert_eq!(texts(&mut events, 1).await, ["again"]);
}

#[tokio::test]
async fn refusals_are_typed_and_retried_where_that_helps() {
    let server = Server::start().await;
    let (client, _events) = builder("ann")
        .address(server.tcp_address())
        .build()
        .unwrap();
    server.script(|script| script.refuse_sends = (3, ErrorCode::RateLimited));
    assert_eq!(
        client
            .send(Outgoing::text(room("r"), "patient"))
            .await
            .unwrap()
            .seq,
        1
    );
    assert_eq!(client.stats().retries, 3);
    server.script(|script| script.refuse_sends = (1, ErrorCode::NotAMember));
    let refused = client.send(Outgoing::text(room("r"), "never")).await;
    assert!(
        matches!(refused, Err(SendError::Refused(error)) if error.code == ErrorCode::NotAMember)
    );
    server.script(|script| script.refuse_sends = (u32::MAX, ErrorCode::StoreFull));
    let late = client
        .send(Outgoing::text(room("r"), "late").deadline(Duration::from_millis(100)))
        .await;
    assert!(
        matches!(late, Err(SendError::NotStored { last: Some(error) }) if error.code == ErrorCode::StoreFull)
    );
    server.script(|script| script.mute = true);
    let unsure = Outgoing::text(room("r"), "unsure")
        .client_id("mine")
        .deadline(Duration::from_millis(100));
    let unknown = SendError::Unknown {
        client_id: "mine".to_owned(),
        last: None,
    };
    assert_eq!(client.send(unsure).await, Err(unknown));
}

#[tokio::test]
async fn rooms_come_and_go_on_an_open_connection() {
    let server = Server::start().await;
    server.script(|script| script.forbidden = ["secret".to_owned()].into());
    let (client, mut events) = builder("ann")
        .address(server.ws_address())
        .encoding(Encoding::Json)
        .build()
        .unwrap();
    server.append("a", "bob", "before");
    let answers = client
        .subscribe(vec![from("a", Some(0)), from("secret", None)])
        .await
        .unwrap();
    let refused = answers
        .iter()
        .filter(|answer| matches!(answer, SubscribedRoom::Refused { .. }))
        .count();
    assert_eq!((answers.len(), refused), (2, 1));
    assert_eq!(texts(&mut events, 1).await, ["before"]);
    client.unsubscribe(vec![room("a")]).await.unwrap();
    server.append("a", "bob", "unheard");
    client.subscribe(vec![from("a", None)]).await.unwrap();
    server.append("a", "bob", "heard");
    assert_eq!(texts(&mut events, 1).await, ["heard"]);
    assert_eq!(
        client.positions(),
        [Position {
            room: room("a"),
            epoch: 1,
            seq: Some(3)
        }]
    );
}

#[tokio::test]
async fn bytes_that_make_no_sense_cost_the_connection_and_nothing_else() {
    let server = Server::start().await;
    let (client, mut events) = builder("ann")
        .address(server.tcp_address())
        .subscribe([from("r", Some(0))])
        .build()
        .unwrap();
    resumed(&mut events).await;
    let oversize = [
        0x7f, 0xff, 0xff, 0xff, 0, 16, 0, 1, 0, 0, 0, 132, 0, 0, 0, 0,
    ];
    for nonsense in [&[0; 16][..], &oversize, b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
        server.raw(nonsense);
        let reason = until(&mut events, |event| match event {
            Event::Disconnected { reason, .. } => Some(reason.clone()),
            _ => None,
        });
        assert!(reason.await.contains("cannot be read"));
        resumed(&mut events).await;
    }
    server.append("r", "bob", "fine");
    assert_eq!(texts(&mut events, 1).await, ["fine"]);
    drop(client);
}

#[tokio::test]
async fn without_a_server_requests_end_in_time_and_the_reason_is_known() {
    let options = Options {
        request_timeout: Duration::from_millis(100),
        ..options()
    };
    let (client, _events) = builder("ann")
        .address("tcp://127.0.0.1:1")
        .options(options)
        .build()
        .unwrap();
    assert_eq!(
        client.history(room("r"), Part::Latest, 1).await,
        Err(RequestError::TimedOut)
    );
    let signal = client
        .signal(room("r"), "typing", Body::Text("".into()))
        .await;
    assert_eq!(signal, Err(RequestError::NotConnected));
    let send = Outgoing::text(room("r"), "x").deadline(Duration::from_millis(50));
    assert_eq!(
        client.send(send).await,
        Err(SendError::NotStored { last: None })
    );
    assert!(matches!(
        client.state(),
        State::Connecting {
            last_failure: Some(_)
        }
    ));
    timeout(SOON, client.close()).await.unwrap();
}

#[tokio::test]
async fn dropping_every_handle_ends_the_connection() {
    let server = Server::start().await;
    let (client, events) = builder("ann")
        .address(server.tcp_address())
        .build()
        .unwrap();
    client.connected().await.unwrap();
    eventually("online", || server.online() == ["ann"]).await;
    drop(client);
    eventually("offline", || server.online().is_empty()).await;
    drop(events);
}

#[tokio::test]
async fn many_clients_fit_into_one_process() {
    let server = Server::start().await;
    let mut clients = Vec::new();
    for _ in 0..500 {
        let builder = builder("ann")
            .address(server.tcp_address())
            .subscribe([from("r", Some(0))]);
        clients.push(builder.build().unwrap());
    }
    for (_, events) in &mut clients {
        resumed(events).await;
    }
    server.append("r", "bob", "all of you");
    for (_, events) in &mut clients {
        assert_eq!(texts(events, 1).await, ["all of you"]);
    }
}
