//! Deleting: nothing is left, whoever had a position is told, and a room that takes the id knows nothing of the old one.

use im_wire::ids::RoomId;

use super::{Stage, change, direct, entry, message, open, plain, system};
use crate::store::{Create, Delete, Deleted, Error, Kind, Result, Role, Slice};

pub(super) async fn cases(stage: &Stage) {
    a_deleted_group_is_gone_with_all_it_had(stage).await;
    what_is_not_there_is_not_deleted(stage).await;
    a_room_of_the_same_id_knows_nothing_of_the_deleted_one(stage).await;
    a_group_of_the_same_id_has_its_own_members(stage).await;
    each_room_of_an_id_has_a_greater_epoch(stage).await;
    a_large_room_leaves_nothing_to_the_next_one(stage).await;
}

async fn delete(stage: &Stage, room: &RoomId) -> Result<Deleted> {
    stage
        .store
        .rooms
        .delete(Delete {
            room: room.clone(),
            entry: entry(&stage.user("root"), "", "im.delete"),
        })
        .await
}

async fn a_deleted_group_is_gone_with_all_it_had(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let room = stage
        .group(&[(&ann, Role::Owner), (&bob, Role::Member)])
        .await;
    let first = stage.say(&room, plain(&ann), "one").await;
    stage.say(&room, plain(&bob), "two").await;
    stage
        .store
        .history
        .mark_read(&room, &ann, 2)
        .await
        .expect("a member");
    let mut deleted = delete(stage, &room).await.expect("it is there");
    deleted.members.sort();
    let mut members = vec![ann.clone(), bob.clone()];
    members.sort();
    assert_eq!(
        deleted,
        Deleted {
            kind: Kind::Group,
            epoch: first.epoch,
            seq: 3,
            members
        }
    );
    let one = std::slice::from_ref(&room);
    assert_eq!(stage.store.rooms.views(one, &ann).await, Ok(vec![None]));
    assert_eq!(stage.store.history.heads(one).await, Ok(vec![(0, 0)]));
    let none = || Error::NoSuchRoom(room.clone());
    assert_eq!(
        stage.store.rooms.members(&room, None, 10).await,
        Err(none())
    );
    assert_eq!(
        stage.store.history.mark_read(&room, &ann, 1).await,
        Err(none())
    );
    for access in [plain(&ann), system(&ann)] {
        assert_eq!(
            stage
                .store
                .messages
                .append(message(&room, access, "three"))
                .await,
            Err(none())
        );
    }
    let joins = change(&room, system(&ann), &bob, Some(Role::Admin));
    assert_eq!(
        stage.store.rooms.change_membership(joins).await,
        Err(none())
    );
    let page = stage
        .store
        .history
        .page(&room, Slice::Latest, 10)
        .await
        .expect("an empty log");
    assert_eq!(
        (page.head, page.truncated, page.entries.len()),
        (0, None, 0)
    );
    let tail = stage
        .store
        .history
        .tail(&room, first.epoch, 2, 10, 1 << 20)
        .await
        .expect("an empty log");
    assert_eq!(
        (tail.reset_to, tail.head, tail.entries.len()),
        (Some(0), 0, 0)
    );
}

async fn what_is_not_there_is_not_deleted(stage: &Stage) {
    let room = stage.room();
    assert_eq!(
        delete(stage, &room).await,
        Err(Error::NoSuchRoom(room.clone()))
    );
    stage.say(&room, open(&stage.user("ann")), "one").await;
    delete(stage, &room).await.expect("it is there");
    assert_eq!(delete(stage, &room).await, Err(Error::NoSuchRoom(room)));
}

