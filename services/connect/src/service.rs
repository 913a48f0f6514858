//! The node as one thing: bound first, serving nothing; spawned, it runs on threads of its own; its handle is how the rest
//! of the process reaches it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use im_proto::bans::Bans;
use im_proto::v1::{
    KickRequest, NodeBeat, PushRequest, RoomsChangedRequest, call, push_request, reply,
};
use im_runtime::Tasks;
use im_runtime::admin::Liveness;
use im_runtime::limits::queue::queue;
use im_wire::code::CloseCode;
use im_wire::ids::RoomId;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::accept::{self, admission::Admission};
use crate::bans;
use crate::downlink::Bus;
use crate::downlink::router::Router;
use crate::metrics;
use crate::options::Options;
use crate::reactor::thread;
use crate::shard::Shard;
#[cfg(test)]
use crate::shard::mailbox::ShardHandle;
use crate::shard::mailbox::{self, Command, Match, RoomsChange, Target};
use crate::translate;
use crate::uplink::{Logic, shared::Shared};

/// How long a shard may take to answer a push, a kick or a count.
const SHARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a node cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port cannot be listened on.
    #[error("{field} {address} cannot be bound: name another address, or end what listens there")]
    Bind {
        /// The setting.
        field: &'static str,
        /// Its value.
        address: SocketAddr,
        /// The system's answer.
        #[source]
        error: std::io::Error,
    },
    /// More shards than the router can name.
    #[error("shards {0}: give 1 to 64")]
    Shards(usize),
    /// A thread cannot be started.
    #[error("a shard's thread cannot be started")]
    Thread(#[source] std::io::Error),
}

/// What the node works with.
pub struct Parts {
    /// The way up.
    pub logic: Arc<dyn Logic>,
    /// The way down.
    pub bus: Arc<dyn Bus>,
    /// Counts up when a logic process was lost: what it published may have been lost with it, so heads are compared.
    pub logic_losses: Option<watch::Receiver<u64>>,
}

/// A node that is bound and does not serve yet.
pub struct Service {
    options: Arc<Options>,
    parts: Parts,
    tcp: (SocketAddr, Vec<TcpListener>),
    ws: (SocketAddr, Vec<TcpListener>),
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("tcp", &self.tcp.0)
            .field("ws", &self.ws.0)
            .finish_non_exhaustive()
    }
}

impl Service {
    /// Binds both ports.
    ///
    /// # Errors
    /// [`Error`] names the setting.
    pub fn bind(options: Options, parts: Parts) -> Result<Self, Error> {
        if !(1..=64).contains(&options.shards) {
            return Err(Error::Shards(options.shards));
        }
        let bind = |field, address| {
            accept::bind(address, options.shards).map_err(|error| Error::Bind {
                field,
                address,
                error,
            })
        };
        let tcp = bind("tcp_listen", options.tcp_listen)?;
        let ws = bind("ws_listen", options.ws_listen)?;
        metrics::register();
        Ok(Self {
            options: Arc::new(options),
            parts,
            tcp,
            ws,
        })
    }

