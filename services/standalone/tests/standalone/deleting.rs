//! Rooms end: whoever hears one is told, it stays gone through kill -9, and whoever comes back with a position in it is told
//! before they hear the room that has taken its id.

use anyhow::{Context, Result, ensure};
use hyper::Method;
use im_client::{Event, Outgoing};
use im_e2e::wait::until;
use serde_json::{Value, json};

use crate::chat::{ask, client, heard, room};
use crate::console::{Console, Heard};
use crate::server::{PATIENCE, Server};

const TEAM: &str = "/v1/rooms/team";

async fn make(server: &Server, backend: &str) -> Result<()> {
    let group = json!({"id": "team", "kind": "group", "members": ["bob", {"user": "ann", "role": "owner"}]});
    let (status, told) = ask(server, Method::POST, "/v1/rooms", backend, group).await?;
    ensure!(status == 201, "{told}");
    Ok(())
}

async fn code(server: &Server, method: Method, path: &str, token: &str) -> Result<(u16, String)> {
    let (status, told) = ask(server, method, path, token, Value::Null).await?;
    Ok((
        status,
        told["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    ))
}

/// What comes first of a room, and the seqs of messages after it.
async fn rest(console: &mut Console, count: usize) -> Result<(Value, Vec<u64>)> {
    let (mut first, mut seqs) = (None, Vec::new());
    while seqs.len() < count {
        let Heard::Frame(frame) = console.next().await? else {
            anyhow::bail!("closed")
        };
        match frame["op"].as_str() {
            Some("message") => seqs.push(frame["seq"].as_u64().unwrap_or_default()),
            Some("reset" | "truncated") if first.is_none() && seqs.is_empty() => {
                first = Some(frame)
            }
            other => anyhow::bail!("{other:?} in between: {frame}"),
        }
    }
    Ok((first.context("nothing came before the messages")?, seqs))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_room_is_told_stays_gone_and_its_id_may_be_used_again() -> Result<()> {
    let mut server = Server::start(&[]).await?;
    let (ann, bob) = (server.token("ann", &[], "")?, server.token("bob", &[], "")?);
    let backend = server.token("backend", &[], "admin")?;
    make(&server, &backend).await?;
    let address = format!("tcp://{}", server.addresses.tcp);
    let (speaker, mut events) = client(&address, ann.clone(), &["team"])?;
    for said in ["a", "b", "c"] {
        speaker.send(Outgoing::text(room("team"), said)).await?;
    }
    assert_eq!(
        heard(&mut events, 3).await?.last(),
        Some(&(3, "c".to_owned()))
    );
    let (_, shown) = ask(&server, Method::GET, TEAM, &bob, Value::Null).await?;
    let old = shown["epoch"].as_u64().context("an epoch")?;

    let (status, deleted) = ask(&server, Method::DELETE, TEAM, &backend, Value::Null).await?;
    assert_eq!((status, &deleted["seq"]), (200, &json!(4)), "{deleted}");
    let told = async {
        let mut end = false;
        while let Some(event) = events.next().await {
            match event {
                Event::Message(message) => end = message.kind == "im.delete" && message.seq == 4,
                Event::RoomChanged {
                    subscribed: false,
                    reason,
                    ..
                } => return Some((end, reason)),
                _ => {}
            }
        }
        None
    };
    assert_eq!(
        tokio::time::timeout(PATIENCE, told).await?,
        Some((true, "deleted".to_owned()))
    );
    for _ in 0..2 {
        for (method, path, token) in [
            (Method::GET, TEAM, &ann),
            (Method::DELETE, TEAM, &backend),
            (Method::GET, "/v1/rooms/team/messages", &bob),
        ] {
            assert_eq!(
                code(&server, method, path, token).await?,
                (404, "no_such_room".to_owned()),
                "{path}"
            );
        }
        let (_, rooms) = ask(&server, Method::GET, "/v1/rooms", &ann, Value::Null).await?;
        assert_eq!(rooms["rooms"], json!([]));
        server.kill_and_start(&[]).await?;
    }

    make(&server, &backend).await?;
    for said in ["x", "y"] {
        let path = format!("{TEAM}/messages");
        let (status, told) = ask(&server, Method::POST, &path, &ann, json!({"body": said})).await?;
        assert_eq!(status, 201, "{told}");
    }
    let (_, shown) = ask(&server, Method::GET, TEAM, &bob, Value::Null).await?;
    assert!(shown["epoch"].as_u64() > Some(old), "{shown} after {old}");
    for seq in [1, 2, 3, 4] {
        let mut console = Console::enter(&server, &bob).await?;
        let rooms = json!([{"room": "team", "epoch": old, "seq": seq}]);
        let answer = console
            .ask(json!({"op": "subscribe", "rooms": rooms}))
            .await?;
        assert_eq!(answer["rooms"][0]["head"], 2, "{answer}");
        let (first, seqs) = rest(&mut console, 2).await?;
        assert_eq!(
            (&first["op"], &first["seq"], seqs),
            (&json!("reset"), &json!(0), vec![1, 2]),
            "{first}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_log_and_an_abandoned_room_go_by_themselves() -> Result<()> {
    let settings = [
        "--history-max-age",
        "1s",
        "--rooms-end-after",
        "5s",
        "--head-compare",
        "1s",
    ];
    let server = Server::start(&settings).await?;
    let (ann, backend) = (
        server.token("ann", &["*"], "")?,
        server.token("backend", &[], "admin")?,
    );
    make(&server, &backend).await?;
    for path in ["/v1/rooms/lobby/messages", "/v1/rooms/team/messages"] {
        assert_eq!(
            ask(&server, Method::POST, path, &ann, json!({"body": "hi"}))
                .await?
                .0,
            201
        );
    }
    let mut console = Console::hear(&server, &ann, "lobby").await?;
    let emptied = async |path: &str| {
        let (_, page) = ask(&server, Method::GET, path, &ann, Value::Null)
            .await
            .ok()?;
        (page["messages"] == json!([])).then_some(page)
    };
    let page = until("the log is empty", PATIENCE, async || {
        emptied("/v1/rooms/team/messages?after=0").await
    })
    .await?;
    assert_eq!(
        (&page["head"], &page["truncated"]),
        (&json!(1), &json!({"from": 1, "to": 1})),
        "{page}"
    );
    // Whoever hears a room that ends is told that there is nothing any more.
    let reset = loop {
        let Heard::Frame(frame) = console.next().await? else {
            anyhow::bail!("closed")
        };
        if frame["op"] == "reset" {
            break frame;
        }
    };
    assert_eq!(
        (&reset["room"], &reset["seq"]),
        (&json!("lobby"), &json!(0))
    );
    let (_, shown) = ask(&server, Method::GET, TEAM, &ann, Value::Null).await?;
    assert_eq!(
        (&shown["head"], &shown["first"]),
        (&json!(1), &json!(2)),
        "a group with members stays: {shown}"
    );
    let said = console
        .ask(json!({"op": "send", "room": "lobby", "body": "again"}))
        .await?;
    assert_eq!(said["seq"], 1, "{said}");
    Ok(())
}
