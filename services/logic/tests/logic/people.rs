//! Who is there, pushes, kicks, nodes.

use bytes::Bytes;
use im_logic::nodes::To;
use im_proto::v1::push_request::Target;
use im_proto::v1::{Authenticate, Refresh, UserDevice, call, reply};
use serde_json::json;

use crate::site::{Site, Told, admin, now, signed, token};

#[tokio::test]
async fn presence_is_shown_to_users_and_nodes_to_administrators() {
    let site = Site::new().await;
    site.beat().await;
    site.connect(&token("ann"), "c-1").await;
    let shown = site
        .get(&token("bob"), "/v1/presence?users=ann,bob")
        .await
        .good();
    let [ann, bob] = shown["users"].as_array().unwrap().as_slice() else {
        panic!("{shown}")
    };
    assert_eq!(
        (&ann["online"], &bob["online"], &bob["last_seen"]),
        (&json!(true), &json!(false), &json!(0))
    );
    assert!(
        ann["connections"][0].get("device").is_none()
            && ann["connections"][0].get("node").is_none()
    );
    let shown = site
        .get(&token("ann"), "/v1/presence?users=ann")
        .await
        .good();
    let own = &shown["users"][0]["connections"][0];
    assert!(
        own["device"].is_string() && own.get("node").is_none(),
        "what one calls one's own devices one may know"
    );
    let shown = site.get(&admin(), "/v1/presence?users=ann").await.good();
    assert_eq!(shown["users"][0]["connections"][0]["node"], "node-1");
    assert_eq!(shown["users"][0]["connections"][0]["conn"], "c-1");
}

