//! How the rest of the process reaches a shard: a bounded queue of things to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use im_runtime::limits::queue::{AROUND, Receiver, Sender, Weigh, queue};
use im_wire::code::CloseCode;
use im_wire::ids::{RoomId, Seq};
use im_wire::native::Message;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::connection::Connection;
use crate::metrics;
use crate::translate::Signal;

/// Whom a push is for.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Users(Arc<Vec<String>>),
    /// Of whichever user, where the token names the device.
    Devices(Arc<Vec<String>>),
    UserDevice(Arc<(String, String)>),
    Everyone,
}

/// Which connections are to end: all that are set must match, `device` alone only where the token names it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Match {
    pub(crate) user: String,
    pub(crate) device: String,
    pub(crate) conn: String,
}

impl Match {
    /// Whether the connection is meant. One that is not authenticated yet is nobody's. A client may call its device what it
    /// likes: by a device alone only those are meant whose token names it.
    pub(super) fn fits(&self, connection: &Connection) -> bool {
        if self.user.is_empty() && self.conn.is_empty() && connection.device_unproven() {
            return false;
        }
        let fits = |wanted: &str, had: &str| wanted.is_empty() || wanted == had;
        connection.authenticated().is_some_and(|identity| {
            let user = fits(&self.user, identity.user.as_str());
            user && fits(&self.device, &identity.device) && fits(&self.conn, &connection.id)
        })
    }
}

/// What has become of a user's rooms.
#[derive(Debug, Clone)]
pub(crate) struct RoomsChange {
    pub(crate) user: String,
    pub(crate) added: Vec<RoomId>,
    pub(crate) removed: Vec<RoomId>,
    /// Where it stands in the room's log; 0: not known.
    pub(crate) seq: Seq,
}

/// How a drain goes, for one shard.
#[derive(Debug, Clone)]
pub(crate) struct DrainPlan {
    /// Clients told per second.
    pub(crate) per_second: f64,
    /// How long new clients are still accepted.
    pub(crate) accept: Duration,
    /// When the rest is closed.
    pub(crate) deadline: Instant,
    /// Addresses to move to, best first.
    pub(crate) to: Arc<Vec<String>>,
}

/// One thing for a shard to do.
#[derive(Debug)]
pub(crate) enum Command {
    Logged(Arc<Message>),
    Signal {
        room: RoomId,
        signal: Arc<Signal>,
        to_user: String,
    },
    Subscribed(RoomId),
    Push {
        target: Target,
        signal: Arc<Signal>,
        done: oneshot::Sender<u64>,
    },
    Kick {
        which: Match,
        code: CloseCode,
        text: String,
        done: oneshot::Sender<u64>,
    },
    RoomsChanged {
        change: Arc<RoomsChange>,
        done: oneshot::Sender<u64>,
    },
    Compare,
    /// The list of bans is another one.
    Bans,
    Drain(DrainPlan),
}

impl Weigh for Command {
    fn bytes(&self) -> usize {
        match self {
            Self::Logged(message) => AROUND + message.body.bytes().len(),
            Self::Signal { signal, .. } => AROUND + signal.body.bytes().len(),
            _ => 0,
        }
    }
}

/// One shard's queue, seen from outside.
pub(crate) struct ShardHandle {
    pub(crate) commands: Sender<Command>,
    pub(crate) possibly_lost: Arc<AtomicBool>,
}

impl ShardHandle {
    /// Events are dropped where the queue is full, by their number or their bytes; the shard compares its rooms then.
    pub(crate) fn event(&self, command: Command) {
        if self.commands.try_send(command).is_err() {
            metrics::SHARD_QUEUE_FULL.inc();
            self.possibly_lost.store(true, Ordering::Release);
        }
    }
}

/// The shard's end of its queue.
pub(crate) struct Mailbox {
    pub(crate) commands: Receiver<Command>,
    /// Events were dropped because the queue was full.
    pub(crate) possibly_lost: Arc<AtomicBool>,
}

/// A queue of so many places, for so many bytes.
pub(crate) fn open(places: usize, bytes: usize) -> (ShardHandle, Mailbox) {
    let (sender, commands) = queue(places, bytes);
    let possibly_lost = Arc::new(AtomicBool::new(false));
    (
        ShardHandle {
            commands: sender,
            possibly_lost: Arc::clone(&possibly_lost),
        },
        Mailbox {
            commands,
            possibly_lost,
        },
    )
}

#[cfg(test)]
mod tests {
    use im_wire::native::Body;

    use super::*;

    #[test]
    fn a_shards_queue_is_bounded_in_bytes_and_a_loss_is_told() {
        let (commands, mut mailbox) = queue(1_000, 1 << 20);
        let possibly_lost = Arc::new(AtomicBool::new(false));
        let shard = ShardHandle {
            commands,
            possibly_lost: Arc::clone(&possibly_lost),
        };
        let message = |length: usize| {
            let room = RoomId::new("r").unwrap();
            let kind = "text".to_owned();
            let (id, from, client_id) = Default::default();
            let body = Body::Binary(vec![0; length].into());
            Command::Logged(Arc::new(Message {
                room,
                epoch: 1,
                seq: 1,
                id,
                from,
                client_id,
                kind,
                body,
                time_ms: 0,
            }))
        };
        for _ in 0..100 {
            shard.event(message(64 << 10));
        }
        let mut take_all = || std::iter::from_fn(|| mailbox.try_recv().ok()).count();
        assert_eq!(take_all(), 15, "as many as the bytes allow");
        assert!(
            possibly_lost.load(Ordering::Relaxed),
            "the shard compares its rooms"
        );
        (0..2_000).for_each(|_| shard.event(message(10)));
        assert_eq!(take_all(), 1_000, "and as many as there are places for");
    }
}
