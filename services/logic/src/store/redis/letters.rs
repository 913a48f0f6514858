//! Roles and kinds of rooms as redis has them.

use crate::store::{Error, Kind, Result, Role};

pub(super) fn role_letter(role: Role) -> &'static str {
    match role {
        Role::Member => "m",
        Role::Admin => "a",
        Role::Owner => "o",
    }
}

/// The role of [`role_letter`].
pub(super) fn role_of(letter: &str) -> Option<Role> {
    match letter {
        "m" => Some(Role::Member),
        "a" => Some(Role::Admin),
        "o" => Some(Role::Owner),
        _ => None,
    }
}

pub(super) fn kind_letter(kind: Kind) -> &'static str {
    match kind {
        Kind::Direct => "d",
        Kind::Group => "g",
        Kind::Open => "o",
    }
}

pub(super) fn kind_of(letter: &str) -> Result<Kind> {
    match letter {
        "d" => Ok(Kind::Direct),
        "g" => Ok(Kind::Group),
        "o" => Ok(Kind::Open),
        other => Err(Error::Corrupt(format!("a room of the kind {other:?}"))),
    }
}
