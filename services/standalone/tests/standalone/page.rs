//! The page as a browser asks for it.

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use im_client::Outgoing;
use serde_json::Value;

use crate::chat::{client, next, room};
use crate::server::Server;

async fn ask(
    address: &str,
    path: &str,
    host: Option<&str>,
    body: Option<&str>,
) -> Result<(u16, HeaderMap, Bytes)> {
    let mut request = Request::builder().uri(format!("http://{address}{path}"));
    if body.is_some() {
        request = request
            .method("POST")
            .header("content-type", "application/json");
    }
    if let Some(host) = host {
        request = request.header("host", host);
    }
    let request = request.body(Full::new(Bytes::from(body.unwrap_or_default().to_owned())))?;
    let answer = Client::builder(TokioExecutor::new())
        .build_http()
        .request(request)
        .await?;
    let (parts, body) = answer.into_parts();
    Ok((
        parts.status.as_u16(),
        parts.headers,
        body.collect().await?.to_bytes(),
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_served_and_its_guests_can_talk() -> Result<()> {
    let server = Server::start(&[]).await?;
    let page = &server.addresses.page;
    let (status, headers, body) = ask(page, "/", None, None).await?;
    assert_eq!(
        (status, headers["content-type"].to_str()?),
        (200, "text/html; charset=utf-8")
    );
    assert!(body.starts_with(b"<!doctype html>"));
    let (_, _, config) = ask(page, "/config.json", None, None).await?;
    let config: Value = serde_json::from_slice(&config)?;
    let port = config["ws_port"].as_u64().unwrap_or_default();
    assert!(
        server.addresses.ws.ends_with(&format!(":{port}")),
        "{config}"
    );

    let (status, _, told) = ask(page, "/guest", None, Some(r#"{"name": "Ann"}"#)).await?;
    assert_eq!(status, 200);
    let token = serde_json::from_slice::<Value>(&told)?["token"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let (guest, mut events) = client(
        &format!("ws://{}/ws", server.addresses.ws),
        token,
        &["lobby"],
    )?;
    guest.send(Outgoing::text(room("lobby"), "hello")).await?;
    assert_eq!(next(&mut events).await?.from, "guest:Ann");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_sites_page_gets_no_guest_token() -> Result<()> {
    let server = Server::start(&[]).await?;
    for host in ["evil.example", "evil.example:1999", "10.0.0.1:1999"] {
        let (status, _, told) = ask(
            &server.addresses.page,
            "/guest",
            Some(host),
            Some(r#"{"name": "Ann"}"#),
        )
        .await?;
        assert_eq!(status, 403, "{host}: {told:?}");
    }
    Ok(())
}
