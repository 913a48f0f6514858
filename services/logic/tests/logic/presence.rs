//! Connections begin and end; nodes live, leave and fall silent.

use std::collections::HashMap;

use bytes::Bytes;
use im_proto::v1::{
    AssertPresence, Disconnected, Fetch, Heads, Held, NodeBeat, Position, Stray, call, reply,
};
use serde_json::json;

use crate::site::{Site, token, token_for};

async fn online(site: &Site, user: &str) -> bool {
    let shown = site
        .get(&token("someone"), &format!("/v1/presence?users={user}"))
        .await
        .good();
    shown["users"][0]["online"] == json!(true)
}

#[tokio::test]
async fn presence_ends_with_the_connection() {
    let site = Site::new().await;
    site.beat().await;
    let one = site.connect(&token("ann"), "c-1").await;
    let two = site.connect(&token("ann"), "c-2").await;
    assert!(online(&site, "ann").await);
    let gone = || {
        call::Op::Disconnected(Disconnected {
            node: "node-1".to_owned(),
            ..Disconnected::default()
        })
    };
    site.call(one.grant, "c-1", gone()).await.unwrap();
    assert!(online(&site, "ann").await, "the other connection is there");
    site.call(two.grant.clone(), "c-2", gone()).await.unwrap();
    assert!(!online(&site, "ann").await);
    let shown = site
        .get(&token("bob"), "/v1/presence?users=ann")
        .await
        .good();
    assert!(shown["users"][0]["last_seen"].as_u64().unwrap() > 1_600_000_000_000);
    assert_eq!(
        site.call(two.grant, "", gone()).await.unwrap_err().field,
        "conn"
    );
}

#[tokio::test]
async fn presence_ends_with_the_node() {
    let site = Site::new().await;
    site.beat().await;
    site.connect(&token("ann"), "c-1").await;
    assert!(online(&site, "ann").await);
    let leaving = NodeBeat {
        node: "node-1".to_owned(),
        leaving: true,
        ..NodeBeat::default()
    };
    site.call(Bytes::new(), "", call::Op::NodeBeat(leaving))
        .await
        .unwrap();
    assert!(!online(&site, "ann").await);
    let nameless = site
        .call(Bytes::new(), "", call::Op::NodeBeat(NodeBeat::default()))
        .await
        .unwrap_err();
    assert_eq!(nameless.field, "node");
}

#[tokio::test]
async fn a_node_says_which_connections_it_has() {
    let site = Site::new().await;
    site.beat().await;
    let held = |place: u64, conn: &str, user: &str| {
        let conn = conn.to_owned();
        let user = user.to_owned();
        let device = "phone".to_owned();
        Held {
            place,
            conn,
            user,
            device,
            since_ms: 5,
        }
    };
    let assert = |from: u64, to: u64, held: Vec<Held>| {
        let ask = AssertPresence {
            node: "node-1".to_owned(),
            from,
            to,
            held,
        };
        site.call(Bytes::new(), "", call::Op::AssertPresence(ask))
    };
    let reply = assert(1, 10, vec![held(1, "c-1", "ann"), held(2, "c-2", "bob")])
        .await
        .unwrap();
    let reply::Result::PresenceAsserted(first) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!((first.restored.len(), first.strays.len()), (2, 0));
    assert!(online(&site, "ann").await && online(&site, "bob").await);
    let reply = assert(1, 10, vec![held(1, "c-1", "ann")]).await.unwrap();
    let reply::Result::PresenceAsserted(second) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(
        (second.restored, second.strays),
        (
            vec![],
            vec![Stray {
                conn: "c-2".to_owned(),
                user: "bob".to_owned()
            }]
        )
    );
    assert!(
        online(&site, "bob").await,
        "whether it has just begun only the node knows"
    );
    let node = "node-1".to_owned();
    let user = "bob".to_owned();
    let gone = Disconnected {
        node,
        user,
        ago_ms: 60_000,
        ..Disconnected::default()
    };
    site.call(Bytes::new(), "c-2", call::Op::Disconnected(gone))
        .await
        .unwrap();
    assert!(!online(&site, "bob").await);
    let shown = site
        .get(&token("cy"), "/v1/presence?users=bob")
        .await
        .good();
    let ago = crate::site::now() - shown["users"][0]["last_seen"].as_u64().unwrap() / 1000;
    assert!((59..90).contains(&ago), "{ago} s");
    for (from, to, held, field) in [
        (0, 5, vec![], "to"),
        (5, 5, vec![], "to"),
        (1, 5, vec![held(5, "c-1", "ann")], "held"),
        (1, 5, vec![held(1, "", "ann")], "held"),
        (1, 5, vec![held(1, "c-1", "")], "user"),
    ] {
        assert_eq!(assert(from, to, held).await.unwrap_err().field, field);
    }
    let nobody = call::Op::Disconnected(Disconnected::default());
    assert_eq!(
        site.call(Bytes::new(), "c-2", nobody)
            .await
            .unwrap_err()
            .code,
        "unauthenticated"
    );
}

