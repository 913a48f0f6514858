//! The list of bans: one for the cluster, in one slot, changed by one script that gives each change its version.

use async_trait::async_trait;
use im_proto::bans::{PAGE, REMEMBERED};
use im_proto::v1::{AskBans, Ban, BanChanges, LiftedBan};
use im_redis_bus::{Call, Lane, Slot, script};
use prost::Message as _;

use super::reply::{self, Fields};
use super::{RedisStore, Shared};
use crate::store::{Bans, Error, FORGET_BATCH, Result};

#[async_trait]
impl Bans for RedisStore {
    async fn ban(&self, ban: Ban, max: usize) -> Result<bool> {
        Ok(self.shared.change_bans("put", Some(&ban), "", max).await? >= 0)
    }

    async fn lift_ban(&self, id: &str) -> Result<bool> {
        Ok(self.shared.change_bans("lift", None, id, 0).await? > 0)
    }

    async fn forget_bans(&self) -> Result<usize> {
        Ok(usize::try_from(self.shared.change_bans("forget", None, "", 0).await?).unwrap_or(0))
    }

    async fn bans(&self, ask: AskBans) -> Result<BanChanges> {
        let keys = self.shared.client.keys();
        let mut command = script::bans().call(4);
        command
            .arg(keys.bans("list"))
            .arg(keys.bans("order"))
            .arg(keys.bans("lifted"))
            .arg(keys.bans("meta"));
        command.arg(ask.since).arg(ask.began).arg(PAGE);
        let call = Call::script(self.shared.bans_slot(), script::bans(), command).repeatable();
        let mut fields = Fields::of(reply::value(
            self.shared.client.call(Lane::Any, call).await,
        )?)?;
        let version = fields.take()?;
        let upto = fields.take()?;
        let reset = fields.take::<u8>()? == 1;
        let count = fields.take::<usize>()?;
        let mut bans = Vec::with_capacity(count.min(PAGE));
        for _ in 0..count {
            let version = fields.take()?;
            let bytes = fields.take::<Vec<u8>>()?;
            let ban = Ban::decode(bytes.as_slice())
                .map_err(|error| Error::Corrupt(format!("a ban: {error}")))?;
            bans.push(Ban { version, ..ban });
        }
        let mut lifted = Vec::new();
        while !fields.is_empty() {
            let version = fields.take()?;
            let id = fields.take()?;
            lifted.push(LiftedBan { id, version });
        }
        Ok(BanChanges {
            version,
            upto,
            reset,
            bans,
            lifted,
        })
    }
}

impl Shared {
    async fn change_bans(
        &self,
        what: &str,
        ban: Option<&Ban>,
        id: &str,
        max: usize,
    ) -> Result<i64> {
        let keys = self.client.keys();
        let mut command = script::ban().call(5);
        command
            .arg(keys.bans("list"))
            .arg(keys.bans("order"))
            .arg(keys.bans("lifted"));
        command
            .arg(keys.bans("ends"))
            .arg(keys.bans("meta"))
            .arg(what);
        command
            .arg(ban.map_or(id, |ban| &ban.id))
            .arg(ban.map(Ban::encode_to_vec).unwrap_or_default());
        command
            .arg(ban.map_or(0, |ban| ban.until_ms))
            .arg(max)
            .arg(FORGET_BATCH)
            .arg(REMEMBERED);
        let call = Call::script(self.bans_slot(), script::ban(), command).repeatable();
        if what == "forget" || self.options.wait_replicas == 0 {
            return reply::read(self.client.call(Lane::Any, call).await);
        }
        let lane = Lane::Blocking(self.options.append_workers.max(1));
        let (reply, replicated) =
            self.replicated(self.client.call(lane, self.waiting(call)).await)?;
        let reply = reply::parsed(reply)?;
        replicated.map(|()| reply)
    }

    fn bans_slot(&self) -> Slot {
        Slot::of(&self.client.keys().bans("meta"))
    }
}
