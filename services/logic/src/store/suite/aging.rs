//! What time does to rooms that nobody uses.

use std::time::Duration;

use im_runtime::clock;
use im_wire::ids::{Epoch, RoomId, Seq, UserId};

use super::{Stage, change, direct, message, open, plain, system};
use crate::store::{Access, Appended, Create, Kind, Retention, Role, Slice, Store};

/// What a store that is given to [`cases`] keeps, and for how long.
pub fn retention() -> Retention {
    Retention {
        max_age: Duration::from_millis(500),
        dedupe_window: Duration::from_millis(200),
        rooms_end_after: Duration::from_secs(6),
        ..Retention::default()
    }
}

/// Runs every case at the same time, on a store that was opened with [`retention`].
///
/// # Panics
/// Where the store does not do what [`crate::store`] promises.
pub async fn cases(store: Store) {
    let stage = Stage::new(store);
    futures::join!(
        an_idle_log_is_emptied_and_answers_like_a_trimmed_one(&stage),
        a_log_in_use_keeps_what_is_young(&stage),
        an_abandoned_open_room_ends_and_comes_again_in_a_greater_epoch(&stage),
        an_open_room_in_which_nothing_was_ever_said_ends(&stage),
        a_group_ends_after_its_last_member(&stage),
        rooms_with_members_stay(&stage),
    );
}

/// Longer than anything here takes.
const TIMEOUT: Duration = Duration::from_secs(60);

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, wait)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Now, as people say something: an old time that is named counts where it is not too far from the store's own.
async fn say(stage: &Stage, room: &RoomId, access: Access, client_id: &str) -> Appended {
    let mut append = message(room, access, client_id);
    append.entry.time_ms = clock::unix_ms();
    stage
        .store
        .messages
        .append(append)
        .await
        .expect("the access allows it")
}

async fn change_now(
    stage: &Stage,
    room: &RoomId,
    by: Access,
    user: &UserId,
    role: Option<Role>,
) -> Option<Appended> {
    let mut change = change(room, by, user, role);
    change.entry.time_ms = clock::unix_ms();
    stage
        .store
        .rooms
        .change_membership(change)
        .await
        .expect("allowed")
}

async fn head(stage: &Stage, room: &RoomId) -> (Epoch, Seq) {
    stage
        .store
        .history
        .heads(std::slice::from_ref(room))
        .await
        .expect("heads")[0]
}

async fn is_empty(stage: &Stage, room: &RoomId) -> bool {
    stage
        .store
        .history
        .page(room, Slice::Latest, 10)
        .await
        .expect("readable")
        .entries
        .is_empty()
}

async fn an_idle_log_is_emptied_and_answers_like_a_trimmed_one(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let room = RoomId::direct(&ann, &bob).expect("two users");
    let mut epoch = 0;
    for id in ["one", "two", "three"] {
        epoch = say(stage, &room, direct(&ann), id).await.epoch;
    }
    stage
        .store
        .history
        .mark_read(&room, &bob, 2)
        .await
        .expect("a room");
    until("the log of an idle room is empty", async || {
        is_empty(stage, &room).await
    })
    .await;
    assert_eq!(head(stage, &room).await, (epoch, 3));
    for (after, truncated) in [(0, Some((1, 3))), (1, Some((2, 3))), (3, None)] {
        let tail = stage
            .store
            .history
            .tail(&room, epoch, after, 10, 1 << 20)
            .await
            .expect("readable");
        assert_eq!(
            (tail.reset_to, tail.truncated, tail.head),
            (None, truncated, 3),
            "after {after}"
        );
    }
    for (slice, limit, truncated) in [
        (Slice::Latest, 10, Some((1, 3))),
        (Slice::Latest, 2, Some((2, 3))),
        (Slice::Before(3), 10, Some((1, 2))),
        (Slice::Before(1), 10, None),
        (Slice::After(0), 10, Some((1, 3))),
        (Slice::After(0), 0, Some((1, 3))),
        (Slice::After(2), 10, Some((3, 3))),
        (Slice::After(3), 10, None),
    ] {
        let page = stage
            .store
            .history
            .page(&room, slice, limit)
            .await
            .expect("readable");
        assert_eq!(
            (page.truncated, page.entries.len(), page.head),
            (truncated, 0, 3),
            "{slice:?} {limit}"
        );
    }
    let view = stage
        .store
        .rooms
        .views(std::slice::from_ref(&room), &bob)
        .await
        .expect("a view")
        .remove(0);
    assert_eq!(view.map(|view| (view.head, view.read)), Some((3, 2)));
    // It goes on where it ended.
    let next = say(stage, &room, direct(&bob), "four").await;
    assert_eq!((next.seq, next.epoch, next.created), (4, epoch, false));
    let page = stage
        .store
        .history
        .page(&room, Slice::After(0), 0)
        .await
        .expect("readable");
    assert_eq!((page.truncated, page.head), (Some((1, 3)), 4));
    until("and is emptied again", async || {
        is_empty(stage, &room).await
    })
    .await;
    let page = stage
        .store
        .history
        .page(&room, Slice::After(0), 10)
        .await
        .expect("readable");
    assert_eq!((page.truncated, page.head), (Some((1, 4)), 4));
}

