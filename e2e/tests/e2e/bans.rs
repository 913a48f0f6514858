//! Bans in a cluster: made at one logic, in force on every connect.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hyper::Method;
use im_client::{Client, Event, Events};
use im_e2e::cluster::{Cluster, Plan};
use im_e2e::http;
use im_e2e::process::until;
use im_e2e::token::token;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

async fn connected(address: &str, token: String, device: &str) -> Result<(Client, Events)> {
    let client = Client::builder().address(format!("tcp://{address}")).token(token).device(device);
    let (client, events) = client.build()?;
    client.connected().await?;
    Ok((client, events))
}

/// When the client was told that it is over.
async fn ended(mut events: Events) -> Result<Instant> {
    let end = async {
        while let Some(event) = events.next().await {
            if let Event::Ended(_) = event {
                return Some(Instant::now());
            }
        }
        None
    };
    tokio::time::timeout(PATIENCE, end).await.context("it does not end")?.context("no end was told")
}

async fn ask(http: &str, method: Method, path: &str, token: &str, body: Value) -> Result<(u16, Value)> {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let (status, text) = http::call(method, http, path, Some(token), body).await?;
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_is_in_force_on_every_node_of_a_cluster_within_a_second() -> Result<()> {
    let mut cluster = Cluster::start(Plan::default()).await?;
    let admin = token("root", "admin", &[])?;
    let makers: Vec<String> = cluster.logics.iter().map(|logic| logic.http.clone()).collect();
    let connects: Vec<String> = cluster.connects.iter().map(|connect| connect.tcp.clone()).collect();
    let (_other, mut unharmed) = connected(&connects[0], token("eve", "", &[])?, "d").await?;
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
        let (status, told) = ask(&makers[0], Method::POST, path, &admin, body).await?;
        ensure!(status < 300, "{told}");
        for (_client, events) in open {
            let took = ended(events).await?.duration_since(began);
            assert!(took < Duration::from_secs(1), "{path}: {took:?}");
        }
    }
    // The other logic process refuses as well, and so does one that has just been started.
    let ann = token("ann", "", &[])?;
    let mut dead = cluster.logics.remove(0);
    dead.process.kill()?;
    cluster.add_logic()?;
    cluster.ready().await?;
    let new = cluster.logics.last().context("just added")?.http.clone();
    for http in [&makers[1], &new] {
        let refused =
            until("it answers", PATIENCE, async || ask(http, Method::GET, "/v1/me", &ann, Value::Null).await.ok());
        assert_eq!(refused.await?.0, 403, "{http}");
    }
    // So does a connect that has just been started, to an address that is banned.
    let range = json!({"address": "127.0.0.0/8", "for": 2_000});
    let (status, told) = ask(&makers[1], Method::POST, "/v1/bans", &admin, range).await?;
    ensure!(status == 201, "{told}");
    let gone = async {
        while let Some(event) = unharmed.next().await {
            if matches!(event, Event::Ended(_) | Event::Disconnected { .. }) {
                return true;
            }
        }
        false
    };
    assert!(tokio::time::timeout(Duration::from_secs(1), gone).await?, "the range is cut off");
    let dan = token("dan", "", &[])?;
    until("the range is over", PATIENCE, async || {
        let client = connected(&connects[1], dan.clone(), "d");
        tokio::time::timeout(Duration::from_secs(1), client).await.ok()?.ok().map(drop)
    })
    .await
}
