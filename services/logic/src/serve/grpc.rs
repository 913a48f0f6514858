//! The streams that connect processes hold open: batches of calls in, each answered when it is done.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};
use im_proto::v1::logic_server::{Logic, LogicServer};
use im_proto::v1::{Call, CallBatch, Reply, ReplyBatch, reply};
use im_runtime::peer;
use im_runtime::tls::{Incoming, ServerName, Tls};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::call::Handle;
use crate::error::Error;
use crate::phase::{Phase, reached};

mod metrics;

pub(super) use metrics::declare as declare_metrics;

/// Batches of replies that wait for the transport. Small: what does not fit holds the stream's calls back.
const WAITING_BATCHES: usize = 8;
/// The largest batch of calls that is read, in bytes.
const MAX_CALL_BATCH: usize = 16 * 1024 * 1024;

/// The gRPC service `imcluster.v1.Logic`.
struct Uplink {
    handle: Handle,
}

/// Serves until logic ends.
pub(crate) async fn serve(
    handle: Handle,
    listener: TcpListener,
    tls: Option<(Arc<Tls>, ServerName<'static>)>,
) -> Result<(), tonic::transport::Error> {
    let keepalive = handle.core.options.uplink.keepalive;
    let mut phase = handle.core.phase.subscribe();
    let router = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(keepalive))
        .http2_keepalive_timeout(Some(keepalive))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .add_service(LogicServer::new(Uplink { handle }).max_decoding_message_size(MAX_CALL_BATCH));
    let end = async move { reached(&mut phase, Phase::Ending).await };
    match tls {
        Some((tls, name)) => {
            router
                .serve_with_incoming_shutdown(Incoming::new(tls, listener, name), end)
                .await
        }
        None => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            router.serve_with_incoming_shutdown(incoming, end).await
        }
    }
}

#[tonic::async_trait]
impl Logic for Uplink {
    type UplinkStream = Pin<Box<dyn Stream<Item = Result<ReplyBatch, Status>> + Send>>;

    async fn uplink(
        &self,
        request: Request<Streaming<CallBatch>>,
    ) -> Result<Response<Self::UplinkStream>, Status> {
        self.admit(&request)?;
        let (replies, waiting) = mpsc::channel(WAITING_BATCHES);
        let peer = request
            .remote_addr()
            .map(|address| address.to_string())
            .unwrap_or_default();
        let stream = Serving::new(self.handle.clone(), replies);
        let core = Arc::clone(&self.handle.core);
        core.under_way.spawn(async move {
            tracing::debug!(peer, "stream opened");
            stream.run(request.into_inner()).await;
            tracing::debug!(peer, "stream ended");
        });
        Ok(Response::new(Box::pin(
            ReceiverStream::new(waiting).map(Ok),
        )))
    }
}

impl Uplink {
    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let Some(secret) = &self.handle.core.options.uplink.secret else {
            return Ok(());
        };
        let shown = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        let shown = shown
            .and_then(|value| value.strip_prefix("Bearer "))
            .unwrap_or_default();
        if peer::same(shown.as_bytes(), secret.expose().as_bytes()) {
            return Ok(());
        }
        metrics::REFUSED.inc();
        Err(Status::unauthenticated(
            "the stream shows no secret of this cluster",
        ))
    }
}

type Running = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// One stream.
struct Serving {
    handle: Handle,
    replies: mpsc::Sender<ReplyBatch>,
    running: FuturesUnordered<Running>,
    /// What is left of the last batch that was read; no other is read before it is empty.
    waiting: VecDeque<Call>,
    done: Vec<Reply>,
    gauges: metrics::Stream,
}

impl Serving {
    fn new(handle: Handle, replies: mpsc::Sender<ReplyBatch>) -> Self {
        let gauges = metrics::Stream::begin();
        Self {
            handle,
            replies,
            running: FuturesUnordered::new(),
            waiting: VecDeque::new(),
            done: Vec::new(),
            gauges,
        }
    }

    /// Reads calls while there is room for them, sends replies as soon as there are any, and ends when the node has
    /// ended its half and everything is answered, or when logic is ending and nothing is in flight.
    async fn run(mut self, mut calls: Streaming<CallBatch>) {
        let mut phase = self.handle.core.phase.subscribe();
        let bound = self.handle.core.options.uplink.max_in_flight;
        let mut open = true;
        loop {
            self.begin(bound).await;
            if !self.flush().await {
                return;
            }
            if self.running.is_empty()
                && self.waiting.is_empty()
                && (!open || self.handle.core.phase() == Phase::Ending)
            {
                return;
            }
            let full = self.running.len() >= bound || !self.waiting.is_empty();
            self.gauges.at(self.running.len(), full);
            tokio::select! {
                biased;
                Some(reply) = self.running.next() => self.done.push(reply),
                batch = calls.next(), if open && !full => match batch {
                    Some(Ok(batch)) => self.waiting.extend(batch.calls),
                    Some(Err(status)) => {
                        tracing::debug!(%status, "stream broke");
                        return;
                    }
                    None => open = false,
                },
                () = reached(&mut phase, Phase::Ending), if self.running.is_empty() && open => {}
            }
        }
    }

    /// Begins the calls in their order: each is polled once before the next, which is what puts the sends of a room into
    /// the store in the order of the stream.
    async fn begin(&mut self, bound: usize) {
        while self.running.len() < bound {
            let Some(call) = self.waiting.pop_front() else {
                return;
            };
            let mut running: Running = Box::pin(answer(self.handle.clone(), call));
            match futures::poll!(&mut running) {
                std::task::Poll::Ready(reply) => self.done.push(reply),
                std::task::Poll::Pending => self.running.push(running),
            }
        }
    }

    /// Sends everything that is done, in batches; `false` where nobody hears any more.
    async fn flush(&mut self) -> bool {
        while let Some(Some(reply)) = self.running.next().now_or_never() {
            self.done.push(reply);
        }
        let limit = self.handle.core.options.uplink.max_batch_bytes;
        let mut batch = ReplyBatch::default();
        let mut bytes = 0;
        for reply in std::mem::take(&mut self.done) {
            let size = reply.encoded_len();
            if bytes > 0 && bytes + size > limit {
                if self.replies.send(std::mem::take(&mut batch)).await.is_err() {
                    return false;
                }
                bytes = 0;
            }
            bytes += size;
            batch.replies.push(reply);
        }
        batch.replies.is_empty() || self.replies.send(batch).await.is_ok()
    }
}

async fn answer(handle: Handle, call: Call) -> Reply {
    let Call {
        id,
        grant,
        conn,
        op,
    } = call;
    let result = match op {
        // A defect in one call is not to take the stream's other calls with it.
        Some(op) => match AssertUnwindSafe(handle.call(grant, &conn, op))
            .catch_unwind()
            .await
        {
            Ok(answer) => answer.unwrap_or_else(reply::Result::Fault),
            Err(_) => {
                reply::Result::Fault(Error::Internal("a call ended in a defect of ours").fault())
            }
        },
        // A newer node may ask for what this process does not know yet.
        None => reply::Result::Fault(Error::bad("op", "is none that is known here").fault()),
    };
    Reply {
        id,
        result: Some(result),
    }
}
