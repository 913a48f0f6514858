//! The core against a scripted counterpart, and against a model of a server that fails in every way it may.

mod model;
mod play;

use im_wire::code::ErrorCode;
use im_wire::native::{Body, Message};
use play::Play;

use super::*;
use crate::answer::SendError;
use crate::backoff::Backoff;

fn room(name: &str) -> RoomId {
    RoomId::new(name).unwrap()
}

fn position(name: &str, seq: Option<Seq>) -> Position {
    Position {
        room: room(name),
        epoch: 1,
        seq,
    }
}

fn options() -> Options {
    Options {
        reconnect: Backoff {
            base: Duration::from_millis(100),
            max: Duration::from_secs(2),
        },
        resend: Backoff {
            base: Duration::from_millis(10),
            max: Duration::from_millis(100),
        },
        ..Options::default()
    }
}

fn setup(options: Options, positions: Vec<Position>, follow_all: bool, renewable: bool) -> Setup {
    Setup {
        options: Arc::new(options),
        addresses: ["tcp://a:1", "tcp://b:1"]
            .map(|address| address.parse().unwrap())
            .into(),
        device: Some("d".to_owned()),
        agent: None,
        positions,
        follow_all,
        renewable,
        counters: Arc::new(Counters::default()),
        seed: 7,
    }
}

fn message(name: &str, epoch: Epoch, seq: Seq) -> Message {
    let text = |text: &str| text.to_owned();
    let body = Body::Text(bytes::Bytes::new());
    Message {
        room: room(name),
        epoch,
        seq,
        id: format!("m{seq}"),
        from: text("u"),
        client_id: text("c"),
        kind: text("text"),
        body,
        time_ms: 0,
    }
}

fn heard(name: &str, epoch: Epoch, head: Seq) -> SubscribedRoom {
    SubscribedRoom::Ok {
        room: room(name),
        kind: "group".to_owned(),
        epoch,
        head,
        read: 0,
        joined: 0,
    }
}

fn op_name(op: &ClientOp) -> &'static str {
    match op {
        ClientOp::Auth { .. } => "auth",
        ClientOp::Subscribe { .. } => "subscribe",
        ClientOp::Unsubscribe { .. } => "unsubscribe",
        ClientOp::Send { .. } => "send",
        ClientOp::Signal { .. } => "signal",
        ClientOp::History { .. } => "history",
        ClientOp::Read { .. } => "read",
        ClientOp::Refresh { .. } => "refresh",
        ClientOp::Ping => "ping",
    }
}

fn ack(name: &str, client_id: &str, seq: Seq) -> ServerOp {
    let client_id = client_id.to_owned();
    let id = format!("m{seq}");
    ServerOp::Ack {
        room: room(name),
        client_id,
        id,
        epoch: 1,
        seq,
        time_ms: 0,
        duplicate: false,
    }
}

fn error(code: ErrorCode) -> Error {
    Error {
        code,
        text: "because".to_owned(),
        retryable: code.retryable(),
        field: None,
    }
}

fn seqs(events: &[Event]) -> Vec<Seq> {
    let messages = events.iter().filter_map(|event| match event {
        Event::Message(message) => Some(message.seq),
        _ => None,
    });
    messages.collect()
}

