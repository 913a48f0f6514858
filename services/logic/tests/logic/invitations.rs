//! Groups that one is asked into: the policy `invitation`.

use im_logic::options::AddPolicy;
use im_proto::v1::push_request::Target;
use serde_json::{Value, json};

use crate::site::{Site, Told, admin, options, token, token_for};

async fn site() -> Site {
    let mut options = options();
    options.limits.group_add_policy = AddPolicy::Invitation;
    Site::with(options).await
}

async fn invitations(site: &Site, token: &str) -> Vec<Value> {
    let answer = site.get(token, "/v1/invitations").await.good();
    answer["invitations"].as_array().expect("a list").clone()
}

fn members(answer: &Value) -> Vec<&str> {
    answer["members"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["user"].as_str().expect("a name"))
        .collect()
}

#[tokio::test]
async fn who_is_invited_becomes_a_member_by_joining() {
    let site = site().await;
    let (ann, bob) = (token("ann"), token("bob"));
    let wanted = json!({"kind": "group", "members": [{"user": "bob", "role": "admin"}, "cat"]});
    let made = site.post(&ann, "/v1/rooms", wanted).await.good();
    assert_eq!(made["invited"], json!(["bob", "cat"]));
    let room = made["id"].as_str().unwrap();
    let path = |what: &str| format!("/v1/rooms/{room}/{what}");
    assert_eq!(
        members(&site.get(&ann, &path("members")).await.good()),
        ["ann"]
    );
    assert_eq!(
        site.get(&bob, &path("messages")).await.refused().1,
        "not_a_member",
        "nothing is heard before"
    );
    assert_eq!(
        site.get(&bob, "/v1/rooms").await.good(),
        json!({"rooms": []}),
        "and no list names it"
    );

    let listed = invitations(&site, &bob).await;
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0]["room"], &listed[0]["by"], &listed[0]["role"]),
        (&json!(room), &json!("ann"), &json!("admin"))
    );
    assert_eq!(
        site.post(&bob, &path("join"), json!({})).await.good(),
        json!({"changed": true})
    );
    assert_eq!(invitations(&site, &bob).await, Vec::<Value>::new());
    assert_eq!(
        site.post(&bob, &path("join"), json!({})).await.good(),
        json!({"changed": false})
    );
    let log = site.get(&bob, &path("messages")).await.good();
    assert_eq!(
        log["messages"][0]["body"],
        json!({"user": "bob", "by": "ann", "role": "admin"})
    );

    // bob's role holds, and he asks others in turn.
    let asked = site
        .post(&bob, &path("members"), json!({"user": "dan"}))
        .await
        .good();
    assert_eq!(
        asked,
        json!({"user": "dan", "role": "member", "changed": false, "invited": true})
    );
    assert_eq!(
        site.post(&token("eve"), &path("join"), json!({}))
            .await
            .refused()
            .1,
        "not_a_member"
    );
    assert_eq!(
        site.post(&token("cat"), &path("leave"), json!({}))
            .await
            .good(),
        json!({"changed": true}),
        "declined"
    );
    assert_eq!(
        site.post(&token("cat"), &path("join"), json!({}))
            .await
            .refused()
            .1,
        "not_a_member"
    );
    let back = site.delete(&ann, &path("members/dan")).await.good();
    assert_eq!(back, json!({"user": "dan", "changed": true}), "taken back");
    assert_eq!(
        site.post(&token("dan"), &path("join"), json!({}))
            .await
            .refused()
            .1,
        "not_a_member"
    );
    assert_eq!(
        members(&site.get(&ann, &path("members")).await.good()),
        ["ann", "bob"]
    );
}

#[tokio::test]
async fn an_invitation_is_worth_what_its_inviter_may_when_it_is_taken() {
    let site = site().await;
    let (ann, bob, cat) = (token("ann"), token("bob"), token("cat"));
    let room = site.group(&ann, &[]).await;
    let path = |what: &str| format!("/v1/rooms/{room}/{what}");
    site.post(
        &admin(),
        &path("members"),
        json!({"user": "bob", "role": "admin"}),
    )
    .await
    .good();
    let beyond = site
        .post(
            &bob,
            &path("members"),
            json!({"user": "cat", "role": "owner"}),
        )
        .await;
    assert_eq!(beyond.refused().1, "forbidden", "no more than one may give");
    site.post(&bob, &path("members"), json!({"user": "cat"}))
        .await
        .good();
    site.delete(&ann, &path("members/bob")).await.good();
    assert_eq!(
        site.post(&cat, &path("join"), json!({})).await.refused().1,
        "forbidden"
    );
    assert_eq!(
        invitations(&site, &cat).await,
        Vec::<Value>::new(),
        "it is void"
    );

    site.post(&ann, &path("members"), json!({"user": "cat"}))
        .await
        .good();
    site.delete(&admin(), &format!("/v1/rooms/{room}"))
        .await
        .good();
    assert_eq!(
        invitations(&site, &cat).await,
        Vec::<Value>::new(),
        "the group is no more"
    );
    assert_eq!(
        site.post(&cat, &path("join"), json!({})).await.refused().1,
        "no_such_room"
    );
}

#[tokio::test]
async fn who_is_invited_is_told_and_not_flooded() {
    let site = site().await;
    site.beat().await;
    site.connect(&token("bob"), "c-1").await;
    site.nodes.take();
    let ann = token("ann");
    let invite = async |token: &str| {
        let room = site.group(token, &[]).await;
        site.post(
            token,
            &format!("/v1/rooms/{room}/members"),
            json!({"user": "bob"}),
        )
        .await
    };
    invite(&ann).await.good();
    let told = site.told().await;
    let push = told.iter().find_map(|one| match one {
        Told::Push(_, request) => Some(request),
        _ => None,
    });
    let push = push.expect("a push");
    assert!(matches!(&push.target, Some(Target::Users(names)) if names.names == ["bob"]));
    let signal = push.signal.as_ref().unwrap();
    let body: Value = serde_json::from_slice(&signal.body).unwrap();
    assert_eq!(
        (signal.r#type.as_str(), &body["by"]),
        ("im.invited", &json!("ann"))
    );

    for _ in 1..10 {
        invite(&ann).await.good();
    }
    assert_eq!(
        invite(&ann).await.refused().1,
        "limit_reached",
        "ten by one inviter"
    );
    let made = site
        .post(
            &ann,
            "/v1/rooms",
            json!({"kind": "group", "members": ["bob", "cat"]}),
        )
        .await
        .good();
    assert_eq!(
        made["invited"],
        json!(["cat"]),
        "a new group says who could be asked"
    );
    invite(&token("eve")).await.good();
    assert_eq!(invitations(&site, &token("bob")).await.len(), 11);
}

#[tokio::test]
async fn backends_and_guests_are_as_ever() {
    let site = site().await;
    let room = site.group(&token("ann"), &[]).await;
    let path = format!("/v1/rooms/{room}/members");
    let added = site
        .post(&admin(), &path, json!({"user": "bob"}))
        .await
        .good();
    assert_eq!(added["changed"], true, "a backend asks nobody");
    let again = site
        .post(
            &token("ann"),
            &path,
            json!({"user": "bob", "role": "admin"}),
        )
        .await
        .good();
    assert_eq!(
        again["changed"], true,
        "who is a member gets the role at once"
    );
    let live = token_for("ann", &["live://*"]);
    site.say(&live, "live://1", "open").await;
    assert_eq!(
        site.post(&live, "/v1/rooms/live%3A%2F%2F1/join", json!({}))
            .await
            .good(),
        json!({"changed": false})
    );
}
