//! What connect asks on behalf of connections: who is believed, and what a grant allows.

use bytes::Bytes;
use im_proto::v1::{
    Authenticate, Fault, History, Refresh, Send, SendSignal, Subscribe, call, reply,
};
use serde_json::json;

use crate::site::{Site, admin, eventually, now, options, signed, token, token_for};

fn authenticate(token: &str, device: &str, unsigned_user: &str) -> call::Op {
    call::Op::Authenticate(Authenticate {
        token: token.to_owned(),
        device: device.to_owned(),
        unsigned_user: unsigned_user.to_owned(),
        node: "node-1".to_owned(),
        ..Authenticate::default()
    })
}

fn say(room: &str, body: &str) -> call::Op {
    call::Op::Send(Send {
        room: room.to_owned(),
        r#type: "text".to_owned(),
        body: body.to_owned().into(),
        ..Send::default()
    })
}

#[tokio::test]
async fn a_device_is_the_tokens_the_clients_or_a_new_one() {
    let site = Site::new().await;
    let bound = signed(&json!({"sub": "ann", "dev": "phone", "exp": now() + 60}));
    let device = |reply: Result<reply::Result, Fault>| match reply {
        Ok(reply::Result::Authenticated(done)) => Ok(done.device),
        Ok(other) => panic!("{other:?}"),
        Err(fault) => Err((fault.code, fault.field)),
    };
    let call = |op| site.call(Bytes::new(), "c-1", op);
    assert_eq!(
        device(call(authenticate(&bound, "", "")).await),
        Ok("phone".to_owned())
    );
    assert_eq!(
        device(call(authenticate(&bound, "phone", "")).await),
        Ok("phone".to_owned())
    );
    let other = device(call(authenticate(&bound, "laptop", "")).await);
    assert_eq!(
        other,
        Err(("unauthenticated".to_owned(), "device".to_owned()))
    );
    assert_eq!(
        device(call(authenticate(&token("ann"), "laptop", "")).await),
        Ok("laptop".to_owned())
    );
    let (one, two) = (
        device(call(authenticate(&token("ann"), "", "")).await),
        device(call(authenticate(&token("ann"), "", "")).await),
    );
    assert_ne!(one.unwrap(), two.unwrap());
    let bad = device(call(authenticate(&token("ann"), "two words", "")).await);
    assert_eq!(bad, Err(("bad_request".to_owned(), "device".to_owned())));
}

#[tokio::test]
async fn unsigned_identities_need_the_development_switch() {
    let site = Site::new().await;
    let fault = site
        .call(Bytes::new(), "c", authenticate("", "", "ann"))
        .await
        .unwrap_err();
    assert_eq!(
        (fault.code.as_str(), fault.field.as_str()),
        ("unauthenticated", "token")
    );

    let mut options = options();
    options.auth.allow_unsigned = true;
    let site = Site::with(options).await;
    let reply = site
        .call(Bytes::new(), "c", authenticate("", "tv", "ann"))
        .await
        .unwrap();
    let reply::Result::Authenticated(done) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(
        (done.user.as_str(), done.device.as_str(), done.expires_ms),
        ("ann", "tv", 0)
    );
    site.call(done.grant, "c", say("live://1", "hi"))
        .await
        .unwrap();
    let fault = site
        .call(Bytes::new(), "c", authenticate("forged", "", "ann"))
        .await
        .unwrap_err();
    assert_eq!(fault.code, "unauthenticated", "a token is always checked");
    assert_eq!(
        site.get("", "/v1/me").await.status,
        401,
        "HTTP needs a token in any case"
    );
}

