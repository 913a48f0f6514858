//! Who may come in: limits on connections in all, per address and per user, counted over all shards.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use im_runtime::limits::address::Network;
use im_runtime::limits::attempts::Attempts;
use im_runtime::limits::shares::{Share, Shares};
use im_wire::ids::UserId;

use crate::metrics;
use crate::options::Options;

/// How many of those who are refused are told so at a time; further ones are dropped without a word.
const MAX_TOLD: usize = 256;

/// Why a socket is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Full,
    AddressFull,
    AddressTooFast,
    UserFull,
}

impl Refusal {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Full => "connections",
            Self::AddressFull => "connections_per_ip",
            Self::AddressTooFast => "accept_rate_per_ip",
            Self::UserFull => "connections_per_user",
        }
    }

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Full => "the node has as many connections as it may",
            Self::AddressFull => "this address has as many connections as it may",
            Self::AddressTooFast => "this address connects too often",
            Self::UserFull => "this user has as many connections to the node as a user may",
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    told: usize,
}

/// The counters. Locked at accept, auth and close only.
#[derive(Debug)]
pub(crate) struct Admission {
    max: usize,
    counts: Mutex<Counts>,
    by_address: Arc<Shares<Network>>,
    by_user: Arc<Shares<UserId>>,
    /// Authentications that failed, by address: further ones from there wait before logic is asked.
    pub(crate) attempts: Attempts,
}

/// A connection that is counted, until this is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    address: Option<Share<Network>>,
    user: Option<Share<UserId>>,
    refusal: Option<Refusal>,
}

impl Admission {
    pub(crate) fn new(options: &Options) -> Arc<Self> {
        Arc::new(Self {
            max: options.max_connections,
            counts: Mutex::default(),
            by_address: Shares::new(options.max_connections_per_ip),
            by_user: Shares::new(options.max_connections_per_user),
            attempts: Attempts::new(options.auth_failures_per_ip, options.handshake_timeout / 2),
        })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: the address will be known later, see [`Permit::claim`].
    pub(crate) fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Permit, Refusal> {
        let mut counts = self.counts();
        if counts.all >= self.max {
            return Err(Refusal::Full);
        }
        let address = address.map(|address| self.share_of(address)).transpose()?;
        counts.all += 1;
        metrics::SOCKETS.set(counts.all as i64);
        Ok(Permit {
            admission: Arc::clone(self),
            address,
            user: None,
            refusal: None,
        })
    }

    fn share_of(&self, address: IpAddr) -> Result<Share<Network>, Refusal> {
        self.by_address
            .take(address.into())
            .ok_or(Refusal::AddressFull)
    }

    /// A permit for the time that it takes to say why there is none; `None`: too many are being told already.
    pub(crate) fn turn_away(self: &Arc<Self>, refusal: Refusal) -> Option<Permit> {
        let mut counts = self.counts();
        if counts.told >= MAX_TOLD {
            return None;
        }
        counts.told += 1;
        Some(Permit {
            admission: Arc::clone(self),
            address: None,
            user: None,
            refusal: Some(refusal),
        })
    }

    pub(crate) fn count(&self) -> usize {
        self.counts().all
    }
}

impl Permit {
    /// Counts it for its address, where that was not known before.
    pub(crate) fn claim(&mut self, address: IpAddr) -> Result<(), Refusal> {
        if self.address.is_some() || self.refusal.is_some() {
            return Ok(());
        }
        self.address = Some(self.admission.share_of(address)?);
        Ok(())
    }

    /// Why it is none, where it is none.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    /// Whether it counts for an address already, or for none ever.
    pub(crate) fn is_claimed(&self) -> bool {
        self.address.is_some() || self.refusal.is_some()
    }

    /// Counts it for its user too.
    pub(crate) fn name(&mut self, user: &UserId) -> Result<(), Refusal> {
        self.user = Some(
            self.admission
                .by_user
                .take(user.clone())
                .ok_or(Refusal::UserFull)?,
        );
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.admission.counts();
        if self.refusal.is_some() {
            counts.told -= 1;
            return;
        }
        counts.all -= 1;
        metrics::SOCKETS.set(counts.all as i64);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn admission() -> Arc<Admission> {
        Admission::new(&Options {
            max_connections: 3,
            max_connections_per_ip: 2,
            max_connections_per_user: 1,
            ..Options::default()
        })
    }

    #[test]
    fn permits_are_limited_and_given_back() {
        let admission = admission();
        let one = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let two = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        let first = admission.enter(Some(one)).unwrap();
        let _second = admission.enter(Some(one)).unwrap();
        assert_eq!(
            admission.enter(Some(one)).unwrap_err(),
            Refusal::AddressFull
        );
        let _third = admission.enter(Some(two)).unwrap();
        assert_eq!(admission.enter(Some(two)).unwrap_err(), Refusal::Full);
        drop(first);
        assert!(admission.enter(Some(one)).is_ok());
    }

    #[test]
    fn addresses_of_one_ipv6_subscriber_share_a_count() {
        let admission = admission();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let _first = admission.enter(Some(address("2001:db8:1:2::1"))).unwrap();
        let _second = admission
            .enter(Some(address("2001:db8:1:2:ffff::9")))
            .unwrap();
        assert_eq!(
            admission
                .enter(Some(address("2001:db8:1:2:3:4:5:6")))
                .unwrap_err(),
            Refusal::AddressFull
        );
        assert!(
            admission.enter(Some(address("2001:db8:1:3::1"))).is_ok(),
            "the next /64 is another's"
        );
    }

    #[test]
    fn a_permit_whose_address_is_said_later_counts_from_then_on() {
        let admission = admission();
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut permits: Vec<_> = (0..3).map(|_| admission.enter(None).unwrap()).collect();
        permits[0].claim(address).unwrap();
        permits[0].claim(address).unwrap();
        permits[1].claim(address).unwrap();
        assert_eq!(permits[2].claim(address), Err(Refusal::AddressFull));
        permits.truncate(1);
        assert!(admission.enter(Some(address)).is_ok());
    }

    #[test]
    fn a_user_has_so_many_connections_and_gets_their_places_back() {
        let admission = admission();
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let ann = UserId::new("ann").unwrap();
        let (mut first, mut second) = (
            admission.enter(Some(address)).unwrap(),
            admission.enter(Some(address)).unwrap(),
        );
        first.name(&ann).unwrap();
        assert_eq!(second.name(&ann), Err(Refusal::UserFull));
        drop(first);
        second.name(&ann).unwrap();
    }

    #[test]
    fn only_so_many_are_told_that_they_are_refused() {
        let admission = admission();
        let told: Vec<_> = (0..MAX_TOLD)
            .map(|_| admission.turn_away(Refusal::Full).unwrap())
            .collect();
        assert!(admission.turn_away(Refusal::Full).is_none());
        assert_eq!(admission.count(), 0);
        drop(told);
        assert!(admission.turn_away(Refusal::Full).is_some());
    }
}
