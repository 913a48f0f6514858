//! Starting, refusing to start, and ending.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::Result;
use hyper::Method;
use im_client::{Event, Outgoing};
use im_e2e::http;
use serde_json::{Value, json};

use crate::chat::{ask, client, room};
use crate::server::{PATIENCE, Server, any_ports, program};

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_people_where_to_go_and_is_ready_then() -> Result<()> {
    let server = Server::start(&[]).await?;
    let (status, told) = http::get(&server.addresses.admin, "/readyz").await?;
    assert_eq!(status, 200, "{told}");
    assert_eq!(http::get(&server.addresses.admin, "/healthz").await?.0, 200);
    let (_, metrics) = http::get(&server.addresses.admin, "/metrics").await?;
    assert!(metrics.contains("im_"), "{metrics}");
    let told = std::fs::read_to_string(server.folder.path().join("im-standalone.log"))?;
    for wanted in [
        "ImCluster is ready",
        "http://localhost:",
        "imctl token --secret-file",
    ] {
        assert!(told.contains(wanted), "{wanted} in {told}");
    }
    let secret = std::fs::metadata(server.data().join("auth.secret"))?;
    assert_eq!(secret.permissions().mode() & 0o777, 0o600);
    Ok(())
}

#[test]
fn all_mistakes_are_told_at_once() -> Result<()> {
    let told = program()
        .args([
            "--tcp-listen",
            "nowhere",
            "--guest-ttl",
            "1s",
            "--store",
            "tape",
        ])
        .env("IM_PAGE_LISTE", "127.0.0.1:1")
        .output()?;
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.status.code(), Some(2), "{text}");
    for field in ["tcp_listen", "guest_ttl", "store", "IM_PAGE_LISTE"] {
        assert!(text.contains(field), "{field} in {text}");
    }
    Ok(())
}

#[test]
fn every_port_that_is_taken_is_named_with_its_setting() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let taken = [
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
    ];
    let mut flags = any_ports();
    for (listener, name) in taken.iter().zip(["--ws-listen", "--page-listen"]) {
        let at = flags.iter().position(|flag| flag == name).unwrap() + 1;
        flags[at] = listener.local_addr()?.to_string();
    }
    let told = program()
        .args(flags)
        .arg("--data-dir")
        .arg(folder.path())
        .output()?;
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.status.code(), Some(1), "{text}");
    for wanted in ["ws_listen", "IM_WS_LISTEN", "page_listen", "IM_PAGE_LISTEN"] {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
    assert!(!text.contains("IM_TCP_LISTEN"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_one_on_the_same_data_is_refused() -> Result<()> {
    let server = Server::start(&[]).await?;
    let told = program()
        .args(any_ports())
        .arg("--data-dir")
        .arg(server.data())
        .output()?;
    let text = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.status.code(), Some(1), "{text}");
    assert!(text.contains("data"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_it_answers_what_is_under_way_and_ends_in_time() -> Result<()> {
    let mut server = Server::start(&["--drain-deadline", "2s"]).await?;
    let token = server.token("ann", &["*"], "")?;
    let (speaker, mut events) = client(&format!("tcp://{}", server.addresses.tcp), token, &["r"])?;
    speaker.send(Outgoing::text(room("r"), "before")).await?;
    server.process.signal(15)?;
    let told = async {
        while let Some(event) = events.next().await {
            if matches!(event, Event::Moving { .. } | Event::Disconnected { .. }) {
                return true;
            }
        }
        false
    };
    assert!(
        tokio::time::timeout(PATIENCE, told).await?,
        "the client is told"
    );
    let status = server.process.wait(Duration::from_secs(10)).await?;
    assert_eq!(status.code(), Some(0), "{}", server.process.tail(20));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_memory_nothing_outlives_the_process() -> Result<()> {
    let mut server = Server::start(&["--store", "memory"]).await?;
    let token = server.token("ann", &["*"], "")?;
    let say = json!({"client_id": "1", "type": "text", "body": "x"});
    let said = async |server: &Server| {
        ask(
            server,
            Method::POST,
            "/v1/rooms/r/messages",
            &token,
            say.clone(),
        )
        .await
    };
    assert_eq!(said(&server).await?.1["seq"].as_u64(), Some(1));
    server.kill_and_start(&["--store", "memory"]).await?;
    let (_, again) = said(&server).await?;
    assert_eq!(
        (again["seq"].as_u64(), again["duplicate"].as_bool()),
        (Some(1), Some(false)),
        "{again}"
    );
    let (status, _) = ask(
        &server,
        Method::GET,
        "/v1/rooms/r/messages",
        "forged",
        Value::Null,
    )
    .await?;
    assert_eq!(status, 401);
    Ok(())
}
