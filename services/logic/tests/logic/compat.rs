//! The routes of goim's and golang-im's backends, as those call them.

use std::collections::HashMap;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request};
use im_logic::nodes::To;
use im_proto::v1::push_request::Target;
use im_proto::v1::{NodeBeat, call};
use serde_json::{Value, json};

use crate::site::{Answer, Site, Told, admin, encoded, now, signed, token, token_for};

async fn push(site: &Site, path: &str, body: &'static [u8]) -> Answer {
    site.raw(Method::POST, path, &admin(), body).await
}

#[tokio::test]
async fn goim_pushes_go_out_with_their_operation_and_body() {
    let site = Site::new().await;
    site.beat().await;
    site.connect(&signed(&json!({"sub": "123", "exp": now() + 60})), "c-1")
        .await;
    for path in [
        "/goim/push/keys?operation=1000&keys=k1&keys=k2",
        "/goim/push/mids?operation=1001&mids=123&mids=456",
        "/goim/push/all?operation=1002&speed=20",
        "/goim/push/room?operation=1003&type=live&room=1000",
    ] {
        let answer = push(&site, path, b"raw \xff body").await;
        assert_eq!(
            (answer.status, &answer.body),
            (200, &json!({"code": 0, "message": ""})),
            "{path}"
        );
    }
    let told = site.nodes.take();
    let [
        Told::Push(To::All, keys),
        Told::Push(To::Named(node), mids),
        Told::Push(To::All, all),
    ] = told.as_slice()
    else {
        panic!("{told:?}")
    };
    assert_eq!(node, &["node-1"]);
    assert!(matches!(&keys.target, Some(Target::Devices(names)) if names.names == ["k1", "k2"]));
    assert!(matches!(&mids.target, Some(Target::Users(names)) if names.names == ["123", "456"]));
    assert!(matches!(all.target, Some(Target::Everyone(true))));
    let operations = [keys, mids, all].map(|push| push.signal.as_ref().unwrap().operation);
    assert_eq!((operations, all.speed), ([1000, 1001, 1002], 20));
    assert_eq!(&keys.signal.as_ref().unwrap().body[..], b"raw \xff body");
    let (room, signal) = site.bus.signals.lock().unwrap().pop().unwrap();
    assert_eq!(
        (room.as_str(), signal.operation, &signal.body[..]),
        ("live://1000", 1003, &b"raw \xff body"[..])
    );
}

#[tokio::test]
async fn goim_says_what_is_wrong_with_minus_400() {
    let site = Site::new().await;
    for path in [
        "/goim/push/keys?keys=k1",
        "/goim/push/keys?operation=1",
        "/goim/push/keys?operation=x&keys=k1",
        "/goim/push/mids?operation=1&mids=ann",
        "/goim/push/room?operation=1",
        "/goim/push/all",
    ] {
        let answer = push(&site, path, b"x").await;
        assert_eq!(
            (answer.status, &answer.body["code"]),
            (200, &json!(-400)),
            "{path}"
        );
    }
    for path in [
        "/goim/online/top?type=live",
        "/goim/online/top?limit=5",
        "/goim/online/room",
    ] {
        assert_eq!(site.get(&admin(), path).await.body["code"], -400, "{path}");
    }
}