    /// Starts the shards' threads and, on the current runtime, what is said about the node as a whole. `tasks` learns of
    /// a shard that ends, `liveness` of one that stands still.
    ///
    /// # Errors
    /// [`Error::Thread`].
    pub fn spawn(self, tasks: &Tasks, liveness: &Liveness) -> Result<Handle, Error> {
        let Self {
            options,
            parts,
            tcp,
            ws,
        } = self;
        let logic = Shared::new(Arc::clone(&parts.logic), &options);
        let admission = Admission::new(&options);
        let accepting = CancellationToken::new();
        let (handles, mailboxes): (Vec<_>, Vec<_>) = (0..options.shards)
            .map(|_| mailbox::open(options.shard_queue, options.shard_queue_bytes))
            .unzip();
        let router = Arc::new(Router::new(Arc::clone(&parts.bus), handles, &options.node));
        let bans: Arc<Bans> = Arc::default();
        let mut bus = Some(parts.bus);
        for (number, ((mailbox, tcp), ws)) in mailboxes.into_iter().zip(tcp.1).zip(ws.1).enumerate()
        {
            let (options, logic) = (Arc::clone(&options), Arc::clone(&logic));
            let admission = Arc::clone(&admission);
            let router = Arc::clone(&router);
            let accepting = accepting.clone();
            let bans = Arc::clone(&bans);
            let bus = bus.take().map(|bus| {
                let (into, notifications) = queue(options.bus_queue, options.bus_queue_bytes);
                thread::Downlink {
                    bus,
                    into,
                    router: Arc::clone(&router),
                    notifications,
                }
            });
            let has_bus = bus.is_some();
            let pulse = liveness.pulse(format!("shard {number}"), options.shard_stall);
            let ended = thread::start(
                number,
                thread::Parts {
                    mailbox,
                    tcp,
                    ws,
                    pulse,
                    bus,
                },
                move || {
                    Shard::new(
                        number,
                        options,
                        logic.on_this_thread(),
                        admission,
                        router,
                        accepting,
                        bans,
                    )
                },
            );
            let ended = tokio::spawn(ended.map_err(Error::Thread)?);
            if has_bus {
                // The others hear nothing without it: their clients are better off elsewhere at once.
                tasks.supervise("shard", ended);
            } else {
                tasks.drain_after("shard", ended);
            }
        }
        if let Some(losses) = parts.logic_losses {
            tokio::spawn(compare_after_losses(Arc::clone(&router), losses));
        }
        let handle = Handle(Arc::new(Node {
            tcp: tcp.0,
            ws: ws.0,
            options,
            logic: parts.logic,
            admission,
            router,
            draining: Mutex::default(),
            heartbeats_end: CancellationToken::new(),
            knows_counts: AtomicBool::new(false),
        }));
        tasks.supervise(
            "signs of life",
            tokio::spawn(beat(handle.clone()).map(Ok::<_, Infallible>)),
        );
        let node = &handle.0;
        let following = bans::follow(
            bans,
            Arc::clone(&node.logic),
            Arc::clone(&node.router),
            node.heartbeats_end.clone(),
        );
        tasks.supervise("bans", tokio::spawn(following.map(Ok::<_, Infallible>)));
        Ok(handle)
    }
}

async fn compare_after_losses(router: Arc<Router>, mut losses: watch::Receiver<u64>) {
    while losses.changed().await.is_ok() {
        router.compare_all().await;
    }
}

/// Says that the node lives, three times per lease.
async fn beat(handle: Handle) {
    let node = &handle.0;
    let mut every = tokio::time::interval(node.options.lease / 3);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = node.heartbeats_end.cancelled() => return,
        }
        node.send_heartbeat(false).await;
    }
}

/// The whole node's drain, as people and operators see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// Clients there were when it began.
    pub initial: usize,
    /// Clients there are.
    pub current: usize,
    /// Told to move per second.
    pub per_second: f64,
    /// Since when.
    pub since: Instant,
    /// When the rest is closed.
    pub deadline: Instant,
}

pub(crate) struct Node {
    tcp: SocketAddr,
    ws: SocketAddr,
    pub(crate) options: Arc<Options>,
    logic: Arc<dyn Logic>,
    admission: Arc<Admission>,
    pub(crate) router: Arc<Router>,
    pub(crate) draining: Mutex<Option<Status>>,
    pub(crate) heartbeats_end: CancellationToken,
    /// Whether logic reads differences of counts; until it has said so it gets all of them too.
    knows_counts: AtomicBool,
}

impl Node {
    /// One beat. Where more counts have changed than one takes, the others follow at once.
    pub(crate) async fn send_heartbeat(&self, leaving: bool) {
        let mut ask = self.router.to_ask();
        loop {
            let change = self.router.change();
            let beat = NodeBeat {
                node: self.options.node.clone(),
                lease_ms: u64::try_from(self.options.lease.as_millis()).unwrap_or(u64::MAX),
                connections: self.admission.count() as u64,
                online: if self.knows_counts.load(Ordering::Relaxed) {
                    HashMap::new()
                } else {
                    self.router.counts()
                },
                leaving,
                counts: Some(change.clone()),
                ask: std::mem::take(&mut ask)
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            };
            match self
                .logic
                .call(bytes::Bytes::new(), "", call::Op::NodeBeat(beat))
                .await
            {
                Ok(reply::Result::NodeBeaten(beaten)) => {
                    self.router.learn(&beaten.online);
                    self.knows_counts
                        .store(beaten.knows_counts, Ordering::Relaxed);
                    let goes_on = self
                        .router
                        .changed(change, beaten.knows_counts && beaten.counts_taken);
                    if leaving || !beaten.knows_counts || !goes_on {
                        return;
                    }
                }
                Ok(_) => return,
                Err(fault) => {
                    self.router.change_lost(change);
                    tracing::debug!(
                        code = fault.code,
                        "heartbeat not accepted by logic, will retry"
                    );
                    return;
                }
            }
        }
    }
}