async fn a_room_of_the_same_id_knows_nothing_of_the_deleted_one(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let pair = RoomId::direct(&ann, &bob).expect("two users");
    for room in [stage.room(), pair] {
        let access = if room.is_direct() { direct } else { open };
        let mut old = Vec::new();
        for id in ["one", "two", "three"] {
            old.push(stage.say(&room, access(&ann), id).await);
        }
        stage
            .store
            .history
            .mark_read(&room, &bob, 3)
            .await
            .expect("a room");
        let deleted = delete(stage, &room).await.expect("it is there");
        assert_eq!((deleted.seq, deleted.members.len()), (4, 0));
        // The same client ids: they are no retries of what is gone.
        let new = stage.say(&room, access(&ann), "two").await;
        assert_eq!((new.seq, new.duplicate, new.created), (1, false, true));
        assert!(
            new.epoch > old[2].epoch,
            "{} after {}",
            new.epoch,
            old[2].epoch
        );
        assert_eq!(stage.say(&room, access(&ann), "one").await.seq, 2);
        assert!(stage.say(&room, access(&ann), "two").await.duplicate);
        let position = stage
            .store
            .history
            .mark_read(&room, &bob, 0)
            .await
            .expect("a room");
        assert_eq!((position.read, position.head), (0, 2));
        // Whoever had anything of the old one, the entry that told of its end included, is told first.
        for seq in 1..=4 {
            let tail = stage
                .store
                .history
                .tail(&room, deleted.epoch, seq, 10, 1 << 20)
                .await
                .expect("readable");
            assert_eq!(
                (tail.reset_to, tail.epoch, tail.head, tail.entries.len()),
                (Some(0), new.epoch, 2, 2),
                "{seq}"
            );
        }
        let tail = stage
            .store
            .history
            .tail(&room, new.epoch, 1, 10, 1 << 20)
            .await
            .expect("readable");
        assert_eq!(
            (tail.reset_to, tail.truncated, tail.entries.len()),
            (None, None, 1)
        );
        let page = stage
            .store
            .history
            .page(&room, Slice::Latest, 10)
            .await
            .expect("readable");
        assert_eq!((page.truncated, page.entries.len()), (None, 2));
    }
}

async fn a_group_of_the_same_id_has_its_own_members(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let room = stage
        .group(&[(&ann, Role::Owner), (&bob, Role::Member)])
        .await;
    stage.say(&room, plain(&bob), "one").await;
    stage
        .store
        .history
        .mark_read(&room, &bob, 1)
        .await
        .expect("a member");
    delete(stage, &room).await.expect("it is there");
    let members = vec![(ann.clone(), Role::Owner)];
    let create = Create {
        room: room.clone(),
        kind: Kind::Group,
        members,
        time_ms: 2_000,
    };
    assert_eq!(stage.store.rooms.create(create.clone()).await, Ok(true));
    assert_eq!(stage.store.rooms.create(create).await, Ok(false));
    let listed = stage
        .store
        .rooms
        .members(&room, None, 10)
        .await
        .expect("a group");
    assert_eq!(
        listed.iter().map(|member| &member.user).collect::<Vec<_>>(),
        [&ann]
    );
    let refused = stage
        .store
        .messages
        .append(message(&room, plain(&bob), "two"))
        .await;
    assert_eq!(
        refused,
        Err(Error::NotAMember {
            room: room.clone(),
            user: bob.clone()
        })
    );
    stage.say(&room, plain(&ann), "two").await;
    let joins = change(&room, plain(&ann), &bob, Some(Role::Member));
    assert_eq!(
        stage
            .store
            .rooms
            .change_membership(joins)
            .await
            .expect("allowed")
            .expect("a change")
            .seq,
        2
    );
    let view = stage
        .store
        .rooms
        .views(std::slice::from_ref(&room), &bob)
        .await
        .expect("a view")
        .remove(0);
    let view = view.expect("a group");
    assert_eq!(
        (view.read, view.joined, view.head, view.created_ms),
        (0, 2, 2, 2_000)
    );
    assert_eq!(
        delete(stage, &room)
            .await
            .expect("it is there")
            .members
            .len(),
        2
    );
}

async fn each_room_of_an_id_has_a_greater_epoch(stage: &Stage) {
    let (room, ann) = (stage.room(), stage.user("ann"));
    let mut epochs = Vec::new();
    for _ in 0..5 {
        epochs.push(stage.say(&room, open(&ann), "one").await.epoch);
        assert_eq!(
            delete(stage, &room).await.expect("it is there").epoch,
            *epochs.last().expect("just pushed")
        );
    }
    assert!(epochs.is_sorted_by(|one, next| one < next), "{epochs:?}");
    let other = stage.filled(1).await;
    let heads = stage
        .store
        .history
        .heads(&[room, other])
        .await
        .expect("heads");
    assert_eq!((heads[0], heads[1].1), ((0, 0), 1));
}

async fn a_large_room_leaves_nothing_to_the_next_one(stage: &Stage) {
    let (room, ann) = (stage.room(), stage.user("ann"));
    let names: Vec<String> = (0..1_500).map(|number| format!("m{number}")).collect();
    for some in names.chunks(100) {
        let sends = some.iter().map(|name| {
            stage
                .store
                .messages
                .append(message(&room, open(&ann), name))
        });
        assert!(
            futures::future::join_all(sends)
                .await
                .iter()
                .all(Result::is_ok)
        );
    }
    delete(stage, &room).await.expect("it is there");
    assert!(
        !stage
            .say(&room, open(&ann), names.last().expect("many"))
            .await
            .duplicate
    );
    let page = stage
        .store
        .history
        .page(&room, Slice::After(0), 2_000)
        .await
        .expect("readable");
    assert_eq!((page.head, page.entries.len()), (1, 1));
}
