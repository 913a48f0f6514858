//! The uplink against real gRPC servers on loopback that answer, delay, die or stand still as the test says.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use im_discovery::{Kind, Node, PoolOptions, Watch};
use im_proto::v1::logic_server::{Logic as LogicService, LogicServer};
use im_proto::v1::{
    Call, CallBatch, Done, Encoding, Fault, NodeBeat, Reply, ReplyBatch, Send as SendCall,
    SendSignal, Stored, call, reply,
};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::{GrpcLogic, Logic, Options};

/// A logic process of the test. Sends are answered with the number of the process as epoch.
#[derive(Clone)]
struct Script {
    number: u64,
    /// What it was asked, in order.
    heard: Arc<Mutex<Vec<Call>>>,
    /// While it is set, nothing is answered.
    silent: watch::Sender<bool>,
    secret: Option<&'static str>,
}

struct Process {
    script: Script,
    address: SocketAddr,
    /// Its own, so that killing it ends every connection at once.
    runtime: Option<Runtime>,
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[tonic::async_trait]
impl LogicService for Script {
    type UplinkStream = Pin<Box<dyn Stream<Item = Result<ReplyBatch, Status>> + Send>>;

    async fn uplink(
        &self,
        request: Request<Streaming<CallBatch>>,
    ) -> Result<Response<Self::UplinkStream>, Status> {
        let shown = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        if self
            .secret
            .is_some_and(|secret| shown != Some(&format!("Bearer {secret}")))
        {
            return Err(Status::unauthenticated("no secret"));
        }
        let (replies, stream) = mpsc::channel(8);
        let script = self.clone();
        let mut batches = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(batch)) = batches.message().await {
                script
                    .heard
                    .lock()
                    .unwrap()
                    .extend(batch.calls.iter().cloned());
                let (script, replies) = (script.clone(), replies.clone());
                tokio::spawn(async move {
                    let _ = script.silent.subscribe().wait_for(|silent| !silent).await;
                    // In another order than they came: only ids tell which is which.
                    let answers = batch
                        .calls
                        .into_iter()
                        .rev()
                        .map(|call| script.answer(call))
                        .collect();
                    let _ = replies.send(Ok(ReplyBatch { replies: answers })).await;
                });
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

impl Script {
    fn answer(&self, call: Call) -> Reply {
        let result = match call.op {
            Some(call::Op::Send(send)) if send.room == "forbidden" => reply::Result::Fault(Fault {
                code: "forbidden".into(),
                ..Fault::default()
            }),
            Some(call::Op::Send(send)) => reply::Result::Stored(Stored {
                id: send.client_id,
                epoch: self.number,
                ..Stored::default()
            }),
            _ => reply::Result::Done(Done {}),
        };
        Reply {
            id: call.id,
            result: Some(result),
        }
    }
}

impl Process {
    async fn start(number: u64) -> Self {
        Self::start_with(number, None).await
    }

    async fn start_with(number: u64, secret: Option<&'static str>) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), number, secret).await
    }

    async fn start_at(address: SocketAddr, number: u64, secret: Option<&'static str>) -> Self {
        // Whoever had the address before may not be quite gone.
        let listener = loop {
            match std::net::TcpListener::bind(address) {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let script = Script {
            number,
            heard: Arc::default(),
            silent: watch::Sender::new(false),
            secret,
        };
        let service = LogicServer::new(script.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            let incoming = TcpIncoming::from(TcpListener::from_std(listener).unwrap());
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Self {
            script,
            address,
            runtime: Some(runtime),
        }
    }

    fn node(&self) -> Node {
        Node::new(
            format!("logic-{}", self.script.number),
            self.address.to_string(),
            "0.1.0",
        )
    }

    fn heard(&self) -> usize {
        self.script.heard.lock().unwrap().len()
    }

    fn heard_ids(&self) -> Vec<String> {
        let heard = self.script.heard.lock().unwrap();
        heard
            .iter()
            .filter_map(|call| {
                if let Some(call::Op::Send(s)) = &call.op {
                    Some(s.client_id.clone())
                } else {
                    None
                }
            })
            .collect()
    }
}

fn options() -> Options {
    Options {
        call_timeout: Duration::from_secs(10),
        pause_min: Duration::from_millis(10),
        ..Options::default()
    }
}

fn uplink(options: Options, processes: &[&Process]) -> Arc<GrpcLogic> {
    let nodes = processes.iter().map(|process| process.node());
    Arc::new(GrpcLogic::start(options, Watch::fixed(Kind::Logic, nodes)))
}

/// Streams to so many processes are open.
async fn all_up(uplink: &GrpcLogic, count: usize) {
    let up = || {
        uplink
            .shared
            .pool
            .get()
            .unwrap()
            .endpoints()
            .iter()
            .filter(|e| e.link().is_up())
            .count()
    };
    eventually("streams are open", || up() == count).await;
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waited = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

fn send(room: &str, client_id: impl Into<String>) -> call::Op {
    let room = room.to_owned();
    let client_id = client_id.into();
    let encoding = Encoding::Text.into();
    call::Op::Send(SendCall {
        room,
        client_id,
        r#type: "text".into(),
        body: Bytes::new(),
        encoding,
    })
}

fn signal() -> call::Op {
    call::Op::Signal(SendSignal::default())
}

impl super::Shared {
    fn places_are_empty(&self) -> bool {
        self.affinities.is_empty()
    }
}

async fn ask(uplink: &GrpcLogic, conn: &str, op: call::Op) -> Result<reply::Result, Fault> {
    uplink.call(Bytes::from_static(b"grant"), conn, op).await
}

/// The number of the process that stored it, and the client id.
fn stored(result: Result<reply::Result, Fault>) -> (u64, String) {
    match result {
        Ok(reply::Result::Stored(stored)) => (stored.epoch, stored.id),
        other => panic!("not stored: {other:?}"),
    }
}

#[tokio::test]
async fn many_calls_in_flight_get_their_own_answers() {
    let one = Process::start(1).await;
    let two = Process::start(2).await;
    let uplink = uplink(options(), &[&one, &two]);
    all_up(&uplink, 2).await;
    let calls = (0..2000).map(|i| {
        let uplink = Arc::clone(&uplink);
        async move {
            (
                i,
                stored(
                    ask(
                        &uplink,
                        &format!("conn-{}", i % 100),
                        send("r", i.to_string()),
                    )
                    .await,
                ),
            )
        }
    });
    for (i, (_, id)) in futures::future::join_all(calls).await {
        assert_eq!(id, i.to_string());
    }
    assert!(
        one.heard() > 100 && two.heard() > 100,
        "both work: {} and {}",
        one.heard(),
        two.heard()
    );
    assert!(uplink.shared.places_are_empty());
    let fault = ask(&uplink, "c", send("forbidden", "x")).await.unwrap_err();
    assert_eq!(fault.code, "forbidden", "logic's own faults come through");
}

#[tokio::test]
async fn a_connections_calls_stay_with_one_process_in_order_while_one_is_in_flight() {
    let one = Process::start(1).await;
    let two = Process::start(2).await;
    let uplink = uplink(options(), &[&one, &two]);
    all_up(&uplink, 2).await;
    for process in [&one, &two] {
        process.script.silent.send_replace(true);
    }
    let mut calls: Vec<_> = (0..50)
        .map(|i| Box::pin(ask(&uplink, "c", send("r", i.to_string()))))
        .collect();
    for call in &mut calls {
        assert!(futures::poll!(call).is_pending());
    }
    eventually("all are written", || one.heard() + two.heard() == 50).await;
    let ids = if one.heard() == 0 {
        two.heard_ids()
    } else {
        one.heard_ids()
    };
    assert_eq!(ids, (0..50).map(|i| i.to_string()).collect::<Vec<_>>());
    for process in [&one, &two] {
        process.script.silent.send_replace(false);
    }
    futures::future::join_all(calls).await;
}

#[tokio::test]
async fn calls_of_a_lost_process_are_done_by_another_in_their_order_and_signals_are_not() {
    let two = Process::start(2).await;
    let three = Process::start(3).await;
    let uplink = uplink(options(), &[&two, &three]);
    all_up(&uplink, 2).await;
    for process in [&two, &three] {
        process.script.silent.send_replace(true);
    }
    let mut calls: Vec<_> = (0..30)
        .map(|i| Box::pin(ask(&uplink, "c", send("r", i.to_string()))))
        .collect();
    for call in &mut calls {
        assert!(futures::poll!(call).is_pending());
    }
    let mut lost_signal = Box::pin(ask(&uplink, "c", signal()));
    assert!(futures::poll!(&mut lost_signal).is_pending());
    eventually("all are written", || two.heard() + three.heard() == 31).await;
    let (dead, alive) = if two.heard() == 0 {
        (three, two)
    } else {
        (two, three)
    };
    let mut losses = uplink.losses();
    drop(dead);
    // Calls made meanwhile stand behind those that are moved.
    let mut later: Vec<_> = (30..40)
        .map(|i| Box::pin(ask(&uplink, "c", send("r", i.to_string()))))
        .collect();
    for call in &mut later {
        assert!(futures::poll!(call).is_pending());
    }
    assert_eq!(lost_signal.await.unwrap_err().code, "unavailable");
    eventually("all are moved", || alive.heard() == 40).await;
    assert_eq!(
        alive.heard_ids(),
        (0..40).map(|i| i.to_string()).collect::<Vec<_>>()
    );
    alive.script.silent.send_replace(false);
    for (i, call) in calls.into_iter().chain(later).enumerate() {
        assert_eq!(stored(call.await), (alive.script.number, i.to_string()));
    }
    losses.changed().await.unwrap();
    assert_eq!(*losses.borrow(), 1);
    assert!(uplink.shared.places_are_empty());
}

#[tokio::test]
async fn each_thread_has_streams_of_its_own_and_is_told_of_all_losses() {
    let one = Process::start(1).await;
    let uplink = uplink(options(), &[&one]);
    let mut losses = uplink.losses();
    let asked = Arc::clone(&uplink);
    let answers = mpsc::channel(1);
    let (told, mut answer) = answers;
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let own = asked.clone().on_this_thread();
            asked.reached().await;
            told.send(own.call(Bytes::new(), "c", send("r", "1")).await)
                .await
                .unwrap();
            // The stream lives as long as the thread's runtime runs.
            told.closed().await;
        });
    });
    let answered = tokio::time::timeout(Duration::from_secs(20), answer.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(stored(answered).1, "1");
    drop(one);
    tokio::time::timeout(
        Duration::from_secs(20),
        losses.wait_for(|losses| *losses == 2),
    )
    .await
    .unwrap()
    .unwrap();
    drop(answer);
    thread.join().unwrap();
}

#[tokio::test]
async fn with_no_logic_at_all_calls_fail_at_once_and_work_when_it_is_there() {
    let one = Process::start(1).await;
    let node = one.node();
    let address = one.address;
    drop(one);
    let uplink = Arc::new(GrpcLogic::start(
        options(),
        Watch::fixed(Kind::Logic, [node]),
    ));
    let began = tokio::time::Instant::now();
    let fault = ask(&uplink, "c", send("r", "1")).await.unwrap_err();
    assert_eq!(
        (fault.code.as_str(), fault.retryable),
        ("unavailable", true)
    );
    assert!(began.elapsed() < Duration::from_secs(1));

    let _one = Process::start_at(address, 1, None).await;
    tokio::time::timeout(Duration::from_secs(20), uplink.reached())
        .await
        .unwrap();
    assert_eq!(stored(ask(&uplink, "c", send("r", "2")).await).1, "2");
}

#[tokio::test]
async fn a_call_without_an_answer_ends_in_a_retryable_fault() {
    let one = Process::start(1).await;
    let uplink = uplink(
        Options {
            call_timeout: Duration::from_millis(200),
            ..options()
        },
        &[&one],
    );
    all_up(&uplink, 1).await;
    one.script.silent.send_replace(true);
    let fault = ask(&uplink, "c", send("r", "1")).await.unwrap_err();
    assert_eq!(
        (fault.code.as_str(), fault.retryable),
        ("unavailable", true)
    );
    assert!(uplink.shared.places_are_empty());
    one.script.silent.send_replace(false);
    assert_eq!(stored(ask(&uplink, "c", send("r", "2")).await).1, "2");
    eventually("the forgotten call is swept", || {
        uplink
            .shared
            .pool
            .get()
            .unwrap()
            .endpoints()
            .iter()
            .all(|endpoint| endpoint.in_flight() == 0)
    })
    .await;
}

#[tokio::test]
async fn a_process_that_stands_still_is_found_by_unanswered_pings() {
    // A listener that accepts and never says anything, as a stopped process.
    let still = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = Node::new("still", still.local_addr().unwrap().to_string(), "0.1.0");
    let one = Process::start(1).await;
    let frozen = Arc::new(watch::Sender::new(false));
    let target = one.address;
    let freeze = Arc::clone(&frozen);
    tokio::spawn(async move {
        loop {
            let (mut inner, _) = still.accept().await.unwrap();
            let mut outer = tokio::net::TcpStream::connect(target).await.unwrap();
            let mut freeze = freeze.subscribe();
            tokio::spawn(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut inner, &mut outer) => {}
                    _ = freeze.changed() => {}
                }
                drop(freeze);
                // Both sockets stay open.
                std::future::pending::<()>().await;
            });
        }
    });
    let quick = PoolOptions {
        ping_interval: Duration::from_millis(100),
        ping_timeout: Duration::from_millis(200),
        ..PoolOptions::default()
    };
    let uplink = Arc::new(GrpcLogic::start(
        Options {
            pool: quick,
            ..options()
        },
        Watch::fixed(Kind::Logic, [node]),
    ));
    all_up(&uplink, 1).await;
    assert_eq!(stored(ask(&uplink, "c", send("r", "1")).await).1, "1");
    frozen.send_replace(true);
    frozen.closed().await;
    let began = tokio::time::Instant::now();
    let fault = ask(&uplink, "c", send("r", "2")).await.unwrap_err();
    assert_eq!(fault.code, "unavailable");
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "long before the call's own timeout"
    );
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let one = Process::start(1).await;
    let uplink = uplink(
        Options {
            queue: 4,
            batch: 1,
            ..options()
        },
        &[&one],
    );
    all_up(&uplink, 1).await;
    // Nothing is written while this test does not yield.
    let mut calls: Vec<_> = (0..10)
        .map(|i| Box::pin(ask(&uplink, "c", send("r", i.to_string()))))
        .collect();
    let mut refused = 0;
    for call in &mut calls {
        if let std::task::Poll::Ready(answer) = futures::poll!(call) {
            assert_eq!(answer.unwrap_err().code, "unavailable");
            refused += 1;
        }
    }
    assert_eq!(refused, 6);
    // The node's own questions have places that clients' calls do not get.
    let own = ask(&uplink, "", call::Op::NodeBeat(NodeBeat::default()));
    assert!(
        futures::poll!(Box::pin(own)).is_pending(),
        "a question of the node is taken"
    );
}

#[tokio::test]
async fn the_secret_is_shown_and_a_wrong_one_opens_nothing() {
    let one = Process::start_with(1, Some("hush")).await;
    let right = uplink(
        Options {
            secret: Some("hush".into()),
            ..options()
        },
        &[&one],
    );
    all_up(&right, 1).await;
    let wrong = uplink(
        Options {
            secret: Some("other".into()),
            ..options()
        },
        &[&one],
    );
    let fault = ask(&wrong, "", call::Op::NodeBeat(NodeBeat::default()))
        .await
        .unwrap_err();
    assert_eq!(fault.code, "unavailable");
    assert!(
        ask(&right, "", call::Op::NodeBeat(NodeBeat::default()))
            .await
            .is_ok()
    );
}
