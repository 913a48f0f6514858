//! Bans in a cluster: created at one logic, enforced by every connect.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hyper::Method;
use im_client::{Client, Event, Events};
use im_e2e::http;
use im_e2e::servers::cluster::{Cluster, Plan};
use im_e2e::token::token;
use im_e2e::wait::until;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(20);

async fn connected(address: &str, token: String, device: &str) -> Result<(Client, Events)> {
    let client = Client::builder()
        .address(format!("tcp://{address}"))
        .token(token)
        .device(device);
    let (client, events) = client.build()?;
    client.connected().await?;
    Ok((client, events))
}

/// When the client was told that its connection is over.
async fn ended(mut events: Events) -> Result<Instant> {
    let end = async {
        while let Some(event) = events.next().await {
            if let Event::Ended(_) = event {
                return Some(Instant::now());
            }
        }
        None
    };
    tokio::time::timeout(TIMEOUT, end)
        .await
        .context("the client did not end")?
        .context("no Ended event")
}

async fn request(
    http: &str,
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
    let (status, text) = http::call(method, http, path, Some(token), body).await?;
    Ok((
        status,
        serde_json::from_str(&text).unwrap_or(Value::String(text)),
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_is_in_force_on_every_node_of_a_cluster_within_a_second() -> Result<()> {
    let mut cluster = Cluster::start(Plan::default()).await?;
    let admin = token("root", "admin", &[])?;
    let logics: Vec<String> = cluster
        .logics
        .iter()
        .map(|logic| logic.http.clone())
        .collect();
    let connects: Vec<String> = cluster
        .connects
        .iter()
        .map(|connect| connect.tcp.clone())
        .collect();
    let (_other, mut other_user) = connected(&connects[0], token("eve", "", &[])?, "d").await?;
    for (user, path, body) in [
        ("ann", "/v1/bans", json!({"user": "ann"})),
        ("bob", "/v1/bans", json!({"user": "bob", "device": "d"})),
        ("cat", "/v1/users/cat/revoke", json!({})),
    ] {
        let mut open = Vec::new();
        for address in connects.iter().chain(&connects) {
            open.push(connected(address, token(user, "", &[])?, "d").await?);
        }
        let began = Instant::now();
        let (status, answer) = request(&logics[0], Method::POST, path, &admin, body).await?;
        ensure!(status < 300, "{answer}");
        for (_client, events) in open {
            let took = ended(events).await?.duration_since(began);
            assert!(took < Duration::from_secs(1), "{path}: {took:?}");
        }
    }
    // The other logic process refuses too, and so does a new one.
    let ann = token("ann", "", &[])?;
    let mut dead = cluster.logics.remove(0);
    dead.process.kill()?;
    cluster.add_logic()?;
    cluster.ready().await?;
    let new = cluster.logics.last().context("just added")?.http.clone();
    for http in [&logics[1], &new] {
        let refused = until("the API answers", TIMEOUT, async || {
            request(http, Method::GET, "/v1/me", &ann, Value::Null)
                .await
                .ok()
        });
        assert_eq!(refused.await?.0, 403, "{http}");
    }
    // A banned address range is disconnected, and may connect again afterwards.
    let range = json!({"address": "127.0.0.0/8", "for": 2_000});
    let (status, answer) = request(&logics[1], Method::POST, "/v1/bans", &admin, range).await?;
    ensure!(status == 201, "{answer}");
    let gone = async {
        while let Some(event) = other_user.next().await {
            if matches!(event, Event::Ended(_) | Event::Disconnected { .. }) {
                return true;
            }
        }
        false
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(1), gone).await?,
        "the range is disconnected"
    );
    let dan = token("dan", "", &[])?;
    until("the range is over", TIMEOUT, async || {
        let client = connected(&connects[1], dan.clone(), "d");
        tokio::time::timeout(Duration::from_secs(1), client)
            .await
            .ok()?
            .ok()
            .map(drop)
    })
    .await
}