#[tokio::test]
async fn compat_routes_need_credentials() {
    let site = Site::new().await;
    let goim = [
        (Method::POST, "/goim/push/keys?operation=1&keys=k"),
        (Method::POST, "/goim/push/mids?operation=1&mids=1"),
        (Method::POST, "/goim/push/room?operation=1&room=r"),
        (Method::POST, "/goim/push/all?operation=1"),
        (Method::GET, "/goim/online/top?type=live&limit=1"),
        (Method::GET, "/goim/online/room?rooms=1"),
        (Method::GET, "/goim/online/total"),
        (Method::GET, "/goim/nodes/instances"),
    ];
    for (method, path) in goim {
        for token in [String::new(), "forged".to_owned(), token("ann")] {
            let answer = site.raw(method.clone(), path, &token, "x").await;
            assert_eq!(
                (answer.status, &answer.body["code"]),
                (200, &json!(-400)),
                "{path} {token}"
            );
        }
    }
    assert_eq!(
        site.get("", "/goim/nodes/weighted").await.body["code"],
        -400
    );
    for path in ["/open/push", "/open/listmsg"] {
        let answer = site
            .raw(
                Method::POST,
                path,
                "",
                "room_id=r&type=text&msg=x&user_id=1&shop_id=2",
            )
            .await;
        assert_eq!(
            (&answer.body["code"], &answer.body["success"]),
            (&json!(-1), &json!(false)),
            "{path}"
        );
    }
    assert!(site.nodes.take().is_empty());
}

#[tokio::test]
async fn goim_counts_who_is_online() {
    let site = Site::new().await;
    let online = HashMap::from([
        ("live://1".to_owned(), 3),
        ("live://2".to_owned(), 9),
        ("video://1".to_owned(), 5),
    ]);
    let beat = NodeBeat {
        node: "node-1".to_owned(),
        lease_ms: 60_000,
        connections: 17,
        online,
        ..NodeBeat::default()
    };
    site.call(Bytes::new(), "", call::Op::NodeBeat(beat))
        .await
        .unwrap();
    let top = site
        .get(&admin(), "/goim/online/top?type=live&limit=1")
        .await;
    assert_eq!(
        top.body,
        json!({"code": 0, "message": "", "data": [{"room_id": "2", "count": 9}]})
    );
    let rooms = site
        .get(&admin(), "/goim/online/room?type=live&rooms=1&rooms=3")
        .await;
    assert_eq!(rooms.body["data"], json!({"1": 3, "3": 0}));
    let total = site.get(&admin(), "/goim/online/total").await;
    assert_eq!(total.body["data"], json!({"ip_count": 0, "conn_count": 17}));
    let none = site
        .get(&admin(), "/goim/online/top?type=none&limit=5")
        .await;
    assert_eq!(none.body["data"], json!([]));
}

#[tokio::test]
async fn goim_tells_clients_where_to_connect() {
    let site = Site::new().await;
    let tcp = site
        .get(&token("ann"), "/goim/nodes/weighted?platform=android")
        .await;
    assert_eq!(
        (&tcp.body["code"], &tcp.body["data"]["nodes"]),
        (&json!(0), &json!(["192.0.2.1"]))
    );
    assert_eq!(
        (
            &tcp.body["data"]["tcp_port"],
            &tcp.body["data"]["heartbeat"]
        ),
        (&json!(3101), &json!(30))
    );
    let web = site
        .get(
            &token("ann"),
            &format!("/goim/nodes/weighted?platform=web&token={}", token("ann")),
        )
        .await;
    assert_eq!(web.body["data"]["nodes"], json!(["ws.example"]));
    let instances = site.get(&admin(), "/goim/nodes/instances").await;
    assert_eq!(instances.body["data"][0]["hostname"], "node-1");
    assert_eq!(
        instances.body["data"][0]["addrs"],
        json!(["grpc://10.0.0.1:3109"])
    );
}

async fn open(site: &Site, path: &str, token: &str, form: &[(&str, &str)]) -> Value {
    let form: Vec<_> = form
        .iter()
        .map(|(name, value)| format!("{name}={}", encoded(value)))
        .collect();
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{}{path}", site.http))
        .header("token", token)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::new(Bytes::from(form.join("&"))))
        .unwrap();
    let answer = site.send(request).await;
    assert_eq!(answer.status, 200);
    answer.body
}

fn said<'a>(room: &'a str, user: &'a str, text: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("room_id", room),
        ("type", "text"),
        ("msg", text),
        ("user_id", user),
        ("shop_id", "9"),
    ]
}

