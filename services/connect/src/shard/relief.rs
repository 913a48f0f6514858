//! When the outboxes of a shard hold more together than they may, the largest are closed until they no longer do.

use std::cmp::Reverse;
use std::rc::Rc;

use super::Shard;
use crate::metrics;

impl Shard {
    /// Runs as long as the shard.
    pub(crate) async fn relieve(self: Rc<Self>) {
        loop {
            self.outboxes.exceeded().await;
            self.close_largest();
        }
    }

    /// One look at all of them closes as many as it takes to be an eighth below the bound.
    fn close_largest(&self) {
        let mut holders: Vec<_> = self
            .everyone()
            .into_iter()
            .filter(|connection| connection.has_waiting())
            .collect();
        holders.sort_by_key(|connection| Reverse(connection.waiting()));
        for connection in holders {
            if self.outboxes.held() <= self.outboxes.bound() / 8 * 7 {
                return;
            }
            metrics::OUTBOXES_SHED.inc();
            connection.shed();
        }
    }
}
