use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use im_proto::v1::{self as pb, Fault as Refused, call, reply};
use im_runtime::admin::Liveness;
use im_runtime::limits::queue::Sender;
use im_runtime::{Shutdown, Tasks};
use im_wire::ids::RoomId;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::downlink::{Bus, BusNotification};
use crate::planted::{Fault, plant};
use crate::uplink::Logic;
use crate::{Handle, Options, Parts, Service};

const SOON: Duration = Duration::from_secs(10);

/// Logic that refuses everything, and a bus whose events are the test's.
#[derive(Default)]
struct Outside {
    into: Mutex<Option<Sender<BusNotification>>>,
}

#[async_trait]
impl Logic for Outside {
    async fn call(&self, _: Bytes, _: &str, op: call::Op) -> Result<reply::Result, Refused> {
        match op {
            call::Op::NodeBeat(_) => Ok(reply::Result::NodeBeaten(pb::NodeBeaten::default())),
            _ => Err(Refused {
                code: "unavailable".to_owned(),
                retryable: true,
                ..Refused::default()
            }),
        }
    }

    fn on_this_thread(self: Arc<Self>) -> Arc<dyn Logic> {
        self
    }
}

#[async_trait]
impl Bus for Outside {
    async fn run(&self, into: Sender<BusNotification>) {
        *self.into.lock().unwrap() = Some(into);
        std::future::pending().await
    }

    fn subscribe(&self, _: RoomId) {}

    fn unsubscribe(&self, _: &RoomId) {}
}

impl Outside {
    async fn disturb(&self) {
        let into = loop {
            let into = self.into.lock().unwrap().clone();
            match into {
                Some(into) => break into,
                None => tokio::task::yield_now().await,
            }
        };
        // Where the shard has ended already, there is nothing left to stir.
        let _ended = into.send(BusNotification::GapPossible).await;
    }
}

/// A node of two shards, and what the process would know of it.
struct Watched {
    handle: Handle,
    outside: Arc<Outside>,
    shutdown: Shutdown,
    tasks: Tasks,
    liveness: Liveness,
}

fn node(name: &str) -> Watched {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let options = Options {
        node: name.to_owned(),
        tcp_listen: any,
        ws_listen: any,
        shards: 2,
        shard_stall: Duration::from_millis(500),
        drain_accept: Duration::from_millis(50),
        ..Options::default()
    };
    let outside = Arc::new(Outside::default());
    let parts = Parts {
        logic: Arc::clone(&outside) as _,
        bus: Arc::clone(&outside) as _,
        logic_losses: None,
    };
    let shutdown = Shutdown::new(SOON);
    let tasks = Tasks::new(shutdown.clone());
    let liveness = Liveness::default();
    let handle = Service::bind(options, parts)
        .unwrap()
        .spawn(&tasks, &liveness)
        .unwrap();
    Watched {
        handle,
        outside,
        shutdown,
        tasks,
        liveness,
    }
}

impl Watched {
    /// Every loop has something to do.
    async fn stir(&self) {
        self.outside.disturb().await;
        for _ in 0..16 {
            drop(TcpStream::connect(self.handle.tcp_address()).await);
        }
    }
}

#[tokio::test]
async fn a_panic_in_any_loop_of_the_shard_that_has_the_bus_ends_the_process_with_a_reason() {
    for place in ["event loop", "housekeeping", "accept", "router"] {
        let node = node(&format!("panics-first-{place}"));
        plant(&format!("panics-first-{place}"), 0, place, Fault::Panic);
        node.stir().await;
        let ended = timeout(SOON, node.tasks.ended())
            .await
            .unwrap_or_else(|_| panic!("{place}: nothing ended"));
        assert_eq!(ended.task, "shard");
        assert!(
            ended.why.starts_with("number 0: ")
                && ended.why.contains(&format!("planted in {place}")),
            "{ended}"
        );
    }
}

#[tokio::test]
async fn a_panic_in_any_loop_of_another_shard_drains_the_rest_and_the_process_has_failed() {
    for place in ["event loop", "housekeeping", "accept"] {
        let name = format!("panics-second-{place}");
        let node = node(&name);
        plant(&name, 1, place, Fault::Panic);
        node.stir().await;
        timeout(SOON, node.shutdown.begun())
            .await
            .unwrap_or_else(|_| panic!("{place}: nothing ended"));
        let failed = node.tasks.failure().expect("a reason");
        assert!(
            failed.why.starts_with("number 1: ")
                && failed.why.contains(&format!("planted in {place}")),
            "{failed}"
        );
        timeout(SOON, node.handle.drain(Duration::from_secs(1), Vec::new()))
            .await
            .expect("the other shard drains");
    }
}

#[tokio::test]
async fn a_bus_that_says_no_more_is_an_end_of_its_shard() {
    let node = node("bus-ends");
    node.outside.disturb().await;
    node.outside.into.lock().unwrap().take();
    let ended = timeout(SOON, node.tasks.ended()).await.expect("an end");
    assert!(ended.why.contains("its router returned"), "{ended}");
}

#[expect(
    clippy::await_holding_lock,
    reason = "the lock is what the shard stands at, on a thread of its own"
)]
#[tokio::test]
async fn a_shard_that_stands_still_fails_liveness_until_it_turns_again() {
    let node = node("stands");
    let until = |wanted: &'static [&'static str]| {
        let liveness = node.liveness.clone();
        timeout(SOON, async move {
            while liveness.late() != wanted {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    };
    until(&[]).await.expect("both turn");
    let stands = Arc::new(Mutex::new(()));
    let holding = stands.lock().unwrap();
    plant("stands", 1, "event loop", Fault::Stall(Arc::clone(&stands)));
    node.outside.disturb().await;
    until(&["shard 1"]).await.expect("it is late");
    drop(holding);
    until(&[]).await.expect("it turns again");
    assert_eq!(node.tasks.failure(), None);
}
