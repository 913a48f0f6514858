//! Reading: the rest after a position, pages, heads, views, read positions.

use im_proto::v1::LogEntry;

use super::{Stage, open, plain};
use crate::store::{Error, Kind, Role, Slice};

pub(super) async fn cases(stage: &Stage) {
    the_rest_after_a_position(stage).await;
    a_position_beyond_the_head_is_reset(stage).await;
    a_position_beyond_all_numbers_is_one_beyond_the_head(stage).await;
    pages_in_both_directions(stage).await;
    what_does_not_exist_is_empty(stage).await;
    heads_and_views_come_in_the_order_asked(stage).await;
    read_positions_move_forward_only(stage).await;
    read_positions_need_a_room_and_membership(stage).await;
}

fn seqs(entries: &[LogEntry]) -> Vec<u64> {
    entries.iter().map(|one| one.seq).collect()
}

async fn the_rest_after_a_position(stage: &Stage) {
    let room = stage.filled(10).await;
    let epoch = stage
        .store
        .history
        .heads(std::slice::from_ref(&room))
        .await
        .expect("a head")[0]
        .0;
    let tail = stage
        .store
        .history
        .tail(&room, epoch, 7, 100, 1 << 20)
        .await
        .expect("readable");
    assert_eq!(
        (tail.epoch, tail.head, tail.reset_to, tail.truncated),
        (epoch, 10, None, None)
    );
    assert_eq!(seqs(&tail.entries), [8, 9, 10]);
    let last = tail.entries[2].entry.as_ref().expect("an entry");
    assert_eq!(
        (last.client_id.as_str(), &last.body[..]),
        ("m10", &b"body of m10"[..])
    );
    for (after, limit, max_bytes, expected) in [
        (0, 4, 1 << 20, vec![1, 2, 3, 4]),
        (10, 100, 1 << 20, vec![]),
        (4, 100, 1, vec![5]),
        (0, 1, 1 << 20, vec![1]),
    ] {
        let tail = stage
            .store
            .history
            .tail(&room, epoch, after, limit, max_bytes)
            .await
            .expect("readable");
        assert_eq!(
            (seqs(&tail.entries), tail.truncated, tail.head),
            (expected, None, 10)
        );
    }
    // About so many bytes: some, not all.
    let some = stage
        .store
        .history
        .tail(&room, 0, 0, 100, 400)
        .await
        .expect("readable")
        .entries
        .len();
    assert!((2..10).contains(&some), "{some} entries in 400 bytes");
}

async fn a_position_beyond_the_head_is_reset(stage: &Stage) {
    let room = stage.filled(3).await;
    let epoch = stage
        .store
        .history
        .heads(std::slice::from_ref(&room))
        .await
        .expect("a head")[0]
        .0;
    for epoch in [0, epoch] {
        let tail = stage
            .store
            .history
            .tail(&room, epoch, 5, 100, 1 << 20)
            .await
            .expect("readable");
        assert_eq!(
            (tail.reset_to, tail.head, tail.entries.len()),
            (Some(3), 3, 0)
        );
        let tail = stage
            .store
            .history
            .tail(&room, epoch, 3, 100, 1 << 20)
            .await
            .expect("readable");
        assert_eq!(tail.reset_to, None);
    }
}

async fn a_position_beyond_all_numbers_is_one_beyond_the_head(stage: &Stage) {
    let room = stage.filled(3).await;
    let epoch = stage
        .store
        .history
        .heads(std::slice::from_ref(&room))
        .await
        .expect("a head")[0]
        .0;
    for seq in [
        u64::MAX,
        u64::MAX - 1,
        u64::MAX - 1024,
        1 << 63,
        (1 << 53) + 1,
    ] {
        for epoch in [0, epoch, u64::MAX] {
            let tail = stage
                .store
                .history
                .tail(&room, epoch, seq, 100, 1 << 20)
                .await
                .expect("readable");
            assert!(
                tail.reset_to.is_some_and(|stands| stands <= 3),
                "{epoch} {seq}: {:?}",
                tail.reset_to
            );
            assert_eq!(tail.head, 3);
        }
        for (slice, expected) in [
            (Slice::Before(seq), vec![2, 3]),
            (Slice::After(seq), Vec::new()),
        ] {
            let page = stage
                .store
                .history
                .page(&room, slice, 2)
                .await
                .expect("readable");
            assert_eq!(
                (seqs(&page.entries), page.truncated, page.head),
                (expected, None, 3),
                "{slice:?}"
            );
        }
        let nobody = stage.user("nobody");
        assert_eq!(
            stage
                .store
                .history
                .mark_read(&room, &nobody, seq)
                .await
                .expect("a room")
                .read,
            3
        );
    }
}