/// The running node; clones are the same node.
#[derive(Clone)]
pub struct Handle(pub(crate) Arc<Node>);

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle")
            .field("node", &self.0.options.node)
            .finish_non_exhaustive()
    }
}

impl Handle {
    /// Where TCP clients connect.
    pub fn tcp_address(&self) -> SocketAddr {
        self.0.tcp
    }

    /// Where WebSocket clients connect.
    pub fn ws_address(&self) -> SocketAddr {
        self.0.ws
    }

    /// Sockets that are open now.
    pub fn connections(&self) -> usize {
        self.0.admission.count()
    }

    /// Delivers to the connections that are meant; how many took it. `speed` spreads a broadcast over time.
    pub async fn push(&self, request: PushRequest) -> u64 {
        let Some(signal) = request.signal else {
            return 0;
        };
        let target = match request.target {
            Some(push_request::Target::Users(users)) => Target::Users(Arc::new(users.names)),
            Some(push_request::Target::Devices(devices)) => {
                Target::Devices(Arc::new(devices.names))
            }
            Some(push_request::Target::UserDevice(which)) => {
                Target::UserDevice(Arc::new((which.user, which.device)))
            }
            Some(push_request::Target::Everyone(true)) => Target::Everyone,
            Some(push_request::Target::Everyone(false)) | None => return 0,
        };
        let signal = Arc::new(translate::signal("", signal));
        self.ask_all(|done| Command::Push {
            target: target.clone(),
            signal: Arc::clone(&signal),
            done,
        })
        .await
    }

    /// Ends the connections that are meant; how many.
    pub async fn kick(&self, request: KickRequest) -> u64 {
        let KickRequest {
            user,
            device,
            conn,
            code,
            text,
        } = request;
        let code = u16::try_from(code)
            .ok()
            .and_then(CloseCode::from_number)
            .unwrap_or(CloseCode::Kicked);
        let which = Match { user, device, conn };
        self.ask_all(|done| Command::Kick {
            which: which.clone(),
            code,
            text: text.clone(),
            done,
        })
        .await
    }

    /// A user's rooms have changed; how many of their connections are here.
    pub async fn rooms_changed(&self, request: RoomsChangedRequest) -> u64 {
        let rooms = |names: Vec<String>| {
            names
                .iter()
                .filter_map(|name| RoomId::new(name).ok())
                .collect::<Vec<_>>()
        };
        let RoomsChangedRequest {
            user,
            added,
            removed,
            seq,
        } = request;
        let change = Arc::new(RoomsChange {
            user,
            added: rooms(added),
            removed: rooms(removed),
            seq,
        });
        self.ask_all(|done| Command::RoomsChanged {
            change: Arc::clone(&change),
            done,
        })
        .await
    }

    async fn ask_all(&self, command: impl Fn(oneshot::Sender<u64>) -> Command) -> u64 {
        let asked = self.0.router.shards().iter().map(|shard| {
            let (done, answer) = oneshot::channel();
            let command = command(done);
            async move {
                shard.commands.send(command).await.ok()?;
                answer.await.ok()
            }
        });
        let all = tokio::time::timeout(SHARD_TIMEOUT, futures::future::join_all(asked)).await;
        all.map_or(0, |answers| answers.into_iter().flatten().sum())
    }
}

#[cfg(test)]
impl Handle {
    /// A node with these shards that listens nowhere, and the count of its connections.
    pub(crate) fn without_sockets(
        options: Options,
        shards: Vec<ShardHandle>,
    ) -> (Self, Arc<Admission>) {
        let nobody = Arc::new(crate::nobody::Nobody);
        let admission = Admission::new(&options);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let handle = Self(Arc::new(Node {
            tcp: nowhere,
            ws: nowhere,
            router: Arc::new(Router::new(Arc::clone(&nobody) as _, shards, &options.node)),
            options: Arc::new(options),
            logic: nobody,
            admission: Arc::clone(&admission),
            draining: Mutex::default(),
            heartbeats_end: CancellationToken::new(),
            knows_counts: AtomicBool::new(false),
        }));
        (handle, admission)
    }
}
