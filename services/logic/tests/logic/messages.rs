//! Saying and reading, over HTTP.

use serde_json::json;

use crate::site::{Site, admin, options, token};

#[tokio::test]
async fn a_message_comes_back_as_it_was_said() {
    let site = Site::new().await;
    let ann = token("ann");
    let path = format!("/v1/rooms/{}/messages", site.group(&ann, &["bob"]).await);
    let start = site.get(&ann, &path).await.good()["head"].as_u64().unwrap();
    let bodies = [
        json!({"body": "text"}),
        json!({"body": {"a": [1, null]}}),
        json!({"body": 7}),
        json!({"body": null}),
        json!({"body_base64": "AAH/"}),
    ];
    for (at, body) in bodies.iter().enumerate() {
        let mut sent = body.clone();
        sent["client_id"] = json!(format!("c-{at}"));
        sent["type"] = json!("sample");
        let stored = site.post(&ann, &path, sent).await;
        assert_eq!(stored.status, 201);
        assert_eq!(stored.body["seq"].as_u64().unwrap(), start + at as u64 + 1);
        assert!(
            stored.body["id"].is_string()
                && stored.body["time"].as_u64().unwrap() > 1_600_000_000_000
        );
    }
    let page = site
        .get(&token("bob"), &format!("{path}?after={start}"))
        .await
        .good();
    let messages = page["messages"].as_array().unwrap();
    assert_eq!(messages.len(), bodies.len());
    for (message, body) in messages.iter().zip(&bodies) {
        for (name, value) in body.as_object().unwrap() {
            assert_eq!(message[name], *value, "{message}");
        }
        assert_eq!(
            (&message["from"], &message["type"]),
            (&json!("ann"), &json!("sample"))
        );
    }
    assert!(page.get("truncated").is_none());
}

#[tokio::test]
async fn the_same_client_id_is_stored_once() {
    let site = Site::new().await;
    let ann = token("ann");
    let path = format!("/v1/rooms/{}/messages", site.group(&ann, &[]).await);
    let first = site
        .post(&ann, &path, json!({"client_id": "c", "body": "once"}))
        .await;
    let again = site
        .post(&ann, &path, json!({"client_id": "c", "body": "twice"}))
        .await;
    assert_eq!((first.status, again.status), (201, 200));
    assert_eq!(
        (&first.body["seq"], &first.body["id"]),
        (&again.body["seq"], &again.body["id"])
    );
    assert_eq!(
        (&first.body["duplicate"], &again.body["duplicate"]),
        (&json!(false), &json!(true))
    );
    let other = site.post(&ann, &path, json!({"body": "no id"})).await;
    assert_eq!(
        other.body["seq"].as_u64(),
        first.body["seq"].as_u64().map(|seq| seq + 1)
    );
}

