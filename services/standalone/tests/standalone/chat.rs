//! People talk: every way in, one room, one order.

use anyhow::{Context, Result};
use bytes::Bytes;
use hyper::Method;
use im_client::{Client, Encoding, Event, Events, Message, Outgoing, Position, RoomId};
use im_e2e::clients::compat::CompatClient;
use im_e2e::http;
use serde_json::{Value, json};

use crate::server::{PATIENCE, Server};

pub(crate) fn room(name: &str) -> RoomId {
    RoomId::new(name).unwrap()
}

/// A native client in these rooms, from their beginning.
pub(crate) fn client(address: &str, token: String, rooms: &[&str]) -> Result<(Client, Events)> {
    let from_start = |name: &&str| Position {
        room: room(name),
        epoch: 0,
        seq: Some(0),
    };
    let encoding = if address.starts_with("ws:") {
        Encoding::Json
    } else {
        Encoding::Binary
    };
    let builder = Client::builder()
        .address(address)
        .token(token)
        .device("test")
        .encoding(encoding);
    Ok(builder.subscribe(rooms.iter().map(from_start)).build()?)
}

/// The next message; other events are passed over.
pub(crate) async fn next(events: &mut Events) -> Result<Message> {
    let search = async {
        loop {
            match events.next().await {
                Some(Event::Message(message)) => return Ok(message),
                Some(Event::Ended(end)) => return Err(end.into()),
                Some(_) => {}
                None => anyhow::bail!("no more events"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, search)
        .await
        .context("no message in time")?
}

pub(crate) async fn heard(events: &mut Events, count: usize) -> Result<Vec<(u64, String)>> {
    let mut all = Vec::new();
    for _ in 0..count {
        let message = next(events).await?;
        all.push((
            message.seq,
            String::from_utf8_lossy(message.body.bytes()).into_owned(),
        ));
    }
    Ok(all)
}

pub(crate) async fn ask(
    server: &Server,
    method: Method,
    path: &str,
    token: &str,
    body: Value,
) -> Result<(u16, Value)> {
    let body = if body.is_null() {
        Bytes::new()
    } else {
        Bytes::from(body.to_string())
    };
    let (status, text) =
        http::call(method, &server.addresses.http, path, Some(token), body).await?;
    Ok((
        status,
        serde_json::from_str(&text).unwrap_or(Value::String(text)),
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn native_goim_golang_im_and_http_share_one_room_and_one_order() -> Result<()> {
    const ROOM: &str = "live://1000";
    let server = Server::start(&[]).await?;
    let token = |user: &str| server.token(user, &["live://*"], "");
    let (tcp, mut over_tcp) = client(
        &format!("tcp://{}", server.addresses.tcp),
        token("ann")?,
        &[ROOM],
    )?;
    let (ws, mut over_ws) = client(
        &format!("ws://{}/ws", server.addresses.ws),
        token("bob")?,
        &[ROOM],
    )?;
    tcp.connected().await?;
    ws.connected().await?;

    let mut goim = CompatClient::tcp(&server.addresses.tcp).await?;
    let auth = json!({"mid": 7, "key": "k", "room_id": ROOM, "platform": "web", "accepts": [1000], "token": token("7")?});
    goim.request(7, auth.to_string().as_bytes(), 8).await?;
    let mut golang = CompatClient::websocket(&server.addresses.ws, "/ws").await?;
    let auth =
        json!({"user_id": "cleo", "device_id": "d", "room_id": ROOM, "token": token("cleo")?});
    assert_eq!(
        golang
            .request(7, auth.to_string().as_bytes(), 8)
            .await?
            .body,
        Bytes::from_static(b"ok")
    );
    golang.request(14, ROOM.as_bytes(), 15).await?;

    let sent = tcp.send(Outgoing::text(room(ROOM), "one")).await?;
    assert_eq!(sent.seq, 1);
    ws.send(Outgoing::text(room(ROOM), "two")).await?;
    let number = goim.send(4, b"three").await?;
    let mut over_goim = Vec::new();
    loop {
        let frame = goim.next().await?;
        match frame.operation {
            4 => {
                assert_eq!(frame.seq, number);
                break;
            }
            operation => over_goim.push((operation, frame.body)),
        }
    }
    let (status, stored) = ask(
        &server,
        Method::POST,
        &format!("/v1/rooms/{}/messages", ROOM.replace('/', "%2F")),
        &token("dora")?,
        json!({"client_id": "d1", "type": "text", "body": "four"}),
    )
    .await?;
    assert_eq!((status, stored["seq"].as_u64()), (201, Some(4)), "{stored}");

    let all: Vec<(u64, String)> = ["one", "two", "three", "four"]
        .iter()
        .zip(1..)
        .map(|(said, seq)| (seq, (*said).to_owned()))
        .collect();
    assert_eq!(heard(&mut over_tcp, 4).await?, all);
    assert_eq!(heard(&mut over_ws, 4).await?, all);
    for (seq, said) in &all {
        let frame = golang.next_of(5).await?;
        let message: Value = serde_json::from_slice(&frame.body)?;
        assert_eq!(
            (message["id"].as_str(), message["msg"].as_str()),
            (Some(seq.to_string().as_str()), Some(said.as_str()))
        );
    }
    while over_goim.len() < all.len() {
        let frame = goim.next().await?;
        over_goim.push((frame.operation, frame.body));
    }
    let said: Vec<(i32, Bytes)> = all
        .iter()
        .map(|(_, said)| (5, Bytes::from(said.clone())))
        .collect();
    assert_eq!(over_goim, said);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn history_order_and_unread_survive_kill_9_and_clients_resume_by_themselves() -> Result<()> {
    let mut server = Server::start(&[]).await?;
    let (ann, bob) = (server.token("ann", &[], "")?, server.token("bob", &[], "")?);
    let backend = server.token("backend", &[], "admin")?;
    let group = json!({"id": "team", "kind": "group", "members": ["bob", {"user": "ann", "role": "owner"}]});
    assert_eq!(
        ask(&server, Method::POST, "/v1/rooms", &backend, group)
            .await?
            .0
            / 100,
        2
    );
    let address = format!("tcp://{}", server.addresses.tcp);
    let (speaker, _heard_by_ann) = client(&address, ann.clone(), &["team"])?;
    let (listener, mut listening) = client(&address, bob.clone(), &["team"])?;
    for said in ["a", "b", "c"] {
        speaker.send(Outgoing::text(room("team"), said)).await?;
    }
    let mut story = Vec::new();
    while story
        .last()
        .is_none_or(|(_, said): &(u64, String)| said != "c")
    {
        story.extend(heard(&mut listening, 1).await?);
    }
    let read = story[story.len() - 2].0;
    assert_eq!(listener.read(room("team"), read).await?.unread, 1);
    let conversations = async |server: &Server| {
        ask(server, Method::GET, "/v1/conversations", &bob, Value::Null).await
    };
    let before = conversations(&server).await?;
    let history = async |server: &Server| {
        ask(
            server,
            Method::GET,
            "/v1/rooms/team/messages?after=0",
            &bob,
            Value::Null,
        )
        .await
    };
    let log = history(&server).await?;

    server.kill_and_start(&[]).await?;
    assert_eq!(
        conversations(&server).await?,
        before,
        "unread and read positions are as they were"
    );
    assert_eq!(history(&server).await?, log);
    let sent = speaker.send(Outgoing::text(room("team"), "d")).await?;
    assert_eq!(sent.seq, story.len() as u64 + 1);
    assert_eq!(
        heard(&mut listening, 1).await?,
        [(sent.seq, "d".to_owned())],
        "no gap and no repeat"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_stored_once_also_after_kill_9() -> Result<()> {
    let mut server = Server::start(&[]).await?;
    let token = server.token("ann", &["*"], "")?;
    let say = json!({"client_id": "once", "type": "text", "body": {"n": 1}});
    let (_, first) = ask(
        &server,
        Method::POST,
        "/v1/rooms/r/messages",
        &token,
        say.clone(),
    )
    .await?;
    server.kill_and_start(&[]).await?;
    let (_, again) = ask(&server, Method::POST, "/v1/rooms/r/messages", &token, say).await?;
    assert_eq!(
        (first["seq"].as_u64(), first["id"].as_str()),
        (Some(1), again["id"].as_str())
    );
    let (_, history) = ask(
        &server,
        Method::GET,
        "/v1/rooms/r/messages",
        &token,
        Value::Null,
    )
    .await?;
    assert_eq!(
        history["messages"].as_array().map(Vec::len),
        Some(1),
        "{history}"
    );
    assert_eq!(history["messages"][0]["body"], json!({"n": 1}));
    Ok(())
}
