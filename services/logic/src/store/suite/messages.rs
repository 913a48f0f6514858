//! Appending: right, place, order, and once.

use futures::future::join_all;
use im_wire::ids::RoomId;

use super::{Stage, direct, message, open, plain, system};
use crate::store::{Error, Role};

pub(super) async fn cases(stage: &Stage) {
    rooms_come_into_being_with_the_first_message(stage).await;
    the_access_must_fit_the_room(stage).await;
    only_members_speak_in_a_group(stage).await;
    seqs_are_contiguous_and_in_the_order_of_calls(stage).await;
    a_retry_is_stored_once(stage).await;
    the_same_client_id_elsewhere_is_another_message(stage).await;
    a_signal_is_not_stored(stage).await;
}

async fn rooms_come_into_being_with_the_first_message(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let pair = RoomId::direct(&ann, &bob).expect("two users");
    for (room, access) in [(stage.room(), open(&ann)), (pair, direct(&ann))] {
        let refused = stage
            .store
            .messages
            .append(message(&room, plain(&ann), "zero"))
            .await;
        assert_eq!(refused, Err(Error::NoSuchRoom(room.clone())));
        let refused = stage
            .store
            .messages
            .append(message(&room, system(&ann), "zero"))
            .await;
        assert_eq!(refused, Err(Error::NoSuchRoom(room.clone())));
        let first = stage.say(&room, access.clone(), "one").await;
        assert_eq!(
            (first.seq, first.created, first.duplicate),
            (1, true, false)
        );
        assert!(first.epoch > 0);
        let second = stage.say(&room, access, "two").await;
        assert_eq!(
            (second.seq, second.created, second.epoch),
            (2, false, first.epoch)
        );
        assert_eq!(stage.say(&room, system(&bob), "three").await.seq, 3);
    }
}

async fn the_access_must_fit_the_room(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let room = stage.room();
    let pair = RoomId::direct(&ann, &bob).expect("two users");
    stage.say(&room, open(&ann), "one").await;
    stage.say(&pair, direct(&ann), "one").await;
    for append in [
        message(&room, plain(&bob), "two"),
        message(&pair, open(&bob), "two"),
    ] {
        let refused = stage.store.messages.append(append).await;
        assert!(
            matches!(refused, Err(Error::Forbidden { .. })),
            "{refused:?}"
        );
    }
}

async fn only_members_speak_in_a_group(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let room = stage.group(&[(&ann, Role::Owner)]).await;
    assert_eq!(stage.say(&room, plain(&ann), "one").await.seq, 1);
    for access in [plain(&bob), open(&bob)] {
        let refused = stage
            .store
            .messages
            .append(message(&room, access, "two"))
            .await;
        assert_eq!(
            refused,
            Err(Error::NotAMember {
                room: room.clone(),
                user: bob.clone()
            })
        );
    }
    assert_eq!(stage.say(&room, system(&bob), "three").await.seq, 2);
}

async fn seqs_are_contiguous_and_in_the_order_of_calls(stage: &Stage) {
    let (room, other, ann) = (stage.room(), stage.room(), stage.user("ann"));
    let sends = (0..300).map(|number| {
        let room = if number % 3 == 0 { &other } else { &room };
        stage
            .store
            .messages
            .append(message(room, open(&ann), &format!("m{number}")))
    });
    let seqs: Vec<u64> = join_all(sends)
        .await
        .into_iter()
        .map(|done| done.expect("stored").seq)
        .collect();
    let of = |rest: fn(usize) -> bool| {
        seqs.iter()
            .enumerate()
            .filter(move |(at, _)| rest(*at))
            .map(|(_, seq)| *seq)
    };
    assert!(of(|at| at % 3 == 0).eq(1..=100));
    assert!(of(|at| at % 3 != 0).eq(1..=200));
}

async fn a_retry_is_stored_once(stage: &Stage) {
    let (room, ann) = (stage.room(), stage.user("ann"));
    let first = stage.say(&room, open(&ann), "one").await;
    stage.say(&room, open(&ann), "two").await;
    let mut retry = message(&room, open(&ann), "one");
    retry.entry.time_ms += 5_000;
    let again = stage
        .store
        .messages
        .append(retry)
        .await
        .expect("the access allows it");
    assert!(again.duplicate);
    assert_eq!(
        (again.seq, &again.id, again.time_ms, again.epoch),
        (1, &first.id, first.time_ms, first.epoch)
    );
    assert_eq!(stage.say(&room, open(&ann), "three").await.seq, 3);
}

async fn the_same_client_id_elsewhere_is_another_message(stage: &Stage) {
    let (room, other) = (stage.room(), stage.room());
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    assert_eq!(stage.say(&room, open(&ann), "one").await.seq, 1);
    assert_eq!(stage.say(&room, open(&bob), "one").await.seq, 2);
    assert_eq!(stage.say(&other, open(&ann), "one").await.seq, 1);
}

async fn a_signal_is_not_stored(stage: &Stage) {
    let room = stage.room();
    assert_eq!(
        stage
            .store
            .messages
            .signal(&room, im_proto::v1::Signal::default())
            .await,
        Ok(())
    );
    assert_eq!(stage.store.history.heads(&[room]).await, Ok(vec![(0, 0)]));
}
