//! Who is not let in: the node's copy of the list of bans, which it follows by asking logic several times a second, and
//! what comes of it for connections. While logic is away the last list known stays in force.
//!
//! Nobody slips through between: a new list is in force before the open connections are looked through, and a connection
//! is looked at by the list in force once it is known whose it is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use im_proto::bans::{Applied, Bans};
use im_proto::v1::{BanChanges, Fault, call, reply};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::downlink::router::Router;
use crate::metrics;
use crate::shard::mailbox::Command;
use crate::translate;
use crate::uplink::Logic;

/// How often logic is asked what has changed.
const EVERY: Duration = Duration::from_millis(300);
/// The longest pause between attempts while logic is away.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// So often one after the other logic may say that it has an older list (its processes do not learn of a change at the
/// same time) before that is believed: the store may have lost some.
const BEHIND: u32 = 20;

/// Keeps the copy as logic has it, and tells the shards of every change.
pub(crate) async fn follow(
    bans: Arc<Bans>,
    logic: Arc<dyn Logic>,
    router: Arc<Router>,
    end: CancellationToken,
) {
    let mut pause = EVERY;
    let mut behind = 0;
    let mut heard = Instant::now();
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
                tracing::debug!(
                    code = fault.code,
                    "cannot refresh the list of bans, keeping the last one"
                );
                (pause * 2).min(MAX_PAUSE)
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
    for shard in router.shards() {
        // A shard that has ended has no connections.
        let _ended = shard.commands.send(Command::Bans).await;
    }
}
