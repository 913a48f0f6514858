//! Logic, as shards ask it. Questions to the log that are the same while one is under way share its answer: when a node
//! dies, many clients of one room come back with the same position.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared as SharedFuture};
use im_proto::v1::{Fault, Fetch, Fetched, Position, call, reply};
use im_wire::code::ErrorCode;
use im_wire::ids::RoomId;

use super::Logic;
use crate::hub::{Answer, LogPosition};
use crate::metrics;
use crate::options::Options;
use crate::translate;

type Fetching = SharedFuture<BoxFuture<'static, Result<Arc<Answer>, Fault>>>;

/// See the module's top. What is under way is common to all shards; the way up is each one's own.
pub(crate) struct Shared {
    logic: Arc<dyn Logic>,
    limit: u32,
    max_bytes: u32,
    under_way: Arc<Mutex<HashMap<(RoomId, LogPosition), Fetching>>>,
    /// Logic has answered a call of this thread once.
    answered: AtomicBool,
}

impl Shared {
    pub(crate) fn new(logic: Arc<dyn Logic>, options: &Options) -> Arc<Self> {
        // A page fits the outbox beside what may wait there, also where a client's encoding takes six bytes for one.
        let fits = u32::try_from(options.outbox_bytes / 10).unwrap_or(u32::MAX);
        let limit = options.fetch_entries;
        let max_bytes = options.fetch_bytes.min(fits);
        Arc::new(Self {
            logic,
            limit,
            max_bytes,
            under_way: Arc::default(),
            answered: AtomicBool::new(false),
        })
    }

    /// The same for one shard; called on its runtime.
    pub(crate) fn on_this_thread(&self) -> Arc<Self> {
        let logic = Arc::clone(&self.logic).on_this_thread();
        Arc::new(Self {
            logic,
            limit: self.limit,
            max_bytes: self.max_bytes,
            under_way: Arc::clone(&self.under_way),
            answered: AtomicBool::new(false),
        })
    }

    pub(crate) async fn call(
        &self,
        grant: Bytes,
        conn: &str,
        op: call::Op,
    ) -> Result<reply::Result, Fault> {
        let answer = self.logic.call(grant, conn, op).await;
        let is_there = answer
            .as_ref()
            .err()
            .is_none_or(|fault| fault.code != ErrorCode::Unavailable.name());
        if is_there && !self.has_answered() {
            self.answered.store(true, Ordering::Relaxed);
        }
        answer
    }

    /// Whether logic has ever answered a call of this thread: before that it has not been found yet.
    pub(crate) fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// The log after a place. `fresh`: as it is now or later, so not from a question that was asked before.
    pub(crate) async fn fetch(
        self: &Arc<Self>,
        room: &RoomId,
        after: LogPosition,
        fresh: bool,
    ) -> Result<Arc<Answer>, Fault> {
        let key = (room.clone(), after);
        let fetching = {
            let mut under_way = self
                .under_way
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            match under_way.get(&key) {
                Some(fetching) if !fresh => {
                    metrics::FETCHES.with_label_values(&["shared"]).inc();
                    fetching.clone()
                }
                _ => {
                    let fetching = Arc::clone(self).ask(room.clone(), after).boxed().shared();
                    under_way.insert(key.clone(), fetching.clone());
                    fetching
                }
            }
        };
        let answer = fetching.await;
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
        answer
    }

    async fn ask(self: Arc<Self>, room: RoomId, after: LogPosition) -> Result<Arc<Answer>, Fault> {
        let position = Position {
            room: room.to_string(),
            epoch: after.epoch,
            seq: after.seq,
        };
        let fetch = Fetch {
            after: Some(position),
            limit: self.limit,
            max_bytes: self.max_bytes,
        };
        let answer = match self
            .logic
            .call(Bytes::new(), "", call::Op::Fetch(fetch))
            .await
        {
            Ok(reply::Result::Fetched(fetched)) => Ok(Arc::new(read(&room, fetched))),
            Ok(_) => Err(translate::unexpected()),
            Err(fault) => Err(fault),
        };
        metrics::FETCHES
            .with_label_values(&[if answer.is_ok() { "answered" } else { "failed" }])
            .inc();
        answer
    }

    /// Heads, in the order asked.
    pub(crate) async fn heads(&self, op: call::Op) -> Result<Vec<LogPosition>, Fault> {
        match self.logic.call(Bytes::new(), "", op).await? {
            reply::Result::Heads(list) => Ok(list
                .heads
                .into_iter()
                .map(|head| LogPosition {
                    epoch: head.epoch,
                    seq: head.seq,
                })
                .collect()),
            _ => Err(translate::unexpected()),
        }
    }
}

fn read(room: &RoomId, fetched: Fetched) -> Answer {
    let epoch = fetched.epoch;
    let entry = |logged: im_proto::v1::LogEntry| {
        Some(Arc::new(translate::message(
            room,
            epoch,
            logged.seq,
            logged.entry?,
        )))
    };
    Answer {
        head: LogPosition {
            epoch,
            seq: fetched.head,
        },
        reset_to: fetched.reset_to,
        truncated: fetched.truncated.map(|range| (range.from, range.to)),
        entries: fetched.entries.into_iter().filter_map(entry).collect(),
    }
}
