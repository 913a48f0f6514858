//! The admin port over real HTTP.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use im_runtime::admin::Admin;
use im_runtime::{Shutdown, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

async fn start() -> (Admin, Tasks) {
    let tasks = Tasks::new(Shutdown::new(Duration::from_secs(1)));
    let admin = Admin::start(([127, 0, 0, 1], 0).into(), &tasks)
        .await
        .unwrap();
    (admin, tasks)
}

/// Status line and body.
async fn fetch(admin: &Admin, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(admin.address()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.to_owned(),
    )
}

#[tokio::test]
async fn readiness_follows_the_latches_and_names_what_is_missing() {
    let (admin, _tasks) = start().await;
    assert_eq!(
        fetch(&admin, "/readyz").await,
        (200, r#"{"missing":[],"ready":true}"#.to_owned())
    );
    let (logic, listening) = (
        admin.readiness().latch("logic found"),
        admin.readiness().latch("listening"),
    );
    let missing = r#"{"missing":["logic found","listening"],"ready":false}"#;
    assert_eq!(fetch(&admin, "/readyz").await, (503, missing.to_owned()));
    listening.set();
    assert_eq!(
        fetch(&admin, "/readyz").await,
        (
            503,
            r#"{"missing":["logic found"],"ready":false}"#.to_owned()
        )
    );
    logic.set();
    assert_eq!(fetch(&admin, "/readyz").await.0, 200);
    listening.clear();
    assert_eq!(fetch(&admin, "/readyz").await.0, 503);
    assert_eq!(
        fetch(&admin, "/healthz").await.0,
        200,
        "what is not ready may well be alive"
    );
}

#[tokio::test]
async fn a_loop_that_stands_still_fails_liveness() {
    let (admin, _tasks) = start().await;
    assert_eq!(fetch(&admin, "/healthz").await.0, 200);
    let pulse = admin.liveness().pulse("shard 0", Duration::ZERO);
    let late = async {
        while fetch(&admin, "/healthz").await
            != (503, r#"{"alive":false,"late":["shard 0"]}"#.to_owned())
        {}
    };
    tokio::time::timeout(Duration::from_secs(10), late)
        .await
        .unwrap();
    drop(pulse);
    assert_eq!(fetch(&admin, "/healthz").await.0, 200);
}

#[tokio::test]
async fn metrics_are_prometheus_text_with_process_figures() {
    let (admin, _tasks) = start().await;
    let (status, text) = fetch(&admin, "/metrics").await;
    assert_eq!(status, 200);
    assert!(text.contains("\nprocess_open_fds "), "{text}");
}

#[tokio::test]
async fn routes_can_be_added_and_others_do_not_exist() {
    let (admin, _tasks) = start().await;
    assert_eq!(fetch(&admin, "/drain").await.0, 404);
    admin.add(Router::new().route("/drain", get(async || "steady")));
    assert_eq!(fetch(&admin, "/drain").await, (200, "steady".to_owned()));
    assert_eq!(fetch(&admin, "/other").await.0, 404);
}

/// A connection from this address of the machine's own.
async fn from(address: [u8; 4], admin: &Admin) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((address, 0).into()).unwrap();
    socket.connect(admin.address()).await.unwrap()
}

#[tokio::test]
async fn idle_connections_of_one_address_keep_nobody_elses_probes_out() {
    let (admin, _tasks) = start().await;
    let mut idle = Vec::new();
    for _ in 0..80 {
        idle.push(from([127, 0, 0, 2], &admin).await);
    }
    let answer = tokio::time::timeout(Duration::from_secs(3), fetch(&admin, "/healthz"));
    assert_eq!(answer.await.expect("answered while the others wait").0, 200);
    let last = idle.pop().unwrap();
    let mut one = [0];
    let closed = tokio::time::timeout(Duration::from_secs(3), last.peek(&mut one)).await;
    assert!(
        matches!(closed, Ok(Ok(0) | Err(_))),
        "too many of one address are closed at once: {closed:?}"
    );
}

#[tokio::test]
async fn a_taken_address_is_an_error_that_names_it() {
    let (admin, tasks) = start().await;
    let error = Admin::start(admin.address(), &tasks).await.unwrap_err();
    assert!(
        error.to_string().contains(&admin.address().to_string()),
        "{error}"
    );
}
