//! The names of keys and channels. No other file writes one.
//!
//! ```text
//! im:r:{ROOM}:meta      hash    kind, head, epoch, …: see scripts/room.lua
//! im:r:{ROOM}:log       stream  <seq>-0 -> t: time ms, e: Entry
//! im:r:{ROOM}:members   hash    user -> "role:joined"
//! im:r:{ROOM}:order     zset    users of a group, all with score 0: sorted by bytes
//! im:r:{ROOM}:read      hash    user -> seq
//! im:r:{ROOM}:dedupe:0  hash    user NUL client id -> "seq time id"; :1 takes turns with it, both expire
//! im:r:{ROOM}:bus       channel (sharded)
//!                       log, and all of a room that may be abandoned, expire: see scripts/room.lua. What a deleted room
//!                       leaves behind is its last epoch in meta, for a while
//! im:u:{USER}:rooms     zset    rooms of a user, all with score 0
//! im:u:{USER}:presence  hash    connection -> node, device, since
//! im:u:{USER}:seen      string  unix ms
//! im:{nodes}:leases     zset    node -> unix ms at which its lease ends
//! im:{nodes}:conns      hash    node -> how many connections
//! im:{bans}:list        hash    ban -> what it says; :order, :lifted, :ends (zsets) and :meta: see scripts/ban.lua
//! im:{grants}:key       string  32 bytes, with which logic seals what connect keeps for it
//! im:{nodes}:online:NODE hash   room -> how many online on that node
//! im:{nodes}:states     hash    node -> the state of its counts in `online`, a number of the node's own
//! im:{nodes}:lost       set     nodes that have ended, whose connections are still to be removed
//! im:n:{NODE}:held      zset    connection NUL user, by the place at which the node keeps it; written before the user's
//!                               `presence` and removed after it, so every entry there stands here too
//! ```
//!
//! What stands in braces decides the slot, so everything of one room (of one user, of all nodes) lives in one slot.

use crate::slot::Slot;
use im_wire::ids::{ClientId, RoomId, UserId};

/// Why a prefix was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the key prefix {0:?} is not usable: write 1 to 32 letters, digits, '-', '_', '.' or ':'")]
pub struct BadPrefix(String);

/// Names everything under one prefix. Two clusters may share a redis with different prefixes.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
}

/// The names that belong to one room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomKeys {
    base: String,
    slot: Slot,
}

impl Keys {
    /// Names under `prefix` (usually `im`).
    ///
    /// # Errors
    /// [`BadPrefix`]: empty, longer than 32 bytes, or with characters that could be mistaken for the layout's own.
    pub fn new(prefix: &str) -> Result<Self, BadPrefix> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        if prefix.is_empty() || prefix.len() > 32 || !prefix.chars().all(plain) {
            return Err(BadPrefix(prefix.to_owned()));
        }
        Ok(Self {
            prefix: prefix.to_owned(),
        })
    }

    /// What belongs to a room.
    pub fn room(&self, room: &RoomId) -> RoomKeys {
        let base = format!("{}:r:{{{}}}:", self.prefix, escape(room.as_str()));
        let slot = Slot::of(&base);
        RoomKeys { base, slot }
    }

    /// The room whose channel this is; `None` for any other channel.
    pub fn room_of_channel(&self, channel: &str) -> Option<RoomId> {
        let rest = channel.strip_prefix(&self.prefix)?.strip_prefix(":r:{")?;
        RoomId::known(unescape(rest.strip_suffix("}:bus")?)?).ok()
    }

    /// A user's index of rooms.
    pub fn user_rooms(&self, user: &UserId) -> String {
        self.user(user, "rooms")
    }

    /// A user's connections.
    pub fn user_presence(&self, user: &UserId) -> String {
        self.user(user, "presence")
    }

    /// When a user was last seen.
    pub fn user_seen(&self, user: &UserId) -> String {
        self.user(user, "seen")
    }

    /// How much of something a user has had on a day.
    pub fn user_quota(&self, user: &UserId, what: &str, day: u64) -> String {
        self.user(user, &format!("quota:{what}:{day}"))
    }

    /// A user's invitations into groups.
    pub fn user_invitations(&self, user: &UserId) -> String {
        self.user(user, "invitations")
    }

    fn user(&self, user: &UserId, what: &str) -> String {
        format!("{}:u:{{{}}}:{what}", self.prefix, escape(user.as_str()))
    }

    /// When each node's lease ends.
    pub fn node_leases(&self) -> String {
        format!("{}:{{nodes}}:leases", self.prefix)
    }

    /// How many connections each node has.
    pub fn node_connections(&self) -> String {
        format!("{}:{{nodes}}:conns", self.prefix)
    }

    /// How many are online in rooms on this node.
    pub fn node_online(&self, node: &str) -> String {
        format!("{}:{{nodes}}:online:{node}", self.prefix)
    }

    /// The key with which logic seals grants.
    pub fn grant_key(&self) -> String {
        format!("{}:{{grants}}:key", self.prefix)
    }

    /// A part of the list of bans.
    pub fn bans(&self, part: &str) -> String {
        format!("{}:{{bans}}:{part}", self.prefix)
    }

    /// Which state of its counts the store has of each node.
    pub fn node_states(&self) -> String {
        format!("{}:{{nodes}}:states", self.prefix)
    }

    /// Nodes that have ended and have left connections behind.
    pub fn nodes_lost(&self) -> String {
        format!("{}:{{nodes}}:lost", self.prefix)
    }

    /// The connections of a node.
    pub fn node_held(&self, node: &str) -> String {
        format!("{}:n:{{{}}}:held", self.prefix, escape(node))
    }

    /// The field of a message in its room's dedupe hash. Neither part can hold a NUL.
    pub fn dedupe_field(user: &UserId, client_id: &ClientId) -> String {
        format!("{user}\0{client_id}")
    }
}

