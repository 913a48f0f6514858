//! Logic over gRPC: from each shard one stream to each logic process that discovery lists, on the shard's own thread; many
//! calls in flight on each, matched by id.
//!
//! A connection's calls go to one process as long as one of them is in flight (`affinity`), else to the better of two.
//! When a stream breaks, its calls are given to another process in their order (`link`), except signals, which are lost.

mod affinity;
mod link;
mod metrics;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use im_discovery::{Endpoint, InFlightGuard, Pool, PoolOptions, Watch};
use im_proto::v1::{Call, Fault, call, reply};
use im_wire::code::ErrorCode;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::affinity::Affinities;
use self::link::Link;
use super::Logic;
use crate::translate;

/// How logic is called.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a call may take, its second try included.
    pub call_timeout: Duration,
    /// Clients' calls that may wait to be written to one logic process; beyond it they fail at once, retryable. The node's own
    /// have places besides.
    pub queue: usize,
    /// Calls written at once at most.
    pub batch: usize,
    /// The largest batch of replies that is read, in bytes.
    pub max_reply_bytes: usize,
    /// What is shown to logic; the same as logic's own setting.
    pub secret: Option<String>,
    /// How a stream may take to open.
    pub open_timeout: Duration,
    /// The first pause after a stream broke or did not open; later ones double, with jitter.
    pub pause_min: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// The links under the streams.
    pub pool: PoolOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            call_timeout: Duration::from_secs(5),
            queue: 8192,
            batch: 256,
            max_reply_bytes: 16 << 20,
            secret: None,
            open_timeout: Duration::from_secs(3),
            pause_min: Duration::from_millis(50),
            pause_max: Duration::from_secs(2),
            pool: PoolOptions::default(),
        }
    }
}

/// Logic over gRPC. Ends its streams when dropped.
#[derive(Debug)]
pub struct GrpcLogic {
    shared: Arc<Shared>,
    watch: Watch,
    /// Those that were made of this one for a thread each.
    others: Mutex<Vec<Weak<Shared>>>,
    _end: DropGuard,
}

/// What calls and streams share.
#[derive(Debug)]
struct Shared {
    options: Options,
    affinities: Affinities,
    pool: OnceLock<Pool<Link>>,
    /// Counts the streams lost, those of other threads too.
    losses: watch::Sender<u64>,
    end: CancellationToken,
}

type LogicEndpoint = Arc<Endpoint<Link>>;

/// Places in each queue that clients' calls do not get: the node repairs its rooms however much its clients ask for.
const OWN: usize = 256;

/// A call on its way.
#[derive(Debug)]
struct Waiting {
    call: Call,
    answer: oneshot::Sender<Result<reply::Result, Fault>>,
    /// May be given to another process once more.
    may_move: bool,
    /// Counts it against the process it is with.
    _flight: Option<InFlightGuard<Link>>,
}

impl GrpcLogic {
    /// Follows what discovery lists of logic. Called within a tokio runtime, on which the streams run; calls may come from
    /// others.
    pub fn start(options: Options, watch: Watch) -> Self {
        Self::start_counting(options, watch, watch::Sender::new(0))
    }

    fn start_counting(options: Options, watch: Watch, losses: watch::Sender<u64>) -> Self {
        let end = CancellationToken::new();
        let pool_options = options.pool.clone();
        let affinities = Affinities::default();
        let shared = Arc::new(Shared {
            options,
            affinities,
            pool: OnceLock::new(),
            losses,
            end: end.clone(),
        });
        // The pool's task makes links; the shared part must not live on by it.
        let of_links = Arc::downgrade(&shared);
        let pool = Pool::start(pool_options, watch.clone(), move |node, channel| {
            Link::start(&node.id, channel, of_links.clone())
        });
        let _ = shared.pool.set(pool);
        Self {
            shared,
            watch,
            others: Mutex::default(),
            _end: end.drop_guard(),
        }
    }

    /// Counts the streams that were lost, those of all threads. What their logic processes had stored they may not have
    /// published: after each change the heads of all rooms are to be compared.
    pub fn losses(&self) -> watch::Receiver<u64> {
        self.shared.losses.subscribe()
    }

