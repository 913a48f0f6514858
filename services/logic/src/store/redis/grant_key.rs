//! The key of grants: the first one that a process proposed.

use async_trait::async_trait;
use im_redis_bus::{Call, Lane, Slot};

use super::{RedisStore, reply};
use crate::store::{Error, GrantKey, GrantKeys, Result};

#[async_trait]
impl GrantKeys for RedisStore {
    async fn grant_key(&self, proposed: GrantKey) -> Result<GrantKey> {
        let key = self.shared.client.keys().grant_key();
        let mut command = redis::cmd("SET");
        command.arg(&key).arg(&proposed).arg("NX").arg("GET");
        let call = Call::new(Slot::of(&key), command).repeatable();
        let kept: Option<Vec<u8>> = reply::read(self.shared.client.call(Lane::Any, call).await)?;
        let Some(kept) = kept else {
            return Ok(proposed);
        };
        let bytes = kept.len();
        kept.try_into().map_err(|_| {
            Error::Corrupt(format!("the key of grants has {bytes} bytes: remove {key}"))
        })
    }
}
