//! What the list of bans in force means for this shard's connections.

use std::rc::Rc;

use im_proto::bans::{Kind, Who};
use im_proto::v1::Ban;
use im_runtime::clock::unix_ms;
use im_wire::code::CloseCode;

use super::Shard;
use crate::connection::Connection;
use crate::metrics;

/// Connections looked at before others have their turn.
const BATCH: usize = 256;

/// How a ban ends a connection.
fn ending(kind: Kind, ban: &Ban) -> (CloseCode, String) {
    let until = match ban.until_ms {
        0 => String::new(),
        until => format!(" until {until} (unix milliseconds)"),
    };
    match kind {
        Kind::Tokens => (
            CloseCode::Unauthenticated,
            "the token has been revoked: connect with a newer one".to_owned(),
        ),
        Kind::User => (CloseCode::Banned, format!("the user is banned here{until}")),
        Kind::UserDevice | Kind::Device => (
            CloseCode::Banned,
            format!("the device is banned here{until}"),
        ),
        Kind::Address => (
            CloseCode::Banned,
            format!("the address is banned here{until}"),
        ),
    }
}

impl Shard {
    /// Ends a connection that a ban in force is about.
    pub(crate) fn refuse_banned(&self, connection: &Connection) {
        if !self.bans.any() {
            return;
        }
        let mut who = Who {
            address: Some(connection.address()),
            ..Who::default()
        };
        if let Some(identity) = connection.authenticated() {
            who.user = identity.user.as_str();
            who.device = &identity.device;
            who.device_unproven = identity.token.get().device_unproven;
            who.issued_ms = identity.token.get().issued_ms;
        }
        if let Some((kind, ban)) = self.bans.refuses(&who, unix_ms)
            && connection.ending().is_none()
        {
            metrics::BANNED.with_label_values(&[kind.name()]).inc();
            let (code, text) = ending(kind, &ban);
            connection.end(code, text);
        }
    }

    /// The list has changed: looks through the connections that are open, some at a time.
    pub(crate) fn look_for_banned(self: &Rc<Self>) {
        let under_way = self.sweeping.replace(Some(self.sweeping.get().is_some()));
        if under_way.is_none() {
            tokio::task::spawn_local(Rc::clone(self).sweep());
        }
    }

    async fn sweep(self: Rc<Self>) {
        // Once more where the list has changed meanwhile.
        while self.sweeping.get().is_some() {
            for connections in self.everyone().chunks(BATCH) {
                connections
                    .iter()
                    .for_each(|connection| self.refuse_banned(connection));
                tokio::task::yield_now().await;
            }
            let again = self.sweeping.get() == Some(true);
            self.sweeping.set(again.then_some(false));
        }
    }
}