async fn a_log_in_use_keeps_what_is_young(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let room = RoomId::direct(&ann, &bob).expect("two users");
    let begun = tokio::time::Instant::now();
    for number in 1_u64.. {
        let before = tokio::time::Instant::now();
        let appended = say(stage, &room, direct(&ann), &format!("m{number}")).await;
        assert_eq!(appended.seq, number);
        let page = stage
            .store
            .history
            .page(&room, Slice::Latest, 1)
            .await
            .expect("readable");
        assert!(
            page.entries.len() == 1 || before.elapsed() >= retention().max_age,
            "{page:?}"
        );
        if begun.elapsed() > 4 * retention().max_age {
            break;
        }
        tokio::time::sleep(retention().max_age / 10).await;
    }
}

async fn an_abandoned_open_room_ends_and_comes_again_in_a_greater_epoch(stage: &Stage) {
    let (room, used, ann) = (stage.room(), stage.room(), stage.user("ann"));
    say(stage, &used, open(&ann), "one").await;
    let begun = tokio::time::Instant::now();
    let old = say(stage, &room, open(&ann), "one").await;
    stage
        .store
        .history
        .mark_read(&room, &ann, 1)
        .await
        .expect("a room");
    let mut said = 1;
    while head(stage, &room).await != (0, 0) {
        assert!(begun.elapsed() < TIMEOUT, "the room does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
        said += 1;
        assert_eq!(
            say(stage, &used, open(&ann), &format!("m{said}")).await.seq,
            said,
            "a room in use goes on"
        );
    }
    assert!(
        begun.elapsed() >= retention().rooms_end_after,
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(
        stage
            .store
            .rooms
            .views(std::slice::from_ref(&room), &ann)
            .await,
        Ok(vec![None])
    );
    let new = say(stage, &room, open(&ann), "one").await;
    assert_eq!((new.seq, new.created, new.duplicate), (1, true, false));
    assert!(new.epoch > old.epoch);
    let tail = stage
        .store
        .history
        .tail(&room, old.epoch, 1, 10, 1 << 20)
        .await
        .expect("readable");
    assert_eq!((tail.reset_to, tail.head), (Some(0), 1));
    assert_eq!(
        stage
            .store
            .history
            .mark_read(&room, &ann, 0)
            .await
            .expect("a room")
            .read,
        0
    );
}

async fn an_open_room_in_which_nothing_was_ever_said_ends(stage: &Stage) {
    let create = Create {
        room: stage.room(),
        kind: Kind::Open,
        members: Vec::new(),
        time_ms: 1_000,
    };
    assert_eq!(stage.store.rooms.create(create.clone()).await, Ok(true));
    assert_eq!(stage.store.rooms.create(create.clone()).await, Ok(false));
    let nobody = stage.user("nobody");
    until("it ends", async || {
        stage
            .store
            .rooms
            .views(std::slice::from_ref(&create.room), &nobody)
            .await
            == Ok(vec![None])
    })
    .await;
    assert_eq!(stage.store.rooms.create(create).await, Ok(true));
}

async fn a_group_ends_after_its_last_member(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let (ends, goes_on) = (
        stage.group(&[(&ann, Role::Owner)]).await,
        stage.group(&[(&ann, Role::Owner)]).await,
    );
    for room in [&ends, &goes_on] {
        say(stage, room, plain(&ann), "one").await;
        assert!(
            change_now(stage, room, plain(&ann), &ann, None)
                .await
                .is_some()
        );
    }
    let epoch = head(stage, &ends).await.0;
    let back = change_now(stage, &goes_on, system(&bob), &bob, Some(Role::Owner)).await;
    assert_eq!(back.expect("a change").seq, 3);
    until("the group without members ends", async || {
        head(stage, &ends).await == (0, 0)
    })
    .await;
    assert_eq!(
        head(stage, &goes_on).await.1,
        3,
        "one that got a member again stays"
    );
    let members = vec![(bob.clone(), Role::Owner)];
    let create = Create {
        room: ends.clone(),
        kind: Kind::Group,
        members,
        time_ms: 1_000,
    };
    assert_eq!(stage.store.rooms.create(create).await, Ok(true));
    assert!(say(stage, &ends, plain(&bob), "one").await.epoch > epoch);
}

async fn rooms_with_members_stay(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let pair = RoomId::direct(&ann, &bob).expect("two users");
    let group = stage.group(&[(&ann, Role::Owner)]).await;
    let silent = stage.group(&[(&ann, Role::Owner)]).await;
    let abandoned = stage.room();
    say(stage, &pair, direct(&ann), "one").await;
    say(stage, &group, plain(&ann), "one").await;
    // Later than the others, so it ends after they would have.
    say(stage, &abandoned, open(&ann), "one").await;
    until("the open room ends", async || {
        head(stage, &abandoned).await == (0, 0)
    })
    .await;
    let deadline = tokio::time::Instant::now() + 2 * retention().dedupe_window;
    tokio::time::sleep_until(deadline).await;
    assert_eq!(head(stage, &pair).await.1, 1);
    assert_eq!(head(stage, &group).await.1, 1);
    let views = stage
        .store
        .rooms
        .views(std::slice::from_ref(&silent), &ann)
        .await
        .expect("a view");
    assert!(views[0].is_some());
}
