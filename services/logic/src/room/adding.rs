//! Whom a user may bring into groups, and how many in a day. The scope admin may bring anybody, and any number.

use futures::future::try_join_all;
use im_runtime::clock;
use im_wire::ids::{RoomId, UserId};

use crate::auth::grant::Grant;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::options::AddPolicy;
use crate::store::Slice;

const DAY_MS: u64 = 24 * 3600 * 1000;
/// Direct rooms looked at at the same time.
const CONCURRENCY: usize = 16;
/// Among so many of a direct room's last messages one of somebody's makes them a contact.
const LOOK: usize = 50;

/// What becomes of those whom somebody brings into a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Brings {
    /// They are members.
    Members,
    /// They are asked.
    Invited,
}

impl Core {
    /// Whether and how the caller may bring these others into a group; `field` is where the request names them.
    pub(crate) async fn may_bring(
        &self,
        who: &Grant,
        others: &[UserId],
        field: &'static str,
    ) -> Result<Brings> {
        if who.admin || others.is_empty() {
            return Ok(Brings::Members);
        }
        match self.options.limits.group_add_policy {
            AddPolicy::Anyone => Ok(Brings::Members),
            AddPolicy::Invitation => Ok(Brings::Invited),
            AddPolicy::Admins => Err(Error::NotAllowed {
                field,
                problem: "only tokens with the scope \"admin\" make others members of groups here",
            }),
            AddPolicy::Contacts => {
                let user = who.user()?;
                let problem = "names somebody who has neither spoken nor read in a direct room with you: only such contacts may \
                     be made members";
                for some in others.chunks(CONCURRENCY) {
                    let known =
                        try_join_all(some.iter().map(|other| self.is_contact(&user, other)))
                            .await?;
                    if known.contains(&false) {
                        return Err(Error::NotAllowed { field, problem });
                    }
                }
                Ok(Brings::Members)
            }
        }
    }

    /// Guests are in no group, whoever brings them.
    pub(crate) fn no_guests(&self, users: &[UserId], field: &'static str) -> Result<()> {
        let prefix = self.options.auth.guest_prefix.as_str();
        if !prefix.is_empty() && users.iter().any(|user| user.as_str().starts_with(prefix)) {
            return Err(Error::NotAllowed {
                field,
                problem: "names a guest: guests use open rooms only",
            });
        }
        Ok(())
    }

    /// Whether the other has taken part in a direct room with the user. Being written to is not enough: anybody can write.
    async fn is_contact(&self, user: &UserId, other: &UserId) -> Result<bool> {
        let Ok(room) = RoomId::direct(user, other) else {
            return Ok(true);
        };
        let views = self
            .store
            .rooms
            .views(std::slice::from_ref(&room), other)
            .await?;
        let Some(view) = views.into_iter().next().flatten() else {
            return Ok(false);
        };
        if view.read > 0 {
            return Ok(true);
        }
        let page = self.store.history.page(&room, Slice::Latest, LOOK).await?;
        Ok(page
            .entries
            .iter()
            .filter_map(|one| one.entry.as_ref())
            .any(|entry| entry.from == other.as_str()))
    }

    /// Counts memberships that the caller gives to others.
    pub(crate) async fn spend_adds(&self, who: &Grant, others: usize) -> Result<()> {
        let limit = self.options.limits.user_adds_per_day;
        self.spend(
            who,
            "adds",
            others as u64,
            limit,
            "memberships that you give in a day",
        )
        .await
    }

    /// Counts a group that the caller makes.
    pub(crate) async fn spend_group(&self, who: &Grant) -> Result<()> {
        let limit = self.options.limits.user_groups_per_day;
        self.spend(who, "groups", 1, limit, "groups that you make in a day")
            .await
    }

    async fn spend(
        &self,
        who: &Grant,
        name: &'static str,
        amount: u64,
        limit: u64,
        what: &'static str,
    ) -> Result<()> {
        if who.admin || limit == 0 || amount == 0 {
            return Ok(());
        }
        let day = clock::unix_ms() / DAY_MS;
        if self
            .store
            .quotas
            .spend(&who.user()?, name, day, amount, limit)
            .await?
        {
            return Ok(());
        }
        Err(Error::LimitReached {
            what,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
        })
    }
}
