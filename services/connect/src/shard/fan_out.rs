//! From a room's new items to its members' sockets: one encoding per dialect in use, shared, written at once where the
//! socket takes it.

use std::rc::Rc;

use im_wire::ids::{RoomId, Seq};
use im_wire::native::ServerOp;
use serde_json::Value;
use tokio::time::Instant;

use super::{PerEncoding, Shard};
use crate::connection::Connection;
use crate::hub::{Item, Member, Next, Part, Turn};
use crate::metrics;
use crate::translate::Signal;

/// How many members are written to before others have their turn: about half a millisecond's worth.
const PART: usize = 64;

/// The type of the entry that says that a member is none any more.
const LEAVE: &str = "im.leave";

/// The type of the entry that says that there is no such room any more: everybody's departure.
const DELETE: &str = "im.delete";
/// Why its subscriptions end, then.
pub(crate) const DELETED: &str = "deleted";

/// A member that the log says has left.
struct Departure {
    room: RoomId,
    /// `None`: everybody.
    user: Option<String>,
    seq: Seq,
    reason: &'static str,
}

/// Whose rights end with what is delivered in one turn.
#[derive(Default)]
struct Departures {
    all: Vec<Departure>,
    /// Members that have been told that the room was deleted.
    told: Vec<(RoomId, Member)>,
}

impl Shard {
    /// Writes what the hub has put in order to the rooms' live members, so far as it takes no longer than others may wait.
    pub(crate) fn deliver_some(&self) -> Next {
        let now = Instant::now();
        let hold = self.load.borrow_mut().hold(now, self.options.coalesce);
        let turn = Turn {
            members: PART,
            now,
            hold,
        };
        let mut departures = Departures::default();
        let next = self
            .hub
            .borrow_mut()
            .deliver(turn, |room, part| self.write(room, part, &mut departures));
        self.evict(departures);
        self.load.borrow_mut().spent(now.elapsed());
        next
    }

    fn write(&self, room: &RoomId, part: Part<'_>, departures: &mut Departures) {
        let Part {
            members,
            items,
            last,
        } = part;
        let connections = self.connections.borrow();
        let (mut encoded, mut without_signals) = (PerEncoding::default(), PerEncoding::default());
        let signals = items
            .iter()
            .filter(|item| matches!(item, Item::Signal(_)))
            .count();
        // Rare: somebody leaves, has left with a batch of this very turn, or the log has lost something.
        let leaving = items.iter().any(tells_of_rights);
        let left: Vec<&Departure> = departures
            .all
            .iter()
            .filter(|departure| departure.room == *room)
            .collect();
        let ends = leaving && items.iter().any(is_end);
        for member in members {
            let Some(connection) = connections.get(*member as usize) else {
                continue;
            };
            let is_told = || {
                departures
                    .told
                    .iter()
                    .any(|(of, told)| told == member && of == room)
            };
            if left
                .iter()
                .any(|left| left.user.is_some() && Self::is_own(connection, left))
                || is_told()
            {
                continue;
            }
            let encoding = connection.encoding.get();
            let all = signals == 0 || connection.takes_signals();
            if leaving && let Some(end) = self.note_rights(connection, room, items) {
                connection.write(&encoding.items(room, &items[..end], all));
                continue;
            }
            let encoded = if all {
                &mut encoded
            } else {
                &mut without_signals
            };
            let bytes =
                encoded[encoding as usize].get_or_insert_with(|| encoding.items(room, items, all));
            connection.write(bytes);
            if !all {
                metrics::SIGNALS_DROPPED.inc_by(signals as u64);
            }
        }
        if ends {
            departures
                .told
                .extend(members.iter().map(|member| (room.clone(), *member)));
        }
        if last {
            departures
                .all
                .extend(items.iter().filter_map(|item| departure(room, item)));
            metrics::FAN_OUTS.inc();
        }
        metrics::publish_writes();
        metrics::DELIVERIES.inc_by((members.len() * (items.len() - signals)) as u64);
    }

    /// Tells one member that catches up.
    pub(super) fn tell(&self, room: &RoomId, member: Member, items: &[Item]) {
        let Some(connection) = self.connection(member) else {
            return;
        };
        let mut items = items;
        let mut reason = None;
        if items.iter().any(tells_of_rights)
            && let Some(end) = self.note_rights(&connection, room, items)
        {
            items = &items[..end];
            reason = items
                .last()
                .and_then(|item| departure(room, item))
                .map(|departure| departure.reason);
        }
        connection.write(&connection.encoding.get().items(room, items, true));
        metrics::DELIVERIES.inc_by(items.len() as u64);
        if let Some(reason) = reason {
            self.drop_room(&connection, room, reason);
        }
    }

    /// Whether it is the end of what the connection hears there.
    fn is_own(connection: &Connection, departure: &Departure) -> bool {
        // The end of a room is everybody's who is handed it.
        let Some(user) = &departure.user else {
            return true;
        };
        connection
            .authenticated()
            .is_some_and(|own| own.user.as_str() == user)
            && Self::is_news(connection, &departure.room, departure.seq)
    }

