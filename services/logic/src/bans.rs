//! Who is not let in: bans of users, devices and addresses, and the end of the tokens that a user had. The list lives in the
//! store; every process keeps a copy, asks for what has changed several times a second, and goes by the last one it had
//! while the store is away. Connect processes follow the copies of logic in the same way.

pub(crate) mod list;

use std::sync::Weak;
use std::time::{Duration, Instant};

use im_proto::bans::{Kind, subject};
use im_proto::v1::{Ban, KickRequest};
use im_runtime::clock;
use im_wire::code::CloseCode;

use crate::auth::grant::Grant;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::nodes::{Tally, To};
use crate::store;

/// How often the store is asked what has changed.
const EVERY: Duration = Duration::from_millis(250);
/// The longest pause between attempts while the store is away.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// How often bans that are over are removed.
const FORGET_EVERY: Duration = Duration::from_secs(10);
/// How far ahead the end of tokens may lie: clocks differ.
const AHEAD_MS: u64 = 1_000;
/// The longest reason, in bytes.
pub(crate) const MAX_REASON: usize = 512;

/// What was done about a ban.
pub(crate) struct Done {
    /// The ban.
    pub(crate) ban: Ban,
    /// Connections ended at once; more may follow within a second.
    pub(crate) closed: Tally,
}

/// A page of the list.
pub(crate) struct Page {
    pub(crate) bans: Vec<(Kind, Ban)>,
    /// Where the next one begins, if there is one.
    pub(crate) next: Option<u64>,
}

/// Keeps the copy as the store has it, as long as there is a core.
pub(crate) async fn follow(core: Weak<Core>) {
    let mut pause = EVERY;
    let mut forgot = Instant::now();
    loop {
        let Some(core) = core.upgrade() else { return };
        let mut asked = core.bans.refresh(&*core.store.bans).await;
        if asked.is_ok() && forgot.elapsed() > FORGET_EVERY {
            forgot = Instant::now();
            asked = forget(&core).await;
        }
        drop(core);
        pause = match asked {
            Ok(()) => EVERY,
            Err(error) => {
                tracing::debug!(%error, "failed to read the list of bans, will retry");
                (pause * 2).min(MAX_PAUSE)
            }
        };
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.9..1.0))).await;
    }
}

async fn forget(core: &Core) -> store::Result<()> {
    // So many steps at most; the rest has its turn in ten seconds.
    for _ in 0..100 {
        if core.store.bans.forget_bans().await? < store::FORGET_BATCH {
            break;
        }
    }
    Ok(())
}

impl Core {
    /// Notes a ban and ends the connections that it is about.
    pub(crate) async fn ban(&self, by: &Grant, ban: Ban) -> Result<Done> {
        let missing = || {
            Error::bad(
                "user",
                "is missing, and so are \"device\" and \"address\": say who is banned",
            )
        };
        let (kind, id) = subject(&ban).ok_or_else(missing)?;
        if kind == Kind::User && ban.user == by.user {
            return Err(Error::bad(
                "user",
                "is yourself: you could not take it back",
            ));
        }
        let now = clock::unix_ms();
        if ban.until_ms != 0 && ban.until_ms <= now {
            return Err(Error::bad(
                "until",
                format!(
                    "{} is over: give a later one (unix milliseconds)",
                    ban.until_ms
                ),
            ));
        }
        if ban.reason.len() > MAX_REASON {
            let bytes = ban.reason.len();
            let limit = MAX_REASON;
            return Err(Error::TooLarge {
                field: "reason",
                bytes,
                limit,
            });
        }
        let ban = Ban {
            id,
            by: by.user.clone(),
            made_ms: now,
            ..ban
        };
        let max = self.options.limits.max_bans;
        if !self.store.bans.ban(ban.clone(), max).await? {
            return Err(Error::LimitReached {
                what: "bans and revocations",
                limit: max,
            });
        }
        let action = if kind == Kind::Tokens {
            "revoke"
        } else {
            "ban"
        };
        let Ban {
            user,
            device,
            address,
            until_ms,
            issued_before_ms,
            reason,
            ..
        } = &ban;
        tracing::info!(
            target: "audit",
            action, by = by.user, user, device, address, issued_before_ms, until_ms, reason, "noted"
        );
        self.bans.refresh(&*self.store.bans).await?;
        let closed = match kind {
            Kind::User | Kind::UserDevice => self.end_banned(&ban).await,
            // Which connections these are each node finds out by itself, with its own next copy of the list.
            Kind::Device | Kind::Address | Kind::Tokens => Tally::default(),
        };
        Ok(Done { ban, closed })
    }

    /// Nodes find out by themselves within a second. This is sooner, and reaches those that do not know bans yet.
    async fn end_banned(&self, ban: &Ban) -> Tally {
        let user = ban.user.clone();
        let device = ban.device.clone();
        let code = CloseCode::Banned.number().into();
        let request = KickRequest {
            user,
            device,
            code,
            text: "banned here".to_owned(),
            ..KickRequest::default()
        };
        self.nodes.kick(To::All, request).await
    }

    /// The user's tokens issued before a moment are refused from now on; never takes back an earlier revocation.
    pub(crate) async fn revoke(
        &self,
        by: &Grant,
        user: &str,
        before_ms: Option<u64>,
        until_ms: u64,
    ) -> Result<Done> {
        let now = clock::unix_ms();
        let before = before_ms.unwrap_or(now);
        if before == 0 || before > now + AHEAD_MS {
            return Err(Error::bad(
                "before",
                "lies in the future, or is 0: give a moment that has been (unix milliseconds)",
            ));
        }
        self.bans.refresh(&*self.store.bans).await?;
        let ban = Ban {
            user: user.to_owned(),
            issued_before_ms: before,
            until_ms,
            ..Ban::default()
        };
        let id = subject(&ban).map(|(_, id)| id).unwrap_or_default();
        let earlier = self.bans.read().get(&id).cloned();
        let in_force = earlier.filter(|earlier| earlier.until_ms == 0 || earlier.until_ms > now);
        let ban = match in_force {
            Some(earlier) => Ban {
                issued_before_ms: before.max(earlier.issued_before_ms),
                until_ms: if until_ms == 0 || earlier.until_ms == 0 {
                    0
                } else {
                    until_ms.max(earlier.until_ms)
                },
                ..ban
            },
            None => ban,
        };
        self.ban(by, ban).await
    }

    /// Lifts a ban or takes back a revocation; whether there was one.
    pub(crate) async fn lift_ban(&self, by: &Grant, id: &str) -> Result<bool> {
        let lifted = self.store.bans.lift_ban(id).await?;
        if lifted {
            tracing::info!(target: "audit", action = "unban", by = by.user, ban = id, "lifted");
        }
        self.bans.refresh(&*self.store.bans).await?;
        Ok(lifted)
    }

    /// Those in force, in the order in which they were made, from behind a version.
    pub(crate) async fn list_bans(&self, after: u64, limit: usize) -> Result<Page> {
        self.bans.refresh(&*self.store.bans).await?;
        let now = clock::unix_ms();
        let book = self.bans.read();
        let in_force = book
            .after(after)
            .filter(|ban| ban.until_ms == 0 || ban.until_ms > now);
        let mut bans: Vec<(Kind, Ban)> = in_force
            .take(limit + 1)
            .filter_map(|ban| Some((subject(ban)?.0, ban.clone())))
            .collect();
        let more = bans.len() > limit;
        bans.truncate(limit);
        let next = bans.last().filter(|_| more).map(|(_, ban)| ban.version);
        Ok(Page { bans, next })
    }
}