#[tokio::test]
async fn history_is_read_in_both_directions() {
    let site = Site::new().await;
    let ann = token("ann");
    let room = "direct:3:ann:bob";
    for number in 1..=250 {
        site.say(&ann, room, &number.to_string()).await;
    }
    let path = "/v1/rooms/direct%3A3%3Aann%3Abob/messages";
    let table = [
        ("", 201..=250),
        ("?limit=10", 241..=250),
        ("?before=11&limit=5", 6..=10),
        ("?before=3", 1..=2),
        ("?after=0&limit=3", 1..=3),
        ("?after=240&limit=100", 241..=250),
        ("?after=0&limit=220", 1..=220),
        ("?before=251&limit=220", 31..=250),
        ("?limit=100000", 1..=250),
    ];
    for (query, expected) in table {
        let page = site.get(&ann, &format!("{path}{query}")).await.good();
        let seqs: Vec<_> = page["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["seq"].as_u64().unwrap())
            .collect();
        assert_eq!(seqs, expected.collect::<Vec<_>>(), "{query}");
        assert_eq!(page["head"], 250);
    }
    for query in ["?after=250", "?before=1"] {
        let page = site.get(&ann, &format!("{path}{query}")).await.good();
        assert_eq!(page["messages"], json!([]), "{query}");
    }
    let both = site.get(&ann, &format!("{path}?after=1&before=5")).await;
    assert_eq!(both.refused(), (400, "bad_request", "before"));
}

#[tokio::test]
async fn a_page_of_long_messages_is_shorter() {
    let mut options = options();
    options.limits.max_history_bytes = 1000;
    let site = Site::with(options).await;
    let ann = token("ann");
    for _ in 0..10 {
        site.say(&ann, "direct:3:ann:bob", &"x".repeat(300)).await;
    }
    let path = "/v1/rooms/direct%3A3%3Aann%3Abob/messages";
    let seqs = |page: serde_json::Value| -> Vec<u64> {
        page["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["seq"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(
        seqs(site.get(&ann, &format!("{path}?after=2")).await.good()),
        [3, 4, 5]
    );
    assert_eq!(seqs(site.get(&ann, path).await.good()), [8, 9, 10]);
}

#[tokio::test]
async fn a_room_nobody_has_spoken_in_is_empty() {
    let site = Site::new().await;
    let ann = token("ann");
    let path = "/v1/rooms/direct%3A3%3Aann%3Abob";
    assert_eq!(
        site.get(&ann, &format!("{path}/messages")).await.good()["messages"],
        json!([])
    );
    assert_eq!(
        site.put(&ann, &format!("{path}/read"), json!({"seq": 9}))
            .await
            .good()["read"],
        0
    );
}

#[tokio::test]
async fn an_administrator_speaks_for_others_and_nobody_else_does() {
    let site = Site::new().await;
    let room = site.group(&token("ann"), &["bob"]).await;
    let path = format!("/v1/rooms/{room}/messages");
    let seq = site
        .post(&admin(), &path, json!({"from": "bob", "body": "for bob"}))
        .await
        .good()["seq"]
        .clone();
    let page = site.get(&admin(), &format!("{path}?limit=1")).await.good();
    assert_eq!(
        (&page["messages"][0]["from"], &page["messages"][0]["seq"]),
        (&json!("bob"), &seq)
    );
    let refused = site
        .post(&token("ann"), &path, json!({"from": "bob", "body": "x"}))
        .await;
    assert_eq!(refused.refused().1, "forbidden");
    site.post(&token("ann"), &path, json!({"from": "ann", "body": "me"}))
        .await
        .good();
    let direct = site
        .post(
            &admin(),
            "/v1/rooms/direct%3A3%3Aann%3Abob/messages",
            json!({"from": "ann", "body": "x"}),
        )
        .await;
    assert_eq!(
        direct.status, 201,
        "acting for a member, the direct room may come into being"
    );
    let none = site
        .post(&admin(), "/v1/rooms/nowhere/messages", json!({"body": "x"}))
        .await;
    assert_eq!(none.refused(), (404, "no_such_room", ""));
}

#[tokio::test]
async fn signals_are_published_and_not_stored() {
    let site = Site::new().await;
    let ann = token("ann");
    let room = site.group(&ann, &["bob"]).await;
    let head = site.get(&ann, &format!("/v1/rooms/{room}")).await.good()["head"].clone();
    site.post(
        &ann,
        &format!("/v1/rooms/{room}/signals"),
        json!({"type": "typing", "body": {"on": true}}),
    )
    .await
    .good();
    let (to, signal) = site.bus.signals.lock().unwrap().pop().unwrap();
    assert_eq!(
        (to.as_str(), signal.from.as_str(), signal.r#type.as_str()),
        (room.as_str(), "ann", "typing")
    );
    assert_eq!(signal.body, r#"{"on":true}"#);
    assert_eq!(
        site.get(&ann, &format!("/v1/rooms/{room}")).await.good()["head"],
        head
    );
    let eve = site
        .post(
            &token("eve"),
            &format!("/v1/rooms/{room}/signals"),
            json!({"type": "typing"}),
        )
        .await;
    assert_eq!(eve.refused().1, "not_a_member");
}
