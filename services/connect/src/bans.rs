//! Who is not let in: the node's copy of the list of bans, which it follows by asking logic several times a second, and
//! what comes of it for connections. While logic is away the last list known stays in force.
//!
//! Nobody slips through between: a new list is in force before the open connections are looked through, and a connection
//! is looked at by the list in force once it is known whose it is.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use im_proto::bans::{Applied, Bans, Kind, Who};
use im_proto::v1::{Ban, BanChanges, Fault, call, reply};
use im_wire::code::CloseCode;
use tokio_util::sync::CancellationToken;

use crate::clock::unix_ms;
use crate::connection::Connection;
use crate::downlink::router::Router;
use crate::metrics;
use crate::shard::{Order, Shard};
use crate::translate;
use crate::uplink::Logic;

/// How often logic is asked what has changed.
const EVERY: Duration = Duration::from_millis(300);
/// The longest pause between attempts while logic is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// So often one after the other logic may say that it has an older list (its processes do not learn of a change at the
/// same time) before that is believed: the store may have lost some.
const BEHIND: u32 = 20;
/// Connections looked at before others have their turn.
const AT_ONCE: usize = 256;

/// Keeps the copy as logic has it, and tells the shards of every change.
pub(crate) async fn follow(bans: Arc<Bans>, logic: Arc<dyn Logic>, router: Arc<Router>, end: CancellationToken) {
    let (mut pause, mut behind, mut heard) = (EVERY, 0, Instant::now());
    loop {
        let asked = ask(&bans, &*logic, &mut behind);
        let changed = tokio::select! {
            changed = asked => changed,
            () = end.cancelled() => return,
        };
        pause = match changed {
            Ok(changed) => {
                heard = Instant::now();
                if changed {
                    tell(&bans, &router).await;
                }
                EVERY
            }
            Err(fault) => {
                tracing::debug!(code = fault.code, "the list of bans stays as it was");
                (pause * 2).min(LONGEST_PAUSE)
            }
        };
        metrics::BANS_AGE.set(heard.elapsed().as_secs_f64());
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.9..1.0))).await;
    }
}

/// Asks until there is nothing more. Whether the list is another one now.
async fn ask(bans: &Bans, logic: &dyn Logic, behind: &mut u32) -> Result<bool, Fault> {
    loop {
        let ask = bans.known();
        let changes: BanChanges = match logic.call(Bytes::new(), "", call::Op::Bans(ask)).await? {
            reply::Result::Bans(changes) => changes,
            _ => return Err(translate::unexpected()),
        };
        if changes.version < ask.since && *behind < BEHIND {
            *behind += 1;
            return Ok(false);
        }
        *behind = 0;
        if let Applied::All { changed } = bans.apply(changes) {
            return Ok(changed);
        }
    }
}

async fn tell(bans: &Bans, router: &Router) {
    metrics::BANS.set(i64::try_from(bans.read().len()).unwrap_or(i64::MAX));
    for door in router.doors() {
        // A shard that has ended has no connections.
        let _ended = door.orders.send(Order::Bans).await;
    }
}

/// How a ban ends a connection.
fn ending(kind: Kind, ban: &Ban) -> (CloseCode, String) {
    let until = match ban.until_ms {
        0 => String::new(),
        until => format!(" until {until} (unix milliseconds)"),
    };
    match kind {
        Kind::Tokens => (CloseCode::Unauthenticated, "the token has been revoked: connect with a newer one".to_owned()),
        Kind::User => (CloseCode::Banned, format!("the user is banned here{until}")),
        Kind::UserDevice | Kind::Device => (CloseCode::Banned, format!("the device is banned here{until}")),
        Kind::Address => (CloseCode::Banned, format!("the address is banned here{until}")),
    }
}

impl Shard {
    /// Ends a connection that a ban in force is about.
    pub(crate) fn refuse_banned(&self, connection: &Connection) {
        if !self.bans.any() {
            return;
        }
        let mut who = Who { address: Some(connection.address()), ..Who::default() };
        if let Some(identity) = connection.identity.get() {
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
            for connections in self.everyone().chunks(AT_ONCE) {
                connections.iter().for_each(|connection| self.refuse_banned(connection));
                tokio::task::yield_now().await;
            }
            let again = self.sweeping.get() == Some(true);
            self.sweeping.set(again.then_some(false));
        }
    }
}
