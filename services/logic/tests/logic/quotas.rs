//! Groups that users make: whose ids they have, how many there may be, who may be put into them, and what they push out.

use std::time::Instant;

use im_proto::v1::call;
use im_wire::ids::UserId;
use serde_json::{Value, json};

use crate::site::{Site, TIMEOUT, admin, encoded, now, options, signed, store, token};

#[tokio::test]
async fn a_users_groups_get_ids_of_the_servers() {
    let site = Site::new().await;
    let ann = token("ann");
    for id in ["team", "live://1000", "!first"] {
        let made = site
            .post(
                &ann,
                "/v1/rooms",
                json!({"kind": "group", "id": id, "members": ["bob"]}),
            )
            .await;
        assert_eq!(made.refused(), (400, "bad_request", "id"), "{id}");
    }
    let live = signed(&json!({"sub": "bob", "exp": now() + 600, "rooms": ["live://*"]}));
    assert_eq!(site.say(&live, "live://1000", "still open").await, 1);
    let made = site
        .post(
            &admin(),
            "/v1/rooms",
            json!({"kind": "group", "id": "team", "members": ["bob"]}),
        )
        .await;
    assert_eq!(made.status, 201);
}

#[tokio::test]
async fn a_refused_group_is_in_nobodys_list() {
    let (store, bus) = store();
    let site = Site::over(options(), store.clone(), bus).await;
    site.post(
        &admin(),
        "/v1/rooms",
        json!({"kind": "group", "id": "team", "members": ["ann"]}),
    )
    .await
    .good();
    let other = site
        .post(
            &admin(),
            "/v1/rooms",
            json!({"kind": "group", "id": "team", "members": ["bob"]}),
        )
        .await;
    assert_eq!(other.refused().1, "conflict");
    let bob = UserId::new("bob").unwrap();
    assert_eq!(store.index.user_rooms(&bob, None, 10).await.unwrap(), []);
}

#[tokio::test]
async fn groups_of_strangers_never_push_out_direct_rooms() {
    let mut options = options();
    options.limits.max_rooms_per_user = 20;
    options.limits.user_groups_per_day = 0;
    options.limits.user_adds_per_day = 0;
    let site = Site::with(options).await;
    let (ann, eve) = (token("ann"), token("eve"));
    for number in 0..30 {
        let wanted = json!({"kind": "group", "id": format!("!{number:03}"), "members": ["ann"]});
        site.post(&admin(), "/v1/rooms", wanted).await.good();
        site.group(&eve, &["ann"]).await;
    }
    site.say(&token("bob"), "direct:3:ann:bob", "hi").await;
    let grant = site.connect(&ann, "c-1").await.grant;
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let ask = im_proto::v1::Subscribe {
            rooms: Vec::new(),
            all: true,
        };
        let answer = site
            .call(grant.clone(), "c-1", call::Op::Subscribe(ask))
            .await
            .unwrap();
        let im_proto::v1::reply::Result::Subscribed(heard) = answer else {
            panic!("{answer:?}")
        };
        assert!(heard.rooms.len() <= 20);
        if heard.rooms[0].room == "direct:3:ann:bob" {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "the direct room is left out of {:?}",
            heard.rooms
        );
    }
    let listed = site.get(&ann, "/v1/conversations?limit=1").await.good();
    assert_eq!(listed["conversations"][0]["room"], "direct:3:ann:bob");
    let mut all = Vec::new();
    let mut after = String::new();
    loop {
        let page = site
            .get(&ann, &format!("/v1/rooms?limit=7{after}"))
            .await
            .good();
        all.extend(
            page["rooms"]
                .as_array()
                .unwrap()
                .iter()
                .map(|room| room["id"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next"].as_str() else {
            break;
        };
        after = format!("&after={}", encoded(next));
    }
    assert_eq!(all.len(), 61, "each once: {all:?}");
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 61);
}

