//! How a room comes into being. Direct rooms also do by their first message, open ones by being entered.

use std::sync::Arc;

use im_runtime::clock;
use im_wire::ids::{RoomId, UserId};
use uuid::Uuid;

use super::access;
use super::adding::Brings;
use crate::auth::grant::Grant;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::store::{Create, Kind, Role};

/// A room that somebody asks for.
pub(crate) struct Wanted {
    pub(crate) id: Option<RoomId>,
    pub(crate) kind: Kind,
    pub(crate) members: Vec<(UserId, Role)>,
}

/// The room, and whether it is new.
pub(crate) struct Created {
    pub(crate) room: RoomId,
    pub(crate) kind: Kind,
    pub(crate) created: bool,
    /// Who is to become a member by joining.
    pub(crate) invited: Vec<UserId>,
}

impl Core {
    /// Creates a room, or finds it as it was asked for.
    pub(crate) async fn create_room(
        self: &Arc<Self>,
        who: &Grant,
        wanted: Wanted,
    ) -> Result<Created> {
        let user = who.user()?;
        let limit = self.options.limits.max_members_per_call;
        if wanted.members.len() > limit {
            return Err(Error::LimitReached {
                what: "members named when a room is created",
                limit,
            });
        }
        let (room, mut members) = match wanted.kind {
            Kind::Direct => (direct(who, &user, &wanted)?, Vec::new()),
            Kind::Group => group(who, user.clone(), &wanted)?,
            Kind::Open => (open(who, &wanted)?, Vec::new()),
        };
        if wanted.kind != Kind::Open {
            access::not_a_guest(who)?;
        }
        let mut invited = Vec::new();
        if wanted.kind == Kind::Group {
            let named: Vec<UserId> = members.iter().map(|(member, _)| member.clone()).collect();
            let others: Vec<UserId> = named
                .iter()
                .filter(|member| **member != user)
                .cloned()
                .collect();
            self.no_guests(&named, "members")?;
            if self.may_bring(who, &others, "members").await? == Brings::Invited {
                invited = members
                    .extract_if(.., |(member, _)| *member != user)
                    .collect();
            }
            self.spend_adds(who, others.len()).await?;
            self.spend_group(who).await?;
        }
        let hearers: Vec<UserId> = match wanted.kind {
            Kind::Direct => wanted
                .members
                .iter()
                .map(|(user, _)| user.clone())
                .collect(),
            Kind::Group => members.iter().map(|(user, _)| user.clone()).collect(),
            Kind::Open => Vec::new(),
        };
        // Before and after: see the module `index`.
        if wanted.kind == Kind::Group {
            self.store.index.index_room(&hearers, &room).await?;
        }
        let create = Create {
            room: room.clone(),
            kind: wanted.kind,
            members,
            time_ms: clock::unix_ms(),
        };
        let created = match self.store.rooms.create(create).await {
            Ok(created) => created,
            Err(error) => {
                if wanted.kind == Kind::Group && error.is_refusal() {
                    self.unindex_all(&hearers, &room).await;
                }
                return Err(error.into());
            }
        };
        let invited = self.invite_all(who, &room, &invited).await;
        if !hearers.is_empty() {
            self.store.index.index_room(&hearers, &room).await?;
            let told = room.clone();
            self.follow_up(async move |core: Arc<Self>| {
                core.tell_rooms_changed(&hearers, Some(&told), None, 0)
                    .await
            })
            .await;
        }
        Ok(Created {
            room,
            kind: wanted.kind,
            created,
            invited,
        })
    }
}

fn direct(who: &Grant, user: &UserId, wanted: &Wanted) -> Result<RoomId> {
    let [(one, _), (other, _)] = wanted.members.as_slice() else {
        return Err(Error::bad(
            "members",
            "of a direct room are exactly two users: name both",
        ));
    };
    if one != user && other != user && !who.admin {
        return Err(Error::Forbidden(
            "a direct room is created by one of its two members",
        ));
    }
    let room = RoomId::direct(one, other).map_err(|bad| Error::bad("members", bad.problem))?;
    match &wanted.id {
        Some(id) if *id != room => Err(Error::bad(
            "id",
            format!("of this direct room is {room}: leave it out, or give this one"),
        )),
        _ => Ok(room),
    }
}

type Group = (RoomId, Vec<(UserId, Role)>);

fn group(who: &Grant, user: UserId, wanted: &Wanted) -> Result<Group> {
    let room = match &wanted.id {
        Some(_) if !who.admin => {
            let problem = "of a group is chosen by the server: leave it out, or ask with a token of the scope \"admin\"";
            return Err(Error::bad("id", problem));
        }
        Some(id) => not_direct(id)?,
        None => RoomId::new(format!("g-{}", Uuid::now_v7()))?,
    };
    let mut members: Vec<(UserId, Role)> = Vec::with_capacity(wanted.members.len() + 1);
    for (member, role) in &wanted.members {
        if members.iter().any(|(other, _)| other == member) {
            return Err(Error::bad("members", format!("name {member} twice")));
        }
        members.push((member.clone(), *role));
    }
    let others_own_it = who.admin && members.iter().any(|(_, role)| *role == Role::Owner);
    match members.iter_mut().find(|(member, _)| *member == user) {
        // A backend that makes groups for its users is not in them.
        _ if others_own_it => {}
        Some((_, role)) => *role = Role::Owner,
        None => members.push((user, Role::Owner)),
    }
    Ok((room, members))
}

