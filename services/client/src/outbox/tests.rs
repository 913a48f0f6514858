use std::collections::HashSet;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    in_flight: 8,
    in_flight_per_room: 4,
    attempt_timeout: Duration::from_secs(10),
    backoff: Backoff {
        base: Duration::from_millis(100),
        max: Duration::from_secs(1),
    },
};

fn send(room: &str, client_id: &str) -> PendingSend {
    let room = RoomId::new(room).unwrap();
    PendingSend {
        room,
        client_id: client_id.to_owned(),
        kind: "text".to_owned(),
        body: Body::Text(Bytes::new()),
    }
}

fn error(code: ErrorCode) -> Error {
    Error {
        code,
        text: String::new(),
        retryable: code.retryable(),
        field: None,
    }
}

struct Desk {
    outbox: Outbox<&'static str>,
    now: Instant,
    req: u32,
}

impl Desk {
    fn new() -> Self {
        Self {
            outbox: Outbox::new(LIMITS),
            now: Instant::now(),
            req: 0,
        }
    }

    fn push(&mut self, room: &str, name: &'static str) {
        self.outbox
            .push(send(room, name), self.now + Duration::from_secs(30), name);
    }

    /// Everything that may be written now: (request number, client id).
    fn write(&mut self) -> Vec<(u32, String)> {
        let Self { outbox, now, req } = self;
        let next = || {
            outbox.next(*now, || {
                *req += 1;
                *req
            })
        };
        std::iter::from_fn(next)
            .map(|(req, op)| match op {
                ClientOp::Send { client_id, .. } => (req, client_id),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn acked(&mut self, req: u32, room: &str, client_id: &str) -> Option<&'static str> {
        self.outbox
            .acked(req, &RoomId::new(room).unwrap(), client_id)
    }

    fn names(&mut self) -> Vec<String> {
        self.write().into_iter().map(|(_, name)| name).collect()
    }

    fn pass(&mut self, time: Duration) -> Vec<(&'static str, Unanswered)> {
        self.now += time;
        self.outbox.tick(self.now, 1.0)
    }
}

#[tokio::test(start_paused = true)]
async fn sends_are_written_in_order_up_to_the_limits() {
    let mut desk = Desk::new();
    for name in ["a1", "a2", "a3", "a4", "a5", "a6"] {
        desk.push("a", name);
    }
    desk.push("b", "b1");
    let written = desk.write();
    let names: Vec<_> = written.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(
        names,
        ["a1", "a2", "a3", "a4", "b1"],
        "four per room, and a full room stops no other"
    );
    assert_eq!(desk.acked(written[0].0, "a", "a1"), Some("a1"));
    assert_eq!(desk.names(), ["a5"]);
}

#[tokio::test(start_paused = true)]
async fn after_a_disconnect_everything_unanswered_is_written_again_in_order() {
    let mut desk = Desk::new();
    for name in ["1", "2", "3", "4", "5"] {
        desk.push("a", name);
    }
    let written = desk.write();
    desk.acked(written[1].0, "a", "2");
    desk.outbox.disconnected();
    assert_eq!(desk.names(), ["1", "3", "4", "5"]);
    assert_eq!(desk.outbox.retries(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_retryable_error_holds_the_room_until_what_is_in_flight_there_is_answered() {
    let mut desk = Desk::new();
    ["1", "2", "3"]
        .into_iter()
        .for_each(|name| desk.push("a", name));
    let written = desk.write();
    desk.push("a", "4");
    assert!(matches!(
        desk.outbox
            .refused(written[0].0, error(ErrorCode::RateLimited), desk.now, 1.0),
        Refusal::Retried
    ));
    desk.push("b", "elsewhere");
    assert_eq!(desk.names(), ["elsewhere"]);
    assert!(desk.pass(Duration::from_secs(1)).is_empty());
    assert_eq!(desk.names(), [""; 0], "2 and 3 are in flight");
    assert!(matches!(
        desk.outbox
            .refused(written[1].0, error(ErrorCode::RateLimited), desk.now, 1.0),
        Refusal::Retried
    ));
    desk.acked(written[2].0, "a", "3");
    assert_eq!(desk.names(), [""; 0], "the wait goes on");
    assert_eq!(
        desk.outbox.timer(),
        Some(desk.now + Duration::from_millis(100))
    );
    desk.pass(Duration::from_millis(100));
    for name in ["1", "2", "4"] {
        let written = desk.write();
        assert_eq!(
            written.len(),
            1,
            "one at a time, until the room has caught up"
        );
        assert_eq!(written[0].1, name);
        desk.acked(written[0].0, "a", name);
    }
    ["5", "6"].into_iter().for_each(|name| desk.push("a", name));
    assert_eq!(desk.names(), ["5", "6"]);
}

#[tokio::test(start_paused = true)]
async fn a_final_error_ends_the_send_only() {
    let mut desk = Desk::new();
    ["1", "2"].into_iter().for_each(|name| desk.push("a", name));
    let written = desk.write();
    let refusal = desk
        .outbox
        .refused(written[0].0, error(ErrorCode::NotAMember), desk.now, 1.0);
    assert!(matches!(
        refusal,
        Refusal::Final(
            "1",
            Error {
                code: ErrorCode::NotAMember,
                ..
            }
        )
    ));
    assert_eq!(desk.outbox.in_flight(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_without_answer_is_made_again_and_a_late_answer_still_counts() {
    let mut desk = Desk::new();
    desk.push("a", "1");
    let first = desk.write();
    desk.pass(LIMITS.attempt_timeout);
    desk.pass(Duration::from_millis(100));
    let second = desk.write();
    assert_eq!(second[0].1, "1");
    assert_ne!(second[0].0, first[0].0);
    assert_eq!(desk.acked(first[0].0, "a", "1"), Some("1"));
    assert_eq!(desk.outbox.in_flight(), 0);
    assert_eq!(
        desk.acked(second[0].0, "a", "1"),
        None,
        "the second answer finds nobody"
    );
}

#[tokio::test(start_paused = true)]
async fn the_deadline_tells_what_was_never_stored_from_what_may_be() {
    let mut desk = Desk::new();
    for room in ["written", "limited", "unsure"] {
        desk.push(
            room,
            match room {
                "written" => "w",
                "limited" => "l",
                _ => "u",
            },
        );
    }
    let written = desk.write();
    (0..5).for_each(|_| desk.push("written", "never"));
    desk.outbox
        .refused(written[1].0, error(ErrorCode::RateLimited), desk.now, 1.0);
    desk.outbox
        .refused(written[2].0, error(ErrorCode::Unavailable), desk.now, 1.0);
    let mut ended = desk.pass(Duration::from_secs(30));
    ended.sort_by_key(|(name, _)| *name);
    let limited = Unanswered::NotStored(Some(error(ErrorCode::RateLimited)));
    let unsure = Unanswered::Unknown(Some(error(ErrorCode::Unavailable)));
    assert_eq!(ended[0], ("l", limited));
    assert!(
        ended[1..6]
            .iter()
            .all(|end| *end == ("never", Unanswered::NotStored(None)))
    );
    assert_eq!(
        ended[6..],
        [("u", unsure), ("w", Unanswered::Unknown(None))]
    );
    desk.pass(Duration::from_secs(1));
    assert_eq!(desk.outbox.timer(), None);
}

#[tokio::test(start_paused = true)]
async fn ticking_at_the_timer_never_leaves_the_timer_in_the_past() {
    let mut desk = Desk::new();
    ["1", "2"].into_iter().for_each(|name| desk.push("a", name));
    let written = desk.write();
    desk.outbox
        .refused(written[0].0, error(ErrorCode::RateLimited), desk.now, 1.0);
    desk.outbox
        .refused(written[1].0, error(ErrorCode::RateLimited), desk.now, 1.0);
    while let Some(at) = desk.outbox.timer() {
        assert!(at >= desk.now);
        desk.now = at;
        desk.outbox.tick(at, 1.0);
        assert!(desk.outbox.timer().is_none_or(|next| next > at));
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_counts_for_the_room_it_names_only() {
    let mut desk = Desk::new();
    let client_id = |room| send(room, "1");
    for room in ["a", "b"] {
        desk.outbox
            .push(client_id(room), desk.now + Duration::from_secs(30), room);
    }
    let first = desk.write();
    desk.pass(LIMITS.attempt_timeout);
    // Both wait to be written again: what b's first attempt is answered with says nothing about a.
    assert_eq!(desk.acked(first[1].0, "b", "1"), Some("b"));
    desk.pass(Duration::from_millis(100));
    let second = desk.write();
    assert_eq!(second.len(), 1, "a is written again");
    // And the same while it is in flight for the second time.
    assert_eq!(desk.acked(first[1].0, "b", "1"), None);
    assert_eq!(desk.acked(second[0].0, "a", "1"), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_after_an_attempt_without_answer_does_not_say_that_it_is_not_stored() {
    for unsure in [
        "lost with the connection",
        "out of time",
        "answered that nobody knows",
    ] {
        let mut desk = Desk::new();
        desk.push("a", "1");
        let first = desk.write();
        match unsure {
            "lost with the connection" => desk.outbox.disconnected(),
            "out of time" => drop(desk.pass(LIMITS.attempt_timeout)),
            _ => {
                drop(
                    desk.outbox
                        .refused(first[0].0, error(ErrorCode::Unavailable), desk.now, 1.0),
                )
            }
        }
        desk.pass(Duration::from_secs(1));
        let second = desk.write();
        let refusal = desk
            .outbox
            .refused(second[0].0, error(ErrorCode::NotAMember), desk.now, 1.0);
        let unsure_end = matches!(
            refusal,
            Refusal::Unsure(
                "1",
                Error {
                    code: ErrorCode::NotAMember,
                    ..
                }
            )
        );
        assert!(unsure_end, "{unsure}: {refusal:?}");
    }
    let mut desk = Desk::new();
    desk.push("a", "1");
    let first = desk.write();
    desk.outbox
        .refused(first[0].0, error(ErrorCode::RateLimited), desk.now, 1.0);
    desk.pass(Duration::from_secs(1));
    let second = desk.write();
    let refusal = desk
        .outbox
        .refused(second[0].0, error(ErrorCode::NotAMember), desk.now, 1.0);
    assert!(
        matches!(refusal, Refusal::Final("1", _)),
        "each answer said that it is not stored"
    );
}

#[derive(Debug, Clone)]
enum Happening {
    Push(u8),
    Ack(usize),
    Refuse(usize, ErrorCode),
    Disconnect,
    Pass(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0..3_u8).prop_map(Happening::Push),
        3 => any::<usize>().prop_map(Happening::Ack),
        2 => (any::<usize>(), prop::sample::select(vec![ErrorCode::RateLimited, ErrorCode::Unavailable, ErrorCode::Forbidden]))
            .prop_map(|(at, code)| Happening::Refuse(at, code)),
        1 => Just(Happening::Disconnect),
        2 => (0..15_000_u64).prop_map(Happening::Pass),
    ]
}

proptest! {
    /// Whatever happens, every send ends exactly once, and of one room's sends none is written again before an earlier
    /// one that is waiting.
    #[test]
    fn every_send_ends_once_and_order_holds(happenings in prop::collection::vec(happening(), 1..120)) {
        let start = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async { Instant::now() });
        let mut outbox: Outbox<u64> = Outbox::new(LIMITS);
        let mut now = start;
        let mut req = 0_u32;
        let mut pushed = 0_u64;
        let mut flights: Vec<(u32, RoomId, u64)> = Vec::new();
        let mut ended: HashSet<u64> = HashSet::new();
        let end = |name: u64, ended: &mut HashSet<u64>| {
            prop_assert!(ended.insert(name), "{} ended twice", name);
            Ok(())
        };
        for happening in happenings {
            match happening {
                Happening::Push(room) => {
                    outbox.push(send(&format!("r{room}"), &pushed.to_string()), now + Duration::from_secs(20), pushed);
                    pushed += 1;
                }
                Happening::Ack(at) if !flights.is_empty() => {
                    let (req, room, name) = flights.swap_remove(at % flights.len());
                    if let Some(name) = outbox.acked(req, &room, &name.to_string()) { end(name, &mut ended)?; }
                }
                Happening::Refuse(at, code) if !flights.is_empty() => {
                    let (req, ..) = flights.swap_remove(at % flights.len());
                    let refusal = outbox.refused(req, error(code), now, 0.5);
                    if let Refusal::Final(name, _) | Refusal::Unsure(name, _) = refusal { end(name, &mut ended)?; }
                }
                Happening::Disconnect => { flights.clear(); outbox.disconnected(); }
                Happening::Pass(ms) => {
                    now += Duration::from_millis(ms);
                    for (name, _) in outbox.tick(now, 0.5) { end(name, &mut ended)?; }
                }
                _ => {}
            }
            let mut last: HashMap<RoomId, u64> = HashMap::new();
            while let Some((req, ClientOp::Send { room, client_id, .. })) = outbox.next(now, || { req += 1; req }) {
                let name: u64 = client_id.parse().unwrap();
                prop_assert!(!ended.contains(&name), "{} was written after its end", name);
                if let Some(before) = last.insert(room.clone(), name) { prop_assert!(before < name); }
                flights.push((req, room, name));
            }
            prop_assert!(outbox.in_flight() <= LIMITS.in_flight);
        }
        for (name, _) in outbox.end() { end(name, &mut ended)?; }
        prop_assert_eq!(ended.len() as u64, pushed);
    }
}