#[tokio::test]
async fn golang_im_pushes_are_stored_and_listed_newest_first() {
    let site = Site::new().await;
    let user = token_for("7", &["shop-*"]);
    for number in 1..=20 {
        let answer = open(
            &site,
            "/open/push",
            &user,
            &said("shop-1", "7", &format!("m {number}")),
        )
        .await;
        assert_eq!(
            answer,
            json!({"code": 200, "msg": "success", "success": true})
        );
    }
    let listed = open(
        &site,
        "/open/listmsg?page=1&limit=3",
        &user,
        &[("room_id", "shop-1")],
    )
    .await;
    assert_eq!(
        (
            &listed["code"],
            &listed["success"],
            &listed["result"]["total"]
        ),
        (&json!(200), &json!(true), &json!(20))
    );
    let list = |page: &Value| -> Vec<Value> {
        let list = page["result"]["list"].as_array().unwrap();
        list.iter()
            .map(|text| serde_json::from_str(text.as_str().unwrap()).unwrap())
            .collect()
    };
    let first = list(&listed);
    assert_eq!(
        first
            .iter()
            .map(|one| one["msg"].as_str().unwrap())
            .collect::<Vec<_>>(),
        ["m 20", "m 19", "m 18"]
    );
    assert_eq!(
        (&first[0]["id"], &first[0]["user_id"], &first[0]["room_id"]),
        (&json!("20"), &json!("7"), &json!("shop-1"))
    );
    assert_eq!(
        (
            &first[0]["type"],
            first[0]["dateline"].as_u64().unwrap() > 1_600_000_000
        ),
        (&json!("text"), true)
    );
    let last = open(
        &site,
        "/open/listmsg?page=7&limit=3",
        &user,
        &[("room_id", "shop-1")],
    )
    .await;
    assert_eq!(
        list(&last)
            .iter()
            .map(|one| one["msg"].as_str().unwrap())
            .collect::<Vec<_>>(),
        ["m 2", "m 1"]
    );
    let usual = open(&site, "/open/listmsg", &user, &[("room_id", "shop-1")]).await;
    assert_eq!(
        (list(&usual).len(), &usual["result"]["limit"]),
        (15, &json!(15))
    );
    let beyond = open(
        &site,
        "/open/listmsg?page=8&limit=3",
        &user,
        &[("room_id", "shop-1")],
    )
    .await;
    assert_eq!(beyond["result"]["list"], json!([]));
}

#[tokio::test]
async fn golang_im_callers_are_who_their_token_says() {
    let site = Site::new().await;
    let user = token_for("7", &["shop-*"]);
    let other = open(&site, "/open/push", &user, &said("shop-1", "8", "x")).await;
    assert_eq!(
        (&other["code"], &other["success"]),
        (&json!(-1), &json!(false))
    );
    let elsewhere = open(&site, "/open/push", &user, &said("market-1", "7", "x")).await;
    assert_eq!(elsewhere["code"], -1);
    let missing = open(
        &site,
        "/open/push",
        &user,
        &[("room_id", "shop-1"), ("msg", "x")],
    )
    .await;
    assert_eq!(missing["code"], -1);
    assert!(
        missing["msg"].as_str().unwrap().contains("type"),
        "{missing}"
    );
    let backend = open(
        &site,
        "/open/push",
        &admin(),
        &said("market-1", "8", "from the backend"),
    )
    .await;
    assert_eq!(backend["code"], 200);
    let (room, _, entry) = site.bus.logged.lock().unwrap().pop().unwrap();
    assert_eq!(
        (room.as_str(), entry.from.as_str(), &entry.body[..]),
        ("market-1", "8", &b"from the backend"[..])
    );
    let hidden = open(&site, "/open/listmsg", &user, &[("room_id", "market-1")]).await;
    assert_eq!(hidden["code"], -1);
}
