//! What users have had of something on a day: a counter for each, which goes with its day.

use async_trait::async_trait;
use im_redis_bus::{Call, Lane, Slot};
use im_wire::ids::UserId;

use super::{RedisStore, reply};
use crate::store::{Error, Quotas, Result};

/// A day's counts are kept for two, whatever the clocks of processes say.
const QUOTA_SECONDS: u64 = 2 * 24 * 3600;

#[async_trait]
impl Quotas for RedisStore {
    async fn spend(
        &self,
        user: &UserId,
        what: &'static str,
        day: u64,
        amount: u64,
        limit: u64,
    ) -> Result<bool> {
        let key = self.shared.client.keys().user_quota(user, what, day);
        let change = |command: &str, by: u64| {
            let mut command = redis::cmd(command);
            command.arg(&key).arg(by);
            Call::new(Slot::of(&key), command)
        };
        let mut expiry = redis::cmd("EXPIRE");
        expiry.arg(&key).arg(QUOTA_SECONDS);
        let calls = vec![change("INCRBY", amount), Call::new(Slot::of(&key), expiry)];
        let mut replies = self.shared.client.calls(Lane::Any, calls).await.into_iter();
        let counted: u64 = match replies.next() {
            Some(reply) => reply::read(reply)?,
            None => return Err(Error::Corrupt("too few replies".to_owned())),
        };
        if counted <= limit {
            return Ok(true);
        }
        reply::value(
            self.shared
                .client
                .call(Lane::Any, change("DECRBY", amount))
                .await,
        )?;
        Ok(false)
    }
}
