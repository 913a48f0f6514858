//! What every store promises, and what only a store with an ear of its own can show.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use im_logic::store::embedded::{EmbeddedStore, Options};
use im_logic::store::{Delete, Error, History, Index, Messages, Retention, Rooms, Slice, Store};
use im_proto::v1::Signal;

use crate::stage::{
    Ear, Heard, TIMEOUT, in_memory, message, message_of, open, options, room, said, say, user,
};

#[tokio::test]
async fn in_memory_it_does_what_every_store_must_do() {
    im_logic::store::suite::cases(Store::new(Arc::new(in_memory(Retention::default())))).await;
}

#[tokio::test]
async fn what_nobody_uses_any_more_goes() {
    im_logic::store::suite::aging::cases(Store::new(Arc::new(in_memory(
        im_logic::store::suite::aging::retention(),
    ))))
    .await;
}

#[tokio::test]
async fn on_disk_it_does_what_every_store_must_do() {
    let folder = tempfile::tempdir().unwrap();
    im_logic::store::suite::cases(Store::new(Arc::new(open(folder.path())))).await;
}

#[tokio::test]
async fn every_entry_is_published_in_order_before_it_is_acknowledged() {
    let ear = Arc::new(Ear::default());
    let store = EmbeddedStore::in_memory(Retention::default(), ear.clone()).unwrap();
    let names: Vec<String> = (0..200).map(|number| format!("m{number}")).collect();
    join_all(
        names
            .iter()
            .map(|name| store.append(message("lobby", name))),
    )
    .await;
    let heard: Vec<_> = ear
        .take()
        .into_iter()
        .map(|heard| match heard {
            Heard::Logged(room, epoch, seq, entry) => (room, epoch > 0, seq, entry.client_id),
            Heard::Signal(..) => panic!("nobody signals"),
        })
        .collect();
    let expected: Vec<_> = names
        .iter()
        .zip(1..)
        .map(|(name, seq)| (room("lobby"), true, seq, name.clone()))
        .collect();
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn the_end_of_a_room_is_published_behind_what_was_said_in_it() {
    let ear = Arc::new(Ear::default());
    let store = EmbeddedStore::in_memory(Retention::default(), ear.clone()).unwrap();
    let said = say(&store, "lobby", "one").await;
    let entry = message("lobby", "end").entry;
    let deleted = store
        .delete(Delete {
            room: room("lobby"),
            entry: entry.clone(),
        })
        .await
        .unwrap();
    assert_eq!(
        ear.take().pop(),
        Some(Heard::Logged(room("lobby"), said.epoch, 2, entry))
    );
    assert_eq!((deleted.epoch, deleted.seq), (said.epoch, 2));
}

#[tokio::test]
async fn a_retry_is_published_again_as_it_was_the_first_time() {
    let ear = Arc::new(Ear::default());
    let store = EmbeddedStore::in_memory(Retention::default(), ear.clone()).unwrap();
    let both = join_all([
        store.append(message("lobby", "one")),
        store.append(message("lobby", "one")),
    ])
    .await;
    let [first, again] = both.try_into().unwrap();
    let first = first.unwrap();
    let again = again.unwrap();
    assert_eq!(
        (first.duplicate, again.duplicate, again.seq, &again.id),
        (false, true, 1, &first.id)
    );
    let heard = ear.take();
    assert_eq!(heard.len(), 2);
    assert_eq!(heard[0], heard[1]);
}

#[tokio::test]
async fn what_is_refused_is_not_published_and_takes_no_seq() {
    let ear = Arc::new(Ear::default());
    let store = EmbeddedStore::in_memory(Retention::default(), ear.clone()).unwrap();
    let mut stranger = message_of("eve", "lobby", "two");
    stranger.access.open = false;
    let sends = [message("lobby", "one"), stranger, message("lobby", "three")]
        .map(|append| store.append(append));
    let outcomes = join_all(sends).await;
    assert!(matches!(outcomes[1], Err(Error::Forbidden { .. })));
    assert_eq!(outcomes[2].as_ref().unwrap().seq, 2);
    assert_eq!(ear.take().len(), 2);
}

#[tokio::test]
async fn signals_are_published_and_not_stored() {
    let ear = Arc::new(Ear::default());
    let store = EmbeddedStore::in_memory(Retention::default(), ear.clone()).unwrap();
    let signal = Signal {
        from: "ann".into(),
        r#type: "typing".into(),
        ..Signal::default()
    };
    store.signal(&room("lobby"), signal.clone()).await.unwrap();
    assert_eq!(ear.take(), [Heard::Signal(room("lobby"), signal)]);
    assert_eq!(store.heads(&[room("lobby")]).await, Ok(vec![(0, 0)]));
}

#[tokio::test]
async fn names_of_any_letters_stay_apart() {
    let store = in_memory(Retention::default());
    let rooms = [
        "{}",
        "{a}:log",
        "a:log",
        "it's \"quoted\"".replace(' ', "_").as_str(),
        "комната",
        "\u{10ffff}",
        "a",
        "a\u{0301}",
    ]
    .map(str::to_owned);
    for (number, name) in rooms.iter().enumerate() {
        for count in 0..=number {
            say(&store, name, &format!("m{count}")).await;
        }
        store.index_room(&[user("ann")], &room(name)).await.unwrap();
    }
    for (number, name) in rooms.iter().enumerate() {
        assert_eq!(said(&store, name).await.len(), number + 1, "{name}");
    }
    let mut sorted: Vec<_> = rooms.iter().map(|name| room(name)).collect();
    sorted.sort();
    assert_eq!(
        store.user_rooms(&user("ann"), None, 100).await.unwrap(),
        sorted
    );
}

#[tokio::test]
async fn big_bodies_come_back_whole_and_pages_stay_bounded() {
    let store = in_memory(Retention::default());
    let body = vec![7; 1 << 20];
    for number in 0..9 {
        let mut append = message("lobby", &format!("m{number}"));
        append.entry.body = body.clone().into();
        store.append(append).await.unwrap();
    }
    let tail = store
        .tail(&room("lobby"), 0, 0, 100, usize::MAX)
        .await
        .unwrap();
    assert_eq!(tail.entries.len(), 9);
    assert!(
        tail.entries
            .iter()
            .all(|one| one.entry.as_ref().unwrap().body == body)
    );
    let page = store
        .page(&room("lobby"), Slice::Latest, 100)
        .await
        .unwrap();
    let seqs: Vec<_> = page.entries.iter().map(|one| one.seq).collect();
    assert_eq!(seqs, [9]);
    let page = store
        .page(&room("lobby"), Slice::After(0), 100)
        .await
        .unwrap();
    assert_eq!(
        page.entries.iter().map(|one| one.seq).collect::<Vec<_>>(),
        [1]
    );
}

#[tokio::test]
async fn retention_removes_the_oldest_and_says_so() {
    let store = in_memory(Retention {
        max_entries: 5,
        ..Retention::default()
    });
    for number in 1..=12 {
        say(&store, "lobby", &format!("m{number}")).await;
    }
    assert_eq!(
        said(&store, "lobby").await,
        ["m8", "m9", "m10", "m11", "m12"]
    );
    let tail = store
        .tail(&room("lobby"), 0, 3, 100, usize::MAX)
        .await
        .unwrap();
    assert_eq!(
        (tail.truncated, tail.head, tail.entries.len()),
        (Some((4, 7)), 12, 5)
    );
    let tail = store
        .tail(&room("lobby"), 0, 7, 100, usize::MAX)
        .await
        .unwrap();
    assert_eq!((tail.truncated, tail.entries.len()), (None, 5));
    for (slice, limit, truncated, count) in [
        (Slice::Before(9), 4, Some((5, 7)), 1),
        (Slice::Before(8), 2, Some((6, 7)), 0),
        (Slice::Before(3), 10, Some((1, 2)), 0),
        (Slice::Before(1), 10, None, 0),
        (Slice::Latest, 5, None, 5),
        (Slice::Latest, 7, Some((6, 7)), 5),
        (Slice::After(0), 3, Some((1, 7)), 3),
        (Slice::After(7), 3, None, 3),
    ] {
        let page = store.page(&room("lobby"), slice, limit).await.unwrap();
        assert_eq!(
            (page.truncated, page.entries.len()),
            (truncated, count),
            "{slice:?} {limit}"
        );
    }
    let page = store
        .page(&room("lobby"), Slice::After(0), 0)
        .await
        .unwrap();
    assert_eq!((page.truncated, page.head), (Some((1, 7)), 12));
    // Known as a retry although its entry is gone.
    let again = say(&store, "lobby", "m1").await;
    assert_eq!((again.seq, again.duplicate), (1, true));
}

#[tokio::test]
async fn retention_by_age_removes_what_is_too_old_and_keeps_the_newest() {
    let age = Duration::from_secs(3);
    let store = in_memory(Retention {
        max_age: age,
        ..Retention::default()
    });
    let old = (1..=40).map(|number| store.append(message("lobby", &format!("old{number}"))));
    assert!(join_all(old).await.iter().all(Result::is_ok));
    let begun = tokio::time::Instant::now();
    assert_eq!(said(&store, "lobby").await.len(), 40);
    while begun.elapsed() <= age {
        tokio::time::sleep(age / 20).await;
    }
    // Bounded work with each append: it takes a few.
    for number in 1..=4 {
        say(&store, "lobby", &format!("new{number}")).await;
    }
    assert_eq!(
        said(&store, "lobby").await,
        ["new1", "new2", "new3", "new4"]
    );
}

#[tokio::test]
async fn dedupe_remembers_for_a_window_and_forgets_after_two() {
    let window = Duration::from_millis(1000);
    let store = in_memory(Retention {
        dedupe_window: window,
        ..Retention::default()
    });
    let begun = tokio::time::Instant::now();
    let first = say(&store, "lobby", "one").await;
    let mut repeated = 0;
    loop {
        let at = begun.elapsed();
        let again = say(&store, "lobby", "one").await;
        if !again.duplicate {
            assert!(
                at + Duration::from_millis(50) > window,
                "forgotten after {at:?}"
            );
            assert_eq!(again.seq, first.seq + 1);
            break;
        }
        repeated += 1;
        assert!(at < TIMEOUT, "never forgotten");
        tokio::time::sleep(window / 20).await;
    }
    assert!(repeated > 5);
}

#[tokio::test]
async fn too_many_waiting_writes_are_refused_at_once() {
    let options = Options {
        queue: 8,
        batch: 4,
        ..options(None, Retention::default())
    };
    let store = EmbeddedStore::open(options, Arc::new(Ear::default())).unwrap();
    let outcomes =
        join_all((0..500).map(|number| store.append(message("lobby", &format!("m{number}")))))
            .await;
    let stored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let refused = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Err(Error::Unavailable(_))))
        .count();
    assert!(
        stored >= 8 && refused > 0 && stored + refused == 500,
        "{stored} stored, {refused} refused"
    );
    assert_eq!(said(&store, "lobby").await.len(), stored);
}

#[tokio::test]
async fn closing_stores_what_waits_and_takes_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let sends: Vec<_> = (0..50)
        .map(|number| store.append(message("lobby", &format!("m{number}"))))
        .collect();
    let mut sends = Box::pin(join_all(sends));
    assert!(futures::poll!(&mut sends).is_pending());
    store.close().await;
    assert!(sends.await.iter().all(Result::is_ok));
    assert!(matches!(
        store.append(message("lobby", "late")).await,
        Err(Error::Unavailable(_))
    ));
    assert!(matches!(store.heads(&[]).await, Err(Error::Unavailable(_))));
    store.close().await;
    assert_eq!(said(&open(folder.path()), "lobby").await.len(), 50);
}
