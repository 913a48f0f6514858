//! What one address, one user or one message costs everybody else: nothing that is not bounded.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use im_logic::store::Store;
use im_proto::v1::{Encoding, Send, call};
use im_wire::ids::{ClientId, RoomId, UserId};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::site::{
    Bus, Site, TIMEOUT, admin, embedded, encoded, now, options, signed, store, token,
};

const SECOND_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A connection that comes from this address of the machine itself.
async fn from(address: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address, 0)).unwrap();
    socket.connect(to).await.unwrap()
}

/// Everything that comes until the other side ends it.
async fn all_of(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    // An end by reset is an end.
    let _ = tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut read))
        .await
        .expect("it ends");
    String::from_utf8_lossy(&read).into_owned()
}

/// A request on a connection of its own from this address; the whole answer as text.
async fn asked(address: IpAddr, to: SocketAddr, head: &str, body: &str) -> String {
    let mut stream = from(address, to).await;
    let request = format!(
        "{head}\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    all_of(&mut stream).await
}

fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("{answer:?}"))
}

fn me(user: &str) -> String {
    format!(
        "GET /v1/me HTTP/1.1\r\nauthorization: Bearer {}",
        token(user)
    )
}

const UNSOUND: [&str; 4] = ["1e999", "\"\\ud800\"", "nul", DEEP];
/// 128 levels.
const DEEP: &str = "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\
    ]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]";

#[tokio::test]
async fn json_that_some_clients_cannot_read_is_refused_on_every_way_in() {
    let site = Site::new().await;
    let ann = token("ann");
    let grant = site.connect(&ann, "c-1").await.grant;
    let room = "direct:3:ann:bob";
    for body in UNSOUND {
        let send = Send {
            room: room.to_owned(),
            client_id: "m".to_owned(),
            r#type: "text".to_owned(),
            body: Bytes::from(body),
            encoding: Encoding::Json.into(),
        };
        let fault = site
            .call(grant.clone(), "c-1", call::Op::Send(send))
            .await
            .expect_err(body);
        assert_eq!(
            (fault.code.as_str(), fault.field.as_str()),
            ("bad_request", "body"),
            "{body}: {}",
            fault.text
        );
        let path = format!("/v1/rooms/{}/messages", encoded(room));
        let over_http = site
            .raw(Method::POST, &path, &ann, format!("{{\"body\": {body}}}"))
            .await;
        assert_eq!(over_http.refused(), (400, "bad_request", "body"), "{body}");
        let pushed = site
            .raw(
                Method::POST,
                "/v1/users/bob/push",
                &admin(),
                format!("{{\"body\": {body}}}"),
            )
            .await;
        assert_eq!(pushed.refused(), (400, "bad_request", "body"), "{body}");
    }
    assert!(site.bus.logged.lock().unwrap().is_empty());
}

#[tokio::test]
async fn one_stored_message_never_costs_a_list_its_answer() {
    let (store, bus) = store();
    let room = RoomId::new("direct:3:ann:bob").unwrap();
    let site = Site::over(options(), store.clone(), bus).await;
    let ann = token("ann");
    site.say(&ann, room.as_str(), "first").await;
    for (number, body) in UNSOUND.into_iter().enumerate() {
        // Taken before the rule was as strict as it is.
        let user = UserId::new("ann").unwrap();
        let client_id = ClientId::new(format!("old-{number}")).unwrap();
        let entry = im_proto::v1::Entry {
            id: format!("e-{number}"),
            from: "ann".to_owned(),
            client_id: client_id.as_str().to_owned(),
            r#type: "text".to_owned(),
            body: Bytes::from(body),
            encoding: Encoding::Json.into(),
            ..Default::default()
        };
        let access = im_logic::store::Access {
            user,
            direct: true,
            open: false,
            system: false,
        };
        let append = im_logic::store::Append {
            room: room.clone(),
            access,
            client_id,
            entry,
            index: Vec::new(),
        };
        store.messages.append(append).await.unwrap();
        for path in [
            "/v1/conversations".to_owned(),
            format!("/v1/rooms/{}/messages", encoded(room.as_str())),
        ] {
            let answer = site.get(&ann, &path).await;
            assert_eq!(answer.status, 200, "{path} with {body}: {answer:?}");
            let text = answer.body.to_string();
            assert!(text.contains("body_base64"), "{path} with {body}: {text}");
        }
    }
}

