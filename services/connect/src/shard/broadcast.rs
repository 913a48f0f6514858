//! What goes to many connections at once: pushes and kicks. Each takes turns like a room's messages do, so many connections
//! at a time, one push after the other; kicks go before pushes.

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use im_wire::code::CloseCode;
use tokio::sync::oneshot;

use super::mailbox::{Match, Target};
use super::{PerEncoding, Shard};
use crate::connection::Connection;
use crate::metrics;
use crate::translate::Signal;

/// Connections written to in one turn.
const WRITES: usize = 64;
/// Connections looked at in one turn.
const LOOKS: usize = 1024;
/// Pushes that may wait for those before them. A signal may be lost: further ones are dropped and counted.
const WAITING: usize = 256;

/// A push on its way through the shard's connections.
pub(super) struct Push {
    target: Target,
    devices: HashSet<String>,
    signal: Arc<Signal>,
    encoded: PerEncoding,
    delivered: u64,
    done: oneshot::Sender<u64>,
    /// The next name or connection.
    next: usize,
}

/// The same for a kick.
pub(super) struct Kick {
    which: Match,
    code: CloseCode,
    text: String,
    closed: u64,
    done: oneshot::Sender<u64>,
    next: usize,
}

/// Those under way.
#[derive(Default)]
pub(super) struct Broadcasts {
    kicks: VecDeque<Kick>,
    pushes: VecDeque<Push>,
}

impl Shard {
    pub(crate) fn push(&self, target: Target, signal: Arc<Signal>, done: oneshot::Sender<u64>) {
        let pushes = &mut self.broadcasts.borrow_mut().pushes;
        if pushes.len() >= WAITING {
            // `done` is dropped: whoever waits for it counts nobody here.
            metrics::SIGNALS_DROPPED.inc();
            return;
        }
        let devices = match &target {
            Target::Devices(names) => names.iter().cloned().collect(),
            Target::Users(_) | Target::UserDevice(_) | Target::Everyone => HashSet::new(),
        };
        pushes.push_back(Push {
            target,
            devices,
            signal,
            encoded: PerEncoding::default(),
            delivered: 0,
            done,
            next: 0,
        });
    }

    pub(crate) fn kick(
        &self,
        which: Match,
        code: CloseCode,
        text: String,
        done: oneshot::Sender<u64>,
    ) {
        self.remember_kick(&which, code, &text);
        let mut kick = Kick {
            which,
            code,
            text,
            closed: 0,
            done,
            next: 0,
        };
        let kicks = &mut self.broadcasts.borrow_mut().kicks;
        if kicks.len() >= WAITING {
            // Never lost, and rare enough to be done at once.
            while !self.kick_some(&mut kick) {}
            let _caller_gone = kick.done.send(kick.closed);
            return;
        }
        kicks.push_back(kick);
    }

    /// One turn. Returns whether there is more to do.
    pub(crate) fn continue_broadcasts(&self) -> bool {
        let mut broadcasts = self.broadcasts.borrow_mut();
        if let Some(kick) = broadcasts.kicks.front_mut() {
            if self.kick_some(kick)
                && let Some(kick) = broadcasts.kicks.pop_front()
            {
                let _caller_gone = kick.done.send(kick.closed);
            }
        } else if let Some(push) = broadcasts.pushes.front_mut()
            && self.push_some(push)
            && let Some(push) = broadcasts.pushes.pop_front()
        {
            let _caller_gone = push.done.send(push.delivered);
        }
        !(broadcasts.kicks.is_empty() && broadcasts.pushes.is_empty())
    }

    /// Pushes under way.
    pub(super) fn pushes_waiting(&self) -> usize {
        self.broadcasts.borrow().pushes.len()
    }

    /// `true`: it has been everywhere.
    fn push_some(&self, push: &mut Push) -> bool {
        if let Target::Users(users) = &push.target {
            let users = Arc::clone(users);
            let mut left = WRITES;
            while left > 0
                && let Some(user) = users.get(push.next)
            {
                push.next += 1;
                for connection in self.of_user(user) {
                    push.give(&connection);
                    left = left.saturating_sub(1);
                }
                left = left.saturating_sub(1);
            }
            return push.next >= users.len();
        }
        if let Target::UserDevice(which) = &push.target {
            let which = Arc::clone(which);
            let connections = self.of_user(&which.0);
            let named = connections
                .iter()
                .filter(|one| one.authenticated().is_some_and(|id| id.device == which.1));
            named.for_each(|connection| push.give(connection));
            return true;
        }
        let mut writes = 0;
        let by_device = matches!(push.target, Target::Devices(_));
        let (next, over) = self.look(push.next, |connection| {
            let named = !by_device
                || !connection.device_unproven()
                    && connection
                        .authenticated()
                        .is_some_and(|one| push.devices.contains(&one.device));
            if named {
                push.give(connection);
                writes += 1;
            }
            writes < WRITES
        });
        push.next = next;
        over
    }

    fn kick_some(&self, kick: &mut Kick) -> bool {
        if !kick.which.user.is_empty() {
            for connection in self.of_user(&kick.which.user) {
                kick.end(&connection);
            }
            return true;
        }
        let (next, over) = self.look(kick.next, |connection| {
            kick.end(connection);
            true
        });
        kick.next = next;
        over
    }

    /// Shows connections from a key on, as long as `show` wants more and no more than a turn's worth. Returns the next key, and
    /// whether that was the last.
    fn look(&self, from: usize, mut show: impl FnMut(&Rc<Connection>) -> bool) -> (usize, bool) {
        let connections = self.connections.borrow();
        let end = connections.capacity();
        let mut key = from;
        while key < end && key - from < LOOKS {
            let more = connections.get(key).is_none_or(&mut show);
            key += 1;
            if !more {
                break;
            }
        }
        (key, key >= end)
    }
}

impl Push {
    fn give(&mut self, connection: &Connection) {
        let encoding = connection.encoding.get();
        let accepts = connection.accepts.borrow();
        let wanted = !encoding.is_goim() || accepts.wants(self.signal.operation);
        if wanted && connection.authenticated().is_some() {
            let bytes = self.encoded[encoding as usize]
                .get_or_insert_with(|| encoding.signal(&self.signal));
            if !bytes.is_empty() && connection.write_signal(bytes) {
                self.delivered += 1;
            }
        }
    }
}

impl Kick {
    fn end(&mut self, connection: &Connection) {
        // One that ends already is not closed by this.
        if self.which.fits(connection) && connection.ending().is_none() {
            connection.end(self.code, self.text.clone());
            self.closed += 1;
        }
    }
}