#[tokio::test]
async fn those_online_in_a_room_are_counted_over_nodes() {
    let site = Site::new().await;
    let beat = |node: &str, count: u64| {
        let online = HashMap::from([("live://1".to_owned(), count)]);
        let beat = NodeBeat {
            node: node.to_owned(),
            lease_ms: 60_000,
            connections: count,
            online,
            ..NodeBeat::default()
        };
        site.call(Bytes::new(), "", call::Op::NodeBeat(beat))
    };
    beat("node-1", 3).await.unwrap();
    let reply = beat("node-2", 4).await.unwrap();
    let reply::Result::NodeBeaten(beaten) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(beaten.online["live://1"], 7);
    let ann = token_for("ann", &["live://*"]);
    assert_eq!(
        site.get(&ann, "/v1/rooms/live%3A%2F%2F1").await.good()["online"],
        7
    );
}

#[tokio::test]
async fn a_node_catches_up_from_a_position() {
    let site = Site::new().await;
    let ann = token("ann");
    for text in ["one", "two", "three"] {
        site.say(&ann, "direct:3:ann:bob", text).await;
    }
    let heads = call::Op::Heads(Heads {
        rooms: vec!["direct:3:ann:bob".to_owned(), "nowhere".to_owned()],
    });
    let reply = site.call(Bytes::new(), "", heads).await.unwrap();
    let reply::Result::Heads(heads) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(
        (heads.heads[0].seq, heads.heads[1].seq, heads.heads[1].epoch),
        (3, 0, 0)
    );
    let fetch = |after: Option<Position>, limit: u32| {
        site.call(
            Bytes::new(),
            "",
            call::Op::Fetch(Fetch {
                after,
                limit,
                max_bytes: 0,
            }),
        )
    };
    let at = |epoch: u64, seq: u64| {
        Some(Position {
            room: "direct:3:ann:bob".to_owned(),
            epoch,
            seq,
        })
    };
    let reply = fetch(at(heads.heads[0].epoch, 1), 0).await.unwrap();
    let reply::Result::Fetched(fetched) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(
        fetched
            .entries
            .iter()
            .map(|entry| entry.seq)
            .collect::<Vec<_>>(),
        [2, 3]
    );
    assert_eq!(
        (fetched.head, fetched.reset_to, fetched.truncated),
        (3, None, None)
    );
    let reply = fetch(at(0, 9), 0).await.unwrap();
    let reply::Result::Fetched(fetched) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(fetched.reset_to, Some(3));
    let reply = fetch(at(0, 0), 2).await.unwrap();
    let reply::Result::Fetched(fetched) = reply else {
        panic!("{reply:?}")
    };
    assert_eq!(fetched.entries.len(), 2);
    assert_eq!(fetch(None, 0).await.unwrap_err().field, "after");
}