#[tokio::test]
async fn a_list_of_conversations_ends_a_page_where_its_bytes_end() {
    let mut options = options();
    options.limits.user_byte_rate = 0;
    let site = Site::with(options).await;
    let ann = token("ann");
    let large = "x".repeat(64 * 1024);
    for number in 0..40 {
        site.say(&ann, &format!("direct:3:ann:bob{number:02}"), &large)
            .await;
    }
    let mut seen = Vec::new();
    let mut after = String::new();
    let deadline = Instant::now() + TIMEOUT;
    while seen.len() < 40 && Instant::now() < deadline {
        let answer = site
            .get(&ann, &format!("/v1/conversations?limit=500{after}"))
            .await
            .good();
        let bytes = answer.to_string().len();
        assert!(bytes < 1200 * 1024, "a page of {bytes} bytes");
        let page = answer["conversations"].as_array().unwrap();
        seen.extend(
            page.iter()
                .map(|one| one["room"].as_str().unwrap().to_owned()),
        );
        match answer["next"].as_str() {
            Some(next) => after = format!("&after={}", encoded(next)),
            // The index may lag a moment behind the messages.
            None if seen.len() < 40 => (seen, after) = (Vec::new(), String::new()),
            None => {}
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 40);
}

#[tokio::test]
async fn a_header_is_64_kib_at_most() {
    let site = Site::new().await;
    let mut stream = from(SECOND_ADDRESS, site.http).await;
    let (mut reading, mut writing) = stream.split();
    let long = vec![b'a'; 400 * 1024];
    let writing = async move {
        writing
            .write_all(b"GET /v1/me HTTP/1.1\r\nhost: x\r\nx-long: ")
            .await?;
        writing.write_all(&long).await
    };
    let mut answer = vec![0; 64];
    let reading = async { reading.read(&mut answer).await };
    let (_, read) = tokio::time::timeout(TIMEOUT, futures::future::join(writing, reading))
        .await
        .expect("an answer");
    let read = read.expect("an answer before the end");
    assert!(
        answer[..read].starts_with(b"HTTP/1.1 431"),
        "{:?}",
        String::from_utf8_lossy(&answer[..read])
    );
}

#[tokio::test]
async fn idle_connections_of_one_address_do_not_keep_others_out() {
    let mut options = options();
    options.http.max_connections = 64;
    options.http.max_connections_per_ip = 48;
    let site = Site::with(options).await;
    let mut idle = Vec::new();
    for _ in 0..64 {
        idle.push(TcpStream::connect(site.http).await.unwrap());
    }
    let head = me("ann");
    let asking = asked(SECOND_ADDRESS, site.http, &head, "");
    let answer = tokio::time::timeout(Duration::from_secs(3), asking)
        .await
        .expect("somebody else is answered");
    assert_eq!(status(&answer), 200, "{answer}");
    let mut refused = idle.pop().unwrap();
    assert_eq!(
        status(&all_of(&mut refused).await),
        429,
        "and whoever holds too many is told so"
    );
}

#[tokio::test]
async fn slow_bodies_without_a_token_take_nobodys_place() {
    let mut options = options();
    options.http.max_requests = 4;
    let site = Site::with(options).await;
    let mut slow = Vec::new();
    for path in ["/open/push", "/goim/push/all", "/v1/rooms", "/v1/broadcast"]
        .into_iter()
        .cycle()
        .take(16)
    {
        let mut stream = TcpStream::connect(site.http).await.unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\na");
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    for stream in &mut slow {
        let mut answer = [0; 1024];
        let read = tokio::time::timeout(Duration::from_secs(3), stream.read(&mut answer)).await;
        let read = read.expect("refused before its body is read").unwrap();
        let text = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(
            text.starts_with("HTTP/1.1 401") || text.contains("there is no token"),
            "{text}"
        );
    }
    assert_eq!(site.get(&token("ann"), "/v1/me").await.status, 200);
}

#[tokio::test]
async fn slow_bodies_with_a_token_end_in_time_and_take_nobodys_place() {
    let mut options = options();
    options.http.max_requests = 4;
    options.http.body_timeout = Duration::from_secs(2);
    let site = Site::with(options).await;
    let mut slow = Vec::new();
    for _ in 0..16 {
        let mut stream = TcpStream::connect(site.http).await.unwrap();
        let head = format!(
            "POST /v1/rooms HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 1000\r\n\r\n{{",
            token("eve")
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    assert_eq!(site.get(&token("ann"), "/v1/me").await.status, 200);
    for stream in &mut slow {
        assert_eq!(status(&all_of(stream).await), 408);
    }
}

#[tokio::test]
async fn a_user_asked_about_twice_is_answered_once() {
    let site = Site::new().await;
    site.beat().await;
    for number in 0..200 {
        site.connect(&token("ann"), &format!("c-{number}")).await;
    }
    let users = vec!["ann"; 100].join(",");
    let answer = site
        .get(&token("bob"), &format!("/v1/presence?users={users},cat"))
        .await
        .good();
    let listed = answer["users"].as_array().unwrap();
    assert_eq!(
        listed
            .iter()
            .map(|one| one["user"].as_str().unwrap())
            .collect::<Vec<_>>(),
        ["ann", "cat"]
    );
    assert!(
        answer.to_string().len() < 64 * 1024,
        "{} bytes",
        answer.to_string().len()
    );
}

#[tokio::test]
async fn tokens_that_are_guessed_wait_ever_longer() {
    let mut options = options();
    options.http.auth_failures = 5;
    let site = Site::with(options).await;
    let guess = |number: usize| {
        let mut guess = token(&format!("u{number}"));
        guess.truncate(guess.len() - 4);
        format!("GET /v1/me HTTP/1.1\r\nauthorization: Bearer {guess}")
    };
    let mut refused = 0;
    for number in 0..50 {
        let answer = asked(SECOND_ADDRESS, site.http, &guess(number), "").await;
        refused += usize::from(status(&answer) == 429);
        assert!([401, 429].contains(&status(&answer)), "{answer}");
    }
    assert!(refused >= 40, "{refused} of 50 were not even looked at");
    // Until the next pause begins, which is longer than what follows takes.
    while status(&asked(SECOND_ADDRESS, site.http, &guess(0), "").await) == 429 {}
    let good = asked(SECOND_ADDRESS, site.http, &me("ann"), "").await;
    assert_eq!(status(&good), 429, "the address waits");
    assert_eq!(
        site.get(&token("ann"), "/v1/me").await.status,
        200,
        "others do not"
    );
}

#[tokio::test]
async fn the_client_behind_a_known_proxy_is_the_one_who_counts() {
    let mut options = options();
    options.http.auth_failures = 3;
    options.http.forwarded_from = vec![
        "127.0.0.2/32".parse().unwrap(),
        "192.0.2.0/24".parse().unwrap(),
    ];
    let site = Site::with(options).await;
    let head = |token: &str, client: &str| {
        format!("GET /v1/me HTTP/1.1\r\nauthorization: Bearer {token}\r\nx-forwarded-for: {client}")
    };
    let eve = "203.0.113.9, 198.51.100.7, 192.0.2.1";
    for _ in 0..10 {
        asked(SECOND_ADDRESS, site.http, &head("x.y.z", eve), "").await;
    }
    let ann = token("ann");
    assert_eq!(
        status(&asked(SECOND_ADDRESS, site.http, &head(&ann, eve), "").await),
        429
    );
    let other = "203.0.113.9, 198.51.100.8, 192.0.2.1";
    assert_eq!(
        status(&asked(SECOND_ADDRESS, site.http, &head(&ann, other), "").await),
        200
    );
    assert_eq!(
        status(&asked(SECOND_ADDRESS, site.http, &head(&ann, "203.0.113.9"), "").await),
        200
    );
    let refused = asked(
        SECOND_ADDRESS,
        site.http,
        &head(&ann, "203.0.113.9, unknown, 192.0.2.1"),
        "",
    )
    .await;
    assert_eq!(status(&refused), 400, "{refused}");
    assert!(
        refused.contains("X-Forwarded-For is no list of addresses"),
        "{refused}"
    );
    // Nobody else is believed about whom they speak for.
    let third = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
    for _ in 0..10 {
        asked(third, site.http, &head("x.y.z", "203.0.113.9"), "").await;
    }
    assert_eq!(
        status(&asked(third, site.http, &head(&token("cat"), "203.0.113.77"), "").await),
        429
    );
    assert_eq!(
        status(&asked(third, site.http, &head(&ann, "203.0.113.77"), "").await),
        200,
        "let in before"
    );
    assert_eq!(
        status(&asked(SECOND_ADDRESS, site.http, &head(&ann, "203.0.113.9"), "").await),
        200
    );
}

#[tokio::test]
async fn one_users_bytes_are_bounded_and_say_how_long_to_wait() {
    let mut options = options();
    options.limits.user_byte_rate = 1024;
    let site = Site::with(options).await;
    let (ann, bob) = (token("ann"), token("bob"));
    let path = |room: &str| format!("/v1/rooms/{}/messages", encoded(room));
    let large = "x".repeat(64 * 1024);
    let mut taken = 0;
    let limited = loop {
        // A room each: it is the user's own bytes that are counted.
        let room = format!("direct:3:ann:u{taken}");
        let answer = site.post(&ann, &path(&room), json!({"body": large})).await;
        if answer.status == 429 {
            break answer;
        }
        taken += 1;
        assert!(taken < 1000, "64 MB were taken");
    };
    assert_eq!(limited.refused(), (429, "rate_limited", ""));
    assert!(
        limited.headers["retry-after"]
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            >= 1
    );
    assert!(
        limited.body["error"]["text"]
            .as_str()
            .unwrap()
            .contains("bytes"),
        "{limited:?}"
    );
    assert_eq!(
        site.post(&bob, &path("direct:3:ann:bob"), json!({"body": large}))
            .await
            .status,
        201
    );
    for _ in 0..3 {
        let spoken = site
            .post(&admin(), &path("direct:3:ann:bob"), json!({"body": large}))
            .await;
        assert_eq!(spoken.status, 201, "a backend is not held back");
    }
}

#[tokio::test]
async fn what_a_user_reads_over_http_is_bounded() {
    let mut options = options();
    options.http.user_read_rate = 20_000;
    let site = Site::with(options).await;
    let (ann, bob) = (token("ann"), token("bob"));
    site.say(&ann, "direct:3:ann:bob", &"x".repeat(50_000))
        .await;
    let messages = "/v1/rooms/direct%3A3%3Aann%3Abob/messages";
    for path in [messages, "/v1/conversations"] {
        assert_eq!(
            site.get(&ann, path).await.status,
            200,
            "80 kB at once, and what is more by the last"
        );
    }
    for path in [messages, "/v1/conversations"] {
        let refused = site.get(&ann, path).await;
        assert_eq!(refused.refused(), (429, "rate_limited", ""), "{path}");
        assert!(refused.headers.contains_key("retry-after"));
    }
    assert_eq!(
        site.get(&ann, "/v1/rooms").await.status,
        200,
        "other requests go on"
    );
    assert_eq!(
        site.get(&bob, messages).await.status,
        200,
        "and so do others"
    );
    for _ in 0..4 {
        assert_eq!(
            site.get(&admin(), messages).await.status,
            200,
            "a backend has no such limit"
        );
    }
}

#[tokio::test]
async fn many_writers_together_do_not_exceed_a_rooms_bytes() {
    let mut options = options();
    // Slow enough that the time of the test gives nobody anything.
    (
        options.limits.room_byte_rate,
        options.limits.room_byte_burst,
    ) = (1024, 1024 * 1024);
    let site = Site::with(options).await;
    let grants = futures::future::join_all((0..40).map(async |number| {
        let user = format!("u{number}");
        signed(&json!({"sub": user, "exp": now() + 600, "rooms": ["live://*"]}))
    }));
    let large = "x".repeat(64 * 1024);
    let path = format!("/v1/rooms/{}/messages", encoded("live://1"));
    let mut taken = 0;
    let writers = grants.await;
    'all: for _ in 0..20 {
        for writer in &writers {
            if site
                .post(writer, &path, json!({"body": large}))
                .await
                .status
                == 429
            {
                break 'all;
            }
            taken += 1;
        }
    }
    assert!(
        (16..20).contains(&taken),
        "{taken} messages of 64 KiB were taken in one room at once"
    );
}

#[tokio::test]
async fn what_the_store_says_is_for_the_log() {
    let bus = Arc::new(Bus::default());
    let store = Arc::new(embedded(Arc::clone(&bus)));
    let site = Site::over(options(), Store::new(store.clone()), bus).await;
    let ann = token("ann");
    site.say(&ann, "direct:3:ann:bob", "hi").await;
    store.close().await;
    let answer = site
        .post(
            &ann,
            "/v1/rooms/direct%3A3%3Aann%3Abob/messages",
            json!({"body": "x"}),
        )
        .await;
    assert_eq!(answer.refused(), (503, "unavailable", ""));
    let text = answer.body["error"]["text"].as_str().unwrap();
    assert!(
        text.starts_with("the store cannot be reached just now: retry soon (log: "),
        "{text}"
    );
}

#[tokio::test]
async fn an_administrators_token_has_no_place_in_an_address() {
    let site = Site::new().await;
    let in_query = site
        .get("", &format!("/goim/online/total?token={}", admin()))
        .await;
    assert_eq!(
        (in_query.status, &in_query.body["code"]),
        (200, &json!(-400)),
        "{in_query:?}"
    );
    let message = in_query.body["message"].as_str().unwrap();
    assert!(message.contains("header"), "{message}");
    assert_eq!(
        site.get(&admin(), "/goim/online/total").await.body["code"],
        0
    );
    let user = site
        .get("", &format!("/goim/nodes/weighted?token={}", token("ann")))
        .await;
    assert_eq!(
        user.body["code"], 0,
        "a user's may stand there, as goim's clients have it"
    );
}

#[tokio::test]
async fn names_hold_nothing_that_is_not_seen() {
    let site = Site::new().await;
    for hidden in [
        '\u{200b}', '\u{200d}', '\u{202e}', '\u{2066}', '\u{feff}', '\u{61c}', '\u{ad}',
    ] {
        let id = format!("te{hidden}am");
        let made = site
            .post(
                &admin(),
                "/v1/rooms",
                json!({"kind": "group", "id": id, "members": ["ann"]}),
            )
            .await;
        assert_eq!(made.refused(), (400, "bad_request", "id"), "{hidden:?}");
        let ann = format!("an{hidden}n");
        assert_eq!(
            site.get(&token(&ann), "/v1/me").await.refused(),
            (401, "unauthenticated", "token"),
            "{hidden:?}"
        );
    }
}

#[tokio::test]
async fn another_origin_may_ask_where_it_is_listed() {
    let mut options = options();
    options.http.allowed_origins = vec!["https://app.example".to_owned()];
    let site = Site::with(options).await;
    let ask = async |origin: &str, method: &str, path: &str, more: &str| {
        let head = format!("{method} {path} HTTP/1.1\r\norigin: {origin}{more}");
        asked(SECOND_ADDRESS, site.http, &head, "")
            .await
            .to_ascii_lowercase()
    };
    let wish = "\r\naccess-control-request-method: POST\r\naccess-control-request-headers: authorization,content-type";
    for path in [
        "/v1/rooms",
        "/v1/rooms/r/read",
        "/open/push",
        "/goim/nodes/weighted",
    ] {
        let answer = ask("https://app.example", "OPTIONS", path, wish).await;
        assert_eq!(status(&answer), 204, "{path}: {answer}");
        assert!(
            answer.contains("access-control-allow-origin: https://app.example\r\n"),
            "{answer}"
        );
        assert!(
            answer.contains("access-control-allow-headers: ") && answer.contains("authorization"),
            "{answer}"
        );
        for method in ["get", "post", "put", "delete"] {
            let allowed = answer
                .lines()
                .find(|line| line.starts_with("access-control-allow-methods: "));
            assert!(
                allowed.is_some_and(|allowed| allowed.contains(method)),
                "{answer}"
            );
        }
        assert!(answer.contains("vary: "), "{answer}");
        let stranger = ask("https://evil.example", "OPTIONS", path, wish).await;
        assert!(
            !stranger.contains("access-control-allow-origin"),
            "{stranger}"
        );
    }
    let refused = ask("https://app.example", "GET", "/v1/me", "").await;
    assert_eq!(status(&refused), 401);
    assert!(
        refused.contains("access-control-allow-origin: https://app.example\r\n"),
        "errors can be read: {refused}"
    );
}

#[tokio::test]
async fn no_origin_is_listed_where_nothing_is_said() {
    let site = Site::new().await;
    let head = "OPTIONS /v1/rooms HTTP/1.1\r\norigin: https://app.example\r\naccess-control-request-method: POST";
    let answer = asked(SECOND_ADDRESS, site.http, head, "")
        .await
        .to_ascii_lowercase();
    assert!(
        status(&answer) == 405 && !answer.contains("access-control-allow"),
        "{answer}"
    );
}

#[tokio::test]
async fn guests_use_open_rooms_only() {
    let mut options = options();
    options.auth.guest_prefix = "guest:".to_owned();
    let site = Site::with(options).await;
    let guest =
        signed(&json!({"sub": "guest:Ann", "exp": now() + 600, "rooms": ["*"], "scope": "guest"}));
    assert_eq!(site.say(&guest, "lobby", "hello").await, 1);
    let direct = "/v1/rooms/direct%3A3%3Abob%3Aguest%3AAnn";
    for (path, body) in [
        (
            "/v1/rooms".to_owned(),
            json!({"kind": "group", "members": ["bob"]}),
        ),
        (
            "/v1/rooms".to_owned(),
            json!({"kind": "direct", "members": ["bob", "guest:Ann"]}),
        ),
        (format!("{direct}/messages"), json!({"body": "psst"})),
        (format!("{direct}/signals"), json!({"type": "typing"})),
    ] {
        assert_eq!(
            site.post(&guest, &path, body.clone()).await.refused().1,
            "forbidden",
            "{path} {body}"
        );
    }
    assert_eq!(site.get(&guest, direct).await.refused().1, "forbidden");
    let with_guest = json!({"kind": "group", "members": ["guest:Ann"]});
    for token in [token("bob"), admin()] {
        let made = site.post(&token, "/v1/rooms", with_guest.clone()).await;
        assert_eq!(made.refused(), (403, "forbidden", "members"));
    }
    let room = site.group(&token("bob"), &[]).await;
    let added = site
        .post(
            &token("bob"),
            &format!("/v1/rooms/{room}/members"),
            json!({"user": "guest:Ann"}),
        )
        .await;
    assert_eq!(added.refused(), (403, "forbidden", "user"));
    site.say(&token("bob"), "direct:3:bob:guest:Ann", "hello guest")
        .await;
    assert_eq!(
        site.get(&guest, &format!("/v1/rooms/{room}/messages"))
            .await
            .refused()
            .1,
        "forbidden"
    );
    let said = site
        .post(
            &guest,
            &format!("/v1/rooms/{room}/messages"),
            json!({"body": "x"}),
        )
        .await;
    assert_eq!(said.refused().0, 403);
    assert_eq!(
        site.get(&guest, "/v1/rooms").await.good()["rooms"],
        json!([])
    );
}

#[tokio::test]
async fn a_name_beside_a_token_must_not_contradict_it() {
    let site = Site::new().await;
    let ask = |named: &str| im_proto::v1::Authenticate {
        token: token("123"),
        unsigned_user: named.to_owned(),
        node: "node-1".to_owned(),
        ..Default::default()
    };
    for (named, good) in [("", true), ("123", true), ("456", false)] {
        let answer = site
            .call(Bytes::new(), "c-1", call::Op::Authenticate(ask(named)))
            .await;
        assert_eq!(answer.is_ok(), good, "{named}: {answer:?}");
        if let Err(fault) = answer {
            assert_eq!(
                (fault.code.as_str(), fault.field.as_str()),
                ("unauthenticated", "token")
            );
        }
    }
}