#[tokio::test]
async fn a_push_goes_to_the_nodes_that_hold_the_user() {
    let site = Site::new().await;
    site.beat().await;
    assert_eq!(
        site.post(&admin(), "/v1/users/ann/push", json!({"body": "x"}))
            .await
            .good(),
        json!({"delivered": 0})
    );
    assert!(site.nodes.take().is_empty(), "nobody is there");
    site.connect(&token("ann"), "c-1").await;
    let pushed = site
        .post(
            &admin(),
            "/v1/users/ann/push",
            json!({"type": "call", "body": {"n": 1}, "operation": 7}),
        )
        .await;
    assert_eq!(pushed.good(), json!({"delivered": 1}));
    let told = site.nodes.take();
    let [Told::Push(to, request)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(*to, To::Named(vec!["node-1".to_owned()]));
    let signal = request.signal.as_ref().unwrap();
    assert_eq!(
        (signal.r#type.as_str(), signal.operation, &signal.body[..]),
        ("call", 7, &br#"{"n":1}"#[..])
    );
    assert!(matches!(&request.target, Some(Target::Users(names)) if names.names == ["ann"]));
}

#[tokio::test]
async fn devices_and_everyone_are_reached_through_all_nodes() {
    let site = Site::new().await;
    site.post(&admin(), "/v1/devices/phone/push", json!({"body": "x"}))
        .await
        .good();
    site.post(
        &admin(),
        "/v1/broadcast",
        json!({"body_base64": "AAE=", "speed": 50}),
    )
    .await
    .good();
    let told = site.nodes.take();
    let [Told::Push(To::All, device), Told::Push(To::All, everyone)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert!(matches!(&device.target, Some(Target::Devices(names)) if names.names == ["phone"]));
    assert_eq!(device.signal.as_ref().unwrap().r#type, "push");
    assert!(matches!(everyone.target, Some(Target::Everyone(true))));
    assert_eq!(
        (everyone.speed, &everyone.signal.as_ref().unwrap().body[..]),
        (50, &[0, 1][..])
    );
}

#[tokio::test]
async fn a_device_is_a_users_and_alone_only_where_a_token_names_it() {
    let site = Site::new().await;
    site.beat().await;
    let named = async |token: &str, device: &str, conn: &str| {
        let token = token.to_owned();
        let device = device.to_owned();
        let node = "node-1".to_owned();
        let ask = Authenticate {
            token,
            device,
            node,
            ..Authenticate::default()
        };
        match site
            .call(Bytes::new(), conn, call::Op::Authenticate(ask))
            .await
        {
            Ok(reply::Result::Authenticated(authenticated)) => authenticated,
            other => panic!("{other:?}"),
        }
    };
    let claiming = |user: &str| signed(&json!({"sub": user, "exp": now() + 600, "dev": "phone"}));
    assert!(
        !named(&claiming("ann"), "", "c-1").await.device_unproven,
        "the token names it"
    );
    assert!(
        !named(&claiming("ann"), "phone", "c-2")
            .await
            .device_unproven,
        "both do"
    );
    assert!(
        !named(&token("cy"), "", "c-4").await.device_unproven,
        "nobody can have known it before"
    );
    let bob = named(&token("bob"), "phone", "c-3").await;
    assert!(bob.device_unproven, "anybody may say so");
    let refresh = call::Op::Refresh(Refresh {
        token: claiming("bob"),
    });
    let reply = site.call(bob.grant, "c-3", refresh).await.unwrap();
    let reply::Result::Refreshed(refreshed) = reply else {
        panic!("{reply:?}")
    };
    assert!(!refreshed.device_unproven, "now a token names it");
    let refresh = call::Op::Refresh(Refresh {
        token: token("bob"),
    });
    let reply = site.call(refreshed.grant, "c-3", refresh).await.unwrap();
    assert!(
        matches!(reply, reply::Result::Refreshed(refreshed) if !refreshed.device_unproven),
        "and has named it"
    );

    let nobody = site
        .post(
            &admin(),
            "/v1/users/bob/devices/tablet/push",
            json!({"body": "x"}),
        )
        .await
        .good();
    assert_eq!(nobody, json!({"delivered": 0}));
    site.post(
        &admin(),
        "/v1/users/bob/devices/phone/push",
        json!({"body": "x"}),
    )
    .await
    .good();
    let told = site.nodes.take();
    let [Told::Push(to, request)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(*to, To::Named(vec!["node-1".to_owned()]));
    let wanted = UserDevice {
        user: "bob".to_owned(),
        device: "phone".to_owned(),
    };
    assert_eq!(request.target, Some(Target::UserDevice(wanted)));
    let refused = site
        .post(
            &token("bob"),
            "/v1/users/bob/devices/phone/push",
            json!({"body": "x"}),
        )
        .await;
    assert_eq!(refused.refused().1, "forbidden");
}

#[tokio::test]
async fn a_kick_says_whom_and_why() {
    let site = Site::new().await;
    let kicked = site
        .post(&admin(), "/v1/kick", json!({"user": "ann", "text": "bye"}))
        .await
        .good();
    assert_eq!(kicked, json!({"closed": 1}));
    site.post(&admin(), "/v1/kick", json!({"conn": "c-9", "code": 4002}))
        .await
        .good();
    let told = site.nodes.take();
    let [Told::Kick(To::All, user), Told::Kick(To::All, conn)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(
        (user.user.as_str(), user.code, user.text.as_str()),
        ("ann", 4006, "bye")
    );
    assert_eq!((conn.conn.as_str(), conn.code), ("c-9", 4002));
    assert_eq!(
        site.post(&admin(), "/v1/kick", json!({})).await.refused(),
        (400, "bad_request", "user")
    );
    assert_eq!(
        site.post(&admin(), "/v1/kick", json!({"user": "a", "code": 1}))
            .await
            .refused(),
        (400, "bad_request", "code")
    );
}

#[tokio::test]
async fn nodes_are_listed_with_their_connections() {
    let site = Site::new().await;
    site.beat().await;
    let nodes = site.get(&admin(), "/v1/nodes").await.good();
    let node = &nodes["nodes"][0];
    assert_eq!(
        (&node["name"], &node["connections"], &node["ws"]),
        (&json!("node-1"), &json!(3), &json!("ws.example:3102"))
    );
}