#[tokio::test(start_paused = true)]
async fn a_reconnect_resumes_after_the_last_message_delivered() {
    let mut play = Play::connected(vec![position("r", Some(5))]);
    play.say(Slot::A, 0, ServerOp::Message(message("r", 1, 6)));
    assert_eq!(seqs(&play.events()), [6]);
    play.core.lost(
        Slot::A,
        Loss {
            code: None,
            reason: "cable".to_owned(),
        },
        play.now,
    );
    assert!(matches!(
        &play.events()[..],
        [Event::Disconnected {
            code: None,
            retry_in: Some(_),
            ..
        }]
    ));
    play.wait();
    assert!(play.actions()[0].starts_with("dial A"));
    let auth = play.authenticate(Slot::A);
    let ClientOp::Auth { resume, .. } = auth.op else {
        panic!()
    };
    assert_eq!(resume, [position("r", Some(6))]);
    play.say(
        Slot::A,
        auth.req,
        ServerOp::Subscribed {
            rooms: vec![heard("r", 1, 8)],
        },
    );
    play.say(Slot::A, 0, ServerOp::Message(message("r", 1, 7)));
    assert!(
        !play
            .events()
            .iter()
            .any(|event| matches!(event, Event::Resumed { .. }))
    );
    play.say(Slot::A, 0, ServerOp::Message(message("r", 1, 8)));
    assert!(
        play.events()
            .iter()
            .any(|event| matches!(event, Event::Resumed { away: Some(_) }))
    );
    let stats = play.core.counters.snapshot();
    assert_eq!(
        (
            stats.connects,
            stats.reconnects,
            stats.live,
            stats.resumed,
            stats.outages.len()
        ),
        (2, 1, 1, 2, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn failing_attempts_wait_longer_and_longer_and_try_every_address() {
    let mut play = Play::new(setup(options(), Vec::new(), false, false));
    let (mut dialled, mut waits) = (Vec::new(), Vec::new());
    for _ in 0..12 {
        dialled.extend(play.actions());
        play.core.lost(
            Slot::A,
            Loss {
                code: None,
                reason: "refused".to_owned(),
            },
            play.now,
        );
        waits.push(play.wait());
    }
    assert!(
        dialled.iter().any(|dial| dial == "dial A tcp://a:1")
            && dialled.iter().any(|dial| dial == "dial A tcp://b:1")
    );
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(2)));
    assert!(waits[6..].iter().max() > waits[..3].iter().max());
    assert_eq!(play.core.counters.snapshot().failed_attempts, 12);
}

#[tokio::test(start_paused = true)]
async fn a_code_that_forbids_to_come_back_ends_the_client() {
    let mut play = Play::connected(Vec::new());
    let answer = play.send("r", "1");
    play.close(Slot::A, CloseCode::Kicked);
    assert_eq!(
        play.events(),
        [Event::Ended(End::ByServer {
            code: CloseCode::Kicked,
            text: String::new()
        })]
    );
    assert_eq!(
        answer.await.unwrap(),
        Err(SendError::Unknown {
            client_id: "1".to_owned(),
            last: None
        })
    );
    assert!(play.core.has_ended());
}

#[tokio::test(start_paused = true)]
async fn a_close_says_when_to_come_back() {
    let mut play = Play::connected(Vec::new());
    let close = ServerOp::Close {
        code: CloseCode::GoingAway,
        text: "bye".to_owned(),
        reconnect: true,
        after_ms: 5_000,
    };
    play.say(Slot::A, 0, close);
    let events = play.events();
    let [
        Event::Disconnected {
            code: Some(CloseCode::GoingAway),
            reason,
            retry_in: Some(wait),
        },
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(reason, "bye");
    assert!(*wait >= Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn the_websocket_code_counts_where_there_was_no_close_frame() {
    let mut play = Play::connected(Vec::new());
    play.core.lost(
        Slot::A,
        Loss {
            code: Some(4006),
            reason: "out".to_owned(),
        },
        play.now,
    );
    assert_eq!(
        play.events(),
        [Event::Ended(End::ByServer {
            code: CloseCode::Kicked,
            text: "out".to_owned()
        })]
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_fixed_token_ends_the_client_and_a_renewable_one_is_renewed() {
    let mut fixed = Play::new(setup(options(), Vec::new(), false, false));
    fixed.core.dialled(Slot::A, "old".to_owned(), fixed.now);
    let (_, auth) = fixed.writes().pop().unwrap();
    fixed.say(
        Slot::A,
        auth.req,
        ServerOp::Error(error(ErrorCode::TokenExpired)),
    );
    assert_eq!(
        fixed.events(),
        [Event::Ended(End::Refused(error(ErrorCode::TokenExpired)))]
    );

    let mut renewable = Play::new(setup(options(), Vec::new(), false, true));
    for attempt in 1..=3 {
        renewable
            .core
            .dialled(Slot::A, "old".to_owned(), renewable.now);
        let (_, auth) = renewable.writes().pop().unwrap();
        renewable.say(
            Slot::A,
            auth.req,
            ServerOp::Error(error(ErrorCode::TokenExpired)),
        );
        assert_eq!(renewable.core.has_ended(), attempt == 3, "three are enough");
        if attempt < 3 {
            renewable.wait();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_auth_without_answer_is_given_up() {
    let mut play = Play::new(setup(options(), Vec::new(), false, false));
    play.core.dialled(Slot::A, "token".to_owned(), play.now);
    play.actions();
    play.pass(options().auth_timeout);
    assert_eq!(play.actions(), ["hang up A"]);
    assert!(matches!(&play.events()[..], [Event::ConnectFailed { .. }]));
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_found_dead_and_a_talking_one_is_not() {
    let mut play = Play::connected(Vec::new());
    for _ in 0..10 {
        play.wait();
        assert_eq!(play.actions(), ["write A ping"]);
        play.say(Slot::A, 1, ServerOp::Pong { time_ms: 0 });
    }
    play.wait();
    play.wait();
    assert_eq!(play.actions(), ["write A ping", "hang up A"]);
    assert!(matches!(&play.events()[..], [Event::Disconnected { .. }]));
}

#[tokio::test(start_paused = true)]
async fn the_token_is_refreshed_before_it_ends_and_again_before_the_next_ends() {
    let mut play = Play::new(setup(options(), Vec::new(), false, true));
    play.core.dialled(Slot::A, "first".to_owned(), play.now);
    let (_, auth) = play.writes().pop().unwrap();
    let begin = play.now;
    play.say(Slot::A, auth.req, play.welcome(1_000_000 + 8_000));
    play.wait_for("token A");
    assert!(
        play.now - begin >= Duration::from_millis(5_600)
            && play.now - begin <= Duration::from_millis(6_400)
    );
    play.core.token(Slot::A, Ok("second".to_owned()), play.now);
    let (_, refresh) = play.writes().pop().unwrap();
    assert_eq!(
        refresh.op,
        ClientOp::Refresh {
            token: "second".to_owned()
        }
    );
    play.say(
        Slot::A,
        refresh.req,
        ServerOp::Refreshed {
            expires_ms: 1_000_000 + 16_000,
        },
    );
    let asked_at = play.now;
    play.wait_for("token A");
    assert!(
        play.now - asked_at >= Duration::from_secs(6),
        "the second token's life counts from the server's clock"
    );
    play.core
        .token(Slot::A, Err("no network".to_owned()), play.now);
    play.wait_for("token A");
}

#[tokio::test(start_paused = true)]
async fn sends_survive_a_disconnect_in_order_and_requests_are_asked_again_but_signals_are_not() {
    let mut play = Play::connected(Vec::new());
    let answers: Vec<_> = ["1", "2", "3"].map(|name| play.send("r", name)).into();
    let read = play.ask(ClientOp::Read {
        room: room("r"),
        seq: 4,
    });
    let signal = play.ask(ClientOp::Signal {
        room: room("r"),
        kind: "typing".to_owned(),
        body: Body::Text(bytes::Bytes::new()),
    });
    let first: Vec<_> = play.writes();
    assert_eq!(first.len(), 5);
    play.core.lost(Slot::A, Loss::default(), play.now);
    assert_eq!(signal.await.unwrap(), Err(RequestError::NotConnected));
    let late = play.ask(ClientOp::Signal {
        room: room("r"),
        kind: "typing".to_owned(),
        body: Body::Text(bytes::Bytes::new()),
    });
    assert_eq!(late.await.unwrap(), Err(RequestError::NotConnected));
    play.wait();
    play.actions();
    play.connect(Slot::A);
    let again = play.writes();
    let names: Vec<_> = again
        .iter()
        .map(|(_, request)| op_name(&request.op))
        .collect();
    assert_eq!(names, ["read", "send", "send", "send"]);
    let room_id = room("r");
    let state = ServerOp::ReadState {
        room: room("r"),
        read: 4,
        head: 4,
        unread: 0,
    };
    play.say(Slot::A, again[0].1.req, state.clone());
    assert_eq!(read.await.unwrap(), Ok(state));
    for ((_, request), (name, seq)) in again[1..].iter().zip([("1", 1), ("2", 2), ("3", 3)]) {
        play.say(Slot::A, request.req, ack("r", name, seq));
    }
    for (answer, seq) in answers.into_iter().zip(1..) {
        let sent = answer.await.unwrap().unwrap();
        assert_eq!((sent.room, sent.seq), (room_id.clone(), seq));
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_makes_the_new_connection_before_the_old_one_ends() {
    let mut play = Play::connected(vec![position("r", Some(5))]);
    play.ask_to_move(Slot::A, 300, &["c:9"]);
    assert!(matches!(&play.events()[..], [Event::Moving { .. }]));
    assert_eq!(play.actions(), [""; 0]);
    play.pass(Duration::from_millis(300));
    assert_eq!(play.actions(), ["dial B tcp://c:9"]);
    play.say(Slot::A, 0, ServerOp::Message(message("r", 1, 6)));
    let auth = play.authenticate(Slot::B);
    let ClientOp::Auth { resume, .. } = auth.op else {
        panic!()
    };
    assert_eq!(resume, [position("r", Some(6))]);
    play.say(Slot::A, 0, ServerOp::Message(message("r", 1, 7)));
    let unanswered = play.send("r", "1");
    let (slot, send) = play.writes().pop().unwrap();
    assert_eq!(slot, Slot::A);
    play.say(
        Slot::B,
        auth.req,
        ServerOp::Subscribed {
            rooms: vec![heard("r", 1, 7)],
        },
    );
    let held_back = play.send("r", "2");
    assert_eq!(
        play.actions(),
        [""; 0],
        "the old connection owes an answer, so nothing is written"
    );
    play.say(Slot::A, send.req, ack("r", "1", 8));
    assert_eq!(play.actions(), ["hang up A", "write B send"]);
    for seq in 7..=8 {
        play.say(Slot::B, 0, ServerOp::Message(message("r", 1, seq)));
    }
    let events = play.events();
    assert_eq!(seqs(&events), [6, 7, 8]);
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::Moved { .. }))
    );
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, Event::Disconnected { .. } | Event::Connected { .. }))
    );
    assert_eq!(unanswered.await.unwrap().unwrap().seq, 8);
    drop(held_back);
    let stats = play.core.counters.snapshot();
    assert_eq!((stats.moves, stats.outages.len(), stats.repeats), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_that_owes_answers_too_long_is_left_behind() {
    let mut play = Play::connected(Vec::new());
    let _answer = play.send("r", "1");
    play.actions();
    play.ask_to_move(Slot::A, 0, &[]);
    play.wait();
    assert_eq!(play.actions().len(), 1);
    play.connect(Slot::B);
    assert_eq!(play.actions(), [""; 0]);
    play.pass(options().move_grace);
    assert_eq!(play.actions(), ["hang up A", "write B send"]);
}

#[tokio::test(start_paused = true)]
async fn being_replaced_by_our_own_new_connection_is_no_end() {
    let mut play = Play::connected(Vec::new());
    play.ask_to_move(Slot::A, 0, &[]);
    play.wait();
    play.core.dialled(Slot::B, "token".to_owned(), play.now);
    let (_, auth) = play.writes().pop().unwrap();
    play.close(Slot::A, CloseCode::Replaced);
    assert!(!play.core.has_ended());
    play.say(Slot::B, auth.req, play.welcome(0));
    let events = play.events();
    assert!(
        matches!(events.last(), Some(Event::Resumed { away: Some(_) })),
        "{events:?}"
    );

    let mut alone = Play::connected(Vec::new());
    alone.close(Slot::A, CloseCode::Replaced);
    assert!(alone.core.has_ended(), "somebody else has this device");
}

#[tokio::test(start_paused = true)]
async fn a_move_that_comes_to_nothing_is_tried_again_while_the_old_connection_lasts() {
    let mut play = Play::connected(Vec::new());
    play.ask_to_move(Slot::A, 0, &["c:9", "d:9"]);
    play.wait();
    assert_eq!(play.actions(), ["dial B tcp://c:9"]);
    play.core.lost(
        Slot::B,
        Loss {
            code: None,
            reason: "refused".to_owned(),
        },
        play.now,
    );
    assert_eq!(play.events().len(), 1, "only that it is moving");
    while play.core.slots[Slot::B.index()].is_none() {
        play.wait();
    }
    assert!(play.actions().contains(&"dial B tcp://d:9".to_owned()));
    play.close(Slot::A, CloseCode::Moved);
    assert!(
        matches!(
            &play.events()[..],
            [Event::Disconnected { retry_in: None, .. }]
        ),
        "an attempt is under way"
    );
    play.connect(Slot::B);
    assert!(matches!(
        &play.events()[..],
        [Event::Connected { .. }, Event::Resumed { away: Some(_) }]
    ));
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_repaired_by_asking_again_and_a_server_that_cannot_is_left() {
    let mut play = Play::connected(vec![position("r", Some(5))]);
    play.say(Slot::A, 0, ServerOp::Message(message("r", 1, 7)));
    let writes = play.writes();
    let [
        (
            _,
            Request {
                op: ClientOp::Unsubscribe { .. },
                ..
            },
        ),
        (
            _,
            Request {
                req,
                op: ClientOp::Subscribe { rooms, .. },
            },
        ),
    ] = &writes[..]
    else {
        panic!("{writes:?}")
    };
    assert_eq!(*rooms, [position("r", Some(5))]);
    play.say(
        Slot::A,
        *req,
        ServerOp::Subscribed {
            rooms: vec![heard("r", 1, 7)],
        },
    );
    play.say(Slot::A, 0, ServerOp::Message(message("r", 1, 7)));
    assert_eq!(play.actions(), ["hang up A"]);
    assert_eq!(play.core.counters.snapshot().gaps, 1);
}

#[tokio::test(start_paused = true)]
async fn many_positions_are_split_and_all_rooms_come_last() {
    let positions = (0..200)
        .map(|number| position(&format!("room-{number:03}"), Some(1)))
        .collect();
    let mut play = Play::new(setup(options(), positions, true, false));
    play.core.dialled(Slot::A, "token".to_owned(), play.now);
    let (_, auth) = play.writes().pop().unwrap();
    let ClientOp::Auth { resume, all, .. } = &auth.op else {
        panic!()
    };
    assert!(!resume.is_empty() && resume.len() < 100 && !all);
    let mut asked = resume.len();
    play.say(Slot::A, auth.req, play.welcome(0));
    let rest = play.writes();
    for (index, (_, request)) in rest.iter().enumerate() {
        let ClientOp::Subscribe { rooms, all } = &request.op else {
            panic!("{request:?}")
        };
        asked += rooms.len();
        assert_eq!(*all, index == rest.len() - 1);
    }
    assert_eq!(asked, 200);
}

#[tokio::test(start_paused = true)]
async fn subscribing_answers_with_one_result_per_room_also_over_a_reconnect() {
    let mut play = Play::connected(Vec::new());
    let (reply, answer) = oneshot::channel();
    let deadline = play.now + Duration::from_secs(10);
    let positions = vec![position("yes", None), position("no", None)];
    play.core.command(
        Command::Subscribe {
            positions,
            all: false,
            deadline,
            reply,
        },
        play.now,
    );
    assert_eq!(play.actions(), ["write A subscribe"]);
    play.core.lost(Slot::A, Loss::default(), play.now);
    play.wait();
    play.actions();
    let auth = play.authenticate(Slot::A);
    let refused = SubscribedRoom::Refused {
        room: room("no"),
        error: error(ErrorCode::NotAMember),
    };
    let rooms = vec![heard("yes", 1, 3), refused];
    play.say(
        Slot::A,
        auth.req,
        ServerOp::Subscribed {
            rooms: rooms.clone(),
        },
    );
    assert_eq!(answer.await.unwrap().unwrap(), rooms);
    play.core.lost(Slot::A, Loss::default(), play.now);
    play.wait();
    play.actions();
    let ClientOp::Auth { resume, .. } = play.authenticate(Slot::A).op else {
        panic!()
    };
    assert_eq!(
        resume,
        [position("yes", Some(3))],
        "a refused room is not asked for again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_room_refused_for_the_moment_is_asked_for_again() {
    let mut play = Play::new(setup(options(), vec![position("r", Some(2))], false, false));
    let auth = play.authenticate(Slot::A);
    let refused = SubscribedRoom::Refused {
        room: room("r"),
        error: error(ErrorCode::Unavailable),
    };
    play.say(
        Slot::A,
        auth.req,
        ServerOp::Subscribed {
            rooms: vec![refused],
        },
    );
    play.wait();
    let writes = play.writes();
    assert!(
        matches!(&writes[..], [(_, Request { op: ClientOp::Subscribe { rooms, .. }, .. })] if rooms[..] == [position("r", Some(2))]),
        "{writes:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn all_rooms_refused_for_the_moment_are_asked_for_again_soon_and_then_ever_later() {
    let mut play = Play::new(setup(options(), Vec::new(), true, false));
    let mut asked = play.authenticate(Slot::A).req;
    let mut waits = Vec::new();
    for _ in 0..6 {
        play.say(
            Slot::A,
            asked,
            ServerOp::Error(error(ErrorCode::Unavailable)),
        );
        waits.push(play.wait());
        let writes = play.writes();
        let [
            (
                _,
                Request {
                    req,
                    op: ClientOp::Subscribe { all: true, .. },
                },
            ),
        ] = &writes[..]
        else {
            panic!("{writes:?}")
        };
        asked = *req;
    }
    assert!(
        waits[0] <= Duration::from_millis(100) && waits.iter().max() > waits[..1].iter().max(),
        "{waits:?}"
    );
    assert!(
        waits.iter().all(|wait| *wait <= Duration::from_secs(2)),
        "{waits:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn becoming_a_member_of_a_room_that_is_being_asked_for_does_not_end_it() {
    let mut play = Play::connected(vec![position("r", Some(2))]);
    for (reason, heard) in [("joined", true), ("created", true), ("kicked", false)] {
        let reason = reason.to_owned();
        play.say(
            Slot::A,
            0,
            ServerOp::RoomChanged {
                room: room("r"),
                subscribed: false,
                reason,
            },
        );
        play.say(
            Slot::A,
            0,
            ServerOp::Message(message("r", 1, if heard { 3 } else { 4 })),
        );
        assert_eq!(play.core.rooms.place(&room("r")).is_some(), heard);
    }
}

#[tokio::test(start_paused = true)]
async fn a_room_that_was_begun_and_is_gone_after_a_reconnection_is_told() {
    let mut play = Play::new(setup(options(), Vec::new(), true, false));
    play.connect(Slot::A);
    for name in ["kept", "gone"] {
        play.say(
            Slot::A,
            0,
            ServerOp::RoomChanged {
                room: room(name),
                subscribed: true,
                reason: "joined".to_owned(),
            },
        );
    }
    play.core.lost(Slot::A, Loss::default(), play.now);
    play.wait();
    play.actions();
    let auth = play.authenticate(Slot::A);
    play.events();
    let kept = room("kept");
    let kind = "group".to_owned();
    let rooms = vec![SubscribedRoom::Ok {
        room: kept,
        kind,
        epoch: 1,
        head: 3,
        read: 0,
        joined: 3,
    }];
    play.say(Slot::A, auth.req, ServerOp::Subscribed { rooms });
    let events = play.events();
    let ended = Event::RoomChanged {
        room: room("gone"),
        subscribed: false,
        reason: "left".to_owned(),
    };
    assert_eq!(
        events
            .iter()
            .filter(|event| matches!(event, Event::RoomChanged { .. }))
            .collect::<Vec<_>>(),
        [&ended]
    );
}

#[tokio::test(start_paused = true)]
async fn a_room_joined_while_away_is_begun_at_the_joining() {
    let mut play = Play::new(setup(options(), Vec::new(), true, false));
    play.connect(Slot::A);
    play.core.lost(Slot::A, Loss::default(), play.now);
    play.wait();
    play.actions();
    let auth = play.authenticate(Slot::A);
    play.events();
    let new = room("new");
    let kind = "group".to_owned();
    let rooms = vec![SubscribedRoom::Ok {
        room: new.clone(),
        kind,
        epoch: 1,
        head: 9,
        read: 0,
        joined: 7,
    }];
    play.say(Slot::A, auth.req, ServerOp::Subscribed { rooms });
    let writes: Vec<_> = play
        .writes()
        .into_iter()
        .map(|(_, request)| request.op)
        .collect();
    let position = Position {
        room: new.clone(),
        epoch: 1,
        seq: Some(7),
    };
    let subscribe = ClientOp::Subscribe {
        rooms: vec![position],
        all: false,
    };
    assert_eq!(
        writes,
        [ClientOp::Unsubscribe { rooms: vec![new] }, subscribe]
    );
}

#[tokio::test(start_paused = true)]
async fn signals_are_heard_once_while_two_connections_deliver() {
    let mut play = Play::connected(Vec::new());
    play.ask_to_move(Slot::A, 0, &[]);
    play.wait();
    let _answer = play.send("r", "1");
    play.actions();
    play.connect(Slot::B);
    play.events();
    let typing = || {
        let room = "r".to_owned();
        let from = "u".to_owned();
        let kind = "typing".to_owned();
        ServerOp::Signal {
            room,
            from,
            kind,
            body: Body::Text(bytes::Bytes::new()),
            operation: 0,
        }
    };
    play.say(Slot::A, 0, typing());
    play.say(Slot::B, 0, typing());
    assert_eq!(play.events().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_congested_connection_takes_no_new_sends() {
    let mut play = Play::connected(Vec::new());
    play.core.set_congested(true, play.now);
    let _answer = play.send("r", "1");
    assert_eq!(play.actions(), [""; 0]);
    play.core.set_congested(false, play.now);
    assert_eq!(play.actions(), ["write A send"]);
}
