//! Who is sent away stays away: bans and revocations, over every way in, through kill -9, until their time is over.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use hyper::Method;
use im_client::{Client, End, Event};
use im_e2e::wait::until;
use serde_json::{Value, json};

use crate::chat::ask;
use crate::console::{Console, Heard};
use crate::server::{PATIENCE, Server};

/// How a new connection of this token and device ends; 0: it does not.
async fn door(server: &Server, token: &str) -> Result<u16> {
    let Ok(mut console) = Console::open(server).await else {
        return Ok(1);
    };
    console
        .send(json!({"op": "auth", "token": token, "device": "console"}))
        .await?;
    match console.next().await? {
        Heard::Frame(frame) if frame["op"] == "auth_ok" => Ok(0),
        Heard::Frame(_) => console.closed().await,
        Heard::Closed(code) => Ok(code),
    }
}

async fn http(server: &Server, token: &str) -> Result<(u16, String)> {
    let (status, told) = ask(server, Method::GET, "/v1/me", token, Value::Null).await?;
    Ok((
        status,
        told["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn bans_end_open_connections_refuse_new_ones_and_outlive_kill_9() -> Result<()> {
    let mut server = Server::start(&[]).await?;
    let admin = server.token("root", &[], "admin")?;
    let (ann, bob, eve) = (
        server.token("ann", &["*"], "")?,
        server.token("bob", &[], "")?,
        server.token("eve", &[], "")?,
    );
    let mut open = [
        (
            Console::enter(&server, &ann).await?,
            json!({"user": "ann", "reason": "spam"}),
        ),
        (
            Console::enter(&server, &bob).await?,
            json!({"user": "bob", "device": "console"}),
        ),
    ];
    let mut other = Console::enter(&server, &eve).await?;
    for (console, ban) in &mut open {
        let began = Instant::now();
        let (status, made) = ask(&server, Method::POST, "/v1/bans", &admin, ban.clone()).await?;
        ensure!(status == 201, "{made}");
        assert_eq!(
            (console.closed().await?, made["by"].as_str()),
            (4012, Some("root")),
            "{made}"
        );
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
    }
    other.lives().await?;
    let client = Client::builder()
        .address(format!("tcp://{}", server.addresses.tcp))
        .token(ann.clone())
        .device("d");
    let (_client, mut events) = client.build()?;
    let ended = async {
        while let Some(event) = events.next().await {
            if let Event::Ended(end) = event {
                return Some(end);
            }
        }
        None
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await?;
    assert!(
        matches!(ended, Some(End::Refused(_) | End::ByServer { .. })),
        "a client does not try again: {ended:?}"
    );
    for _ in 0..2 {
        assert_eq!(door(&server, &ann).await?, 4012);
        assert_eq!(door(&server, &bob).await?, 4012);
        assert_eq!(http(&server, &ann).await?, (403, "banned".to_owned()));
        // Of bob it is the device that is banned, and over HTTP there is none.
        assert_eq!(http(&server, &bob).await?.0, 200);
        assert_eq!(http(&server, &eve).await?.0, 200);
        server.kill_and_start(&[]).await?;
    }
    let (_, list) = ask(&server, Method::GET, "/v1/bans", &admin, Value::Null).await?;
    assert_eq!(list["bans"].as_array().map(Vec::len), Some(2), "{list}");
    let (_, lifted) = ask(
        &server,
        Method::DELETE,
        "/v1/bans/user%3Aann",
        &admin,
        Value::Null,
    )
    .await?;
    assert_eq!(lifted["changed"], true, "{lifted}");
    until("ann may come again", PATIENCE, async || {
        (door(&server, &ann).await.ok()? == 0).then_some(())
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_banned_range_is_cut_off_and_is_over_by_itself() -> Result<()> {
    let server = Server::start(&[]).await?;
    let (admin, ann) = (
        server.token("root", &[], "admin")?,
        server.token("ann", &[], "")?,
    );
    let mut open = Console::enter(&server, &ann).await?;
    let began = Instant::now();
    let ban = json!({"address": "127.0.0.0/8", "for": 3_000});
    let (_, made) = ask(&server, Method::POST, "/v1/bans", &admin, ban).await?;
    let until_ms = made["until"].as_u64().unwrap_or_default();
    assert_eq!(open.closed().await?, 4012);
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(door(&server, &ann).await?, 1, "closed at the door");
    assert_eq!(http(&server, &ann).await?, (403, "banned".to_owned()));
    until("it is over", PATIENCE, async || {
        (door(&server, &ann).await.ok()? == 0).then_some(())
    })
    .await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    assert!(now >= u128::from(until_ms), "{now} < {until_ms}");
    assert_eq!(http(&server, &ann).await?.0, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_tokens_are_refused_and_a_new_one_works() -> Result<()> {
    let mut server = Server::start(&[]).await?;
    let (admin, old) = (
        server.token("root", &[], "admin")?,
        server.token("ann", &[], "")?,
    );
    let mut open = Console::enter(&server, &old).await?;
    let began = Instant::now();
    let (status, told) = ask(
        &server,
        Method::POST,
        "/v1/users/ann/revoke",
        &admin,
        json!({}),
    )
    .await?;
    ensure!(status == 200, "{told}");
    assert_eq!(open.closed().await?, 4001);
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    for _ in 0..2 {
        assert_eq!(door(&server, &old).await?, 4001);
        assert_eq!(
            http(&server, &old).await?,
            (401, "unauthenticated".to_owned())
        );
        let new = until("a new token is of a later second", PATIENCE, async || {
            let new = server.token("ann", &[], "").ok()?;
            (http(&server, &new).await.ok()?.0 == 200).then_some(new)
        });
        let new = new.await?;
        assert_eq!(door(&server, &new).await?, 0);
        server.kill_and_start(&[]).await?;
    }
    Ok(())
}
