//! Who may speak and hear where. Speaking is judged by the store in the atomic step of the append; what the token says
//! goes there as [`Access`]. Hearing is judged here, by what the store shows of the room.

use im_wire::ids::RoomId;

use crate::auth::grant::Grant;
use crate::error::{Error, Result};
use crate::store::{Access, Kind, View};

const NOT_YOURS: &str = "a direct room is for its two members";
const NOT_FOR_GUESTS: &str = "a guest may use open rooms only: take part with a token of your own";
const NOT_COVERED: &str = "your token does not cover this open room";

/// The right that a caller brings along to speak.
///
/// # Errors
/// An id that begins like a direct room's and is none; a direct room of two others; for a guest, a room that the token
/// does not cover.
pub(crate) fn for_caller(who: &Grant, room: &RoomId) -> Result<Access> {
    let user = who.user()?;
    if who.guest && !who.opens(room) {
        return Err(Error::Forbidden(NOT_FOR_GUESTS));
    }
    let direct = match pair(room)? {
        Some((one, other)) => one == user || other == user,
        None => false,
    };
    if room.is_direct() && !direct && !who.admin {
        return Err(Error::Forbidden(NOT_YOURS));
    }
    Ok(Access {
        user,
        direct,
        open: who.opens(room),
        system: who.admin,
    })
}

/// A direct room's members; `None` for other rooms.
pub(crate) fn pair(room: &RoomId) -> Result<Option<(im_wire::ids::UserId, im_wire::ids::UserId)>> {
    if !room.is_direct() {
        return Ok(None);
    }
    let wrong = || {
        Error::bad(
            "room",
            "begins with \"direct:\" and is no direct room's id: create the room to get it",
        )
    };
    room.direct_members().map(Some).ok_or_else(wrong)
}

/// Whether the caller may hear a room that the store shows like this, and what of it.
///
/// # Errors
/// No such room, or not the caller's.
pub(crate) fn judge(who: &Grant, room: &RoomId, view: Option<View>) -> Result<View> {
    let access = for_caller(who, room)?;
    match view {
        None if access.direct => Ok(nothing_yet(Kind::Direct)),
        None if access.open => Ok(nothing_yet(Kind::Open)),
        None => Err(Error::NoSuchRoom(room.clone())),
        Some(view) if who.guest && view.kind != Kind::Open => Err(Error::Forbidden(NOT_FOR_GUESTS)),
        Some(view) if may_hear(&access, &view) => Ok(view),
        Some(view) if view.kind == Kind::Group => Err(Error::NotAMember(room.clone())),
        Some(_) => Err(Error::Forbidden(NOT_COVERED)),
    }
}

/// A guest makes no rooms but open ones, and is made a member of none.
///
/// # Errors
/// Forbidden to a guest.
pub(crate) fn not_a_guest(who: &Grant) -> Result<()> {
    if who.guest {
        Err(Error::Forbidden(NOT_FOR_GUESTS))
    } else {
        Ok(())
    }
}

fn may_hear(access: &Access, view: &View) -> bool {
    let of_its_own = match view.kind {
        Kind::Direct => access.direct,
        Kind::Group => view.role.is_some(),
        Kind::Open => access.open,
    };
    of_its_own || access.system
}

/// A room that exists in principle and has never been spoken in.
fn nothing_yet(kind: Kind) -> View {
    View {
        kind,
        epoch: 0,
        head: 0,
        role: None,
        read: 0,
        joined: 0,
        created_ms: 0,
    }
}

#[cfg(test)]
mod tests {
    use im_wire::code::ErrorCode;
    use im_wire::ids::UserId;

    use super::*;
    use crate::store::Role;

    fn grant(user: &str, admin: bool, rooms: &[&str]) -> Grant {
        let rooms = rooms.iter().map(|room| (*room).to_owned()).collect();
        Grant {
            version: Grant::VERSION,
            user: user.to_owned(),
            admin,
            rooms,
            ..Grant::default()
        }
    }

