//! What a connection was granted: written by logic when it authenticates, opaque to connect, read by logic with every
//! later call, under a [`seal`](super::seal).

use std::time::Duration;

use im_runtime::clock;
use im_wire::ids::{RoomId, UserId};
use prost::Message;

use super::{Error, pattern};

/// Identity and rights of a connection, or of an HTTP request.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Grant {
    /// Of this layout; another one is not read.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// Who.
    #[prost(string, tag = "2")]
    pub user: String,
    /// On which device; empty: none, over HTTP.
    #[prost(string, tag = "3")]
    pub device: String,
    /// Whether it may do everything.
    #[prost(bool, tag = "4")]
    pub admin: bool,
    /// Patterns of the open rooms that it covers.
    #[prost(string, repeated, tag = "5")]
    pub rooms: Vec<String>,
    /// Its end, unix milliseconds; 0: never.
    #[prost(uint64, tag = "6")]
    pub expires_ms: u64,
    /// Nobody has signed for it.
    #[prost(bool, tag = "7")]
    pub unsigned: bool,
    /// When the token was issued, unix milliseconds; 0: it does not say.
    #[prost(uint64, tag = "9")]
    pub issued_ms: u64,
    /// Only the client says that this is its device: no token names it.
    #[prost(bool, tag = "10")]
    pub device_unproven: bool,
    /// It is for open rooms only.
    #[prost(bool, tag = "11")]
    pub guest: bool,
}

impl Grant {
    /// The layout written now.
    pub const VERSION: u32 = 1;

    /// What was under the seal.
    ///
    /// # Errors
    /// [`Error::NoGrant`] where it is none that is understood.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        let grant = Self::decode(bytes).map_err(|_| Error::NoGrant)?;
        let understood = grant.version == Self::VERSION && !grant.user.is_empty();
        understood.then_some(grant).ok_or(Error::NoGrant)
    }

    /// The same, unless its time is over by more than the leeway that its token had.
    ///
    /// # Errors
    /// [`Error::Expired`].
    pub fn alive(self, leeway: Duration) -> Result<Self, Error> {
        let leeway = u64::try_from(leeway.as_millis()).unwrap_or(u64::MAX);
        if self.expires_ms != 0 && self.expires_ms.saturating_add(leeway) < clock::unix_ms() {
            return Err(Error::Expired);
        }
        Ok(self)
    }

    /// Who.
    ///
    /// # Errors
    /// [`Error::NoGrant`] where the name cannot be one.
    pub fn user(&self) -> Result<UserId, Error> {
        UserId::new(&self.user).map_err(|_| Error::NoGrant)
    }

    /// Whether the token covers this id as an open room. Never a direct room's id.
    pub fn opens(&self, room: &RoomId) -> bool {
        !room.is_direct()
            && self
                .rooms
                .iter()
                .any(|pattern| pattern::covers(pattern, room.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> Grant {
        let rooms = vec!["live://*".to_owned()];
        Grant {
            version: Grant::VERSION,
            user: "ann".to_owned(),
            device: "phone".to_owned(),
            rooms,
            ..Grant::default()
        }
    }

    #[test]
    fn a_grant_comes_back_as_it_was() {
        assert_eq!(Grant::read(&grant().encode_to_vec()), Ok(grant()));
    }

    #[test]
    fn what_is_no_grant_is_refused() {
        let newer = Grant {
            version: 2,
            ..grant()
        };
        for bytes in [Vec::new(), b"\xff\xff".to_vec(), newer.encode_to_vec()] {
            assert_eq!(Grant::read(&bytes), Err(Error::NoGrant), "{bytes:?}");
        }
    }

    #[test]
    fn a_grant_ends_with_its_token() {
        let now = clock::unix_ms();
        let none = Duration::ZERO;
        let some = Duration::from_secs(60);
        assert_eq!(
            Grant {
                expires_ms: now - 10,
                ..grant()
            }
            .alive(none),
            Err(Error::Expired)
        );
        assert!(
            Grant {
                expires_ms: now - 10,
                ..grant()
            }
            .alive(some)
            .is_ok()
        );
        assert!(
            Grant {
                expires_ms: now + 60_000,
                ..grant()
            }
            .alive(none)
            .is_ok()
        );
        assert!(grant().alive(none).is_ok(), "no end");
    }

    #[test]
    fn a_direct_room_is_never_opened_by_a_pattern() {
        let all = Grant {
            rooms: vec!["*".to_owned()],
            ..grant()
        };
        let (ann, bob) = (UserId::new("ann").unwrap(), UserId::new("bob").unwrap());
        assert!(!all.opens(&RoomId::direct(&ann, &bob).unwrap()));
        assert!(all.opens(&RoomId::new("live://1").unwrap()));
    }
}
