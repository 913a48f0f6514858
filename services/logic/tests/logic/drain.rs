//! Leaving: what is in flight is answered, what is idle ends, nobody is cut off before the time.

use std::time::{Duration, Instant};

use crate::gated::Gated;
use crate::site::{Site, eventually, options, store, token};
use crate::uplink::{Stream, say};

#[tokio::test]
async fn streams_end_when_everything_is_answered() {
    let mut options = options();
    options.drain.at_least = Duration::from_millis(100);
    let (inner, bus) = store();
    let gated = Gated::new(inner, 0);
    let site = Site::over(options, gated.store(), bus).await;
    let mut busy = Stream::open(&site, None).await.unwrap();
    let mut idle = Stream::open(&site, None).await.unwrap();
    let grant = busy.authenticate("ann").await;
    idle.authenticate("bob").await;
    busy.send(vec![say(1, &grant, "direct:3:ann:bob")]).await;
    eventually(|| (gated.begun().len() == 1).then_some(())).await;

    let began = Instant::now();
    let service = site.service.clone();
    let drained = tokio::spawn(async move { service.drain().await });
    busy.send(vec![say(2, &grant, "direct:3:ann:bob")]).await;
    eventually(|| (gated.begun().len() == 2).then_some(())).await;
    idle.ends().await;
    assert!(
        began.elapsed() >= Duration::from_millis(100),
        "not before the time"
    );
    assert!(!drained.is_finished());
    gated.gate.add_permits(2);
    assert_eq!(busy.replies(2).await.len(), 2);
    busy.ends().await;
    assert!(drained.await.unwrap(), "everything has ended");
}

#[tokio::test]
async fn http_goes_on_and_asks_clients_to_leave() {
    let mut options = options();
    options.drain.at_least = Duration::from_millis(300);
    let site = Site::with(options).await;
    let before = site.get(&token("ann"), "/v1/me").await;
    assert!(before.headers.get("connection").is_none());
    let service = site.service.clone();
    let drained = tokio::spawn(async move { service.drain().await });
    tokio::task::yield_now().await;
    let during = site.get(&token("ann"), "/v1/me").await;
    assert_eq!(
        (during.status, &during.headers["connection"]),
        (200, &"close".parse().unwrap())
    );
    assert!(drained.await.unwrap());
    assert!(
        tokio::net::TcpStream::connect(site.http).await.is_err(),
        "nobody listens any more"
    );
}

#[tokio::test]
async fn what_does_not_end_is_given_up_at_the_deadline() {
    let mut options = options();
    options.drain.at_least = Duration::ZERO;
    options.drain.at_most = Duration::from_millis(100);
    let (inner, bus) = store();
    let gated = Gated::new(inner, 0);
    let site = Site::over(options, gated.store(), bus).await;
    let mut stream = Stream::open(&site, None).await.unwrap();
    let grant = stream.authenticate("ann").await;
    stream.send(vec![say(1, &grant, "direct:3:ann:bob")]).await;
    eventually(|| (gated.begun().len() == 1).then_some(())).await;
    assert!(!site.service.drain().await);
}
