//! Groups: created, joined, left, ruled.

use im_runtime::clock;
use im_wire::ids::UserId;

use super::{Stage, change, open, plain, system};
use crate::store::{Create, Error, Invitation, Kind, Role};

pub(super) async fn cases(stage: &Stage) {
    creating_again_changes_nothing(stage).await;
    an_id_is_one_room(stage).await;
    a_change_is_an_entry_of_the_log(stage).await;
    roles_rule(stage).await;
    a_change_that_changes_nothing_leaves_no_entry(stage).await;
    only_groups_have_members(stage).await;
    members_are_listed_in_order(stage).await;
    a_group_has_a_limit(stage).await;
    invitations_wait_with_the_user(stage).await;
}

async fn creating_again_changes_nothing(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let members = vec![(ann.clone(), Role::Owner), (bob.clone(), Role::Member)];
    let create = Create {
        room: stage.room(),
        kind: Kind::Group,
        members,
        time_ms: 1_000,
    };
    assert_eq!(stage.store.rooms.create(create.clone()).await, Ok(true));
    assert_eq!(stage.store.rooms.create(create.clone()).await, Ok(false));
    let view = stage
        .store
        .rooms
        .views(std::slice::from_ref(&create.room), &bob)
        .await
        .expect("a view")
        .remove(0);
    let view = view.expect("the room exists");
    assert_eq!(
        (view.kind, view.head, view.role, view.created_ms),
        (Kind::Group, 0, Some(Role::Member), 1_000)
    );
}

async fn an_id_is_one_room(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let room = stage.group(&[(&ann, Role::Owner)]).await;
    let group = |user: &UserId| Create {
        room: room.clone(),
        kind: Kind::Group,
        members: vec![(user.clone(), Role::Owner)],
        time_ms: 1,
    };
    for create in [
        group(&bob),
        Create {
            kind: Kind::Open,
            members: Vec::new(),
            ..group(&ann)
        },
    ] {
        let refused = stage.store.rooms.create(create).await;
        assert!(
            matches!(refused, Err(Error::Conflict { .. })),
            "{refused:?}"
        );
    }
    let open = Create {
        room: stage.room(),
        kind: Kind::Open,
        members: Vec::new(),
        time_ms: 1,
    };
    assert_eq!(stage.store.rooms.create(open.clone()).await, Ok(true));
    assert_eq!(stage.store.rooms.create(open).await, Ok(false));
}

