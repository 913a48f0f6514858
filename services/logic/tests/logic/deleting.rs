//! Deleting rooms over the API: who may, what is gone afterwards, what is told.

use serde_json::json;

use crate::site::{Site, admin, encoded, options, store, token, token_for};

#[tokio::test]
async fn only_the_scope_admin_deletes_and_only_what_is_there() {
    let site = Site::new().await;
    let ann = token("ann");
    let room = site.group(&ann, &["bob"]).await;
    let path = format!("/v1/rooms/{room}");
    // An owner is no administrator.
    assert_eq!(
        site.delete(&ann, &path).await.refused(),
        (403, "forbidden", "")
    );
    assert_eq!(site.delete("", &path).await.refused().0, 401);
    site.get(&ann, &path).await.good();
    let deleted = site.delete(&admin(), &path).await.good();
    assert_eq!(deleted, json!({"id": room, "kind": "group", "seq": 1}));
    for _ in 0..2 {
        assert_eq!(
            site.delete(&admin(), &path).await.refused(),
            (404, "no_such_room", "")
        );
    }
    assert_eq!(
        site.delete(&admin(), "/v1/rooms/a%20b").await.refused().1,
        "bad_request"
    );
}

#[tokio::test]
async fn a_deleted_room_is_in_no_list_and_its_end_is_told() {
    let site = Site::new().await;
    let (ann, bob) = (token("ann"), token("bob"));
    let kept = site.group(&ann, &["bob"]).await;
    site.say(&ann, &kept, "stays").await;
    let group = site.group(&ann, &["bob"]).await;
    let direct = "direct:3:ann:bob";
    for room in [group.as_str(), direct] {
        assert_eq!(site.say(&ann, room, "one").await, 1);
        let lists = site.get(&bob, "/v1/unread").await.good();
        assert_eq!(lists["total"], json!(2), "{lists}");
        let deleted = site
            .delete(&admin(), &format!("/v1/rooms/{}", encoded(room)))
            .await
            .good();
        assert_eq!(deleted["seq"], json!(2));
        {
            let logged = site.bus.logged.lock().unwrap();
            let (told_in, seq, entry) = logged.last().unwrap();
            assert_eq!(
                (told_in.as_str(), *seq, entry.r#type.as_str()),
                (room, 2, "im.delete")
            );
            assert_eq!(
                (entry.from.as_str(), &entry.body[..]),
                ("backend", &br#"{"by":"backend"}"#[..])
            );
        }
        for user in [&ann, &bob] {
            let rooms = site.get(user, "/v1/rooms").await.good();
            let rooms: Vec<_> = rooms["rooms"]
                .as_array()
                .unwrap()
                .iter()
                .map(|room| room["id"].clone())
                .collect();
            assert_eq!(rooms, [json!(kept)]);
            let conversations = site.get(user, "/v1/conversations").await.good();
            assert_eq!(
                conversations["conversations"].as_array().unwrap().len(),
                1,
                "{conversations}"
            );
        }
        assert_eq!(site.get(&bob, "/v1/unread").await.good()["total"], json!(1));
    }
    for path in ["", "/messages", "/members"] {
        let refused = site.get(&ann, &format!("/v1/rooms/{group}{path}")).await;
        assert_eq!(refused.refused(), (404, "no_such_room", ""), "{path}");
    }
    let refused = site
        .post(
            &ann,
            &format!("/v1/rooms/{group}/messages"),
            json!({"body": "two"}),
        )
        .await;
    assert_eq!(refused.refused(), (404, "no_such_room", ""));
}

#[tokio::test]
async fn no_index_names_a_deleted_room_before_it_is_read() {
    let (store, bus) = store();
    let site = Site::over(options(), store.clone(), bus).await;
    let ann = token("ann");
    let group = site.group(&ann, &["bob"]).await;
    site.say(&ann, "direct:3:ann:bob", "one").await;
    for room in [group.as_str(), "direct:3:ann:bob"] {
        site.delete(&admin(), &format!("/v1/rooms/{}", encoded(room)))
            .await
            .good();
    }
    for user in ["ann", "bob"] {
        let user = im_wire::ids::UserId::new(user).unwrap();
        assert_eq!(
            store.index.user_rooms(&user, None, 10).await,
            Ok(Vec::new()),
            "{user}"
        );
    }
}

#[tokio::test]
async fn the_id_may_be_used_again() {
    let site = Site::new().await;
    let ann = token_for("ann", &["live://*"]);
    let bob = token("bob");
    for room in ["live://1", "direct:3:ann:bob"] {
        assert_eq!(site.say(&ann, room, "one").await, 1);
        assert_eq!(site.say(&ann, room, "two").await, 2);
        let path = format!("/v1/rooms/{}", encoded(room));
        let old = site.get(&ann, &path).await.good();
        site.delete(&admin(), &path).await.good();
        assert_eq!(site.say(&ann, room, "again").await, 1);
        let new = site.get(&ann, &path).await.good();
        assert!(
            new["epoch"].as_u64() > old["epoch"].as_u64(),
            "{old} then {new}"
        );
        assert_eq!((&new["head"], &new["first"]), (&json!(1), &json!(1)));
        let page = site.get(&ann, &format!("{path}/messages")).await.good();
        assert_eq!(page["messages"].as_array().unwrap().len(), 1, "{page}");
    }
    // Back in both lists.
    for user in [&ann, &bob] {
        let rooms = site.get(user, "/v1/rooms").await.good();
        assert_eq!(
            rooms["rooms"][0]["id"],
            json!("direct:3:ann:bob"),
            "{rooms}"
        );
    }
}
