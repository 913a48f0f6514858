//! Who is online: connections per user, counted only while the lease of their node runs.
//!
//! What a node has stands twice: with the user, to be looked up, and with the node (`held`), to be compared. The second is
//! written first and removed last, so a node that compares it with what it has finds whatever is left behind with users.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use im_redis_bus::{Call, Lane, Slot, script};
use im_wire::ids::UserId;
use redis::Cmd;

use super::reply;
use super::{RedisStore, Shared};
use crate::store::{Asserted, Connections, Ended, Error, Presence, Result, Stray};

/// How old a connection is before a reader who finds its node unknown removes it. Nothing rests on it: what belongs to a
/// node that is only late is put back when the node asserts it.
const REMEMBERED: Duration = Duration::from_secs(600);
/// How many connections that were not named one comparison finds at most; the next round finds the others.
const STRAYS: usize = 1_000;
/// How many connections of a lost node are removed at once.
const SWEPT: usize = 1_000;

#[async_trait]
impl Connections for RedisStore {
    async fn connected(&self, presence: Presence) -> Result<()> {
        if presence.place > 0 {
            self.shared.hold(&presence.node, [&presence]).await?;
        }
        self.shared.all(vec![self.shared.note(&presence)]).await
    }

    async fn disconnected(&self, ended: Ended) -> Result<()> {
        let Ended {
            conn,
            user,
            node,
            place,
            at_ms,
        } = ended;
        let user = match user {
            Some(user) => user,
            None => match self.shared.who_is_at(&node, place, &conn).await? {
                Some(user) => user,
                // Its presence never began, or has ended.
                None => return Ok(()),
            },
        };
        let seen = self.shared.client.keys().user_seen(&user);
        let mut note = script::seen().call(1);
        note.arg(&seen).arg(at_ms);
        let note = Call::script(Slot::of(&seen), script::seen(), note).repeatable();
        self.shared
            .all(vec![self.shared.erase(&user, [conn.as_str()]), note])
            .await?;
        if node.is_empty() {
            Ok(())
        } else {
            self.shared.let_go(&node, &[member(&conn, &user)]).await
        }
    }

    /// Reads only, where everything is as it is named.
    async fn assert_presence(
        &self,
        node: &str,
        places: Range<u64>,
        named: Vec<Presence>,
    ) -> Result<Asserted> {
        let limit = named.len() + STRAYS;
        let looks = named.iter().map(|one| {
            let key = self.shared.client.keys().user_presence(&one.user);
            let mut command = redis::cmd("HEXISTS");
            command.arg(&key).arg(&one.conn);
            call(&key, command)
        });
        let calls = std::iter::once(self.shared.held(node, places, limit))
            .chain(looks)
            .collect();
        let mut replies = self.shared.client.calls(Lane::Any, calls).await.into_iter();
        let nothing = || Err(im_redis_bus::Error::Lost("too few replies".to_owned()));
        let held: Vec<String> = reply::read(replies.next().unwrap_or_else(nothing))?;
        let mut held: HashSet<String> = held.into_iter().collect();
        let mut missing = Vec::new();
        for one in &named {
            let noted: bool = reply::read(replies.next().unwrap_or_else(nothing))?;
            let is_held = held.remove(&member(&one.conn, &one.user));
            if !noted || !is_held {
                missing.push((one, noted));
            }
        }
        if !missing.is_empty() {
            self.shared
                .hold(node, missing.iter().map(|(one, _)| *one))
                .await?;
            self.shared
                .all(
                    missing
                        .iter()
                        .filter(|(_, noted)| !noted)
                        .map(|(one, _)| self.shared.note(one))
                        .collect(),
                )
                .await?;
        }
        let restored = missing.iter().map(|(one, _)| Stray {
            conn: one.conn.clone(),
            user: one.user.clone(),
        });
        Ok(Asserted {
            restored: restored.collect(),
            strays: held.iter().filter_map(|text| stray(text)).collect(),
        })
    }

    async fn presence(&self, users: &[UserId]) -> Result<Vec<(Vec<Presence>, u64)>> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let leases = self.shared.leases().await?;
        let living: HashSet<&str> = leases
            .living
            .iter()
            .map(|(node, _)| node.as_str())
            .collect();
        let calls = users.iter().flat_map(|user| {
            let key = self.shared.client.keys().user_presence(user);
            let seen = self.shared.client.keys().user_seen(user);
            let mut all = redis::cmd("HGETALL");
            let mut last = redis::cmd("GET");
            all.arg(&key);
            last.arg(&seen);
            [
                Call::new(Slot::of(&key), all).repeatable(),
                Call::new(Slot::of(&seen), last).repeatable(),
            ]
        });
        let mut replies = self
            .shared
            .client
            .calls(Lane::Any, calls.collect())
            .await
            .into_iter();
        let mut next = || {
            replies
                .next()
                .unwrap_or_else(|| Err(im_redis_bus::Error::Lost("too few replies".to_owned())))
        };
        let mut found = Vec::with_capacity(users.len());
        for user in users {
            let all: HashMap<String, String> = reply::read(next())?;
            let seen: Option<u64> = reply::read(next())?;
            let (mut shown, hidden): (Vec<Presence>, Vec<Presence>) = all
                .into_iter()
                .map(|(conn, text)| entry(user, conn, &text))
                .collect::<Result<Vec<_>>>()?
                .into_iter()
                .partition(|one| living.contains(one.node.as_str()));
            shown.sort_by(|one, other| {
                (one.since_ms, &one.conn).cmp(&(other.since_ms, &other.conn))
            });
            self.shared
                .forget(
                    user,
                    hidden
                        .iter()
                        .filter(|one| !leases.silent.contains(&one.node)),
                )
                .await;
            found.push((shown, seen.unwrap_or(0)));
        }
        Ok(found)
    }
}

