//! Rooms and who is in them, over HTTP.

use std::sync::atomic::Ordering;

use im_logic::nodes::To;
use im_proto::v1::RoomsChangedRequest;
use serde_json::json;

use crate::gated::Gated;
use crate::site::{Site, Told, admin, encoded, eventually, options, store, token, token_for};

#[tokio::test]
async fn a_direct_room_is_the_same_from_both_sides() {
    let site = Site::new().await;
    let (ann, bob) = (token("ann"), token("bob"));
    let made = site
        .post(
            &ann,
            "/v1/rooms",
            json!({"kind": "direct", "members": ["ann", "bob"]}),
        )
        .await;
    assert_eq!(made.status, 201);
    assert_eq!(
        made.body,
        json!({"id": "direct:3:ann:bob", "kind": "direct", "created": true})
    );
    let again = site
        .post(
            &bob,
            "/v1/rooms",
            json!({"kind": "direct", "members": ["bob", "ann"]}),
        )
        .await;
    assert_eq!(
        (again.status, &again.body["id"], &again.body["created"]),
        (200, &json!("direct:3:ann:bob"), &json!(false))
    );
    let members = site
        .get(&bob, "/v1/rooms/direct%3A3%3Aann%3Abob/members")
        .await
        .good();
    assert_eq!(members["members"][0]["user"], "ann");
    assert_eq!(members["members"][1]["user"], "bob");
}

#[tokio::test]
async fn a_direct_room_is_closed_to_strangers() {
    let site = Site::new().await;
    let eve = token("eve");
    let made = site
        .post(
            &eve,
            "/v1/rooms",
            json!({"kind": "direct", "members": ["ann", "bob"]}),
        )
        .await;
    assert_eq!(made.refused(), (403, "forbidden", ""));
    site.say(&token("ann"), "direct:3:ann:bob", "hi").await;
    let room = "/v1/rooms/direct%3A3%3Aann%3Abob";
    for path in ["", "/messages", "/members"] {
        assert_eq!(
            site.get(&eve, &format!("{room}{path}")).await.refused(),
            (403, "forbidden", ""),
            "{path}"
        );
    }
    for (path, body) in [
        ("/messages", json!({"body": "x"})),
        ("/signals", json!({"type": "typing"})),
    ] {
        assert_eq!(
            site.post(&eve, &format!("{room}{path}"), body)
                .await
                .refused(),
            (403, "forbidden", ""),
            "{path}"
        );
    }
    let read = site
        .put(&eve, &format!("{room}/read"), json!({"seq": 1}))
        .await;
    assert_eq!(read.refused(), (403, "forbidden", ""));
    let added = site
        .post(
            &token("ann"),
            &format!("{room}/members"),
            json!({"user": "eve"}),
        )
        .await;
    assert_eq!(
        added.refused(),
        (409, "conflict", ""),
        "not even by a member"
    );
}

#[tokio::test]
async fn a_group_is_for_its_members_and_run_by_its_administrators() {
    let site = Site::new().await;
    let (ann, bob, eve) = (token("ann"), token("bob"), token("eve"));
    let room = site.group(&ann, &["bob"]).await;
    assert!(room.starts_with("g-"), "{room}");
    let path = format!("/v1/rooms/{room}");
    let members = site.get(&bob, &format!("{path}/members")).await.good();
    assert_eq!(members["members"].as_array().unwrap().len(), 2);
    assert_eq!(
        (
            &members["members"][0]["user"],
            &members["members"][0]["role"]
        ),
        (&json!("ann"), &json!("owner"))
    );

    assert_eq!(site.get(&eve, &path).await.refused().1, "not_a_member");
    assert_eq!(
        site.post(&eve, &format!("{path}/messages"), json!({"body": "x"}))
            .await
            .refused()
            .1,
        "not_a_member"
    );
    assert_eq!(
        site.post(&eve, &format!("{path}/join"), json!({}))
            .await
            .refused()
            .1,
        "not_a_member"
    );
    assert_eq!(
        site.post(&bob, &format!("{path}/members"), json!({"user": "eve"}))
            .await
            .refused()
            .1,
        "forbidden"
    );

    let added = site
        .post(&ann, &format!("{path}/members"), json!({"user": "eve"}))
        .await
        .good();
    assert_eq!(
        added,
        json!({"user": "eve", "role": "member", "changed": true})
    );
    assert_eq!(
        site.post(&ann, &format!("{path}/members"), json!({"user": "eve"}))
            .await
            .good()["changed"],
        false
    );
    let seq = site.say(&eve, &room, "thanks").await;

    let log = site
        .get(&eve, &format!("{path}/messages?after=0"))
        .await
        .good();
    let last = log["messages"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["seq"], &last["from"], &last["body"]),
        (&json!(seq), &json!("eve"), &json!("thanks"))
    );
    let joined = log["messages"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["type"] == "im.join")
        .unwrap();
    assert_eq!(
        joined["body"],
        json!({"user": "eve", "by": "ann", "role": "member"})
    );

    let removed = site
        .delete(&ann, &format!("{path}/members/eve"))
        .await
        .good();
    assert_eq!(removed, json!({"user": "eve", "changed": true}));
    assert_eq!(
        site.get(&eve, &format!("{path}/messages"))
            .await
            .refused()
            .1,
        "not_a_member"
    );
    assert_eq!(
        site.post(&bob, &format!("{path}/leave"), json!({}))
            .await
            .good()["changed"],
        true
    );
    assert_eq!(site.get(&bob, &path).await.refused().1, "not_a_member");
    let log = site.get(&ann, &format!("{path}/messages")).await.good();
    let last = log["messages"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["type"], &last["body"]),
        (&json!("im.leave"), &json!({"user": "bob", "by": "bob"}))
    );
}

