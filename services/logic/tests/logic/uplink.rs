//! A connect process's stream, over a real gRPC connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use im_logic::Options;
use im_logic::auth::Secret;
use im_logic::auth::grant::Grant;
use im_proto::v1::logic_client::LogicClient;
use im_proto::v1::{Authenticate, Call, CallBatch, History, Reply, ReplyBatch, Send, call, reply};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::gated::Gated;
use crate::site::{Site, TIMEOUT, eventually, options, store, token};

pub(crate) struct Stream {
    calls: Option<mpsc::Sender<CallBatch>>,
    replies: Streaming<ReplyBatch>,
}

impl Stream {
    pub(crate) async fn open(site: &Site, secret: Option<&str>) -> Result<Self, tonic::Status> {
        let mut client = LogicClient::connect(format!("http://{}", site.grpc))
            .await
            .unwrap();
        let (calls, outgoing) = mpsc::channel(64);
        let mut request = tonic::Request::new(ReceiverStream::new(outgoing));
        if let Some(secret) = secret {
            request
                .metadata_mut()
                .insert("authorization", format!("Bearer {secret}").parse().unwrap());
        }
        let replies = client.uplink(request).await?.into_inner();
        Ok(Self {
            calls: Some(calls),
            replies,
        })
    }

    pub(crate) async fn send(&self, calls: Vec<Call>) {
        self.calls
            .as_ref()
            .expect("still open")
            .send(CallBatch { calls })
            .await
            .unwrap();
    }

    /// The node's half ends.
    pub(crate) fn finish(&mut self) {
        self.calls = None;
    }

    /// So many replies, in the order in which they come.
    pub(crate) async fn replies(&mut self, count: usize) -> Vec<Reply> {
        let mut replies = Vec::new();
        while replies.len() < count {
            let batch = tokio::time::timeout(TIMEOUT, self.replies.message())
                .await
                .unwrap()
                .unwrap();
            replies.extend(batch.expect("the stream goes on").replies);
        }
        replies
    }

    /// Whether the stream ends with nothing left.
    pub(crate) async fn ends(&mut self) {
        let end = tokio::time::timeout(TIMEOUT, self.replies.message())
            .await
            .unwrap();
        assert_eq!(end.unwrap(), None);
    }