async fn a_change_is_an_entry_of_the_log(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let room = stage.group(&[(&ann, Role::Owner)]).await;
    stage.say(&room, plain(&ann), "one").await;
    let joined = stage
        .store
        .rooms
        .change_membership(change(&room, plain(&ann), &bob, Some(Role::Member)))
        .await;
    let joined = joined.expect("an owner may").expect("a change");
    assert_eq!((joined.seq, joined.duplicate), (2, false));
    assert_eq!(stage.say(&room, plain(&bob), "two").await.seq, 3);
    let left = stage
        .store
        .rooms
        .change_membership(change(&room, plain(&bob), &bob, None))
        .await;
    assert_eq!(left.expect("one may leave").expect("a change").seq, 4);
    let refused = stage
        .store
        .messages
        .append(super::message(&room, plain(&bob), "three"))
        .await;
    assert!(
        matches!(refused, Err(Error::NotAMember { .. })),
        "{refused:?}"
    );
    let tail = stage
        .store
        .history
        .tail(&room, 0, 0, 10, 1 << 20)
        .await
        .expect("readable");
    let kinds: Vec<String> = tail
        .entries
        .into_iter()
        .map(|one| one.entry.expect("an entry").r#type)
        .collect();
    assert_eq!(kinds, ["text", "im.join", "text", "im.leave"]);
}

async fn roles_rule(stage: &Stage) {
    let [owner, admin, member, stranger] =
        ["owner", "admin", "member", "stranger"].map(|name| stage.user(name));
    let room = stage
        .group(&[
            (&owner, Role::Owner),
            (&admin, Role::Admin),
            (&member, Role::Member),
        ])
        .await;
    let refused = async |access, user: &UserId, role| {
        stage
            .store
            .rooms
            .change_membership(change(&room, access, user, role))
            .await
            .expect_err("not allowed")
    };
    assert!(matches!(
        refused(plain(&stranger), &stranger, Some(Role::Member)).await,
        Error::NotAMember { .. }
    ));
    assert!(matches!(
        refused(plain(&member), &stranger, Some(Role::Member)).await,
        Error::Forbidden { .. }
    ));
    assert!(matches!(
        refused(plain(&member), &admin, None).await,
        Error::Forbidden { .. }
    ));
    assert!(matches!(
        refused(plain(&member), &member, Some(Role::Admin)).await,
        Error::Forbidden { .. }
    ));
    let allowed = async |access, user: &UserId, role| {
        let done = stage
            .store
            .rooms
            .change_membership(change(&room, access, user, role))
            .await;
        assert!(done.expect("allowed").is_some());
    };
    allowed(plain(&admin), &stranger, Some(Role::Member)).await;
    allowed(plain(&admin), &stranger, None).await;
    allowed(plain(&owner), &member, Some(Role::Admin)).await;
    allowed(system(&stranger), &member, Some(Role::Member)).await;
    allowed(plain(&owner), &owner, None).await;
    let members = stage
        .store
        .rooms
        .members(&room, None, 10)
        .await
        .expect("a group");
    assert!(members.iter().all(|one| one.user != owner) && members.len() == 2);
}

async fn a_change_that_changes_nothing_leaves_no_entry(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let room = stage.group(&[(&ann, Role::Owner)]).await;
    let same = stage
        .store
        .rooms
        .change_membership(change(&room, system(&ann), &ann, Some(Role::Owner)))
        .await;
    assert_eq!(same, Ok(None));
    let same = stage
        .store
        .rooms
        .change_membership(change(&room, system(&ann), &bob, None))
        .await;
    assert_eq!(same, Ok(None));
    assert_eq!(
        stage
            .store
            .history
            .heads(std::slice::from_ref(&room))
            .await
            .expect("a head")[0]
            .1,
        0
    );
}

async fn only_groups_have_members(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let room = stage.room();
    let missing = stage
        .store
        .rooms
        .change_membership(change(&room, system(&ann), &bob, Some(Role::Member)))
        .await;
    assert_eq!(missing, Err(Error::NoSuchRoom(room.clone())));
    assert_eq!(
        stage.store.rooms.members(&room, None, 10).await,
        Err(Error::NoSuchRoom(room.clone()))
    );
    stage.say(&room, open(&ann), "one").await;
    let refused = stage
        .store
        .rooms
        .change_membership(change(&room, system(&ann), &bob, Some(Role::Member)))
        .await;
    assert!(
        matches!(refused, Err(Error::Conflict { .. })),
        "{refused:?}"
    );
    assert_eq!(
        stage.store.rooms.members(&room, None, 10).await,
        Ok(Vec::new())
    );
}

async fn members_are_listed_in_order(stage: &Stage) {
    let owner = stage.user("owner");
    let room = stage.group(&[(&owner, Role::Owner)]).await;
    let mut users = vec![owner.clone()];
    for number in 0..7 {
        let user = stage.user(&format!("user{}", 7 - number));
        let joined = stage
            .store
            .rooms
            .change_membership(change(&room, system(&owner), &user, Some(Role::Member)))
            .await;
        assert_eq!(joined.expect("allowed").expect("a change").seq, number + 1);
        users.push(user);
    }
    users.sort();
    let mut listed = Vec::new();
    loop {
        let page = stage
            .store
            .rooms
            .members(&room, listed.last(), 3)
            .await
            .expect("a group");
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        for member in page {
            assert_eq!(member.role == Role::Owner, member.user == owner);
            assert_eq!(member.joined == 0, member.user == owner);
            listed.push(member.user);
        }
    }
    assert_eq!(listed, users);
}

async fn a_group_has_a_limit(stage: &Stage) {
    let limit = crate::store::Retention::default().max_members;
    let name = |number: usize| UserId::new(format!("u{number:05}")).expect("a good id");
    let members: Vec<_> = (0..=limit)
        .map(|number| (name(number), Role::Member))
        .collect();
    let create = Create {
        room: stage.room(),
        kind: Kind::Group,
        members,
        time_ms: 1,
    };
    let refused = stage.store.rooms.create(create.clone()).await;
    assert_eq!(
        refused,
        Err(Error::TooManyMembers {
            room: create.room.clone(),
            limit
        })
    );
    let members = create.members[1..].to_vec();
    assert_eq!(
        stage
            .store
            .rooms
            .create(Create {
                members,
                ..create.clone()
            })
            .await,
        Ok(true)
    );
    let one_more = change(&create.room, system(&name(0)), &name(0), Some(Role::Member));
    let refused = stage.store.rooms.change_membership(one_more).await;
    assert_eq!(
        refused,
        Err(Error::TooManyMembers {
            room: create.room,
            limit
        })
    );
}

async fn invitations_wait_with_the_user(stage: &Stage) {
    const MONTHS_AGO: u64 = 90 * 24 * 3_600_000;
    let (ann, bob, cat) = (stage.user("ann"), stage.user("bob"), stage.user("cat"));
    let mut rooms = [stage.room(), stage.room(), stage.room()];
    rooms.sort();
    let now = clock::unix_ms();
    let into = |room: usize, by: &UserId, role, time_ms| Invitation {
        room: rooms[room].clone(),
        by: by.clone(),
        role,
        time_ms,
    };
    let (first, second) = (
        into(0, &ann, Role::Member, now),
        into(1, &ann, Role::Owner, now),
    );
    assert_eq!(
        stage
            .store
            .invitations
            .invite(&bob, second.clone(), 2)
            .await,
        Ok(true)
    );
    assert_eq!(
        stage.store.invitations.invite(&bob, first.clone(), 2).await,
        Ok(true)
    );
    assert_eq!(
        stage
            .store
            .invitations
            .invite(&bob, into(2, &ann, Role::Member, now), 2)
            .await,
        Ok(false),
        "two at most"
    );
    assert_eq!(
        stage.store.invitations.invitations(&bob).await,
        Ok(vec![first.clone(), second]),
        "in order"
    );
    let instead = into(1, &cat, Role::Admin, now + 1);
    assert_eq!(
        stage
            .store
            .invitations
            .invite(&bob, instead.clone(), 2)
            .await,
        Ok(true),
        "in the place of the other"
    );
    assert_eq!(
        stage.store.invitations.invitations(&bob).await,
        Ok(vec![first.clone(), instead.clone()])
    );
    assert_eq!(
        stage.store.invitations.uninvite(&bob, &rooms[0]).await,
        Ok(true)
    );
    assert_eq!(
        stage.store.invitations.uninvite(&bob, &rooms[0]).await,
        Ok(false)
    );
    assert_eq!(
        stage.store.invitations.invitations(&bob).await,
        Ok(vec![instead.clone()])
    );

    assert_eq!(
        stage
            .store
            .invitations
            .invite(&bob, into(0, &ann, Role::Member, now - MONTHS_AGO), 2)
            .await,
        Ok(true)
    );
    assert_eq!(
        stage.store.invitations.invitations(&bob).await,
        Ok(vec![instead]),
        "an old one does not hold"
    );
    assert_eq!(
        stage
            .store
            .invitations
            .invite(&bob, into(2, &ann, Role::Member, now), 2)
            .await,
        Ok(true),
        "and takes no place"
    );
    assert_eq!(
        stage.store.invitations.invitations(&cat).await,
        Ok(Vec::new())
    );
}