#[tokio::test]
async fn only_owners_make_and_unmake_administrators() {
    let site = Site::new().await;
    let (ann, bob) = (token("ann"), token("bob"));
    let room = site.group(&ann, &["bob", "cat"]).await;
    let members = format!("/v1/rooms/{room}/members");
    assert_eq!(
        site.post(&bob, &members, json!({"user": "bob", "role": "owner"}))
            .await
            .refused()
            .1,
        "forbidden"
    );
    assert_eq!(
        site.delete(&bob, &format!("{members}/cat"))
            .await
            .refused()
            .1,
        "forbidden"
    );
    site.post(&ann, &members, json!({"user": "bob", "role": "admin"}))
        .await
        .good();
    assert_eq!(
        site.post(&bob, &members, json!({"user": "dan"}))
            .await
            .good()["changed"],
        true
    );
    assert_eq!(
        site.delete(&bob, &format!("{members}/dan")).await.good()["changed"],
        true
    );
    for (user, role) in [
        ("bob", "owner"),
        ("cat", "admin"),
        ("ann", "member"),
        ("dan", "owner"),
    ] {
        let change = site
            .post(&bob, &members, json!({"user": user, "role": role}))
            .await;
        assert_eq!(change.refused().1, "forbidden", "{user} {role}");
    }
    assert_eq!(
        site.delete(&bob, &format!("{members}/ann"))
            .await
            .refused()
            .1,
        "forbidden"
    );
    assert_eq!(
        site.post(&admin(), &members, json!({"user": "cat", "role": "owner"}))
            .await
            .good()["changed"],
        true
    );
    let refused = site
        .post(&ann, &members, json!({"user": "cat", "role": "king"}))
        .await;
    assert_eq!(refused.refused(), (400, "bad_request", "role"));
}

#[tokio::test]
async fn a_group_made_again_with_the_same_members_is_the_same() {
    let site = Site::new().await;
    let ann = admin();
    let wanted = json!({"id": "team/blue", "kind": "group", "members": ["bob", {"user": "cat", "role": "admin"}]});
    assert_eq!(
        site.post(&ann, "/v1/rooms", wanted.clone()).await.status,
        201
    );
    let again = site.post(&ann, "/v1/rooms", wanted).await;
    assert_eq!((again.status, &again.body["created"]), (200, &json!(false)));
    let other = site
        .post(
            &ann,
            "/v1/rooms",
            json!({"id": "team/blue", "kind": "group", "members": ["eve"]}),
        )
        .await;
    assert_eq!(other.refused().1, "conflict");
    let live = site
        .post(
            &admin(),
            "/v1/rooms",
            json!({"id": "team/blue", "kind": "open"}),
        )
        .await;
    assert_eq!(live.refused().1, "conflict");
    let shown = site.get(&ann, "/v1/rooms/team%2Fblue").await.good();
    assert_eq!(
        (&shown["id"], &shown["kind"], &shown["role"]),
        (&json!("team/blue"), &json!("group"), &json!("owner"))
    );
}

