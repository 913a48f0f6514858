//! What happens when the store fails, a client goes away, or logic itself has a defect.

use std::sync::Arc;
use std::time::Duration;

use im_logic::Options;
use im_logic::store::Error;
use im_proto::v1::{Send, call, reply};
use im_wire::ids::{RoomId, UserId};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::gated::{Gated, PANIC};
use crate::site::{Site, encoded, eventually, options, store, token};
use crate::uplink::{Stream, say};

const DIRECT: &str = "direct:3:ann:bob";

async fn gated(options: Options, open: usize) -> (Site, Arc<Gated>) {
    let (inner, bus) = store();
    let gated = Gated::new(inner, open);
    (Site::over(options, gated.store(), bus).await, gated)
}

fn messages() -> String {
    format!("/v1/rooms/{}/messages", encoded(DIRECT))
}

#[tokio::test]
async fn every_failure_of_the_store_has_its_answer() {
    let (site, store) = gated(options(), 0).await;
    let room = RoomId::new(DIRECT).unwrap();
    let user = UserId::new("ann").unwrap();
    let table = [
        (Error::NoSuchRoom(room.clone()), 404, "no_such_room", false),
        (
            Error::NotAMember {
                room: room.clone(),
                user: user.clone(),
            },
            403,
            "not_a_member",
            false,
        ),
        (
            Error::Forbidden {
                room: room.clone(),
                user,
                why: "no",
            },
            403,
            "forbidden",
            false,
        ),
        (
            Error::Conflict {
                room: room.clone(),
                what: "a group",
            },
            409,
            "conflict",
            false,
        ),
        (
            Error::TooManyMembers { room, limit: 1 },
            409,
            "limit_reached",
            false,
        ),
        (
            Error::NotReplicated {
                confirmed: 0,
                wanted: 1,
            },
            503,
            "not_replicated",
            true,
        ),
        (Error::Full("disk".to_owned()), 503, "store_full", true),
        (
            Error::Unavailable("gone".to_owned()),
            503,
            "unavailable",
            true,
        ),
        (Error::Corrupt("?".to_owned()), 500, "internal", true),
    ];
    let grant = site.connect(&token("ann"), "c").await.grant;
    for (error, status, code, retryable) in table {
        *store.failing.lock().unwrap() = Some(error.clone());
        let answer = site
            .post(&token("ann"), &messages(), json!({"body": "x"}))
            .await;
        assert_eq!(
            (answer.refused().0, answer.refused().1),
            (status, code),
            "{error}"
        );
        assert_eq!(answer.body["error"]["retryable"], retryable);
        assert_eq!(
            answer.headers.contains_key("retry-after"),
            status == 503,
            "{error}"
        );
        let send = Send {
            room: DIRECT.to_owned(),
            ..Send::default()
        };
        let fault = site
            .call(grant.clone(), "c", call::Op::Send(send))
            .await
            .unwrap_err();
        assert_eq!((fault.code.as_str(), fault.retryable), (code, retryable));
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_said_to_be_uncertain() {
    let mut options = options();
    options.http.request_timeout = Duration::from_millis(50);
    let (site, _store) = gated(options, 0).await;
    let answer = site
        .post(&token("ann"), &messages(), json!({"body": "x"}))
        .await;
    assert_eq!(answer.refused(), (503, "unavailable", ""));
    assert_eq!(answer.body["error"]["retryable"], true);
}

#[tokio::test]
async fn a_defect_costs_one_request_and_one_call() {
    let (site, _store) = gated(options(), 10).await;
    let answer = site
        .post(&token("ann"), &messages(), json!({"body": PANIC}))
        .await;
    assert_eq!(answer.refused(), (500, "internal", ""));
    assert_eq!(site.say(&token("ann"), DIRECT, "fine").await, 1);

    let mut stream = Stream::open(&site, None).await.unwrap();
    let grant = stream.authenticate("ann").await;
    let mut bad = say(1, &grant, DIRECT);
    if let Some(call::Op::Send(send)) = &mut bad.op {
        send.body = PANIC.into();
    }
    stream.send(vec![bad, say(2, &grant, DIRECT)]).await;
    let mut replies = stream.replies(2).await;
    replies.sort_by_key(|reply| reply.id);
    assert!(
        matches!(&replies[0].result, Some(reply::Result::Fault(fault)) if fault.code == "internal")
    );
    assert!(matches!(&replies[1].result, Some(reply::Result::Stored(stored)) if stored.seq == 2));
}

#[tokio::test]
async fn a_request_is_carried_out_though_its_client_has_gone() {
    let (site, store) = gated(options(), 0).await;
    let body = json!({"body": "last words"}).to_string();
    let request = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        messages(),
        token("ann"),
        body.len()
    );
    let mut client = TcpStream::connect(site.http).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    eventually(|| (store.begun().len() == 1).then_some(())).await;
    drop(client);
    store.gate.add_permits(1);
    let (room, seq, _) = eventually(|| site.bus.logged.lock().unwrap().pop()).await;
    assert_eq!((room.as_str(), seq), (DIRECT, 1));
}

#[tokio::test]
async fn an_index_that_names_too_much_is_repaired_when_it_is_read() {
    let (store, bus) = store();
    let site = Site::over(options(), store.clone(), bus).await;
    let eve = UserId::new("eve").unwrap();
    let group = RoomId::new(site.group(&token("ann"), &[]).await).unwrap();
    let nowhere = RoomId::new("g-nowhere").unwrap();
    for room in [&group, &nowhere] {
        store
            .index
            .index_room(std::slice::from_ref(&eve), room)
            .await
            .unwrap();
    }
    assert_eq!(
        store.index.user_rooms(&eve, None, 10).await.unwrap().len(),
        2
    );
    assert_eq!(
        site.get(&token("eve"), "/v1/rooms").await.good()["rooms"],
        json!([])
    );
    assert!(
        store
            .index
            .user_rooms(&eve, None, 10)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn the_first_message_of_a_direct_room_is_in_both_lists_when_it_is_acknowledged() {
    let (inner, bus) = store();
    let gated = Gated::new(inner.clone(), 10);
    let site = Site::over(options(), gated.store(), bus).await;
    // As if the process died as soon as it has answered: nothing that follows the answer is done.
    let _held = gated.indexing.lock().await;
    site.say(&token("ann"), DIRECT, "hi").await;
    for user in ["ann", "bob"] {
        let rooms = inner
            .index
            .user_rooms(&UserId::new(user).unwrap(), None, 10)
            .await
            .unwrap();
        assert_eq!(rooms, [RoomId::new(DIRECT).unwrap()], "{user}");
    }
}

#[tokio::test]
async fn a_room_that_an_index_lacks_is_put_there_when_its_user_names_it() {
    let (store, bus) = store();
    let site = Site::over(options(), store.clone(), bus).await;
    let (ann, bob) = (UserId::new("ann").unwrap(), UserId::new("bob").unwrap());
    site.beat().await;
    site.connect(&token("bob"), "c-bob").await;
    site.say(&token("ann"), DIRECT, "hi").await;
    let group = RoomId::new(site.group(&token("ann"), &["bob"]).await).unwrap();
    let direct = RoomId::new(DIRECT).unwrap();
    // Both are told last of all, so nothing is indexed any more.
    let mut told = 0;
    while told < 2 {
        told += site.told().await.len();
    }
    for user in [&ann, &bob] {
        for room in [&direct, &group] {
            store.index.unindex_room(user, room).await.unwrap();
        }
    }
    let grant = site.connect(&token("ann"), "c").await.grant;
    let rooms = vec![
        DIRECT.to_owned(),
        group.as_str().to_owned(),
        "direct:3:ann:zoe".to_owned(),
    ];
    let subscribe = im_proto::v1::Subscribe { rooms, all: true };
    site.call(grant, "c", call::Op::Subscribe(subscribe))
        .await
        .unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while store.index.user_rooms(&ann, None, 10).await.unwrap().len() < 2 {
        assert!(tokio::time::Instant::now() < deadline, "not indexed");
        tokio::task::yield_now().await;
    }
    assert_eq!(
        store.index.user_rooms(&bob, None, 10).await.unwrap(),
        [direct],
        "the other one's direct room too"
    );
}

#[tokio::test]
async fn lists_of_rooms_are_compared_by_their_digest() {
    let site = Site::new().await;
    let group = site.group(&token("ann"), &["bob"]).await;
    let known = async |digests: [u64; 2]| {
        let list = |(user, digest): (&str, u64)| im_proto::v1::KnownList {
            user: user.to_owned(),
            digest,
        };
        let lists = ["ann", "nobody"]
            .into_iter()
            .zip(digests)
            .map(list)
            .collect();
        let ask = call::Op::KnownRooms(im_proto::v1::KnownRooms { lists });
        match site.call(Default::default(), "", ask).await {
            Ok(reply::Result::RoomLists(answer)) => answer.lists,
            other => panic!("{other:?}"),
        }
    };
    let first = known([0, 0]).await;
    assert_eq!(
        (&first[0].rooms, first[1].rooms.len()),
        (&vec![group.clone()], 0)
    );
    let digests = [first[0].digest, first[1].digest];
    assert!(
        digests[0] != 0 && digests[1] != 0 && digests[0] != digests[1],
        "{digests:?}"
    );
    let same = known(digests).await;
    assert_eq!(
        same.iter()
            .map(|list| (list.digest, list.rooms.len()))
            .collect::<Vec<_>>(),
        digests.map(|digest| (digest, 0))
    );
    site.say(&token("ann"), DIRECT, "hi").await;
    let changed = known(digests).await;
    assert_ne!(changed[0].digest, digests[0]);
    assert_eq!(changed[0].rooms, [DIRECT.to_owned(), group]);
}

#[tokio::test]
async fn where_too_much_follows_answers_they_wait_for_their_own() {
    let mut options = options();
    options.limits.max_follow_ups = 0;
    let site = Site::with(options).await;
    site.say(&token("ann"), DIRECT, "hi").await;
    let rooms = site.get(&token("bob"), "/v1/rooms").await.good();
    assert_eq!(rooms["rooms"][0]["id"], DIRECT, "indexed before the answer");
}

#[tokio::test]
async fn a_direct_room_is_indexed_by_a_process_that_sees_it_later() {
    let (store, bus) = store();
    let first = Site::over(options(), store.clone(), bus.clone()).await;
    first.say(&token("ann"), DIRECT, "one").await;
    let ann = UserId::new("ann").unwrap();
    let room = RoomId::new(DIRECT).unwrap();
    let indexed = async || store.index.user_rooms(&ann, None, 10).await.unwrap().len();
    while indexed().await == 0 {
        tokio::task::yield_now().await;
    }
    // As if the first process had died between the append and the index.
    store.index.unindex_room(&ann, &room).await.unwrap();
    let mut options = options();
    options.limits.max_follow_ups = 0;
    let second = Site::over(options, store.clone(), bus).await;
    second.say(&token("bob"), DIRECT, "two").await;
    assert_eq!(indexed().await, 1);
}