impl Shared {
    /// With the node.
    async fn hold(&self, node: &str, held: impl IntoIterator<Item = &Presence>) -> Result<()> {
        let key = self.client.keys().node_held(node);
        let mut command = redis::cmd("ZADD");
        command.arg(&key);
        for one in held {
            command.arg(one.place).arg(member(&one.conn, &one.user));
        }
        self.all(vec![call(&key, command)]).await
    }

    /// With the user.
    fn note(&self, presence: &Presence) -> Call {
        let key = self.client.keys().user_presence(&presence.user);
        let Presence {
            device,
            conn,
            node,
            since_ms,
            ..
        } = presence;
        let mut command = redis::cmd("HSET");
        command
            .arg(&key)
            .arg(conn)
            .arg(format!("{since_ms}\0{node}\0{device}"));
        call(&key, command)
    }

    fn erase<'a>(&self, user: &UserId, connections: impl IntoIterator<Item = &'a str>) -> Call {
        let key = self.client.keys().user_presence(user);
        let mut command = redis::cmd("HDEL");
        command.arg(&key);
        for conn in connections {
            command.arg(conn);
        }
        call(&key, command)
    }

    async fn let_go(&self, node: &str, members: &[String]) -> Result<()> {
        let key = self.client.keys().node_held(node);
        let mut command = redis::cmd("ZREM");
        command.arg(&key).arg(members);
        self.all(vec![call(&key, command)]).await
    }

    async fn who_is_at(&self, node: &str, place: u64, conn: &str) -> Result<Option<UserId>> {
        if node.is_empty() || place == 0 {
            return Ok(None);
        }
        let held = self
            .client
            .call(Lane::Any, self.held(node, place..place + 1, STRAYS))
            .await;
        let held: Vec<String> = reply::read(held)?;
        let mut strays = held.iter().filter_map(|text| stray(text));
        Ok(strays
            .find(|stray| stray.conn == conn)
            .map(|stray| stray.user))
    }

    fn held(&self, node: &str, places: Range<u64>, limit: usize) -> Call {
        let key = self.client.keys().node_held(node);
        let mut command = redis::cmd("ZRANGEBYSCORE");
        command
            .arg(&key)
            .arg(places.start)
            .arg(format!("({}", places.end))
            .arg("LIMIT")
            .arg(0)
            .arg(limit);
        call(&key, command)
    }

    /// Removes some of what a lost node has left behind. `true`: nothing is left.
    pub(super) async fn sweep(&self, node: &str) -> Result<bool> {
        let key = self.client.keys().node_held(node);
        let mut command = redis::cmd("ZRANGE");
        command.arg(&key).arg(0).arg(SWEPT - 1);
        let held: Vec<String> =
            reply::read(self.client.call(Lane::Any, call(&key, command)).await)?;
        if held.is_empty() {
            return Ok(true);
        }
        let left: Vec<Stray> = held.iter().filter_map(|text| stray(text)).collect();
        self.all(
            left.iter()
                .map(|one| self.erase(&one.user, [one.conn.as_str()]))
                .collect(),
        )
        .await?;
        self.let_go(node, &held).await?;
        Ok(held.len() < SWEPT)
    }

    /// Calls whose replies do not matter.
    pub(super) async fn all(&self, calls: Vec<Call>) -> Result<()> {
        let outcomes = self.client.calls(Lane::Any, calls).await;
        outcomes
            .into_iter()
            .try_for_each(|outcome| reply::value(outcome).map(drop))
    }

    /// Removes connections of nodes that are long gone. Nothing rests on it: it is tried again when they are next seen.
    async fn forget(&self, user: &UserId, gone: impl Iterator<Item = &Presence>) {
        // A connection may be noted before its node's first beat.
        let old = im_runtime::clock::unix()
            .saturating_sub(REMEMBERED)
            .as_millis() as u64;
        let gone: Vec<&str> = gone
            .filter(|one| one.since_ms < old)
            .map(|one| one.conn.as_str())
            .collect();
        if !gone.is_empty()
            && let Err(error) = self.all(vec![self.erase(user, gone)]).await
        {
            tracing::debug!(%user, %error, "failed to remove connections of lost nodes, will retry");
        }
    }
}

/// Each of them may be made twice.
fn call(key: &str, command: Cmd) -> Call {
    Call::new(Slot::of(key), command).repeatable()
}

/// "connection NUL user": neither can hold a NUL.
fn member(conn: &str, user: &UserId) -> String {
    format!("{conn}\0{user}")
}

fn stray(member: &str) -> Option<Stray> {
    let (conn, user) = member.split_once('\0')?;
    Some(Stray {
        conn: conn.to_owned(),
        user: UserId::known(user).ok()?,
    })
}

/// "since NUL node NUL device".
fn entry(user: &UserId, conn: String, text: &str) -> Result<Presence> {
    let parts = text.splitn(3, '\0').collect::<Vec<_>>();
    match parts.as_slice() {
        [since, node, device] if since.parse::<u64>().is_ok() => Ok(Presence {
            user: user.clone(),
            device: (*device).to_owned(),
            conn,
            node: (*node).to_owned(),
            since_ms: since.parse().unwrap_or(0),
            place: 0,
        }),
        _ => Err(Error::Corrupt(format!("the connection {conn:?} of {user}"))),
    }
}