#[tokio::test]
async fn open_rooms_are_for_tokens_that_cover_them() {
    let site = Site::new().await;
    let ann = token_for("ann", &["live://*"]);
    let eve = token("eve");
    let path = format!("/v1/rooms/{}", encoded("live://1000"));
    assert_eq!(
        site.get(&eve, &path).await.refused(),
        (404, "no_such_room", "")
    );
    assert_eq!(site.get(&ann, &path).await.good()["head"], 0);
    assert_eq!(site.say(&ann, "live://1000", "first").await, 1);
    assert_eq!(
        site.get(&eve, &path).await.refused(),
        (403, "forbidden", "")
    );
    let said = site
        .post(&eve, &format!("{path}/messages"), json!({"body": "x"}))
        .await;
    assert_eq!(said.refused().0, 403);
    assert_eq!(
        site.post(&ann, &format!("{path}/join"), json!({}))
            .await
            .good()["changed"],
        false
    );
    assert_eq!(
        site.post(&ann, &format!("{path}/leave"), json!({}))
            .await
            .good()["changed"],
        false
    );
    assert_eq!(
        site.get(&ann, &format!("{path}/members")).await.refused().1,
        "conflict"
    );
    assert_eq!(
        site.post(&ann, &format!("{path}/members"), json!({"user": "eve"}))
            .await
            .refused()
            .1,
        "conflict"
    );
    let made = site
        .post(&ann, "/v1/rooms", json!({"kind": "open", "id": "live://2"}))
        .await;
    assert_eq!((made.status, &made.body["kind"]), (201, &json!("open")));
    let not_covered = site
        .post(
            &ann,
            "/v1/rooms",
            json!({"kind": "open", "id": "video://2"}),
        )
        .await;
    assert_eq!(not_covered.refused().1, "forbidden");
}

