//! The HTTP server over real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::routing::get;
use im_runtime::http::{self, Limits, RequestLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const SOON: Duration = Duration::from_secs(5);

struct Server {
    address: SocketAddr,
    open: TaskTracker,
    end: CancellationToken,
}

async fn serve(limits: Limits) -> Server {
    let routes = Router::new()
        .route(
            "/peer",
            get(async |request: Request| {
                request
                    .extensions()
                    .get::<SocketAddr>()
                    .unwrap()
                    .ip()
                    .to_string()
            }),
        )
        .route(
            "/slow",
            get(async || {
                tokio::time::sleep(Duration::from_millis(300)).await;
                "done"
            }),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server {
        address: listener.local_addr().unwrap(),
        open: TaskTracker::new(),
        end: CancellationToken::new(),
    };
    tokio::spawn(http::serve(
        listener,
        limits,
        routes,
        server.open.clone(),
        server.end.clone(),
    ));
    server
}

async fn ask(server: &Server, path: &str) -> Result<String, http::Error> {
    let limits = RequestLimits {
        timeout: SOON,
        max_body: 1 << 10,
    };
    http::get(&format!("http://{}{path}", server.address), limits)
        .await
        .map(|answer| answer.text())
}

/// What comes until the other side closes.
async fn rest(mut stream: TcpStream) -> String {
    let mut text = String::new();
    let _broken = timeout(SOON, stream.read_to_string(&mut text))
        .await
        .expect("closed in time");
    text
}

#[tokio::test]
async fn requests_carry_the_address_of_who_asks() {
    let server = serve(Limits::new("test")).await;
    assert_eq!(ask(&server, "/peer").await.unwrap(), "127.0.0.1");
}

#[tokio::test]
async fn who_has_too_many_connections_is_told_so_and_others_wait() {
    let limits = Limits {
        per_address: 2,
        refuse: |stream| {
            let _told = stream.try_write(b"too many");
        },
        ..Limits::new("test")
    };
    let server = serve(limits).await;
    let first = TcpStream::connect(server.address).await.unwrap();
    let _second = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(
        rest(TcpStream::connect(server.address).await.unwrap()).await,
        "too many"
    );
    drop(first);
    let again = async { while ask(&server, "/peer").await.is_err() {} };
    timeout(SOON, again).await.unwrap();

    let server = serve(Limits {
        connections: 1,
        ..Limits::new("test")
    })
    .await;
    let first = TcpStream::connect(server.address).await.unwrap();
    let (asked, ()) = tokio::join!(ask(&server, "/peer"), async { drop(first) });
    assert_eq!(asked.unwrap(), "127.0.0.1");
}

#[tokio::test]
async fn slow_heads_and_long_stays_are_cut_off() {
    let server = serve(Limits {
        header_timeout: Duration::from_millis(50),
        ..Limits::new("test")
    })
    .await;
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(b"GET /peer HT").await.unwrap();
    rest(slow).await;
    let server = serve(Limits {
        life: Duration::from_millis(50),
        ..Limits::new("test")
    })
    .await;
    rest(TcpStream::connect(server.address).await.unwrap()).await;
}

#[tokio::test]
async fn at_the_end_answers_under_way_are_finished() {
    let server = serve(Limits::new("test")).await;
    let idle = TcpStream::connect(server.address).await.unwrap();
    let asking = ask(&server, "/slow");
    let ending = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.end.cancel();
    };
    let (asked, ()) = tokio::join!(asking, ending);
    assert_eq!(asked.unwrap(), "done");
    rest(idle).await;
    server.open.close();
    timeout(SOON, server.open.wait()).await.unwrap();
    assert!(ask(&server, "/peer").await.is_err());
}
