//! Logic as a whole: made from options, a store and a way to the nodes; called through its [`Handle`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use im_proto::v1::{Done, Fault, call, reply};
use im_runtime::limits::address::Network;
use im_runtime::limits::attempts::Attempts;
use im_runtime::limits::rate::{Buckets, Rate};
use im_runtime::limits::shares::Shares;
use im_wire::ids::RoomId;
use tokio::runtime;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::auth::grant::Grant;
use crate::auth::seal::{self, Seal};
use crate::auth::token::Verifier;
use crate::auth::{self, jwks, key};
use crate::bans::{self, Roll};
use crate::error::{Error, Result};
use crate::index::Indexed;
use crate::nodes::Nodes;
use crate::options::Options;
use crate::reminders::{self, Reminders};
use crate::store::Store;

mod metrics;

/// Tokens from an address whose tokens are refused again and again are not looked at for so long at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How far logic has come on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Not leaving.
    Serving,
    /// Leaving: everything is answered, and whoever can go elsewhere is told so.
    Leaving,
    /// What has nothing in flight ends.
    Ending,
}

/// Everything that the domain modules share.
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) nodes: Arc<dyn Nodes>,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) indexed: Indexed,
    /// Requests that users make over HTTP.
    pub(crate) user_requests: Buckets,
    pub(crate) attempts: Attempts,
    /// Bytes that users say.
    pub(crate) user_bytes: Buckets,
    /// Bytes that rooms hear.
    pub(crate) room_bytes: Buckets,
    /// Bytes that users read over HTTP.
    pub(crate) user_reads: Buckets,
    /// Who is not let in.
    pub(crate) roll: Roll,
    /// Nodes that were not told of something.
    pub(crate) reminders: Reminders,
    /// What makes grants logic's own.
    pub(crate) seal: Seal,
    pub(crate) phase: watch::Sender<Phase>,
    /// Streams, connections and follow-ups under way.
    pub(crate) under_way: TaskTracker,
    /// Bounds the HTTP requests under way.
    pub(crate) http_places: Arc<Semaphore>,
    /// Bounds those of one address, until their answers have left.
    pub(crate) http_by_address: Arc<Shares<Network>>,
    /// Bounds those of one user, until their answers have left.
    pub(crate) http_by_user: Arc<Shares<String>>,
    /// Bounds the bytes of their bodies.
    pub(crate) http_pending: Arc<Semaphore>,
    follow_ups: Semaphore,
    runtime: runtime::Handle,
}

/// Why logic cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The keys.
    #[error(transparent)]
    Key(#[from] key::Error),
    /// Work in the background needs one.
    #[error("logic must be made inside a tokio runtime")]
    NoRuntime,
}

/// Logic. Its owner serves its two listeners ([`Service::serve_grpc`], [`Service::serve_http`]) or calls its
/// [`Handle`] directly, and ends it with [`Service::drain`].
pub struct Service {
    core: Arc<Core>,
}

/// Calls logic; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) core: Arc<Core>,
}

