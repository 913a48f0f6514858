//! What the domain modules share, and what all of them do alike: who calls, and what follows an answer.

mod metrics;

use std::sync::Arc;

use im_runtime::limits::rate::{Buckets, Rate};
use tokio::runtime;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use crate::auth::grant::Grant;
use crate::auth::seal::Seal;
use crate::auth::token::Verifier;
use crate::bans::list::BanList;
use crate::error::Result;
use crate::index::indexed::Indexed;
use crate::nodes::Nodes;
use crate::options::Options;
use crate::phase::Phase;
use crate::reminders::owed::Owed;
use crate::store::Store;

pub(crate) use metrics::declare as declare_metrics;

/// Everything that the domain modules share.
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) store: Store,
    pub(crate) nodes: Arc<dyn Nodes>,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) indexed: Indexed,
    /// Bytes that users say.
    pub(crate) user_bytes: Buckets,
    /// Bytes that rooms hear.
    pub(crate) room_bytes: Buckets,
    /// Bytes that users read over HTTP.
    pub(crate) user_reads: Buckets,
    /// Who is not let in.
    pub(crate) bans: BanList,
    /// Nodes that were not told of something.
    pub(crate) owed: Owed,
    /// What makes grants logic's own.
    pub(crate) seal: Seal,
    pub(crate) phase: watch::Sender<Phase>,
    /// Streams, connections and follow-ups under way.
    pub(crate) under_way: TaskTracker,
    follow_ups: Semaphore,
    runtime: runtime::Handle,
}

impl Core {
    /// Follow-ups run on this runtime.
    pub(crate) fn new(
        options: Options,
        verifier: Verifier,
        store: Store,
        nodes: Arc<dyn Nodes>,
        runtime: runtime::Handle,
    ) -> Self {
        let limits = &options.limits;
        let reads_per_second = options.http.user_read_rate;
        Self {
            verifier: Arc::new(verifier),
            store,
            nodes,
            indexed: Indexed::default(),
            user_bytes: Buckets::new(bytes(limits.user_byte_rate, limits.user_byte_burst)),
            room_bytes: Buckets::new(bytes(limits.room_byte_rate, limits.room_byte_burst)),
            user_reads: Buckets::new(bytes(reads_per_second, reads_per_second.saturating_mul(4))),
            bans: BanList::default(),
            owed: Owed::default(),
            seal: Seal::default(),
            phase: watch::Sender::new(Phase::Serving),
            under_way: TaskTracker::new(),
            follow_ups: Semaphore::new(limits.max_follow_ups),
            runtime,
            options,
        }
    }

    /// Who makes the call.
    pub(crate) fn who(&self, grant: &[u8]) -> Result<Grant> {
        let grant = self.seal.open(grant)?.alive(self.options.auth.leeway)?;
        self.bans.refuse(&grant, None)?;
        Ok(grant)
    }

    /// Does what follows an answer without delaying it. Where too much of that is under way already, the answer waits.
    pub(crate) async fn follow_up<F>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>) -> F + Send + 'static,
    ) where
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
            if tokio::time::timeout(limit, work(Arc::clone(&core)))
                .await
                .is_err()
            {
                tracing::warn!("follow-up work did not finish within {limit:?}");
            }
            core.follow_ups.add_permits(1);
        };
        self.under_way.spawn_on(work, &self.runtime);
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }
}

fn bytes(per_second: usize, burst: usize) -> Rate {
    Rate::new(per_second as f64, burst as f64)
}
