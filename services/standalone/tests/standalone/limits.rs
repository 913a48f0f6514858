//! Whoever takes too much, or too long, is cut off alone.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use im_client::Outgoing;
use im_e2e::wait::until;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use crate::chat::{client, heard, room};
use crate::console::Console;
use crate::server::{PATIENCE, Server};

async fn metric(server: &Server, line: &str) -> Option<f64> {
    let (_, metrics) = im_e2e::http::get(&server.addresses.admin, "/metrics")
        .await
        .ok()?;
    let value = metrics
        .lines()
        .find_map(|found| found.strip_prefix(line)?.strip_prefix(' '))?;
    value.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_at_the_door_is_sent_away() -> Result<()> {
    let server = Server::start(&["--handshake-timeout", "1s"]).await?;
    let mut silent = TcpStream::connect(&server.addresses.tcp).await?;
    let mut half = TcpStream::connect(&server.addresses.ws).await?;
    let mut upgraded = Console::open(&server).await?;
    assert_eq!(upgraded.closed().await?, 4000);
    for stream in [&mut silent, &mut half] {
        let mut rest = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest))
            .await
            .context("still open")??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_falls_silent_is_given_up_and_who_pings_is_not() -> Result<()> {
    let server = Server::start(&["--heartbeat-timeout", "1s"]).await?;
    let token = server.token("ann", &["*"], "")?;
    let (alive, _events) = client(
        &format!("tcp://{}", server.addresses.tcp),
        token.clone(),
        &["r"],
    )?;
    alive.connected().await?;
    let mut half_open = Console::hear(&server, &token, "r").await?;
    assert_eq!(half_open.closed().await?, 4003);
    alive.send(Outgoing::text(room("r"), "still here")).await?;
    assert_eq!(alive.stats().reconnects, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_slowed_and_then_cut_off_and_nobody_else_notices() -> Result<()> {
    let server = Server::start(&["--requests-per-second", "5", "--flood-after", "1s"]).await?;
    let mut bystander = Console::enter(&server, &server.token("bob", &["*"], "")?).await?;
    let mut flood = Console::enter(&server, &server.token("ann", &["*"], "")?).await?;
    for _ in 0..200 {
        flood.send(json!({"op": "ping"})).await?;
    }
    bystander.lives().await?;
    assert_eq!(flood.closed().await?, 4005);
    bystander.lives().await?;
    assert!(
        metric(
            &server,
            "im_connect_rate_limited_total{limit=\"connection\"}"
        )
        .await
        .is_some_and(|n| n > 0.0)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_so_many_connections_and_no_more() -> Result<()> {
    let server = Server::start(&["--max-connections-per-ip", "2"]).await?;
    let token = server.token("ann", &["*"], "")?;
    let first = Console::enter(&server, &token).await?;
    let mut second = Console::enter(&server, &token).await?;
    assert!(Console::enter(&server, &token).await.is_err(), "a third");
    second.lives().await?;
    drop(first);
    let entered = until("a place is free again", PATIENCE, async || {
        Console::enter(&server, &token).await.ok()
    });
    entered.await?.lives().await?;
    assert!(
        metric(
            &server,
            "im_connect_refused_total{reason=\"connections_per_ip\"}"
        )
        .await
        .is_some_and(|n| n > 0.0)
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_closed_alone_and_finds_everything_when_it_comes_back() -> Result<()> {
    const MESSAGES: usize = 150;
    let mut settings = vec![
        "--outbox-bytes",
        "64KiB",
        "--user-byte-rate",
        "0",
        "--room-byte-rate",
        "0",
    ];
    settings.extend([
        "--bytes-per-second",
        "64MiB",
        "--user-bytes-per-second",
        "64MiB",
    ]);
    let server = Server::start(&settings).await?;
    let token = |user: &str| server.token(user, &["*"], "");
    let mut slow = slow_console(&server, &token("slow")?).await?;
    let (_reader, mut reading) = client(
        &format!("tcp://{}", server.addresses.tcp),
        token("fast")?,
        &["r"],
    )?;
    let (speaker, _spoken) = client(
        &format!("tcp://{}", server.addresses.tcp),
        token("ann")?,
        &[],
    )?;
    let long = "x".repeat(60_000);
    for number in 0..MESSAGES {
        speaker
            .send(Outgoing::text(room("r"), format!("{number} {long}")))
            .await?;
    }
    let seqs: Vec<u64> = heard(&mut reading, MESSAGES)
        .await?
        .into_iter()
        .map(|(seq, _)| seq)
        .collect();
    assert_eq!(
        seqs,
        (1..=MESSAGES as u64).collect::<Vec<_>>(),
        "the other reader has everything"
    );
    until("the slow reader is closed", PATIENCE, async || {
        metric(&server, "im_connect_closed_total{code=\"slow_reader\"}")
            .await
            .filter(|closed| *closed == 1.0)
    })
    .await?;

    // What had been written before comes in order, and the rest from where it ended.
    let mut had: Vec<u64> = Vec::new();
    while let Some(Ok(Message::Text(text))) = futures::StreamExt::next(&mut slow.stream).await {
        had.extend(serde_json::from_str::<Value>(&text)?["seq"].as_u64());
    }
    assert!(had.len() < MESSAGES, "it was not slow");
    let mut back = Console::enter(&server, &token("slow")?).await?;
    let last = had.last().copied().unwrap_or(0);
    let epoch = back
        .ask(json!({"op": "history", "room": "r", "limit": 1}))
        .await?["epoch"]
        .clone();
    back.send(json!({"op": "subscribe", "rooms": [{"room": "r", "epoch": epoch, "seq": last}]}))
        .await?;
    while had.len() < MESSAGES {
        match back.next().await? {
            crate::console::Heard::Frame(frame) if frame["op"] == "message" => {
                had.extend(frame["seq"].as_u64())
            }
            crate::console::Heard::Frame(_) => {}
            crate::console::Heard::Closed(code) => panic!("closed with {code}"),
        }
    }
    assert_eq!(had, seqs);
    Ok(())
}

/// Hears room r over a socket that takes little before somebody reads it.
async fn slow_console(server: &Server, token: &str) -> Result<Console> {
    let address: SocketAddr = server.addresses.ws.parse()?;
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4 << 10)?;
    let stream = socket.connect(address).await?;
    let stream = tokio_tungstenite::MaybeTlsStream::Plain(stream);
    let (stream, _) = client_async(format!("ws://{address}/ws"), stream).await?;
    Console::over(stream).hear_room(token, "r").await
}