fn open(who: &Grant, wanted: &Wanted) -> Result<RoomId> {
    let id = wanted
        .id
        .as_ref()
        .ok_or_else(|| Error::bad("id", "is missing: an open room is known by its id"))?;
    if !wanted.members.is_empty() {
        return Err(Error::bad(
            "members",
            "are given for an open room: whoever enters it is in it",
        ));
    }
    let id = not_direct(id)?;
    if !who.opens(&id) && !who.admin {
        return Err(Error::Forbidden("your token does not cover this open room"));
    }
    Ok(id)
}

fn not_direct(id: &RoomId) -> Result<RoomId> {
    if id.is_direct() {
        return Err(Error::bad(
            "id",
            "begins with \"direct:\", which only direct rooms do: choose another",
        ));
    }
    Ok(id.clone())
}

#[cfg(test)]
mod tests {
    use im_wire::code::ErrorCode;

    use super::*;

    fn grant(user: &str, admin: bool) -> Grant {
        Grant {
            version: Grant::VERSION,
            user: user.to_owned(),
            admin,
            ..Grant::default()
        }
    }

    fn wanted(id: Option<&str>, kind: Kind, members: &[(&str, Role)]) -> Wanted {
        let members = members
            .iter()
            .map(|(user, role)| (UserId::new(user).unwrap(), *role))
            .collect();
        Wanted {
            id: id.map(|id| RoomId::new(id).unwrap()),
            kind,
            members,
        }
    }

    fn names(members: &[(UserId, Role)]) -> Vec<(&str, Role)> {
        members
            .iter()
            .map(|(user, role)| (user.as_str(), *role))
            .collect()
    }

    #[test]
    fn the_creator_owns_a_group() {
        let ann = UserId::new("ann").unwrap();
        let m = Role::Member;
        let (room, members) = group(
            &grant("ann", false),
            ann.clone(),
            &wanted(None, Kind::Group, &[("bob", m)]),
        )
        .unwrap();
        assert!(room.as_str().starts_with("g-"));
        assert_eq!(
            names(&members),
            [("bob", Role::Member), ("ann", Role::Owner)]
        );
        let named = wanted(
            Some("team"),
            Kind::Group,
            &[("ann", m), ("bob", Role::Admin)],
        );
        assert_eq!(
            group(&grant("ann", false), ann.clone(), &named)
                .unwrap_err()
                .field(),
            "id"
        );
        let (room, members) = group(&grant("ann", true), ann.clone(), &named).unwrap();
        assert_eq!(
            (room.as_str(), names(&members)),
            ("team", vec![("ann", Role::Owner), ("bob", Role::Admin)])
        );
        let twice = wanted(None, Kind::Group, &[("bob", m), ("bob", m)]);
        assert!(group(&grant("ann", false), ann, &twice).is_err());
    }

    #[test]
    fn a_backend_that_names_an_owner_is_not_in_the_group() {
        let backend = UserId::new("backend").unwrap();
        let named = wanted(None, Kind::Group, &[("ann", Role::Owner)]);
        let (_, members) = group(&grant("backend", true), backend, &named).unwrap();
        assert_eq!(names(&members), [("ann", Role::Owner)]);
    }

    #[test]
    fn a_direct_room_is_made_by_one_of_its_two() {
        let ann = UserId::new("ann").unwrap();
        let m = Role::Member;
        let pair = wanted(None, Kind::Direct, &[("bob", m), ("ann", m)]);
        assert_eq!(
            direct(&grant("ann", false), &ann, &pair).unwrap().as_str(),
            "direct:3:ann:bob"
        );
        let eve = UserId::new("eve").unwrap();
        assert_eq!(
            direct(&grant("eve", false), &eve, &pair)
                .unwrap_err()
                .code(),
            ErrorCode::Forbidden
        );
        assert!(direct(&grant("eve", true), &eve, &pair).is_ok());
        for members in [
            &[("ann", m)][..],
            &[("ann", m), ("ann", m)],
            &[("ann", m), ("bob", m), ("eve", m)],
        ] {
            let error = direct(
                &grant("ann", false),
                &ann,
                &wanted(None, Kind::Direct, members),
            )
            .unwrap_err();
            assert_eq!(error.field(), "members");
        }
        let other_id = wanted(Some("mine"), Kind::Direct, &[("ann", m), ("bob", m)]);
        assert_eq!(
            direct(&grant("ann", false), &ann, &other_id)
                .unwrap_err()
                .field(),
            "id"
        );
    }

    #[test]
    fn an_open_room_needs_a_token_that_covers_it() {
        let live = wanted(Some("live://1"), Kind::Open, &[]);
        assert_eq!(
            open(&grant("ann", false), &live).unwrap_err().code(),
            ErrorCode::Forbidden
        );
        assert!(open(&grant("root", true), &live).is_ok());
        let covered = Grant {
            rooms: vec!["live://*".to_owned()],
            ..grant("ann", false)
        };
        assert!(open(&covered, &live).is_ok());
        assert_eq!(
            open(&covered, &wanted(None, Kind::Open, &[]))
                .unwrap_err()
                .field(),
            "id"
        );
        let looks_direct = wanted(Some("direct:x"), Kind::Open, &[]);
        assert_eq!(
            open(&grant("root", true), &looks_direct)
                .unwrap_err()
                .field(),
            "id"
        );
    }
}
