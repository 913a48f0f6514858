//! The names of things: checked once where they enter, cheap to clone afterwards.

use std::fmt;
use std::sync::Arc;

/// The longest room id, in bytes.
pub const MAX_ROOM_ID: usize = 256;
/// The longest user, device or client id, in bytes.
pub const MAX_ID: usize = 128;

/// Why a name was refused; the text says what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct BadId {
    /// Which kind of name: `room`, `user`, `device`, `client_id`.
    pub field: &'static str,
    /// What is wrong with it and what to write instead.
    pub problem: String,
}

fn check(field: &'static str, max: usize, name: &str) -> Result<(), BadId> {
    let problem = if name.is_empty() {
        "is empty: give 1 byte or more".to_owned()
    } else if name.len() > max {
        format!("has {} bytes: {max} at most", name.len())
    } else if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        "has white space or control characters: use neither".to_owned()
    } else if name.chars().any(is_unseen) {
        "has characters that nobody sees (zero-width, or of writing direction): use none".to_owned()
    } else {
        return Ok(());
    };
    Err(BadId { field, problem })
}

/// Whether a character shows nothing, or changes the direction in which others are shown: two names that look the same
/// would not be.
pub fn is_unseen(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}'
    )
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $field:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the name: 1 to the limit's bytes of UTF-8 without white space, control characters or others that
            /// nobody sees ([`is_unseen`]).
            ///
            /// # Errors
            /// [`BadId`] names the field and says what would be accepted.
            pub fn new(name: impl AsRef<str>) -> Result<Self, BadId> {
                let name = name.as_ref();
                check($field, $max, name)?;
                Ok(Self(name.into()))
            }

            /// A name that was checked when it was new, by the rule of that time.
            ///
            /// # Errors
            /// One that is empty or too long, or has white space or control characters.
            pub fn known(name: impl AsRef<str>) -> Result<Self, BadId> {
                let name = name.as_ref();
                match check($field, $max, name) {
                    Err(_) if name.chars().any(is_unseen) && name.len() <= $max => {
                        let seen: String = name.chars().filter(|c| !is_unseen(*c)).collect();
                        if !seen.is_empty() {
                            check($field, $max, &seen)?;
                        }
                        Ok(Self(name.into()))
                    }
                    checked => checked.map(|()| Self(name.into())),
                }
            }

            /// The name as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(name).map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// A room, the only unit of conversation. `direct:…` ids are computed ([`RoomId::direct`]); all others are chosen.
    RoomId, "room", MAX_ROOM_ID
);
id!(
    /// Who: the subject of a signed token.
    UserId, "user", MAX_ID
);
id!(
    /// One installation of a client; goim's `key`, golang-im's `device_id`.
    DeviceId, "device", MAX_ID
);
id!(
    /// A sender's own id for a message: what makes a retry recognisable.
    ClientId, "client_id", MAX_ID
);

/// The prefix of every direct room's id.
pub const DIRECT_PREFIX: &str = "direct:";

impl RoomId {
    /// The direct room of two users: `direct:<bytes of the first>:<first>:<second>`, the users in byte order. Both sides
    /// compute the same id, and the length in front makes it impossible for two pairs to share one.
    ///
    /// # Errors
    /// The two must differ, and the id must fit into [`MAX_ROOM_ID`].
    pub fn direct(one: &UserId, other: &UserId) -> Result<Self, BadId> {
        if one == other {
            let problem = "would be direct with one user: name two different users".to_owned();
            return Err(BadId {
                field: "room",
                problem,
            });
        }
        let (first, second) = if one < other {
            (one, other)
        } else {
            (other, one)
        };
        Self::new(format!(
            "{DIRECT_PREFIX}{}:{first}:{second}",
            first.as_str().len()
        ))
    }

    /// The two members of a direct room, read back from its id; `None` for every other room and for ids that begin like
    /// a direct room's but are not one that [`RoomId::direct`] gives.
    pub fn direct_members(&self) -> Option<(UserId, UserId)> {
        let (length, rest) = self.0.strip_prefix(DIRECT_PREFIX)?.split_once(':')?;
        let length: usize = length.parse().ok()?;
        let first = rest.get(..length)?;
        let second = rest.get(length..)?.strip_prefix(':')?;
        let first = UserId::new(first).ok()?;
        let second = UserId::new(second).ok()?;
        (Self::direct(&first, &second).ok()? == *self).then_some((first, second))
    }

    /// Whether the id is in the space of direct rooms: such an id can never be a group or an open room.
    pub fn is_direct(&self) -> bool {
        self.0.starts_with(DIRECT_PREFIX)
    }
}

/// A place in a room's log: 1, 2, 3, …; 0 stands before the first.
pub type Seq = u64;
/// Changes when the store may have lost the log's tail; 0: none known.
pub type Epoch = u64;