#[tokio::test]
async fn nothing_is_done_without_a_grant_that_is_alive() {
    let mut options = options();
    options.auth.leeway = std::time::Duration::ZERO;
    let site = Site::with(options).await;
    let old = site
        .connect(&signed(&json!({"sub": "ann", "exp": now() + 1})), "c")
        .await;
    let until = eventually(|| (now() > old.expires_ms / 1000).then_some(()));
    until.await;
    let room = || "direct:3:ann:bob".to_owned();
    let ops = || {
        [
            say(&room(), "x"),
            call::Op::Signal(SendSignal {
                room: room(),
                r#type: "typing".to_owned(),
                ..SendSignal::default()
            }),
            call::Op::Subscribe(Subscribe {
                rooms: vec![room()],
                all: false,
            }),
            call::Op::History(History {
                room: room(),
                ..History::default()
            }),
            call::Op::Read(im_proto::v1::Read {
                room: room(),
                seq: 1,
            }),
        ]
    };
    for op in ops() {
        assert_eq!(
            site.call(Bytes::new(), "c", op.clone())
                .await
                .unwrap_err()
                .code,
            "unauthenticated",
            "{op:?}"
        );
        assert_eq!(
            site.call(Bytes::from_static(b"junk"), "c", op.clone())
                .await
                .unwrap_err()
                .code,
            "unauthenticated"
        );
        assert_eq!(
            site.call(old.grant.clone(), "c", op.clone())
                .await
                .unwrap_err()
                .code,
            "token_expired",
            "{op:?}"
        );
    }
    let refresh = call::Op::Refresh(Refresh {
        token: token("ann"),
    });
    let reply = site.call(old.grant, "c", refresh).await.unwrap();
    let reply::Result::Refreshed(renewed) = reply else {
        panic!("{reply:?}")
    };
    for op in ops() {
        site.call(renewed.grant.clone(), "c", op).await.unwrap();
    }
}

#[tokio::test]
async fn a_refresh_is_for_the_same_user_and_device() {
    let site = Site::new().await;
    let bound =
        |user: &str, device: &str| signed(&json!({"sub": user, "dev": device, "exp": now() + 999}));
    let granted = site.connect(&bound("ann", "phone"), "c").await;
    let refresh = |token: String| {
        site.call(
            granted.grant.clone(),
            "c",
            call::Op::Refresh(Refresh { token }),
        )
    };
    assert!(
        matches!(refresh(bound("ann", "phone")).await, Ok(reply::Result::Refreshed(done)) if done.expires_ms > granted.expires_ms - 1)
    );
    assert!(refresh(token("ann")).await.is_ok());
    assert_eq!(
        refresh(bound("ann", "laptop")).await.unwrap_err().field,
        "device"
    );
    assert_eq!(
        refresh(token("bob")).await.unwrap_err().code,
        "unauthenticated"
    );
    assert_eq!(
        refresh(signed(&json!({"sub": "ann", "exp": 1})))
            .await
            .unwrap_err()
            .code,
        "token_expired"
    );
}

#[tokio::test]
async fn a_subscription_answers_for_each_room() {
    let site = Site::new().await;
    let ann = token("ann");
    let bob = token_for("bob", &["live://*"]);
    let mine = site.group(&ann, &["bob"]).await;
    let theirs = site.group(&ann, &["cat"]).await;
    site.say(&ann, "direct:3:ann:bob", "hi").await;
    site.say(&ann, &mine, "hello").await;
    let granted = site.connect(&bob, "c").await;
    let rooms = [
        mine.as_str(),
        &theirs,
        "direct:3:ann:bob",
        "direct:3:bob:dan",
        "direct:3:ann:cat",
        "live://1",
        "nowhere",
        "a b",
    ];
    let ask = Subscribe {
        rooms: rooms.map(str::to_owned).to_vec(),
        all: false,
    };
    let reply = site
        .call(granted.grant.clone(), "c", call::Op::Subscribe(ask))
        .await
        .unwrap();
    let reply::Result::Subscribed(subscribed) = reply else {
        panic!("{reply:?}")
    };
    let told: Vec<_> = subscribed
        .rooms
        .iter()
        .map(|room| {
            (
                room.room.as_str(),
                room.fault
                    .as_ref()
                    .map_or(room.kind.as_str(), |fault| fault.code.as_str()),
            )
        })
        .collect();
    let expected = [
        (mine.as_str(), "group"),
        (theirs.as_str(), "not_a_member"),
        ("direct:3:ann:bob", "direct"),
        ("direct:3:bob:dan", "direct"),
        ("direct:3:ann:cat", "forbidden"),
        ("live://1", "open"),
        ("nowhere", "no_such_room"),
        ("a b", "bad_request"),
    ];
    assert_eq!(told, expected);
    assert!(subscribed.rooms[0].head > 0 && subscribed.rooms[0].epoch > 0);

    let all = call::Op::Subscribe(Subscribe {
        rooms: vec![mine.clone()],
        all: true,
    });
    let reply = site.call(granted.grant, "c", all).await.unwrap();
    let reply::Result::Subscribed(subscribed) = reply else {
        panic!("{reply:?}")
    };
    let names: Vec<_> = subscribed
        .rooms
        .iter()
        .map(|room| room.room.as_str())
        .collect();
    assert_eq!(names, [mine.as_str(), "direct:3:ann:bob"], "each once");
}