impl Service {
    /// Reads the keys; serves nothing yet. Work in the background runs on the runtime that this is called in.
    ///
    /// # Errors
    /// Keys that cannot be used, or no runtime.
    pub fn new(
        options: Options,
        store: Arc<dyn Store>,
        nodes: Arc<dyn Nodes>,
    ) -> std::result::Result<Self, StartError> {
        let verifier = Arc::new(Verifier::new(&options.auth)?);
        warn_about(&options.auth);
        metrics::declare();
        crate::presence::declare_metrics();
        crate::message::declare_metrics();
        bans::declare_metrics();
        reminders::declare_metrics();
        crate::serve::declare_metrics();
        let core = Core {
            verifier,
            store,
            nodes,
            indexed: Indexed::default(),
            attempts: Attempts::new(options.http.auth_failures, LONGEST_PAUSE),
            user_bytes: Buckets::new(bytes(options.limits.user_byte_rate, options.limits.user_byte_burst)),
            room_bytes: Buckets::new(bytes(options.limits.room_byte_rate, options.limits.room_byte_burst)),
            user_reads: Buckets::new(bytes(options.http.user_read_rate, options.http.user_read_rate.saturating_mul(4))),
            user_requests: Buckets::new(Rate::new(options.http.user_rate, options.http.user_burst)),
            roll: Roll::default(),
            reminders: Reminders::default(),
            seal: Seal::default(),
            phase: watch::Sender::new(Phase::Serving),
            under_way: TaskTracker::new(),
            http_places: Arc::new(Semaphore::new(options.http.max_requests)),
            http_by_address: Shares::new(options.http.max_requests_per_ip),
            http_by_user: Shares::new(options.http.max_requests_per_user),
            http_pending: Arc::new(Semaphore::new(options.http.max_pending_bytes)),
            follow_ups: Semaphore::new(options.limits.max_follow_ups),
            runtime: runtime::Handle::try_current().map_err(|_| StartError::NoRuntime)?,
            options,
        };
        let core = Arc::new(core);
        if let Some(source) = jwks::Source::new(&core.options.auth)? {
            let (verifier, refresh) = (Arc::clone(&core.verifier), core.options.auth.jwks_refresh);
            core.runtime.spawn(jwks::keep_fetching(source, verifier, refresh, core.phase.subscribe()));
        }
        bans::start(&core, &core.runtime);
        core.runtime.spawn(seal::keep(Arc::downgrade(&core)));
        core.runtime.spawn(reminders::keep(Arc::downgrade(&core)));
        Ok(Self { core })
    }

    /// For whoever calls without a wire between.
    pub fn handle(&self) -> Handle {
        Handle { core: Arc::clone(&self.core) }
    }

    /// So many logic processes, this one among them, serve the same users: each has its part of their bytes.
    pub fn shared_by(&self, processes: usize) {
        self.core.user_bytes.share(processes);
        self.core.room_bytes.share(processes);
        self.core.user_reads.share(processes);
    }

    /// Leaves: goes on for `drain.at_least`, then ends every stream and connection that has nothing in flight, and
    /// returns when none is left or `drain.at_most` is over: `false` then, and what is left is to be cut.
    pub async fn drain(&self) -> bool {
        let options = &self.core.options.drain;
        self.core.phase.send_replace(Phase::Leaving);
        tokio::time::sleep(options.at_least).await;
        self.core.phase.send_replace(Phase::Ending);
        self.core.under_way.close();
        let rest = options.at_most.saturating_sub(options.at_least);
        tokio::time::timeout(rest, self.core.under_way.wait()).await.is_ok()
    }
}

fn bytes(per_second: usize, burst: usize) -> Rate {
    Rate::new(per_second as f64, burst as f64)
}

fn warn_about(options: &auth::Options) {
    if options.allow_unsigned {
        tracing::warn!(
            "UNSIGNED IDENTITIES ARE BELIEVED: anybody can be anybody. This is a development switch; turn it off where \
             anyone else can connect"
        );
    }
}

impl Handle {
    /// One call of connect's: `grant` is what Authenticate or Refresh returned, `conn` the connection it is made for;
    /// both empty for calls of the node itself.
    ///
    /// Sends to one room whose futures are first polled in some order by one task are stored in that order: nothing is
    /// awaited before the store has the message.
    ///
    /// # Errors
    /// A fault with one of the documented codes, at the latest after `uplink.call_timeout`.
    pub async fn call(&self, grant: Bytes, conn: &str, op: call::Op) -> std::result::Result<reply::Result, Fault> {
        let observed = metrics::Call::begin(metrics::name(&op));
        let limit = self.core.options.uplink.call_timeout;
        let span = tracing::debug_span!("call", op = metrics::name(&op), conn);
        let dispatched = self.core.dispatch(&grant, conn, op).instrument(span);
        let answer = match tokio::time::timeout(limit, dispatched).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Timeout(limit)),
        };
        observed.end(answer.as_ref().err());
        answer.map_err(|error| error.fault())
    }
}