async fn pages_in_both_directions(stage: &Stage) {
    let room = stage.filled(10).await;
    for (slice, limit, expected) in [
        (Slice::Latest, 3, vec![8, 9, 10]),
        (Slice::Latest, 100, (1..=10).collect()),
        (Slice::Before(5), 3, vec![2, 3, 4]),
        (Slice::Before(3), 10, vec![1, 2]),
        (Slice::Before(1), 10, vec![]),
        (Slice::Before(0), 10, vec![]),
        (Slice::Before(u64::MAX >> 12), 2, vec![9, 10]),
        (Slice::After(0), 2, vec![1, 2]),
        (Slice::After(8), 10, vec![9, 10]),
        (Slice::After(10), 10, vec![]),
        (Slice::After(99), 10, vec![]),
    ] {
        let page = stage
            .store
            .history
            .page(&room, slice, limit)
            .await
            .expect("readable");
        assert_eq!(
            (seqs(&page.entries), page.truncated, page.head),
            (expected, None, 10),
            "{slice:?} {limit}"
        );
    }
}

async fn what_does_not_exist_is_empty(stage: &Stage) {
    let (room, ann) = (stage.room(), stage.user("ann"));
    let tail = stage
        .store
        .history
        .tail(&room, 0, 0, 10, 1000)
        .await
        .expect("an empty log");
    assert_eq!(
        (
            tail.epoch,
            tail.head,
            tail.reset_to,
            tail.truncated,
            tail.entries.len()
        ),
        (0, 0, None, None, 0)
    );
    let tail = stage
        .store
        .history
        .tail(&room, 7, 3, 10, 1000)
        .await
        .expect("an empty log");
    assert_eq!((tail.head, tail.reset_to), (0, Some(0)));
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
    assert_eq!(stage.store.rooms.views(&[room], &ann).await, Ok(vec![None]));
    assert_eq!(stage.store.rooms.views(&[], &ann).await, Ok(Vec::new()));
    assert_eq!(stage.store.history.heads(&[]).await, Ok(Vec::new()));
}

async fn heads_and_views_come_in_the_order_asked(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let (open_room, none) = (stage.filled(4).await, stage.room());
    let group = stage.group(&[(&ann, Role::Owner)]).await;
    stage.say(&group, plain(&ann), "one").await;
    let joins = super::change(&group, plain(&ann), &bob, Some(Role::Admin));
    stage
        .store
        .rooms
        .change_membership(joins)
        .await
        .expect("allowed")
        .expect("a change");
    let rooms = [none, group, open_room];
    let heads = stage.store.history.heads(&rooms).await.expect("heads");
    assert_eq!(
        heads.iter().map(|(_, seq)| *seq).collect::<Vec<_>>(),
        [0, 2, 4]
    );
    assert_eq!(heads[0].0, 0);
    let views = stage.store.rooms.views(&rooms, &bob).await.expect("views");
    assert_eq!(views[0], None);
    let group = views[1].as_ref().expect("a room");
    assert_eq!(
        (group.kind, group.role, group.joined, group.read),
        (Kind::Group, Some(Role::Admin), 2, 0)
    );
    let open_room = views[2].as_ref().expect("a room");
    assert_eq!(
        (open_room.kind, open_room.role, open_room.joined),
        (Kind::Open, None, 0)
    );
    assert_eq!((open_room.epoch, open_room.head), heads[2]);
}

async fn read_positions_move_forward_only(stage: &Stage) {
    let (room, ann) = (stage.filled(5).await, stage.user("ann"));
    for (asked, read, moved) in [
        (2, 2, true),
        (1, 2, false),
        (2, 2, false),
        (99, 5, true),
        (5, 5, false),
    ] {
        let position = stage
            .store
            .history
            .mark_read(&room, &ann, asked)
            .await
            .expect("a room");
        assert_eq!(
            (position.read, position.moved, position.head),
            (read, moved, 5),
            "{asked}"
        );
    }
    let view = stage
        .store
        .rooms
        .views(std::slice::from_ref(&room), &ann)
        .await
        .expect("a view")
        .remove(0);
    assert_eq!(view.expect("a room").read, 5);
    let other = stage.user("other");
    stage.say(&room, open(&other), "six").await;
    assert_eq!(
        stage
            .store
            .history
            .mark_read(&room, &other, 1)
            .await
            .expect("a room")
            .read,
        1
    );
}

async fn read_positions_need_a_room_and_membership(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let room = stage.room();
    assert_eq!(
        stage.store.history.mark_read(&room, &ann, 1).await,
        Err(Error::NoSuchRoom(room.clone()))
    );
    let group = stage.group(&[(&ann, Role::Owner)]).await;
    let refused = stage.store.history.mark_read(&group, &bob, 1).await;
    assert_eq!(
        refused,
        Err(Error::NotAMember {
            room: group.clone(),
            user: bob.clone()
        })
    );
    stage.say(&group, plain(&ann), "one").await;
    let joins = super::change(&group, plain(&ann), &bob, Some(Role::Member));
    stage
        .store
        .rooms
        .change_membership(joins)
        .await
        .expect("allowed");
    let position = stage
        .store
        .history
        .mark_read(&group, &bob, 1)
        .await
        .expect("a member");
    assert_eq!((position.read, position.joined, position.head), (1, 2, 2));
}
