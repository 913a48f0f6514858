//! Who sees to redis and etcd: one task per ImCluster that asks them, decides and acts, beside the visits and never
//! during one. Visits read what it found.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::api::ImCluster;
use crate::context::Context;
use crate::key::Key;
use crate::secrets::Known;
use crate::status::Verdict;

/// What was found at the last round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Redis' condition.
    pub redis: Option<Verdict>,
    /// Etcd's.
    pub etcd: Option<Verdict>,
    /// The redis pod that is the master.
    pub master: Option<String>,
    /// Whether redis may have data.
    pub redis_bootstrapped: bool,
    /// Whether etcd was formed.
    pub etcd_bootstrapped: bool,
}

/// The tasks, one per ImCluster.
#[derive(Debug, Default)]
pub struct Keepers(Mutex<HashMap<Key, Keeper>>);

#[derive(Debug)]
struct Keeper {
    task: AbortHandle,
    known: watch::Sender<Known>,
    said: watch::Receiver<Option<Said>>,
}

impl Keepers {
    /// What was found last; begins a task where there is none. `None`: nothing yet.
    pub fn said(&self, context: &Arc<Context>, key: &Key, known: &Known) -> Option<Said> {
        let mut keepers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keeper) = keepers.get(key).filter(|keeper| !keeper.task.is_finished()) {
            keeper.known.send_if_modified(|now| {
                let new = now != known;
                now.clone_from(known);
                new
            });
            return keeper.said.borrow().clone();
        }
        let (known, hears) = watch::channel(known.clone());
        let (says, said) = watch::channel(None);
        let task = tokio::spawn(keep(Arc::downgrade(context), key.clone(), hears, says)).abort_handle();
        keepers.insert(key.clone(), Keeper { task, known, said });
        None
    }

    /// What was found last, whether or not there is a task.
    pub fn last(&self, key: &Key) -> Option<Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key)?.said.borrow().clone()
    }

    /// Ends the task of an ImCluster.
    pub fn forget(&self, key: &Key) {
        if let Some(keeper) = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key) {
            keeper.task.abort();
        }
    }

    /// Ends all of them.
    pub fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).drain().for_each(|(_, keeper)| keeper.task.abort());
    }
}

async fn keep(
    context: std::sync::Weak<Context>,
    key: Key,
    known: watch::Receiver<Known>,
    says: watch::Sender<Option<Said>>,
) {
    loop {
        let Some(context) = context.upgrade() else { return };
        let Some(cluster) = context.stores.clusters.get(&key) else { return };
        let now = known.borrow().clone();
        let (said, pause) = Box::pin(round(&context, &key, &cluster, &now)).await;
        let new = says.send_if_modified(|before| {
            let new = before.as_ref() != Some(&said);
            *before = Some(said);
            new
        });
        if new {
            context.queue.wake(key.clone());
        }
        drop(context);
        sleep(pause.mul_f64(rand::random_range(0.9..1.1))).await;
    }
}

/// One round: ask, decide, act. Returns what was found and when the next round is due.
async fn round(_: &Arc<Context>, _: &Key, _: &Arc<ImCluster>, _: &Known) -> (Said, Duration) {
    (Said::default(), Duration::from_secs(15))
}
