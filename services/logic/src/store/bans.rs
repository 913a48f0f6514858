//! The list of bans, and the key of grants.

use async_trait::async_trait;
use im_proto::v1::{AskBans, Ban, BanChanges};

use super::error::Result;

/// Bans that are over and are removed in one step at most.
pub const FORGET_BATCH: usize = 100;

/// Where the list of bans is.
#[async_trait]
pub trait Bans: Send + Sync + 'static {
    /// Notes a ban in the place of one of the same id and gives it a version. `false`: there are `max` already.
    async fn ban(&self, ban: Ban, max: usize) -> Result<bool>;
    /// Lifts the ban of this id; whether there was one.
    async fn lift_ban(&self, id: &str) -> Result<bool>;
    /// Removes bans that are over, [`FORGET_BATCH`] at most; how many. A ban that is over refuses nobody before that.
    async fn forget_bans(&self) -> Result<usize>;
    /// What has changed in the list of bans after a version.
    async fn bans(&self, ask: AskBans) -> Result<BanChanges>;
}

/// A key under which grants are sealed.
pub type GrantKey = [u8; 32];

/// Where the key of grants is.
#[async_trait]
pub trait GrantKeys: Send + Sync + 'static {
    /// The key of grants: the one that is kept, or this one, which is kept from now on.
    async fn grant_key(&self, proposed: GrantKey) -> Result<GrantKey>;
}