    /// What these items say of the connection's right to hear the room. Returns how many of them it may have: its user's
    /// departure is the last.
    fn note_rights(
        &self,
        connection: &Rc<Connection>,
        room: &RoomId,
        items: &[Item],
    ) -> Option<usize> {
        for (at, item) in items.iter().enumerate() {
            match item {
                Item::Reset(place) => {
                    connection.reset(room, place.seq);
                    self.recheck_soon(connection, room);
                }
                // What is gone may have told of the user.
                Item::Truncated { .. } => self.recheck_soon(connection, room),
                _ => {
                    if departure(room, item)
                        .is_some_and(|departure| Self::is_own(connection, &departure))
                    {
                        return Some(at + 1);
                    }
                }
            }
        }
        None
    }

    /// A signal to one user's connections that hear the room. It says how things stand now, so it waits for nothing that the
    /// room still has to deliver.
    pub(super) fn signal_to(&self, room: &RoomId, signal: &Signal, user: &str) {
        let connections = self.of_user(user);
        let mut hearing = connections
            .iter()
            .filter(|one| one.rooms.borrow().contains_key(room))
            .peekable();
        if hearing.peek().is_none() {
            return;
        }
        let state = read_state(signal);
        for connection in hearing {
            let encoding = connection.encoding.get();
            let bytes = match &state {
                Some(op) if encoding.is_native() => encoding.response(0, op.clone()),
                _ => encoding.signal(signal),
            };
            connection.write_signal(&bytes);
        }
    }

    fn evict(&self, departures: Departures) {
        for (room, member) in departures.told {
            if let Some(connection) = self.connection(member) {
                self.drop_room(&connection, &room, DELETED);
            }
        }
        for Departure {
            room,
            user,
            seq,
            reason,
        } in departures.all
        {
            let Some(user) = user else {
                // Whoever catches up finds out from the log. Answers under way may be older than this.
                self.connections
                    .borrow()
                    .iter()
                    .for_each(|(_, connection)| connection.note_end(&room, seq));
                continue;
            };
            for connection in self.of_user(&user) {
                connection.note_end(&room, seq);
                if Self::is_news(&connection, &room, seq) {
                    self.drop_room(&connection, &room, reason);
                }
            }
        }
    }

    /// The connection stops hearing a room that its user is no longer in, and is told.
    pub(crate) fn drop_room(&self, connection: &Connection, room: &RoomId, reason: &str) {
        if connection.forget(room) {
            self.hub
                .borrow_mut()
                .leave(room, connection.key, Instant::now());
            self.questions.borrow_mut().leave(room, connection.key);
            self.count_online(connection, room, false);
            if reason == DELETED {
                // Made again, it stands in the user's list as if nothing had been: that looks as it did before.
                connection.list_digest.set(0);
            }
            let op = ServerOp::RoomChanged {
                room: room.clone(),
                subscribed: false,
                reason: reason.to_owned(),
            };
            connection.write(&connection.encoding.get().response(0, op));
        }
    }
}

/// Whether an item may change what somebody may hear.
fn tells_of_rights(item: &Item) -> bool {
    match item {
        Item::Message(message) => matches!(message.kind.as_str(), LEAVE | DELETE),
        Item::Reset(_) | Item::Truncated { .. } => true,
        Item::Signal(_) => false,
    }
}

/// Whether it is a room's last entry.
fn is_end(item: &Item) -> bool {
    matches!(item, Item::Message(message) if message.kind == DELETE)
}

/// Reads `im.leave` entries, whose body is `{"user", "by"}`, and `im.delete`.
fn departure(room: &RoomId, item: &Item) -> Option<Departure> {
    let Item::Message(message) = item else {
        return None;
    };
    if message.kind == DELETE {
        return Some(Departure {
            room: room.clone(),
            user: None,
            seq: message.seq,
            reason: DELETED,
        });
    }
    if message.kind != LEAVE {
        return None;
    }
    let body: Value = serde_json::from_slice(message.body.bytes()).ok()?;
    let user = body.get("user")?.as_str()?.to_owned();
    let reason = if body.get("by").and_then(Value::as_str) == Some(&user) {
        "left"
    } else {
        "kicked"
    };
    Some(Departure {
        room: room.clone(),
        user: Some(user),
        seq: message.seq,
        reason,
    })
}

/// A read position that moved on another device, which logic sends as a signal to the user.
fn read_state(signal: &Signal) -> Option<ServerOp> {
    if signal.kind != "read" || !signal.from.is_empty() {
        return None;
    }
    let body: Value = serde_json::from_slice(signal.body.bytes()).ok()?;
    let number = |name: &str| body.get(name).and_then(Value::as_u64);
    let room = RoomId::new(&signal.room).ok()?;
    Some(ServerOp::ReadState {
        room,
        read: number("read")?,
        head: number("head")?,
        unread: number("unread")?,
    })
}