    pub(crate) async fn authenticate(&mut self, user: &str) -> Bytes {
        let ask = Authenticate {
            token: token(user),
            node: "node-1".to_owned(),
            ..Authenticate::default()
        };
        self.send(vec![call(
            0,
            &Bytes::new(),
            "c",
            call::Op::Authenticate(ask),
        )])
        .await;
        match self.replies(1).await.remove(0).result {
            Some(reply::Result::Authenticated(done)) => done.grant,
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn call(id: u64, grant: &Bytes, conn: &str, op: call::Op) -> Call {
    Call {
        id,
        grant: grant.clone(),
        conn: conn.to_owned(),
        op: Some(op),
    }
}

pub(crate) fn say(id: u64, grant: &Bytes, room: &str) -> Call {
    let body = id.to_string().into();
    let send = Send {
        room: room.to_owned(),
        client_id: format!("c-{id}"),
        body,
        ..Send::default()
    };
    call(id, grant, "c", call::Op::Send(send))
}

async fn gated(options: Options, open: usize) -> (Site, Arc<Gated>) {
    let (inner, bus) = store();
    let gated = Gated::new(inner, open);
    let site = Site::over(options, gated.store(), bus).await;
    (site, gated)
}

#[tokio::test]
async fn many_calls_are_each_answered_once() {
    let site = Site::new().await;
    let mut stream = Stream::open(&site, None).await.unwrap();
    let grant = stream.authenticate("ann").await;
    for batch in 0..20 {
        let calls = (1..=100)
            .map(|n| batch * 100 + n)
            .map(|id| say(id, &grant, &format!("direct:3:ann:u{}", id % 7)));
        stream.send(calls.collect()).await;
    }
    let replies = stream.replies(2000).await;
    let mut seqs: HashMap<u64, Vec<(u64, u64)>> = HashMap::new();
    for reply in replies {
        let Some(reply::Result::Stored(stored)) = reply.result else {
            panic!("{reply:?}")
        };
        seqs.entry(reply.id % 7)
            .or_default()
            .push((reply.id, stored.seq));
    }
    assert_eq!(seqs.values().map(Vec::len).sum::<usize>(), 2000);
    for (_, mut of_room) in seqs {
        of_room.sort();
        let in_order: Vec<_> = of_room.iter().map(|(_, seq)| *seq).collect();
        assert_eq!(
            in_order,
            (1..=of_room.len() as u64).collect::<Vec<_>>(),
            "stored in the order of the stream"
        );
    }
    stream.finish();
    stream.ends().await;
}

#[tokio::test]
async fn sends_reach_the_store_in_the_order_of_the_stream() {
    let (site, store) = gated(options(), 0).await;
    let mut stream = Stream::open(&site, None).await.unwrap();
    let grant = stream.authenticate("ann").await;
    stream
        .send(
            (1..=300)
                .map(|id| say(id, &grant, "direct:3:ann:bob"))
                .collect(),
        )
        .await;
    stream
        .send(
            (301..=600)
                .map(|id| say(id, &grant, "direct:3:ann:bob"))
                .collect(),
        )
        .await;
    eventually(|| (store.begun().len() == 600).then_some(())).await;
    assert_eq!(
        store.begun(),
        (1..=600).map(|id: u64| id.to_string()).collect::<Vec<_>>()
    );
    store.gate.add_permits(600);
    assert_eq!(stream.replies(600).await.len(), 600);
}

#[tokio::test]
async fn a_batch_larger_than_a_tasks_budget_is_stored_in_its_order() {
    let mut options = options();
    options.uplink.max_in_flight = 700;
    let site = Site::with(options).await;
    let mut stream = Stream::open(&site, None).await.unwrap();
    let grant = stream.authenticate("ann").await;
    for batch in 0..3 {
        stream
            .send(
                (1..=1000)
                    .map(|n| say(batch * 1000 + n, &grant, "direct:3:ann:bob"))
                    .collect(),
            )
            .await;
    }
    for reply in stream.replies(3000).await {
        let Some(reply::Result::Stored(stored)) = reply.result else {
            panic!("{reply:?}")
        };
        assert_eq!(stored.seq, reply.id);
    }
}

#[tokio::test]
async fn a_slow_call_delays_no_other() {
    let (site, store) = gated(options(), 0).await;
    let mut stream = Stream::open(&site, None).await.unwrap();
    let grant = stream.authenticate("ann").await;
    let history = call::Op::History(History {
        room: "direct:3:ann:cat".to_owned(),
        ..History::default()
    });
    stream
        .send(vec![
            say(1, &grant, "direct:3:ann:bob"),
            call(2, &grant, "c", history),
        ])
        .await;
    let [first] = stream.replies(1).await.try_into().unwrap();
    assert_eq!(first.id, 2);
    store.gate.add_permits(1);
    assert_eq!(stream.replies(1).await[0].id, 1);
}

#[tokio::test]
async fn calls_in_flight_are_bounded_and_hold_the_stream_back() {
    let mut options = options();
    options.uplink.max_in_flight = 10;
    let (site, store) = gated(options, 0).await;
    let mut stream = Stream::open(&site, None).await.unwrap();
    let grant = stream.authenticate("ann").await;
    stream
        .send(
            (1..=100)
                .map(|id| say(id, &grant, "direct:3:ann:bob"))
                .collect(),
        )
        .await;
    eventually(|| (store.begun().len() == 10).then_some(())).await;
    for _ in 0..10 {
        store.gate.add_permits(10);
        assert_eq!(stream.replies(10).await.len(), 10);
    }
    assert_eq!(store.most.load(Ordering::SeqCst), 10);
    assert_eq!(
        store.begun(),
        (1..=100).map(|id: u64| id.to_string()).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_said_to_be_unavailable() {
    let mut options = options();
    options.uplink.call_timeout = Duration::from_millis(50);
    let (site, _store) = gated(options, 0).await;
    let mut stream = Stream::open(&site, None).await.unwrap();
    let grant = stream.authenticate("ann").await;
    stream.send(vec![say(1, &grant, "direct:3:ann:bob")]).await;
    let Some(reply::Result::Fault(fault)) = stream.replies(1).await.remove(0).result else {
        panic!("no fault")
    };
    assert_eq!(
        (fault.code.as_str(), fault.retryable),
        ("unavailable", true)
    );
}

#[tokio::test]
async fn what_is_not_known_is_answered_and_harms_nobody() {
    let site = Site::new().await;
    let mut stream = Stream::open(&site, None).await.unwrap();
    let grant = stream.authenticate("ann").await;
    let unknown = Call {
        id: 1,
        grant: grant.clone(),
        conn: "c".to_owned(),
        op: None,
    };
    stream
        .send(vec![unknown, say(2, &grant, "direct:3:ann:bob")])
        .await;
    let mut replies = stream.replies(2).await;
    replies.sort_by_key(|reply| reply.id);
    assert!(matches!(&replies[0].result, Some(reply::Result::Fault(fault)) if fault.field == "op"));
    assert!(matches!(&replies[1].result, Some(reply::Result::Stored(_))));
}

#[tokio::test]
async fn nobody_has_more_rights_than_logic_gave() {
    let site = Site::new().await;
    let mut stream = Stream::open(&site, None).await.unwrap();
    let grant = stream.authenticate("ann").await;
    let mut other = grant.to_vec();
    let at = other
        .windows(3)
        .position(|name| name == b"ann")
        .expect("it names the user");
    other[at..at + 3].copy_from_slice(b"bob");
    let admin = Grant {
        version: Grant::VERSION,
        user: "ann".to_owned(),
        admin: true,
        ..Grant::default()
    };
    let forged = [
        Bytes::from(other),
        admin.encode_to_vec().into(),
        Bytes::from_static(b"\x08\x01"),
    ];
    stream
        .send(
            forged
                .iter()
                .zip(1..)
                .map(|(grant, id)| say(id, grant, "direct:3:ann:bob"))
                .collect(),
        )
        .await;
    for reply in stream.replies(forged.len()).await {
        let Some(reply::Result::Fault(fault)) = &reply.result else {
            panic!("{reply:?}")
        };
        assert_eq!(fault.code, "unauthenticated", "{reply:?}");
    }
    stream.send(vec![say(9, &grant, "direct:3:ann:bob")]).await;
    assert!(matches!(
        stream.replies(1).await[0].result,
        Some(reply::Result::Stored(_))
    ));
}

#[tokio::test]
async fn a_stream_must_show_the_clusters_secret_where_there_is_one() {
    let mut options = options();
    options.uplink.secret = Some(Secret::new("open sesame"));
    let site = Site::with(options).await;
    for wrong in [None, Some("open"), Some("open sesamE")] {
        let status = Stream::open(&site, wrong).await.err().expect("refused");
        assert_eq!(status.code(), tonic::Code::Unauthenticated);
    }
    let mut stream = Stream::open(&site, Some("open sesame")).await.unwrap();
    stream.authenticate("ann").await;
}