    fn room(id: &str) -> RoomId {
        RoomId::new(id).unwrap()
    }

    fn direct() -> RoomId {
        RoomId::direct(&UserId::new("ann").unwrap(), &UserId::new("bob").unwrap()).unwrap()
    }

    fn view(kind: Kind, role: Option<Role>) -> Option<View> {
        Some(View {
            role,
            ..nothing_yet(kind)
        })
    }

    #[test]
    fn hearing_is_for_those_who_may() {
        let group = room("g-1");
        let live = room("live://1");
        let none = None;
        type Row<'a> = (
            Grant,
            &'a RoomId,
            Option<View>,
            std::result::Result<Kind, ErrorCode>,
        );
        let table: &[Row<'_>] = &[
            (
                grant("ann", false, &[]),
                &direct(),
                none.clone(),
                Ok(Kind::Direct),
            ),
            (
                grant("bob", false, &[]),
                &direct(),
                view(Kind::Direct, None),
                Ok(Kind::Direct),
            ),
            (
                grant("eve", false, &["*"]),
                &direct(),
                view(Kind::Direct, None),
                Err(ErrorCode::Forbidden),
            ),
            (
                grant("eve", false, &["*"]),
                &direct(),
                none.clone(),
                Err(ErrorCode::Forbidden),
            ),
            (
                grant("root", true, &[]),
                &direct(),
                view(Kind::Direct, None),
                Ok(Kind::Direct),
            ),
            (
                grant("root", true, &[]),
                &direct(),
                none.clone(),
                Err(ErrorCode::NoSuchRoom),
            ),
            (
                grant("ann", false, &[]),
                &group,
                view(Kind::Group, Some(Role::Member)),
                Ok(Kind::Group),
            ),
            (
                grant("eve", false, &["*"]),
                &group,
                view(Kind::Group, None),
                Err(ErrorCode::NotAMember),
            ),
            (
                grant("root", true, &[]),
                &group,
                view(Kind::Group, None),
                Ok(Kind::Group),
            ),
            (
                grant("ann", false, &[]),
                &group,
                none.clone(),
                Err(ErrorCode::NoSuchRoom),
            ),
            (
                grant("root", true, &[]),
                &group,
                none.clone(),
                Err(ErrorCode::NoSuchRoom),
            ),
            (
                grant("ann", false, &["live://*"]),
                &live,
                none.clone(),
                Ok(Kind::Open),
            ),
            (
                grant("ann", false, &["live://*"]),
                &live,
                view(Kind::Open, None),
                Ok(Kind::Open),
            ),
            (
                grant("ann", false, &["video://*"]),
                &live,
                view(Kind::Open, None),
                Err(ErrorCode::Forbidden),
            ),
            (
                grant("ann", false, &[]),
                &live,
                none,
                Err(ErrorCode::NoSuchRoom),
            ),
        ];
        for (who, room, seen, expected) in table {
            let judged = judge(who, room, seen.clone())
                .map(|view| view.kind)
                .map_err(|error| error.code());
            assert_eq!(judged, *expected, "{} in {room}", who.user);
        }
    }

    #[test]
    fn an_id_that_only_looks_direct_is_refused() {
        for id in [
            "direct:",
            "direct:9:ann:bob",
            "direct:3:bob:ann",
            "direct:3:ann:ann",
        ] {
            let error = for_caller(&grant("ann", false, &["*"]), &room(id)).unwrap_err();
            assert_eq!(
                (error.code(), error.field()),
                (ErrorCode::BadRequest, "room"),
                "{id}"
            );
        }
    }

    #[test]
    fn what_a_token_gives_goes_to_the_store() {
        let access = for_caller(&grant("ann", false, &["live://*"]), &room("live://7")).unwrap();
        assert!(access.open && !access.direct && !access.system);
        let access = for_caller(&grant("bob", false, &[]), &direct()).unwrap();
        assert!(access.direct && !access.open && !access.system);
        let access = for_caller(&grant("root", true, &[]), &direct()).unwrap();
        assert!(access.system && !access.direct);
    }
}
