//! Kicks of a moment ago: they are also about connections that were just being authenticated when they came, whose user was
//! not known yet.

use std::collections::VecDeque;
use std::time::Duration;

use im_wire::code::CloseCode;
use tokio::time::Instant;

use super::Shard;
use super::mailbox::Match;
use crate::connection::Connection;

/// Kicks that are remembered at most; the oldest go first.
const MAX_REMEMBERED: usize = 1_024;
/// How long an auth may be under way: no call takes longer.
const MEMORY: Duration = Duration::from_secs(60);

/// One kick.
pub(crate) struct Kick {
    at: Instant,
    which: Match,
    code: CloseCode,
    text: String,
}

impl Shard {
    /// Remembers a kick for those that are just coming.
    pub(super) fn remember_kick(&self, which: &Match, code: CloseCode, text: &str) {
        let mut kicks: std::cell::RefMut<'_, VecDeque<Kick>> = self.kicks.borrow_mut();
        let at = Instant::now();
        while kicks.len() >= MAX_REMEMBERED
            || kicks
                .front()
                .is_some_and(|kick| at.duration_since(kick.at) > MEMORY)
        {
            kicks.pop_front();
        }
        kicks.push_back(Kick {
            at,
            which: which.clone(),
            code,
            text: text.to_owned(),
        });
    }

    /// Ends a connection that was kicked since then, before anybody knew whose it is.
    pub(crate) fn apply_kicks(&self, connection: &Connection, since: Instant) {
        let kicks = self.kicks.borrow();
        if let Some(kick) = kicks
            .iter()
            .rev()
            .take_while(|kick| kick.at >= since)
            .find(|kick| kick.which.fits(connection))
        {
            connection.end(kick.code, kick.text.as_str());
        }
    }
}