impl Core {
    fn dispatch<'a>(
        self: &'a Arc<Self>,
        grant: &'a [u8],
        conn: &'a str,
        op: call::Op,
    ) -> BoxFuture<'a, Result<reply::Result>> {
        use call::Op;
        use reply::Result as Answer;
        // One box, so that the future of a call has the size of its own operation and not of the largest.
        match op {
            Op::Send(send) => Box::pin(async move { Ok(Answer::Stored(self.send(self.who(grant)?, send).await?)) }),
            Op::Authenticate(ask) => {
                Box::pin(async move { Ok(Answer::Authenticated(self.authenticate(conn, ask).await?)) })
            }
            Op::Refresh(ask) => {
                Box::pin(async move { Ok(Answer::Refreshed(self.refresh(&self.seal.open(grant)?, &ask)?)) })
            }
            Op::Disconnected(gone) => Box::pin(async move {
                self.disconnected(grant, conn, gone).await?;
                Ok(Answer::Done(Done {}))
            }),
            Op::Subscribe(ask) => {
                Box::pin(async move { Ok(Answer::Subscribed(self.subscribe(&self.who(grant)?, ask).await?)) })
            }
            Op::Fetch(ask) => Box::pin(async move { Ok(Answer::Fetched(self.fetch(ask).await?)) }),
            Op::Heads(ask) => Box::pin(async move { Ok(Answer::Heads(self.heads(ask).await?)) }),
            Op::Signal(ask) => Box::pin(async move {
                self.signal(&self.who(grant)?, ask).await?;
                Ok(Answer::Done(Done {}))
            }),
            Op::History(ask) => {
                Box::pin(async move { Ok(Answer::History(self.history(&self.who(grant)?, ask).await?)) })
            }
            Op::Read(ask) => Box::pin(async move {
                let room = RoomId::new(&ask.room)?;
                Ok(Answer::Read(self.read(&self.who(grant)?, &room, ask.seq).await?))
            }),
            Op::Bans(ask) => Box::pin(async move { Ok(Answer::Bans(self.bans_since(&ask).await?)) }),
            Op::AssertPresence(ask) => {
                Box::pin(async move { Ok(Answer::PresenceAsserted(self.assert_presence(ask).await?)) })
            }
            Op::KnownRooms(ask) => Box::pin(async move { Ok(Answer::RoomLists(self.known_rooms(ask).await?)) }),
            Op::NodeBeat(beat) => Box::pin(async move { Ok(Answer::NodeBeaten(self.node_beat(beat).await?)) }),
        }
    }

    /// Who makes the call.
    fn who(&self, grant: &[u8]) -> Result<Grant> {
        let grant = self.seal.open(grant)?.alive(self.options.auth.leeway)?;
        self.refuse_banned(&grant, None)?;
        Ok(grant)
    }

    /// Does what follows an answer without delaying it. Where too much of that is under way already, the answer waits.
    pub(crate) async fn follow_up<F>(self: &Arc<Self>, work: impl FnOnce(Arc<Self>) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let limit = self.options.uplink.call_timeout;
        let Ok(place) = self.follow_ups.try_acquire() else {
            metrics::FOLLOW_UPS_WAITED.inc();
            return work(Arc::clone(self)).await;
        };
        place.forget();
        let core = Arc::clone(self);
        let work = async move {
            let _under_way = metrics::FollowUp::begin();
            if tokio::time::timeout(limit, work(Arc::clone(&core))).await.is_err() {
                tracing::warn!("work after an answer was not done within {limit:?}");
            }
            core.follow_ups.add_permits(1);
        };
        self.under_way.spawn_on(work, &self.runtime);
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }
}

/// Waits until logic has come so far.
pub(crate) async fn reached(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    // The sender lives as long as the core that the waiting task holds.
    let _ = phase.wait_for(|phase| *phase >= wanted).await;
}