#[tokio::test]
async fn groups_and_memberships_have_a_daily_quota() {
    let mut options = options();
    options.limits.user_groups_per_day = 3;
    options.limits.user_adds_per_day = 10;
    let site = Site::with(options).await;
    let (ann, bob) = (token("ann"), token("bob"));
    let many: Vec<_> = (0..11).map(|number| format!("u{number}")).collect();
    let group = |members: &[String]| json!({"kind": "group", "members": members});
    let too_many = site.post(&ann, "/v1/rooms", group(&many)).await;
    assert_eq!(
        too_many.refused(),
        (409, "limit_reached", ""),
        "eleven are more than a day's ten"
    );
    let room = site.post(&ann, "/v1/rooms", group(&many[..9])).await.good()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let add = async |token: &str, room: &str, user: &str| {
        site.post(
            token,
            &format!("/v1/rooms/{room}/members"),
            json!({"user": user}),
        )
        .await
    };
    assert_eq!(add(&ann, &room, "x1").await.status, 200);
    assert_eq!(
        add(&ann, &room, "x1").await.good()["changed"],
        false,
        "nothing is counted for nothing"
    );
    assert_eq!(
        add(&ann, &room, "x2").await.refused(),
        (409, "limit_reached", "")
    );
    for _ in 0..2 {
        assert_eq!(site.post(&ann, "/v1/rooms", group(&[])).await.status, 201);
    }
    assert_eq!(
        site.post(&ann, "/v1/rooms", group(&[])).await.refused(),
        (409, "limit_reached", "")
    );
    assert_eq!(
        site.post(&bob, "/v1/rooms", group(&many[..5])).await.status,
        201,
        "everybody has their own"
    );
    for _ in 0..4 {
        assert_eq!(
            site.post(&admin(), "/v1/rooms", group(&many)).await.status,
            201,
            "a backend has none"
        );
    }
}

fn none_of(answer: &Value, user: &str) -> bool {
    !answer["members"]
        .as_array()
        .unwrap()
        .iter()
        .any(|member| member["user"] == user)
}

#[tokio::test]
async fn whom_one_may_add_is_a_policy() {
    use im_logic::options::AddPolicy;
    let site = |policy| async move {
        let mut options = options();
        options.limits.group_add_policy = policy;
        Site::with(options).await
    };
    let (ann, bob) = (token("ann"), token("bob"));

    let admins = site(AddPolicy::Admins).await;
    let made = admins
        .post(
            &ann,
            "/v1/rooms",
            json!({"kind": "group", "members": ["bob"]}),
        )
        .await;
    assert_eq!(made.refused(), (403, "forbidden", "members"));
    let own = admins.group(&ann, &[]).await;
    let added = admins
        .post(
            &ann,
            &format!("/v1/rooms/{own}/members"),
            json!({"user": "bob"}),
        )
        .await;
    assert_eq!(added.refused(), (403, "forbidden", "user"));
    assert_eq!(
        admins
            .post(
                &admin(),
                &format!("/v1/rooms/{own}/members"),
                json!({"user": "bob"})
            )
            .await
            .status,
        200
    );

    let contacts = site(AddPolicy::Contacts).await;
    let room = contacts.group(&ann, &[]).await;
    let members = format!("/v1/rooms/{room}/members");
    assert_eq!(
        contacts
            .post(&ann, &members, json!({"user": "bob"}))
            .await
            .refused()
            .1,
        "forbidden"
    );
    contacts
        .say(&ann, "direct:3:ann:bob", "do you know me?")
        .await;
    assert_eq!(
        contacts
            .post(&ann, &members, json!({"user": "bob"}))
            .await
            .refused()
            .1,
        "forbidden",
        "not by asking"
    );
    contacts.say(&bob, "direct:3:ann:bob", "yes").await;
    assert_eq!(
        contacts
            .post(&ann, &members, json!({"user": "bob"}))
            .await
            .good()["changed"],
        true
    );
    contacts.say(&ann, "direct:3:ann:cat", "hello cat").await;
    contacts
        .put(
            &token("cat"),
            "/v1/rooms/direct%3A3%3Aann%3Acat/read",
            json!({"seq": 1}),
        )
        .await
        .good();
    let made = contacts
        .post(
            &ann,
            "/v1/rooms",
            json!({"kind": "group", "members": ["bob", "cat", "dan"]}),
        )
        .await;
    assert_eq!(made.refused(), (403, "forbidden", "members"));
    let made = contacts
        .post(
            &ann,
            "/v1/rooms",
            json!({"kind": "group", "members": ["bob", "cat"]}),
        )
        .await
        .good();
    let listed = contacts
        .get(
            &ann,
            &format!("/v1/rooms/{}/members", made["id"].as_str().unwrap()),
        )
        .await
        .good();
    assert!(none_of(&listed, "dan") && !none_of(&listed, "cat"));
}