impl RoomKeys {
    /// The slot of all of the room's keys and of its channel.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Kind, head, epoch and the like.
    pub fn meta(&self) -> String {
        self.named("meta")
    }

    /// The stream.
    pub fn log(&self) -> String {
        self.named("log")
    }

    /// Roles of a group's members.
    pub fn members(&self) -> String {
        self.named("members")
    }

    /// A group's members in order.
    pub fn order(&self) -> String {
        self.named("order")
    }

    /// Read positions.
    pub fn read(&self) -> String {
        self.named("read")
    }

    /// The two dedupe hashes.
    pub fn dedupe(&self) -> [String; 2] {
        [self.named("dedupe:0"), self.named("dedupe:1")]
    }

    /// Where the room's events are published.
    pub fn channel(&self) -> String {
        self.named("bus")
    }

    fn named(&self, what: &str) -> String {
        format!("{}{what}", self.base)
    }
}

/// A closing brace would end the hash tag early (an id that begins with one would even leave it empty, and its keys
/// would be spread over slots).
fn escape(name: &str) -> String {
    name.replace('%', "%25").replace('}', "%7D")
}

fn unescape(name: &str) -> Option<String> {
    let mut plain = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find('%') {
        plain.push_str(&rest[..at]);
        plain.push(match rest.get(at + 1..at + 3)? {
            "25" => '%',
            "7D" => '}',
            _ => return None,
        });
        rest = &rest[at + 3..];
    }
    plain.push_str(rest);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new("im").expect("a good prefix")
    }

    fn room(id: &str) -> RoomId {
        RoomId::new(id).expect("a good id")
    }

    #[test]
    fn a_room_lives_in_one_slot_whatever_its_id() {
        for id in [
            "lobby",
            "live://1000",
            "{x}y",
            "}x",
            "}",
            "{}",
            "{",
            "a}{b",
            "direct:1:{:}",
            "%7D",
            "房间",
        ] {
            let keys = keys().room(&room(id));
            let mut names = vec![
                keys.meta(),
                keys.log(),
                keys.members(),
                keys.order(),
                keys.read(),
                keys.channel(),
            ];
            names.extend(keys.dedupe());
            for name in names {
                assert_eq!(Slot::of(&name), keys.slot(), "{name}");
            }
        }
    }

    #[test]
    fn a_channel_leads_back_to_its_room_and_to_no_other() {
        for id in ["lobby", "}x", "%7D", "%", "a}:bus", "x}y}", "%25"] {
            let channel = keys().room(&room(id)).channel();
            assert_eq!(
                keys().room_of_channel(&channel),
                Some(room(id)),
                "{channel}"
            );
        }
        for other in [
            "im:r:{x}:log",
            "im:r:{}:bus",
            "in:r:{x}:bus",
            "im:r:{x%}:bus",
            "im:r:{x%zz}:bus",
            "",
        ] {
            assert_eq!(keys().room_of_channel(other), None, "{other}");
        }
    }

    #[test]
    fn rooms_that_look_alike_do_not_share_names() {
        assert_ne!(keys().room(&room("}")), keys().room(&room("%7D")));
    }

    #[test]
    fn a_prefix_that_would_break_the_layout_is_refused() {
        for bad in ["", "a{b", "a}b", "a b", &"x".repeat(33)] {
            assert!(Keys::new(bad).is_err(), "{bad:?}");
        }
    }
}
