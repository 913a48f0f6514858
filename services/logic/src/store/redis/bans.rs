//! The list of bans: one for the cluster, in one slot, changed by one script that gives each change its version. And the key
//! of grants.

use im_proto::bans::{PAGE, REMEMBERED};
use im_proto::v1::{AskBans, Ban, BanChanges, LiftedBan};
use im_redis_bus::{Call, Lane, Slot, script};
use prost::Message as _;

use super::Shared;
use super::reply::{self, Fields};
use crate::auth::seal::Key;
use crate::store::{Error, FORGET_AT_ONCE, Result};

impl Shared {
    pub(super) async fn ban(&self, ban: &Ban, max: usize) -> Result<bool> {
        Ok(self.change_bans("put", Some(ban), "", max).await? >= 0)
    }

    pub(super) async fn lift_ban(&self, id: &str) -> Result<bool> {
        Ok(self.change_bans("lift", None, id, 0).await? > 0)
    }

    pub(super) async fn forget_bans(&self) -> Result<usize> {
        Ok(usize::try_from(self.change_bans("forget", None, "", 0).await?).unwrap_or(0))
    }

    async fn change_bans(&self, what: &str, ban: Option<&Ban>, id: &str, max: usize) -> Result<i64> {
        let keys = self.client.keys();
        let mut command = script::ban().call(5);
        command.arg(keys.bans("list")).arg(keys.bans("order")).arg(keys.bans("lifted"));
        command.arg(keys.bans("ends")).arg(keys.bans("meta")).arg(what);
        command.arg(ban.map_or(id, |ban| &ban.id)).arg(ban.map(Ban::encode_to_vec).unwrap_or_default());
        command.arg(ban.map_or(0, |ban| ban.until_ms)).arg(max).arg(FORGET_AT_ONCE).arg(REMEMBERED);
        let call = Call::script(self.bans_slot(), script::ban(), command).repeatable();
        if what == "forget" || self.options.wait_replicas == 0 {
            return reply::read(self.client.call(Lane::Any, call).await);
        }
        let lane = Lane::Blocking(self.options.append_workers.max(1));
        let (reply, replicated) = self.replicated(self.client.call(lane, self.waiting(call)).await)?;
        let reply = reply::parsed(reply)?;
        replicated.map(|()| reply)
    }

    pub(super) async fn bans(&self, ask: AskBans) -> Result<BanChanges> {
        let keys = self.client.keys();
        let mut command = script::bans().call(4);
        command.arg(keys.bans("list")).arg(keys.bans("order")).arg(keys.bans("lifted")).arg(keys.bans("meta"));
        command.arg(ask.since).arg(ask.began).arg(PAGE);
        let call = Call::script(self.bans_slot(), script::bans(), command).repeatable();
        let mut fields = Fields::of(reply::value(self.client.call(Lane::Any, call).await)?)?;
        let (version, upto) = (fields.take()?, fields.take()?);
        let reset = fields.take::<u8>()? == 1;
        let count = fields.take::<usize>()?;
        let mut bans = Vec::with_capacity(count.min(PAGE));
        for _ in 0..count {
            let (version, bytes) = (fields.take()?, fields.take::<Vec<u8>>()?);
            let ban = Ban::decode(bytes.as_slice()).map_err(|error| Error::Corrupt(format!("a ban: {error}")))?;
            bans.push(Ban { version, ..ban });
        }
        let mut lifted = Vec::new();
        while !fields.is_empty() {
            let (version, id) = (fields.take()?, fields.take()?);
            lifted.push(LiftedBan { id, version });
        }
        Ok(BanChanges { version, upto, reset, bans, lifted })
    }

    pub(super) async fn grant_key(&self, proposed: Key) -> Result<Key> {
        let key = self.client.keys().grant_key();
        let mut command = redis::cmd("SET");
        command.arg(&key).arg(&proposed).arg("NX").arg("GET");
        let call = Call::new(Slot::of(&key), command).repeatable();
        let kept: Option<Vec<u8>> = reply::read(self.client.call(Lane::Any, call).await)?;
        let Some(kept) = kept else { return Ok(proposed) };
        let bytes = kept.len();
        kept.try_into().map_err(|_| Error::Corrupt(format!("the key of grants has {bytes} bytes: remove {key}")))
    }

    fn bans_slot(&self) -> Slot {
        Slot::of(&self.client.keys().bans("meta"))
    }
}
