//! What users have had of something on a day. In memory: a process that starts anew has counted nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use im_wire::ids::UserId;

use super::EmbeddedStore;
use crate::store::{Quotas, Result};

#[derive(Debug, Default)]
struct Day {
    number: u64,
    counts: HashMap<(UserId, &'static str), u64>,
}

/// The counts of the newest day that was named.
#[derive(Debug, Default)]
pub(super) struct DayCounts {
    day: Mutex<Day>,
}

impl DayCounts {
    fn spend(&self, user: &UserId, what: &'static str, day: u64, amount: u64, limit: u64) -> bool {
        let mut today = self.day.lock().unwrap_or_else(PoisonError::into_inner);
        if day > today.number {
            *today = Day {
                number: day,
                counts: HashMap::new(),
            };
        }
        let count = today.counts.entry((user.clone(), what)).or_default();
        let fits = count.saturating_add(amount) <= limit;
        if fits {
            *count += amount;
        }
        fits
    }
}

#[async_trait]
impl Quotas for EmbeddedStore {
    async fn spend(
        &self,
        user: &UserId,
        what: &'static str,
        day: u64,
        amount: u64,
        limit: u64,
    ) -> Result<bool> {
        Ok(self.quotas.spend(user, what, day, amount, limit))
    }
}
