//! What is not of the protocol costs the connection that it came on, with a code that says why, and no other.

use anyhow::{Context, Result};
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::console::Console;
use crate::server::{PATIENCE, Server};

fn frame(length: i32, header: i16, operation: i32, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_i32(length);
    frame.put_i16(header);
    frame.put_i16(1);
    frame.put_i32(operation);
    frame.put_i32(1);
    frame.put_slice(body);
    frame.freeze()
}

/// Writes bytes to the TCP port and waits until the server ends the connection.
async fn thrown_out(server: &Server, bytes: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(&server.addresses.tcp).await?;
    stream.write_all(bytes).await?;
    let mut answer = Vec::new();
    // Bytes of ours that the server has not read may turn its end into a reset.
    let _reset = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .context("still open")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_frames_end_their_connection_and_no_other() -> Result<()> {
    let server = Server::start(&[]).await?;
    let token = server.token("ann", &["*"], "")?;
    let mut bystander = Console::hear(&server, &token, "r").await?;
    for bytes in [
        frame(15, 16, 7, b""),
        frame(-1, 16, 7, b""),
        frame(i32::MAX, 16, 7, b""),
        frame(16, 15, 7, b""),
        frame(16, 16, 4, b""),
        frame(16, 16, 12_345, b""),
        frame(20, 16, 7, b"\xff\xfe{]"),
        frame(18, 16, 100, b"\xff\xff"),
        Bytes::from_static(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        Bytes::from(vec![0; 64]),
        Bytes::from(vec![0xff; 64]),
    ] {
        thrown_out(&server, &bytes)
            .await
            .with_context(|| format!("{bytes:?}"))?;
    }
    for (said, code) in [
        (Message::binary(frame(17, 16, 7, b"")), 1002),
        (Message::binary(frame(16, 16, 7, b"more")), 1002),
        (Message::binary(Bytes::from_static(b"short")), 1002),
        (Message::text("no JSON"), 1002),
        (Message::text("[1]"), 1002),
        (Message::text(""), 1002),
    ] {
        let mut console = Console::open(&server).await?;
        console.say(said.clone()).await?;
        assert_eq!(console.closed().await?, code, "{said:?}");
    }
    bystander.lives().await?;
    let (_, metrics) = im_e2e::http::get(&server.addresses.admin, "/metrics").await?;
    assert!(
        metrics.contains("im_connect_malformed_total{code=\"protocol_error\"}"),
        "counted: {metrics}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_not_utf_8_ends_the_connection() -> Result<()> {
    let server = Server::start(&[]).await?;
    let mut stream = TcpStream::connect(&server.addresses.ws).await?;
    stream
        .write_all(b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        .await?;
    // A masked text frame of one byte that no UTF-8 text holds.
    stream.write_all(&[0x81, 0x81, 0, 0, 0, 0, 0xff]).await?;
    let mut answer = Vec::new();
    let _reset = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .context("still open")?;
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{answer:?}");
    assert!(
        answer.windows(2).any(|pair| pair == 1007_u16.to_be_bytes()),
        "no code 1007 in {answer:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_over_the_limit_ends_the_connection_and_a_body_over_it_is_refused() -> Result<()> {
    let server = Server::start(&["--max-body", "8KiB", "--max-message", "1KiB"]).await?;
    let token = server.token("ann", &["*"], "")?;
    let mut console = Console::enter(&server, &token).await?;
    let say = |bytes: usize| json!({"op": "send", "room": "r", "client_id": "c", "type": "text", "body": "x".repeat(bytes)});
    assert_eq!(console.refused(say(2_000)).await?, "too_large");
    console.lives().await?;
    assert_eq!(console.ask(say(1_000)).await?["op"], "ack");
    console.send(say(200_000)).await?;
    assert_eq!(console.closed().await?, 1009);
    thrown_out(&server, &frame(200_016, 16, 7, b"")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_understood_is_answered_and_the_connection_goes_on() -> Result<()> {
    let server = Server::start(&[]).await?;
    let token = server.token("ann", &["*"], "")?;
    let mut console = Console::enter(&server, &token).await?;
    for (said, field) in [
        (json!({"op": "dance"}), "op"),
        (json!({"op": 7}), "op"),
        (json!({}), "op"),
        (json!({"op": "send", "body": "x"}), "room"),
        (json!({"op": "send", "room": "r"}), "body"),
        (json!({"op": "send", "room": "", "body": "x"}), "room"),
        (json!({"op": "send", "room": "a b", "body": "x"}), "room"),
        (
            json!({"op": "send", "room": "r".repeat(300), "body": "x"}),
            "room",
        ),
        (
            json!({"op": "send", "room": "r", "body_base64": "?"}),
            "body_base64",
        ),
        (
            json!({"op": "send", "room": "r", "client_id": "c", "type": "im.join", "body": "x"}),
            "type",
        ),
        (json!({"op": "history", "room": "r", "after": -1}), "after"),
        (json!({"op": "read", "room": "r"}), "seq"),
        (json!({"op": "subscribe", "rooms": "r"}), "rooms"),
        (json!({"op": "refresh"}), "token"),
    ] {
        let answer = console.ask(said.clone()).await?;
        assert_eq!(
            (answer["op"].as_str(), answer["code"].as_str()),
            (Some("error"), Some("bad_request")),
            "{said}: {answer}"
        );
        assert_eq!(answer["field"].as_str(), Some(field), "{said}: {answer}");
        assert_eq!(answer["retryable"], false);
    }
    console.lives().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_can_be_done_before_auth_and_auth_comes_once() -> Result<()> {
    let server = Server::start(&[]).await?;
    let token = server.token("ann", &["*"], "")?;
    for early in [
        json!({"op": "ping"}),
        json!({"op": "send", "room": "r", "body": "x"}),
        json!({"op": "subscribe", "rooms": ["r"]}),
    ] {
        let mut console = Console::open(&server).await?;
        console.send(early.clone()).await?;
        assert_eq!(console.closed().await?, 4011, "{early}");
    }
    let mut console = Console::enter(&server, &token).await?;
    assert_eq!(
        console
            .refused(json!({"op": "auth", "token": token}))
            .await?,
        "wrong_state"
    );
    console.lives().await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_two_paths_are_websockets() -> Result<()> {
    let server = Server::start(&[]).await?;
    for (request, status) in [
        ("GET /other HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".to_owned(), "404"),
        ("GET /ws HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "400"),
        (format!("GET /ws HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000)), "4"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
    ] {
        let mut stream = TcpStream::connect(&server.addresses.ws).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        let _reset = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.context("still open")?;
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{text} for {:.40}", request);
    }
    Ok(())
}
