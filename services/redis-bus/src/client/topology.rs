//! Which master owns which slot, with the connections to each.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use crate::address::Host;
use crate::slot::{SLOTS, Slot};

const NOBODY: u16 = u16::MAX;

/// Over which of a master's connections a call goes. Calls of one lane are executed in the order in which they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Whichever is next.
    Any,
    /// The same shared connection for the same number.
    Fixed(usize),
    /// The same connection for blocking calls for the same number.
    Blocking(usize),
}

/// A master and the connections to it.
#[derive(Debug)]
pub struct Master {
    pub(crate) host: Host,
    /// Which process it is, where it may be asked; another one at the same address has another id.
    run_id: Option<String>,
    opened_at: Instant,
    shared: Vec<MultiplexedConnection>,
    blocking: Vec<MultiplexedConnection>,
    next: AtomicUsize,
    broken: AtomicBool,
    broken_at: OnceLock<Instant>,
}

impl Master {
    pub(crate) fn new(
        host: Host,
        run_id: Option<String>,
        shared: Vec<MultiplexedConnection>,
        blocking: Vec<MultiplexedConnection>,
    ) -> Self {
        let next = AtomicUsize::new(0);
        let broken = AtomicBool::new(false);
        Self {
            host,
            run_id,
            opened_at: Instant::now(),
            shared,
            blocking,
            next,
            broken,
            broken_at: OnceLock::new(),
        }
    }

    /// Whether commands go to another server than a connection to the same address that was opened at this time and found
    /// the server of this id there. The older of two that differ is the one that has been left behind.
    pub(crate) fn has_replaced(&self, run_id: Option<&str>, opened_at: Instant) -> bool {
        let same =
            matches!((self.run_id.as_deref(), run_id), (Some(own), Some(other)) if own == other);
        !same && self.opened_at > opened_at && !self.is_broken()
    }

    /// The connection of a lane.
    pub(crate) fn connection(&self, lane: Lane) -> MultiplexedConnection {
        let of = |connections: &[MultiplexedConnection], number: usize| {
            connections[number % connections.len()].clone()
        };
        match lane {
            Lane::Blocking(number) if !self.blocking.is_empty() => of(&self.blocking, number),
            Lane::Fixed(number) | Lane::Blocking(number) => of(&self.shared, number),
            Lane::Any => of(&self.shared, self.next.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// All connections that answer at once.
    pub(crate) fn shared(&self) -> &[MultiplexedConnection] {
        &self.shared
    }

    /// Not to be used any more.
    pub(crate) fn give_up(&self) {
        self.broken_at.get_or_init(Instant::now);
        self.broken.store(true, Ordering::Release);
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Since when it is not to be used.
    pub(crate) fn broken_at(&self) -> Option<Instant> {
        self.broken_at.get().copied()
    }
}

/// Slots from the one to the other, both inclusive.
pub(crate) type Range = (u16, u16);

/// A state of affairs: which masters there are and what each owns.
#[derive(Debug)]
pub struct Topology {
    masters: Vec<Arc<Master>>,
    /// Index of each slot's master; `None`: the one there is owns all.
    owners: Option<Box<[u16]>>,
    since: Instant,
    trouble: Option<String>,
}

impl Topology {
    /// No master, and why.
    pub(crate) fn none(trouble: Option<String>) -> Self {
        Self {
            masters: Vec::new(),
            owners: None,
            since: Instant::now(),
            trouble,
        }
    }

    /// One master for everything.
    pub(crate) fn one(master: Arc<Master>) -> Self {
        Self {
            masters: vec![master],
            owners: None,
            since: Instant::now(),
            trouble: None,
        }
    }

    /// Masters with ranges of slots (both ends inclusive).
    pub(crate) fn many(masters: Vec<(Arc<Master>, Vec<Range>)>, trouble: Option<String>) -> Self {
        let mut owners = vec![NOBODY; usize::from(SLOTS)].into_boxed_slice();
        let mut list = Vec::with_capacity(masters.len());
        for (master, ranges) in masters {
            let number = u16::try_from(list.len()).unwrap_or(NOBODY);
            for (from, to) in ranges {
                if let Some(range) = owners.get_mut(usize::from(from)..=usize::from(to)) {
                    range.fill(number);
                }
            }
            list.push(master);
        }
        Self {
            masters: list,
            owners: Some(owners),
            since: Instant::now(),
            trouble,
        }
    }

    /// The master that owns a slot, usable or not.
    pub(crate) fn owner(&self, slot: Slot) -> Option<&Arc<Master>> {
        match &self.owners {
            None => self.masters.first(),
            Some(owners) => owners
                .get(slot.index())
                .and_then(|owner| self.masters.get(usize::from(*owner))),
        }
    }

    /// All masters.
    pub(crate) fn masters(&self) -> &[Arc<Master>] {
        &self.masters
    }

    /// The master at an address.
    pub(crate) fn at(&self, host: &Host) -> Option<&Arc<Master>> {
        self.masters.iter().find(|master| master.host == *host)
    }

    pub(crate) fn by_name(&self, host: &str) -> Option<&Arc<Master>> {
        self.masters
            .iter()
            .find(|master| master.host.to_string() == host)
    }

    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// Whether every slot has a usable master.
    pub fn is_complete(&self) -> bool {
        let owned = self
            .owners
            .as_ref()
            .is_none_or(|owners| owners.iter().all(|owner| *owner != NOBODY));
        owned && !self.masters.is_empty() && !self.masters.iter().any(|master| master.is_broken())
    }

    /// What is missing, for people.
    pub(crate) fn trouble(&self) -> String {
        self.trouble
            .clone()
            .unwrap_or_else(|| "not connected yet".to_owned())
    }

    /// The same, but without a master for as long as `before`.
    pub(crate) fn away_since(self, before: &Self) -> Self {
        Self {
            since: before.since,
            ..self
        }
    }

    /// Whether it says the same as another.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.owners == other.owners
            && self.masters.len() == other.masters.len()
            && self
                .masters
                .iter()
                .zip(&other.masters)
                .all(|(one, two)| Arc::ptr_eq(one, two))
    }
}
