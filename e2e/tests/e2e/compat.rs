//! Clients of every dialect in one room, on different nodes.

use std::time::Duration;

use anyhow::{Context, Result};
use im_client::{Client, Encoding, Event, Events, Outgoing};
use im_e2e::clients::compat::{CompatClient, json};
use im_e2e::servers::cluster::{Cluster, Plan};
use im_e2e::token::token;
use im_wire::ids::RoomId;
use im_wire::native::Position;
use serde_json::json;

const ROOM: &str = "live://1000";

fn native(user: &str, address: &str, encoding: Encoding) -> Result<(Client, Events)> {
    let position = Position {
        room: RoomId::new(ROOM)?,
        epoch: 0,
        seq: None,
    };
    let builder = Client::builder()
        .address(address)
        .encoding(encoding)
        .token(token(user, "", &["live://*"])?)
        .device("d");
    Ok(builder.subscribe([position]).build()?)
}

async fn message(events: &mut Events) -> Result<(String, String)> {
    let search = async {
        loop {
            match events.next().await.context("the client ended")? {
                Event::Message(message) => {
                    return Ok((
                        message.from,
                        String::from_utf8_lossy(message.body.bytes()).into_owned(),
                    ));
                }
                _ => continue,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(15), search)
        .await
        .context("no message in time")?
}

#[tokio::test]
async fn native_goim_and_golang_im_clients_on_two_nodes_chat_in_one_room() -> Result<()> {
    let cluster = Cluster::start(Plan::default()).await?;
    let one = &cluster.connects[0];
    let two = &cluster.connects[1];

    let (alice, mut to_alice) = native("alice", &format!("tcp://{}", one.tcp), Encoding::Binary)?;
    let (bob, mut to_bob) = native("bob", &format!("ws://{}/ws", two.ws), Encoding::Json)?;
    alice.connected().await?;
    bob.connected().await?;

    let mut goim = CompatClient::tcp(&one.tcp).await?;
    let auth = json!({"mid": 123, "key": "", "room_id": ROOM, "platform": "web", "accepts": [1000, 1001],
        "token": token("123", "", &["live://*"])?});
    goim.request(7, auth.to_string().as_bytes(), 8).await?;
    goim.request(2, b"", 3).await?;

    let mut golang_im = CompatClient::websocket(&two.ws, "/ws").await?;
    let auth = json!({"user_id": "456", "device_id": "phone", "nickname": "Wu", "room_id": ROOM, "platform": "web",
        "token": token("456", "", &["live://*"])?});
    assert_eq!(
        &golang_im
            .request(7, auth.to_string().as_bytes(), 8)
            .await?
            .body[..],
        b"ok"
    );
    golang_im.request(14, ROOM.as_bytes(), 15).await?;

    alice
        .send(Outgoing::text(RoomId::new(ROOM)?, "from native TCP"))
        .await?;
    bob.send(Outgoing::text(RoomId::new(ROOM)?, "from native WebSocket"))
        .await?;
    goim.request(4, b"from goim", 4).await?;
    let request = json!({"type": "text", "msg": "from golang-im", "room_id": ROOM});
    golang_im
        .request(4, request.to_string().as_bytes(), 4)
        .await?;

    let expected = [
        ("alice", "from native TCP"),
        ("bob", "from native WebSocket"),
        ("123", "from goim"),
        ("456", "from golang-im"),
    ];
    for (from, text) in expected {
        for events in [&mut to_alice, &mut to_bob] {
            let (sender, body) = message(events).await?;
            assert_eq!(sender, from);
            assert!(body.contains(text), "{body} should hold {text}");
        }
        let to_goim = goim.next_of(5).await?;
        assert!(
            String::from_utf8_lossy(&to_goim.body).contains(text),
            "{to_goim:?}"
        );
        let to_golang_im = json(&golang_im.next_of(5).await?)?;
        assert_eq!(to_golang_im["msg"], text);
        assert_eq!(to_golang_im["room_id"], ROOM);
    }

    let synced = golang_im.request(18, b"", 19).await?;
    let texts: Vec<_> = json(&synced)?
        .as_array()
        .context("an array")?
        .iter()
        .map(|m| m["msg"].clone())
        .collect();
    assert_eq!(texts, expected.map(|(_, text)| text));
    Ok(())
}
