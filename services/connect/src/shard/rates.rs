//! What users and addresses may ask of a shard, in requests and in bytes, over all their connections on it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;

use im_runtime::limits::address::Network;
use im_runtime::limits::rate::{Bucket, Rate};
use im_wire::ids::UserId;
use tokio::time::Instant;

use crate::options::Options;

/// See the module's top.
pub(crate) struct Rates {
    user: Rate,
    user_bytes: Rate,
    address: Rate,
    accepts: Rate,
    users: RefCell<HashMap<UserId, User>>,
    addresses: RefCell<HashMap<Network, Bucket>>,
    accepted: RefCell<HashMap<Network, Bucket>>,
}

struct User {
    requests: Bucket,
    bytes: Bucket,
}

impl Rates {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            user: Rate::of_things(options.user_requests_per_second),
            user_bytes: Rate::of_bytes(options.user_bytes_per_second),
            address: Rate::of_things(options.ip_requests_per_second),
            accepts: Rate::of_things(options.accepts_per_second_per_ip),
            users: RefCell::default(),
            addresses: RefCell::default(),
            accepted: RefCell::default(),
        }
    }

    /// One request of so many bytes of a user; which limit refused, where one did.
    pub(crate) fn user_request(
        &self,
        user: &UserId,
        bytes: usize,
        now: Instant,
    ) -> Result<(), &'static str> {
        let mut users = self.users.borrow_mut();
        let now = now.into_std();
        if !users.contains_key(user) {
            users.insert(
                user.clone(),
                User {
                    requests: Bucket::full(self.user, now),
                    bytes: Bucket::full(self.user_bytes, now),
                },
            );
        }
        let Some(User {
            requests,
            bytes: spent,
        }) = users.get_mut(user)
        else {
            return Ok(());
        };
        if requests.take(self.user, now).is_err() {
            return Err("user");
        }
        if spent.spend(self.user_bytes, bytes, now).is_err() {
            requests.give_back();
            return Err("user_bytes");
        }
        Ok(())
    }

    /// One request from an address.
    pub(crate) fn address_request(&self, address: IpAddr, now: Instant) -> bool {
        take(
            &mut self.addresses.borrow_mut(),
            address.into(),
            self.address,
            now,
        )
    }

    /// A request of the user weighed more than one.
    pub(crate) fn user_owes(&self, user: &UserId, more: u32) {
        if let Some(user) = self.users.borrow_mut().get_mut(user) {
            user.requests.owe(more as usize);
        }
    }

    /// One more connection from an address.
    pub(crate) fn accept(&self, address: IpAddr, now: Instant) -> bool {
        take(
            &mut self.accepted.borrow_mut(),
            address.into(),
            self.accepts,
            now,
        )
    }

    pub(crate) fn forget_full(&self) {
        let now = Instant::now().into_std();
        let is_full = |user: &User| {
            user.requests.is_full(self.user, now) && user.bytes.is_full(self.user_bytes, now)
        };
        self.users.borrow_mut().retain(|_, user| !is_full(user));
        self.addresses
            .borrow_mut()
            .retain(|_, bucket| !bucket.is_full(self.address, now));
        self.accepted
            .borrow_mut()
            .retain(|_, bucket| !bucket.is_full(self.accepts, now));
    }
}

/// Takes one of what a network may have; whether there was one.
fn take(buckets: &mut HashMap<Network, Bucket>, of: Network, rate: Rate, now: Instant) -> bool {
    let now = now.into_std();
    buckets
        .entry(of)
        .or_insert_with(|| Bucket::full(rate, now))
        .take(rate, now)
        .is_ok()
}
