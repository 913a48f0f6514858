//! Invitations into groups, and what users may do in a day.

use std::time::Duration;

use async_trait::async_trait;
use im_runtime::clock;
use im_wire::ids::{RoomId, UserId};

use super::error::Result;
use super::rooms::Role;

/// An invitation into a group, as the user has it who is invited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Into which.
    pub room: RoomId,
    /// By whom.
    pub by: UserId,
    /// As what.
    pub role: Role,
    /// Since when, unix milliseconds.
    pub time_ms: u64,
}

/// An invitation that is not taken ends after this.
pub(super) const INVITATION_LASTS: Duration = Duration::from_secs(30 * 24 * 3600);

impl Invitation {
    /// Whether it still holds.
    pub(super) fn holds(&self) -> bool {
        let lasts = u64::try_from(INVITATION_LASTS.as_millis()).unwrap_or(u64::MAX);
        self.time_ms.saturating_add(lasts) > clock::unix_ms()
    }
}

/// Where invitations are.
#[async_trait]
pub trait Invitations: Send + Sync + 'static {
    /// Notes an invitation for a user, in the place of one into the same room. `false`: the user has `max` already.
    async fn invite(&self, user: &UserId, invitation: Invitation, max: usize) -> Result<bool>;
    /// A user's invitations that hold, in order of room id.
    async fn invitations(&self, user: &UserId) -> Result<Vec<Invitation>>;
    /// Takes a user's invitation into a room away; whether there was one.
    async fn uninvite(&self, user: &UserId, room: &RoomId) -> Result<bool>;
}

/// Where it is counted what users do in a day.
#[async_trait]
pub trait Quotas: Send + Sync + 'static {
    /// Counts `amount` of something (a short name) for a user on a day, where no more than `limit` come together then;
    /// `false`: they would, and nothing is counted. A process that dies, or embedded is started anew, may count less.
    async fn spend(
        &self,
        user: &UserId,
        what: &'static str,
        day: u64,
        amount: u64,
        limit: u64,
    ) -> Result<bool>;
}