#[tokio::test]
async fn too_many_rooms_in_one_call_are_refused() {
    let site = Site::new().await;
    let granted = site.connect(&token("ann"), "c").await;
    let rooms: Vec<_> = (0..=1000).map(|number| format!("r{number}")).collect();
    let subscribe = call::Op::Subscribe(Subscribe {
        rooms: rooms.clone(),
        all: false,
    });
    assert_eq!(
        site.call(granted.grant, "c", subscribe)
            .await
            .unwrap_err()
            .code,
        "limit_reached"
    );
    let heads = call::Op::Heads(im_proto::v1::Heads { rooms });
    assert_eq!(
        site.call(Bytes::new(), "", heads).await.unwrap_err().code,
        "limit_reached"
    );
}

#[tokio::test]
async fn a_body_must_be_what_it_is_said_to_be() {
    let site = Site::new().await;
    let granted = site.connect(&token("ann"), "c").await;
    let send = |body: &'static [u8], encoding: i32| {
        let room = "direct:3:ann:bob".to_owned();
        let send = Send {
            room,
            body: Bytes::from_static(body),
            encoding,
            ..Send::default()
        };
        site.call(granted.grant.clone(), "c", call::Op::Send(send))
    };
    for (body, encoding, field) in [
        (&b"\xff"[..], 0, "body"),
        (b"{", 1, "body"),
        (b"x", 9, "encoding"),
    ] {
        let fault = send(body, encoding).await.unwrap_err();
        assert_eq!(
            (fault.code.as_str(), fault.field.as_str()),
            ("bad_request", field)
        );
    }
    for (body, encoding) in [(&b"\xff"[..], 2), (b"{}", 1), (b"", 0), ("ä".as_bytes(), 0)] {
        assert!(send(body, encoding).await.is_ok());
    }
}

#[tokio::test]
async fn an_administrator_who_loses_the_right_has_none_from_the_next_call_on() {
    let site = Site::new().await;
    let room = site.group(&token("ann"), &["bob"]).await;
    let read = async |grant: &Bytes| {
        let op = call::Op::History(History {
            room: room.clone(),
            limit: 10,
            ..History::default()
        });
        site.call(grant.clone(), "c-1", op)
            .await
            .map(drop)
            .map_err(|fault| fault.code)
    };
    let refresh = async |grant: &Bytes, token: String| match site
        .call(grant.clone(), "c-1", call::Op::Refresh(Refresh { token }))
        .await
    {
        Ok(reply::Result::Refreshed(refreshed)) => refreshed,
        other => panic!("{other:?}"),
    };
    let wide = site.connect(&admin(), "c-1").await.grant;
    assert_eq!(
        read(&wide).await,
        Ok(()),
        "a group that the administrator is no member of"
    );
    // A newer token of the same user without the scope.
    let narrow = refresh(&wide, token("backend")).await;
    assert!(
        !narrow.as_wide,
        "the node looks again at what the connection hears"
    );
    assert_eq!(read(&narrow.grant).await, Err("not_a_member".to_owned()));
    let again = refresh(&narrow.grant, admin()).await;
    assert!(again.as_wide);
    assert_eq!(read(&again.grant).await, Ok(()));
    // A ban by another administrator: over the connection, and over HTTP.
    let other = signed(&json!({"sub": "other", "exp": now() + 60, "scope": "admin"}));
    site.post(&other, "/v1/bans", json!({"user": "backend"}))
        .await
        .good();
    assert_eq!(read(&again.grant).await, Err("banned".to_owned()));
    assert_eq!(
        site.get(&admin(), "/v1/bans").await.refused(),
        (403, "banned", "")
    );
    site.get(&other, "/v1/bans").await.good();
}
