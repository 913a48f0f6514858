//! The stream to one logic process: takes everything queued, writes it at once, matches the replies by id; opened anew
//! after it broke, while its calls are moved on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use im_proto::v1::logic_client::LogicClient;
use im_proto::v1::{CallBatch, Reply, ReplyBatch};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use super::{OWN, Options, Shared, Waiting, lost, metrics, no_logic};

/// Batches that wait for the transport; one being built meanwhile grows.
const BATCHES: usize = 2;
/// How often calls that nobody waits for any more are forgotten.
const SWEEP: Duration = Duration::from_secs(1);
/// A stream that lived for so long had been well: the pauses begin anew.
const PROVEN: Duration = Duration::from_secs(5);

/// The way into a stream.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) queue: mpsc::Sender<Waiting>,
    /// Unique among the links of a process.
    pub(super) number: u64,
    up: Arc<AtomicBool>,
}

impl Link {
    /// Whether the stream is open.
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Begins to open the stream. It ends with the link or with what is shared.
    pub(super) fn start(node: &str, channel: Channel, shared: Weak<Shared>) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let up = Arc::new(AtomicBool::new(false));
        let capacity = shared
            .upgrade()
            .map_or(1, |shared| shared.options.queue.max(1) + OWN);
        let (queue, calls) = mpsc::channel(capacity);
        if let Some(shared) = shared.upgrade() {
            let end = shared.end.clone();
            let stream = Stream {
                node: node.to_owned(),
                number,
                channel,
                shared,
                calls,
                up: Arc::clone(&up),
            };
            tokio::spawn(async move {
                tokio::select! {
                    () = stream.run() => {}
                    () = end.cancelled() => {}
                }
            });
        }
        Self { queue, number, up }
    }
}

struct Stream {
    node: String,
    number: u64,
    channel: Channel,
    shared: Arc<Shared>,
    calls: mpsc::Receiver<Waiting>,
    up: Arc<AtomicBool>,
}

/// Both halves of an open stream, and the calls on it.
struct Open {
    batches: mpsc::Sender<CallBatch>,
    replies: Streaming<ReplyBatch>,
    /// By id, which grows: this is the order in which they were written.
    pending: BTreeMap<u64, Waiting>,
    next_id: u64,
    since: Instant,
}

/// Why a stream is no more.
enum End {
    /// Nobody holds the link any more and everything is answered.
    Unused,
    /// Logic has ended it.
    Closed,
    Broken(Status),
}