    /// Returns as soon as every thread has a stream to some logic process.
    pub async fn reached(&self) {
        while !self.has_reached() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn has_reached(&self) -> bool {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = others
            .iter()
            .filter_map(Weak::upgrade)
            .chain([Arc::clone(&self.shared)]);
        all.all(|one| one.choose(None).is_some())
    }
}

#[async_trait]
impl Logic for GrpcLogic {
    async fn call(&self, grant: Bytes, conn: &str, op: call::Op) -> Result<reply::Result, Fault> {
        let began = Instant::now();
        let (answer, answered) = oneshot::channel();
        let may_move = !matches!(op, call::Op::Signal(_));
        let call = Call {
            id: 0,
            grant,
            conn: conn.to_owned(),
            op: Some(op),
        };
        // Nothing is awaited before the call stands in a queue: that keeps a connection's calls in order.
        let _affinity = self.shared.enqueue(Waiting {
            call,
            answer,
            may_move,
            _flight: None,
        })?;
        metrics::IN_FLIGHT.inc();
        let _leaving = OnDrop(|| metrics::IN_FLIGHT.dec());
        match tokio::time::timeout(self.shared.options.call_timeout, answered).await {
            Ok(Ok(result)) => {
                if result.is_ok() {
                    metrics::SECONDS.observe(began.elapsed().as_secs_f64());
                }
                result
            }
            Ok(Err(_)) => Err(lost()),
            Err(_) => Err(timed_out()),
        }
    }

    fn on_this_thread(self: Arc<Self>) -> Arc<dyn Logic> {
        let Shared {
            options, losses, ..
        } = &*self.shared;
        let other = Self::start_counting(options.clone(), self.watch.clone(), losses.clone());
        self.others
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::downgrade(&other.shared));
        Arc::new(other)
    }
}

/// Does something when it goes out of scope.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl Shared {
    /// The better of two processes that there is a stream to, `except` left out.
    fn choose(&self, except: Option<u64>) -> Option<LogicEndpoint> {
        let fits = |endpoint: &Endpoint<Link>| {
            endpoint.link().is_up() && Some(endpoint.link().number) != except
        };
        self.pool.get()?.choose(fits)
    }

    fn enqueue(
        self: &Arc<Self>,
        waiting: Waiting,
    ) -> Result<Option<affinity::AffinityGuard>, Fault> {
        if waiting.call.conn.is_empty() {
            let endpoint = self.choose(None).ok_or_else(no_logic)?;
            give(&endpoint, waiting).map_err(Refused::fault)?;
            return Ok(None);
        }
        affinity::AffinityGuard::enqueue(self, waiting).map(Some)
    }

    /// Gives calls of a lost process to another one, in their order and before any later call of the same connection.
    fn move_on(&self, from: u64, calls: Vec<Waiting>, queue: &mut mpsc::Receiver<Waiting>) {
        self.affinities
            .move_on(from, calls, queue, || self.choose(Some(from)));
    }
}

/// Puts a call into a process's queue, or says why not.
fn give(endpoint: &LogicEndpoint, mut waiting: Waiting) -> Result<(), Refused> {
    if !waiting.call.conn.is_empty() && endpoint.link().queue.capacity() <= OWN {
        return Err(Refused::new(queue_full(), waiting));
    }
    waiting._flight = Some(endpoint.track());
    metrics::QUEUED.inc();
    endpoint.link().queue.try_send(waiting).map_err(|refused| {
        metrics::QUEUED.dec();
        match refused {
            mpsc::error::TrySendError::Full(waiting) => Refused::new(queue_full(), waiting),
            mpsc::error::TrySendError::Closed(waiting) => Refused::new(no_logic(), waiting),
        }
    })
}

/// A call that no queue took, and what to answer it.
struct Refused(Box<(Fault, Waiting)>);

impl Refused {
    fn new(fault: Fault, waiting: Waiting) -> Self {
        Self(Box::new((fault, waiting)))
    }

    /// For whoever makes the call and has not begun to wait.
    fn fault(self) -> Fault {
        self.0.0
    }

    /// For whoever waits for the answer already, and may have gone meanwhile.
    fn answer(self) {
        let (fault, waiting) = *self.0;
        let _ = waiting.answer.send(Err(fault));
    }
}

fn unavailable(why: &str, text: &str) -> Fault {
    metrics::FAULTS.with_label_values(&[why]).inc();
    translate::retryable(ErrorCode::Unavailable, text)
}

fn no_logic() -> Fault {
    unavailable(
        "no_logic",
        "no logic process can be reached just now: try again",
    )
}

fn lost() -> Fault {
    unavailable(
        "lost",
        "the logic process that had this was lost; it may have been done: try again with the same client id",
    )
}

fn timed_out() -> Fault {
    unavailable(
        "timeout",
        "no answer in time; it may have been done: try again with the same client id",
    )
}

fn queue_full() -> Fault {
    unavailable("queue_full", "too much waits to be done: try again later")
}
