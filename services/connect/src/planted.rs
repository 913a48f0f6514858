//! Faults that a test plants in a loop of one of its nodes. Not there in any build but the unit tests'.

use std::sync::{Mutex, PoisonError};

/// What happens where a fault is planted.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    Panic,
    /// The thread stands still until this is no longer locked.
    Stall(std::sync::Arc<Mutex<()>>),
}

struct Planted {
    node: String,
    shard: usize,
    place: &'static str,
    fault: Fault,
}

static PLANTED: Mutex<Vec<Planted>> = Mutex::new(Vec::new());

/// The next time that this shard of this node passes the place.
pub(crate) fn plant(node: &str, shard: usize, place: &'static str, fault: Fault) {
    let planted = Planted {
        node: node.to_owned(),
        shard,
        place,
        fault,
    };
    PLANTED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(planted);
}

/// A loop passes.
pub(crate) fn pass(node: &str, shard: usize, place: &str) {
    let fault = {
        let mut planted = PLANTED.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |one: &Planted| one.node == node && one.shard == shard && one.place == place;
        planted
            .iter()
            .position(fits)
            .map(|at| planted.remove(at).fault)
    };
    match fault {
        Some(Fault::Panic) => panic!("planted in {place}"),
        Some(Fault::Stall(until)) => drop(until.lock().unwrap_or_else(PoisonError::into_inner)),
        None => {}
    }
}
