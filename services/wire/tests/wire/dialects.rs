//! Which dialect a first frame is, and what the foreign dialects' bodies say.

use bytes::Bytes;
use im_wire::dialect::{Entrance, First, NotAFirst, tell};
use im_wire::frame::Frame;
use im_wire::native::{Body, Message};
use im_wire::{goim, golang_im};

use crate::samples::room;

fn first(entrance: Entrance, operation: i32, body: &str) -> Result<First, NotAFirst> {
    tell(
        entrance,
        &Frame {
            version: 1,
            operation,
            seq: 1,
            body: Bytes::copy_from_slice(body.as_bytes()),
        },
    )
}

#[test]
fn goims_auth_is_told_by_mid_and_key() {
    let body = r#"{"mid":123,"key":"","room_id":"live://1000","platform":"web","accepts":[1000,1001],"token":"t","new":{}}"#;
    for entrance in [Entrance::Tcp, Entrance::Sub, Entrance::Ws] {
        let Ok(First::Goim(auth)) = first(entrance, 7, body) else {
            panic!("goim on {entrance:?}")
        };
        assert_eq!(
            (auth.mid.as_deref(), auth.room.as_deref()),
            (Some("123"), Some("live://1000"))
        );
        assert_eq!((auth.token.as_str(), auth.accepts), ("t", vec![1000, 1001]));
    }
}

#[test]
fn golang_ims_auth_is_told_by_user_id_whether_number_or_text() {
    for user in ["456", "\"456\""] {
        let body = format!(
            r#"{{"user_id":{user},"device_id":"phone","room_id":"r","nickname":"n","token":"t"}}"#
        );
        let Ok(First::GolangIm(auth)) = first(Entrance::Tcp, 7, &body) else {
            panic!("golang-im")
        };
        assert_eq!(
            (
                auth.user_id.as_deref(),
                auth.device_id.as_str(),
                auth.token.as_str()
            ),
            (Some("456"), "phone", "t")
        );
    }
}

#[test]
fn a_bare_token_is_golang_ims_on_its_path_and_goims_elsewhere() {
    assert!(
        matches!(first(Entrance::Ws, 7, "a.b.c"), Ok(First::GolangIm(auth)) if auth.token == "a.b.c")
    );
    assert!(
        matches!(first(Entrance::Sub, 7, "a.b.c"), Ok(First::Goim(auth)) if auth.token == "a.b.c")
    );
    assert!(
        matches!(first(Entrance::Tcp, 7, "a.b.c"), Ok(First::Goim(auth)) if auth.token == "a.b.c")
    );
}

#[test]
fn anything_but_auth_comes_too_early() {
    assert_eq!(first(Entrance::Tcp, 4, ""), Err(NotAFirst::Operation(4)));
    assert_eq!(
        first(Entrance::Tcp, 999, ""),
        Err(NotAFirst::Operation(999))
    );
    assert_eq!(first(Entrance::Tcp, 7, ""), Err(NotAFirst::Auth));
    assert_eq!(first(Entrance::Tcp, 7, "[1]"), Err(NotAFirst::Auth));
    assert_eq!(
        first(Entrance::Tcp, 100, "\u{1}x"),
        Err(NotAFirst::Native(100))
    );
}

#[test]
fn golang_im_speaks_json_or_plain_text() {
    let said = golang_im::said(br#"{"type":"image","msg":"http://x","room_id":"r"}"#);
    assert_eq!(
        (said.kind.as_str(), said.text.as_str(), said.room.as_deref()),
        ("image", "http://x", Some("r"))
    );
    let said = golang_im::said("hello".as_bytes());
    assert_eq!(
        (said.kind.as_str(), said.text.as_str(), said.room),
        ("text", "hello", None)
    );
    assert_eq!(golang_im::read_seq(b" 42 "), Some(42));
    assert_eq!(golang_im::read_seq(b"x"), None);
}

#[test]
fn golang_im_reads_a_message_by_its_own_names() {
    let message = Message {
        room: room("r"),
        epoch: 9,
        seq: 42,
        id: "unused".to_owned(),
        from: "456".to_owned(),
        client_id: "c".to_owned(),
        kind: "text".to_owned(),
        body: Body::Text(Bytes::from_static("hé".as_bytes())),
        time_ms: 1_700_000_000_999,
    };
    let shown: serde_json::Value = serde_json::from_slice(&golang_im::message(&message)).unwrap();
    let wanted = serde_json::json!({"id": "42", "user_id": "456", "type": "text", "msg": "hé", "room_id": "r",
        "dateline": 1_700_000_000, "shop_id": ""});
    assert_eq!(shown, wanted);
    let synced: serde_json::Value =
        serde_json::from_slice(&golang_im::sync_reply(&[message])).unwrap();
    assert_eq!(synced, serde_json::json!([wanted]));
}

#[test]
fn goims_operations_are_decimal_and_separated_by_commas() {
    assert_eq!(goim::operations(b"1000, 1001,x,,1002"), [1000, 1001, 1002]);
    assert_eq!(goim::operations(b"\xff"), [] as [i32; 0]);
    let reply = goim::heartbeat_reply(3, 7);
    assert_eq!(&reply[16..], 7_i32.to_be_bytes());
}
