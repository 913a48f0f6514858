//! Who may come in: limits on connections in all and per address, counted over all shards.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::metrics;

/// Why a socket is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Full,
    AddressFull,
}

impl Refusal {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Full => "connections",
            Self::AddressFull => "connections_per_ip",
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// The door's counters. Locked at accept and close only.
#[derive(Debug)]
pub(crate) struct Admission {
    max: usize,
    max_per_ip: usize,
    counts: Mutex<Counts>,
}

/// A place taken, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Admission {
    pub(crate) fn new(max: usize, max_per_ip: usize) -> Arc<Self> {
        Arc::new(Self { max, max_per_ip, counts: Mutex::default() })
    }

    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Place, Refusal> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.all >= self.max {
            return Err(Refusal::Full);
        }
        let own = counts.by_address.entry(address).or_default();
        if *own >= self.max_per_ip {
            return Err(Refusal::AddressFull);
        }
        *own += 1;
        counts.all += 1;
        metrics::SOCKETS.set(counts.all as i64);
        Ok(Place { admission: Arc::clone(self), address })
    }

    pub(crate) fn count(&self) -> usize {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).all
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.admission.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        metrics::SOCKETS.set(counts.all as i64);
        if let Some(own) = counts.by_address.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn places_are_limited_and_given_back() {
        let admission = Admission::new(3, 2);
        let (one, two) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
        let first = admission.enter(one).unwrap();
        let _second = admission.enter(one).unwrap();
        assert_eq!(admission.enter(one).unwrap_err(), Refusal::AddressFull);
        let _third = admission.enter(two).unwrap();
        assert_eq!(admission.enter(two).unwrap_err(), Refusal::Full);
        drop(first);
        assert!(admission.enter(one).is_ok());
    }
}