impl Stream {
    async fn run(mut self) {
        let mut pauses = pauses(&self.shared.options);
        loop {
            match self
                .while_down(open(self.channel.clone(), self.shared.options.clone()))
                .await
            {
                Some(Ok(open)) => {
                    let proven = open.since + PROVEN;
                    if self.serve(open).await {
                        return;
                    }
                    if Instant::now() > proven {
                        pauses = self::pauses(&self.shared.options);
                    }
                }
                Some(Err(status)) => {
                    tracing::debug!(node = self.node, %status, "cannot open a stream to logic, retrying")
                }
                None => return,
            }
            let pause = pauses.next().unwrap_or(self.shared.options.pause_max);
            if self.while_down(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Waits for something while calls that still come are moved on. `None`: nobody holds the link any more.
    async fn while_down<T>(&mut self, wait: impl Future<Output = T>) -> Option<T> {
        let mut wait = std::pin::pin!(wait);
        loop {
            tokio::select! {
                biased;
                done = &mut wait => return Some(done),
                call = self.calls.recv() => {
                    metrics::QUEUED.dec();
                    self.shared.move_on(self.number, vec![call?], &mut self.calls);
                }
            }
        }
    }

    /// Carries calls until the stream is no more; `true` where the link is not needed any more either.
    async fn serve(&mut self, mut open: Open) -> bool {
        tracing::info!(node = self.node, "opened stream to logic");
        self.up.store(true, Ordering::Release);
        metrics::STREAMS.inc();
        let end = open.carry(&mut self.calls, self.shared.options.batch).await;
        self.up.store(false, Ordering::Release);
        metrics::STREAMS.dec();
        let unanswered: Vec<Waiting> = std::mem::take(&mut open.pending).into_values().collect();
        match end {
            End::Unused => return true,
            End::Closed if unanswered.is_empty() => {
                tracing::info!(node = self.node, "logic closed its stream")
            }
            End::Closed => self.lost(unanswered.len(), "closed by logic"),
            End::Broken(status) => self.lost(unanswered.len(), status.message()),
        }
        self.shared
            .move_on(self.number, unanswered, &mut self.calls);
        false
    }

    fn lost(&self, unanswered: usize, why: &str) {
        tracing::warn!(node = self.node, unanswered, why, "lost stream to logic");
        metrics::LOST.inc();
        self.shared.losses.send_modify(|losses| *losses += 1);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.up.swap(false, Ordering::AcqRel) {
            metrics::STREAMS.dec();
        }
        self.calls.close();
        while let Ok(waiting) = self.calls.try_recv() {
            metrics::QUEUED.dec();
            let _ = waiting.answer.send(Err(no_logic()));
        }
    }
}

fn pauses(options: &Options) -> ExponentialBackoff {
    let pauses = ExponentialBuilder::new()
        .with_min_delay(options.pause_min)
        .with_max_delay(options.pause_max);
    pauses.with_jitter().without_max_times().build()
}

async fn open(channel: Channel, options: Options) -> Result<Open, Status> {
    let mut client = LogicClient::new(channel).max_decoding_message_size(options.max_reply_bytes);
    let (batches, outgoing) = mpsc::channel(BATCHES);
    let mut request = Request::new(ReceiverStream::new(outgoing));
    if let Some(secret) = &options.secret {
        let shown = format!("Bearer {secret}").parse();
        let shown = shown.map_err(|_| {
            Status::invalid_argument("the peer secret has characters that no header may have")
        })?;
        request.metadata_mut().insert("authorization", shown);
    }
    let opened = tokio::time::timeout(options.open_timeout, client.uplink(request)).await;
    let replies = opened
        .map_err(|_| Status::deadline_exceeded("the stream did not open in time"))??
        .into_inner();
    Ok(Open {
        batches,
        replies,
        pending: BTreeMap::new(),
        next_id: 1,
        since: Instant::now(),
    })
}

impl Open {
    async fn carry(&mut self, calls: &mut mpsc::Receiver<Waiting>, batch: usize) -> End {
        let Self {
            batches,
            replies,
            pending,
            next_id,
            ..
        } = self;
        let mut sweep = tokio::time::interval(SWEEP);
        let mut taken = Vec::with_capacity(batch);
        let mut unused = false;
        loop {
            tokio::select! {
                read = replies.message() => match read {
                    Ok(Some(batch)) => batch.replies.into_iter().for_each(|reply| answer(pending, reply)),
                    Ok(None) => return End::Closed,
                    Err(status) => return End::Broken(status),
                },
                permit = take(batches, calls, &mut taken, batch), if !unused => match permit {
                    Some(permit) if !taken.is_empty() => permit.send(write(pending, next_id, &mut taken)),
                    // No room ever again: the transport has let go of the stream, and its reading half will say why.
                    Some(_) | None => unused = true,
                },
                _ = sweep.tick() => pending.retain(|_, waiting| !waiting.answer.is_closed()),
            }
            if unused && pending.is_empty() && calls.is_closed() {
                return End::Unused;
            }
        }
    }
}

fn answer(pending: &mut BTreeMap<u64, Waiting>, reply: Reply) {
    // Whoever made the call may have given up.
    let Some(waiting) = pending.remove(&reply.id) else {
        return;
    };
    let answer = match reply.result {
        Some(im_proto::v1::reply::Result::Fault(fault)) => Err(fault),
        Some(result) => Ok(result),
        // A newer logic may answer what this process does not know; there is nothing to be made of it.
        None => Err(lost()),
    };
    let _ = waiting.answer.send(answer);
}

/// Room for a batch, and everything queued up to `batch`. Nothing is lost where this is not waited for to the end.
async fn take<'b>(
    batches: &'b mpsc::Sender<CallBatch>,
    calls: &mut mpsc::Receiver<Waiting>,
    taken: &mut Vec<Waiting>,
    batch: usize,
) -> Option<mpsc::Permit<'b, CallBatch>> {
    let permit = batches.reserve().await.ok()?;
    calls.recv_many(taken, batch).await;
    Some(permit)
}

/// Numbers the calls and keeps them until they are answered.
fn write(
    pending: &mut BTreeMap<u64, Waiting>,
    next_id: &mut u64,
    taken: &mut Vec<Waiting>,
) -> CallBatch {
    let mut batch = CallBatch {
        calls: Vec::with_capacity(taken.len()),
    };
    for mut waiting in taken.drain(..) {
        metrics::QUEUED.dec();
        if waiting.answer.is_closed() {
            continue;
        }
        waiting.call.id = *next_id;
        *next_id += 1;
        // Kept whole: should the process be lost, another gets it.
        batch.calls.push(waiting.call.clone());
        pending.insert(waiting.call.id, waiting);
    }
    metrics::BATCH.observe(batch.calls.len() as f64);
    batch
}