#[tokio::test]
async fn nodes_are_told_when_a_users_rooms_change() {
    let site = Site::new().await;
    site.beat().await;
    let (ann, bob) = (token("ann"), token("bob"));
    site.connect(&bob, "c-bob").await;
    let room = site.group(&ann, &["bob"]).await;
    let told = site.told().await;
    let [Told::RoomsChanged(to, request)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(*to, To::Named(vec!["node-1".to_owned()]));
    assert_eq!(
        (request.user.as_str(), &request.added, request.removed.len()),
        ("bob", &vec![room.clone()], 0)
    );

    site.delete(&ann, &format!("/v1/rooms/{room}/members/bob"))
        .await
        .good();
    let told = site.told().await;
    let [Told::RoomsChanged(_, request)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!((request.added.len(), &request.removed), (0, &vec![room]));

    site.say(&ann, "direct:3:ann:bob", "hi").await;
    let told = site.told().await;
    let [Told::RoomsChanged(_, request)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(request.added, ["direct:3:ann:bob"]);
    let rooms = site.get(&bob, "/v1/rooms").await.good();
    assert_eq!(rooms["rooms"].as_array().unwrap().len(), 1, "{rooms}");
}

#[tokio::test]
async fn a_node_that_could_not_be_told_of_a_change_is_told_so_once_it_answers() {
    let site = Site::new().await;
    site.beat().await;
    let (ann, bob) = (token("ann"), token("bob"));
    site.connect(&bob, "c-bob").await;
    site.nodes.away.store(true, Ordering::SeqCst);
    let room = site.group(&ann, &["bob"]).await;
    // It is tried again, in vain.
    eventually(|| (site.nodes.unanswered.load(Ordering::SeqCst) >= 2).then_some(())).await;
    assert!(site.nodes.take().is_empty());
    site.nodes.away.store(false, Ordering::SeqCst);
    let missed = Told::RoomsChanged(
        To::Named(vec!["node-1".to_owned()]),
        RoomsChangedRequest::default(),
    );
    assert_eq!(site.told().await, [missed]);
    site.delete(&ann, &format!("/v1/rooms/{room}/members/bob"))
        .await
        .good();
    let told = site.told().await;
    let [Told::RoomsChanged(_, request)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(
        request.user, "bob",
        "and no more of what it has been told of: {told:?}"
    );
}

#[tokio::test]
async fn a_change_made_again_is_told_again() {
    let site = Site::new().await;
    site.beat().await;
    let (ann, bob) = (token("ann"), token("bob"));
    let room = site.group(&ann, &[]).await;
    site.connect(&bob, "c-bob").await;
    let members = format!("/v1/rooms/{room}/members");
    let told = async || match site.told().await.as_slice() {
        [Told::RoomsChanged(_, request)] => {
            (request.added.len(), request.removed.len(), request.seq)
        }
        told => panic!("{told:?}"),
    };
    for seq in [1, 0] {
        let added = site
            .post(&ann, &members, json!({"user": "bob"}))
            .await
            .good();
        assert_eq!(added["changed"], seq != 0);
        assert_eq!(
            told().await,
            (1, 0, seq),
            "with its place in the log, where it is the first"
        );
    }
    site.post(&bob, &format!("/v1/rooms/{room}/join"), json!({}))
        .await
        .good();
    assert_eq!(told().await, (1, 0, 0));
    for seq in [2, 0] {
        let removed = site.delete(&ann, &format!("{members}/bob")).await.good();
        assert_eq!(removed["changed"], seq != 0);
        assert_eq!(told().await, (0, 1, seq));
    }
}

#[tokio::test]
async fn whoever_left_is_told_so_once_that_is_confirmed() {
    let (inner, bus) = store();
    let gated = Gated::new(inner, 0);
    let site = Site::over(options(), gated.store(), bus).await;
    site.beat().await;
    let (ann, bob) = (token("ann"), token("bob"));
    site.connect(&bob, "c-bob").await;
    let room = site.group(&ann, &["bob"]).await;
    // Of being a member.
    assert_eq!(site.told().await.len(), 1);
    let leave = format!("/v1/rooms/{room}/leave");
    gated.unconfirmed.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        // The second one finds it done, and a failover may still take it back.
        assert_eq!(
            site.post(&bob, &leave, json!({})).await.refused(),
            (503, "not_replicated", "")
        );
    }
    gated.unconfirmed.store(false, Ordering::SeqCst);
    assert_eq!(
        site.post(&bob, &leave, json!({})).await.refused(),
        (403, "not_a_member", "")
    );
    // What the first try had no time for.
    let told = site.told().await;
    let [Told::RoomsChanged(_, request)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(
        (request.user.as_str(), &request.removed),
        ("bob", &vec![room])
    );
    let rooms = site.get(&bob, "/v1/rooms").await.good();
    assert_eq!(rooms["rooms"], json!([]));
}

#[tokio::test]
async fn a_newer_token_says_whether_it_is_as_wide() {
    let site = Site::new().await;
    let wide = token_for("ann", &["live://*", "video://1"]);
    let grant = site.connect(&wide, "c").await.grant;
    for (token, as_wide) in [
        (wide, true),
        (token_for("ann", &["live://*"]), false),
        (token("ann"), false),
    ] {
        let refresh = im_proto::v1::call::Op::Refresh(im_proto::v1::Refresh { token });
        match site.call(grant.clone(), "c", refresh).await.unwrap() {
            im_proto::v1::reply::Result::Refreshed(refreshed) => {
                assert_eq!(refreshed.as_wide, as_wide)
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn conversations_carry_what_is_unread_and_what_was_said_last() {
    let site = Site::new().await;
    let (ann, bob) = (token("ann"), token("bob"));
    let room = site.group(&ann, &["bob"]).await;
    site.say(&ann, &room, "one").await;
    site.say(&ann, &room, "two").await;
    site.say(&ann, "direct:3:ann:bob", "psst").await;
    let rooms = || async { site.get(&bob, "/v1/conversations").await.good() };
    let listed = rooms().await;
    let [newest, older] = listed["conversations"].as_array().unwrap().as_slice() else {
        panic!("{listed}")
    };
    assert_eq!(
        (&newest["room"], &newest["last"]["body"]),
        (&json!("direct:3:ann:bob"), &json!("psst"))
    );
    assert_eq!(
        (&older["room"], &older["last"]["body"], &older["role"]),
        (&json!(room), &json!("two"), &json!("member"))
    );
    let unread = site.get(&bob, "/v1/unread").await.good();
    assert_eq!(
        unread["total"].as_u64().unwrap(),
        newest["unread"].as_u64().unwrap() + older["unread"].as_u64().unwrap()
    );

    let head = older["head"].as_u64().unwrap();
    let state = site
        .put(
            &bob,
            &format!("/v1/rooms/{room}/read"),
            json!({"seq": head - 1}),
        )
        .await
        .good();
    assert_eq!(
        (&state["read"], &state["unread"]),
        (&json!(head - 1), &json!(1))
    );
    let back = site
        .put(&bob, &format!("/v1/rooms/{room}/read"), json!({"seq": 1}))
        .await
        .good();
    assert_eq!(back["read"], json!(head - 1), "never backwards");
    let signal = eventually(|| site.bus.signals.lock().unwrap().pop()).await;
    assert_eq!(
        (
            signal.0.as_str(),
            signal.1.r#type.as_str(),
            signal.1.to_user.as_str()
        ),
        (room.as_str(), "read", "bob")
    );
    let body: serde_json::Value = serde_json::from_slice(&signal.1.body).unwrap();
    assert_eq!(
        body,
        json!({"room": room, "read": head - 1, "head": head, "unread": 1})
    );

    let paged = site.get(&bob, "/v1/conversations?limit=1").await.good();
    assert_eq!(paged["next"], "direct:3:ann:bob");
    let rest = site
        .get(
            &bob,
            "/v1/conversations?limit=5&after=direct%3A3%3Aann%3Abob",
        )
        .await
        .good();
    assert_eq!(
        (&rest["conversations"][0]["room"], rest.get("next")),
        (&json!(room), None)
    );
}
