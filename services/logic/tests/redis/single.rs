//! One server.

use std::time::Duration;

use futures::future::join_all;
use im_logic::store::Bans as _;
use im_logic::store::redis::Options;
use im_logic::store::{Access, Error, History, Index, Messages, Retention, Slice, Store};
use im_proto::bans::{Applied, Bans, Who, subject};
use im_proto::v1::Ban;

use crate::servers::{Server, until};
use crate::stage::{Ear, insist, log, message, options, room, say, store, user};

#[tokio::test]
async fn what_is_appended_is_published_with_its_place() {
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    let mut ear = Ear::new(&store, 64);
    ear.hear("lobby").await;
    let appended = say(&store, "lobby", "one").await;
    let (heard_in, logged) = ear.logged().await;
    assert_eq!(
        (heard_in.as_str(), logged.seq, logged.epoch),
        ("lobby", 1, appended.epoch)
    );
    assert_eq!(logged.entry.expect("an entry").id, appended.id);
}

#[tokio::test]
async fn a_retry_is_stored_once_and_published_again_as_it_was_the_first_time() {
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    let first = say(&store, "lobby", "one").await;
    say(&store, "lobby", "two").await;
    let mut ear = Ear::new(&store, 64);
    ear.hear("lobby").await;
    let again = say(&store, "lobby", "one").await;
    assert!(again.duplicate && !first.duplicate);
    assert_eq!(
        (again.seq, &again.id, again.time_ms),
        (1, &first.id, first.time_ms)
    );
    let (_, logged) = ear.logged().await;
    assert_eq!(
        (logged.seq, logged.entry.expect("an entry").id),
        (1, first.id)
    );
    assert_eq!(log(&store, "lobby").await, ["one", "two"]);
}

#[tokio::test]
async fn a_retry_in_the_same_batch_is_stored_once() {
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    let both = join_all([
        store.append(message("lobby", "one")),
        store.append(message("lobby", "one")),
    ])
    .await;
    let both: Vec<_> = both
        .into_iter()
        .map(|appended| appended.expect("stored"))
        .collect();
    assert_eq!((both[0].seq, both[1].seq), (1, 1));
    assert_eq!((both[0].duplicate, both[1].duplicate), (false, true));
    assert_eq!(both[0].id, both[1].id);
}

#[tokio::test]
async fn two_stores_that_append_to_one_room_leave_no_gap() {
    let redis = Server::start(&[]).await;
    let (one, other) = (
        store(options(redis.url())).await,
        store(options(redis.url())).await,
    );
    let sends = (0..400).map(|number| {
        let store = if number % 2 == 0 { &one } else { &other };
        store.append(message("lobby", &format!("m{number}")))
    });
    let mut seqs: Vec<u64> = join_all(sends)
        .await
        .into_iter()
        .map(|done| done.expect("stored").seq)
        .collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=400).collect::<Vec<_>>());
    assert_eq!(log(&one, "lobby").await.len(), 400);
}

#[tokio::test]
async fn a_flushed_script_cache_is_not_noticed() {
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    say(&store, "lobby", "one").await;
    redis.tell(&["SCRIPT", "FLUSH"]).await;
    assert_eq!(say(&store, "lobby", "two").await.seq, 2);
}

#[tokio::test]
async fn a_restarted_server_is_found_again_and_the_epoch_moves_on() {
    let mut redis = Server::start(&["--appendfsync", "always"]).await;
    let store = store(options(redis.url())).await;
    let before = say(&store, "lobby", "one").await;
    redis.kill();
    let failed = store.append(message("lobby", "while-away")).await;
    assert!(matches!(failed, Err(Error::Unavailable(_))), "{failed:?}");
    redis.revive().await;
    let after = insist(&store, message("lobby", "two")).await;
    assert!(after.epoch > before.epoch);
    assert_eq!(log(&store, "lobby").await, ["one", "two"]);
    let tail = store
        .tail(&room("lobby"), before.epoch, before.seq, 10, 1000)
        .await
        .expect("readable");
    assert_eq!(
        (tail.reset_to, tail.entries.len(), tail.epoch),
        (None, 1, after.epoch)
    );
}

#[tokio::test]
async fn while_redis_is_away_sends_fail_at_once() {
    let mut redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    redis.kill();
    until("the first sends have waited", async || {
        let begun = tokio::time::Instant::now();
        let failed = store.append(message("lobby", "one")).await;
        assert!(matches!(failed, Err(Error::Unavailable(_))), "{failed:?}");
        begun.elapsed() < Duration::from_millis(50)
    })
    .await;
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_in_time_and_taken_back() {
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    say(&store, "lobby", "one").await;
    let sleeper = async {
        redis
            .ask::<redis::Value>(redis::cmd("DEBUG").arg("SLEEP").arg("3"))
            .await
    };
    let sender = async {
        let slept = tokio::time::Instant::now();
        while store
            .append(message(
                "lobby",
                &format!("at{}", slept.elapsed().as_nanos()),
            ))
            .await
            .is_ok()
        {}
        assert!(
            slept.elapsed() < Duration::from_millis(2900),
            "{:?}",
            slept.elapsed()
        );
    };
    let (_, ()) = tokio::join!(sleeper, sender);
    insist(&store, message("lobby", "last")).await;
    assert_eq!(
        log(&store, "lobby").await.last().map(String::as_str),
        Some("last")
    );
}

#[tokio::test]
async fn a_full_memory_refuses_writes_and_still_reads() {
    let redis = Server::start(&["--maxmemory-policy", "noeviction"]).await;
    let store = store(options(redis.url())).await;
    say(&store, "lobby", "one").await;
    redis.tell(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    for id in ["two", "three"] {
        let refused = store.append(message("lobby", id)).await;
        assert!(matches!(refused, Err(Error::Full(_))), "{refused:?}");
    }
    assert_eq!(log(&store, "lobby").await, ["one"]);
    redis.tell(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(say(&store, "lobby", "two").await.seq, 2);
}

#[tokio::test]
async fn a_replica_is_not_taken_for_a_master() {
    let master = Server::start(&[]).await;
    let replica = Server::start_replica(&master).await;
    let store =
        im_logic::store::redis::RedisStore::start(options(replica.url())).expect("good options");
    let refused = store.append(message("lobby", "one")).await;
    assert!(
        matches!(&refused, Err(Error::Unavailable(why)) if why.contains("replica")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_master_that_becomes_a_replica_is_noticed() {
    let (redis, other) = (Server::start(&[]).await, Server::start(&[]).await);
    let store = store(options(redis.url())).await;
    say(&store, "lobby", "one").await;
    redis
        .tell(&["REPLICAOF", "127.0.0.1", &other.port.to_string()])
        .await;
    let refused = store.append(message("lobby", "two")).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    redis.tell(&["REPLICAOF", "NO", "ONE"]).await;
    insist(&store, message("lobby", "three")).await;
}

#[tokio::test]
async fn retention_removes_the_oldest_and_says_so() {
    let redis = Server::start(&[]).await;
    let retention = Retention {
        max_entries: 5,
        ..Retention::default()
    };
    let store = store(Options {
        retention,
        ..options(redis.url())
    })
    .await;
    for number in 1..=12 {
        say(&store, "lobby", &format!("m{number}")).await;
    }
    assert_eq!(
        log(&store, "lobby").await,
        ["m8", "m9", "m10", "m11", "m12"]
    );
    let tail = store
        .tail(&room("lobby"), 0, 3, 100, 1 << 20)
        .await
        .expect("readable");
    assert_eq!((tail.truncated, tail.head), (Some((4, 7)), 12));
    let page = store
        .page(&room("lobby"), Slice::Before(9), 4)
        .await
        .expect("readable");
    assert_eq!((page.truncated, page.entries.len()), (Some((5, 7)), 1));
    // Known as a retry although its entry is gone.
    let again = say(&store, "lobby", "m1").await;
    assert_eq!((again.seq, again.duplicate), (1, true));
}

#[tokio::test]
async fn retention_by_age_removes_what_the_store_got_longer_ago_than_that() {
    let redis = Server::start(&[]).await;
    let age = Duration::from_millis(500);
    let retention = Retention {
        max_age: age,
        ..Retention::default()
    };
    let store = store(Options {
        retention,
        ..options(redis.url())
    })
    .await;
    for number in 1..=3 {
        say(&store, "lobby", &format!("old{number}")).await;
    }
    let begun = tokio::time::Instant::now();
    until("they are old", async || begun.elapsed() > age).await;
    say(&store, "lobby", "new1").await;
    assert_eq!(log(&store, "lobby").await, ["new1"]);
    assert_eq!(say(&store, "lobby", "new2").await.seq, 5);
}

#[tokio::test]
async fn a_lost_log_is_reported_as_truncated() {
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    for id in ["one", "two"] {
        say(&store, "lobby", id).await;
    }
    redis.tell(&["DEL", "im:r:{lobby}:log"]).await;
    let tail = store
        .tail(&room("lobby"), 0, 0, 100, 1 << 20)
        .await
        .expect("readable");
    assert_eq!((tail.head, tail.truncated), (2, Some((1, 2))));
    assert_eq!(say(&store, "lobby", "three").await.seq, 3);
}

#[tokio::test]
async fn dedupe_remembers_for_a_window_and_forgets_after_two() {
    let redis = Server::start(&[]).await;
    let window = Duration::from_millis(1000);
    let retention = Retention {
        dedupe_window: window,
        ..Retention::default()
    };
    let store = store(Options {
        retention,
        ..options(redis.url())
    })
    .await;
    let first = say(&store, "lobby", "one").await;
    // The generation has turned at least once by then, and the entry is not older than a window.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(say(&store, "lobby", "one").await.duplicate);
    until("the retry is forgotten", async || {
        !say(&store, "lobby", "one").await.duplicate
    })
    .await;
    assert!(say(&store, "lobby", "one").await.seq > first.seq);
    until("nothing is kept for retries", async || {
        let keys: Vec<String> = redis
            .ask(redis::cmd("KEYS").arg("*dedupe*"))
            .await
            .expect("keys");
        keys.is_empty()
    })
    .await;
}

#[tokio::test]
async fn too_many_waiting_messages_are_refused_at_once() {
    let redis = Server::start(&[]).await;
    let store = store(Options {
        queue: 8,
        batch: 4,
        ..options(redis.url())
    })
    .await;
    let sends = (0..100).map(|number| store.append(message("lobby", &format!("m{number}"))));
    let outcomes = join_all(sends).await;
    let stored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let refused = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Err(Error::Unavailable(_))))
        .count();
    assert!(
        stored >= 8 && refused > 0 && stored + refused == 100,
        "{stored} stored, {refused} refused"
    );
    assert_eq!(log(&store, "lobby").await.len(), stored);
}

#[tokio::test]
async fn closing_stores_what_waits_and_takes_no_more() {
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    let sends: Vec<_> = (0..50)
        .map(|number| store.append(message("lobby", &format!("m{number}"))))
        .collect();
    let mut sends = Box::pin(join_all(sends));
    assert!(futures::poll!(&mut sends).is_pending());
    store.close().await;
    assert!(sends.await.iter().all(Result::is_ok));
    let refused = store.append(message("lobby", "late")).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
}

#[tokio::test]
async fn what_nobody_uses_any_more_goes() {
    let redis = Server::start(&[]).await;
    let retention = im_logic::store::suite::aging::retention();
    let store = store(Options {
        retention,
        ..options(redis.url())
    })
    .await;
    im_logic::store::suite::aging::cases(Store::new(std::sync::Arc::new(store))).await;
}

#[tokio::test]
async fn a_single_server_does_what_every_store_must_do() {
    let redis = Server::start(&[]).await;
    im_logic::store::suite::cases(Store::new(std::sync::Arc::new(
        store(options(redis.url())).await,
    )))
    .await;
}

/// Brings a copy of the list of bans up to date; how many answers it took.
async fn follow(store: &impl im_logic::store::Bans, copy: &Bans) -> usize {
    for answers in 1..100 {
        if let Applied::All { .. } = copy.apply(store.bans(copy.known()).await.expect("the list")) {
            return answers;
        }
    }
    panic!("the list has no end");
}

#[tokio::test]
async fn a_long_list_of_bans_comes_in_parts_and_differences_follow() {
    const MANY: usize = 1_300;
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    let ban = |number: usize| {
        let ban = Ban {
            user: format!("u{number}"),
            ..Ban::default()
        };
        Ban {
            id: subject(&ban).expect("about a user").1,
            ..ban
        }
    };
    let refuses = |copy: &Bans, number: usize| {
        copy.refuses(
            &Who {
                user: &format!("u{number}"),
                ..Who::default()
            },
            || 1,
        )
        .is_some()
    };
    for some in (0..MANY).collect::<Vec<_>>().chunks(50) {
        for done in join_all(some.iter().map(|number| store.ban(ban(*number), MANY))).await {
            assert_eq!(done, Ok(true));
        }
    }
    assert_eq!(store.ban(ban(MANY), MANY).await, Ok(false));
    let (copy, late) = (Bans::default(), Bans::default());
    assert_eq!(
        (follow(&store, &copy).await, follow(&store, &late).await),
        (2, 2)
    );
    assert!((0..MANY).all(|number| refuses(&copy, number)));
    let lift = |number: usize| {
        let store = &store;
        let id = ban(number).id;
        async move { store.lift_ban(&id).await }
    };
    for some in (0..MANY / 2).collect::<Vec<_>>().chunks(50) {
        join_all(some.iter().map(|number| lift(*number))).await;
    }
    assert_eq!(follow(&store, &copy).await, 1);
    assert!((0..MANY).all(|number| refuses(&copy, number) == (number >= MANY / 2)));
    for some in (MANY / 2..MANY).collect::<Vec<_>>().chunks(50) {
        join_all(some.iter().map(|number| lift(*number))).await;
    }
    assert_eq!(follow(&store, &copy).await, 1);
    // More was lifted than is remembered: whoever has not heard of it gets the whole list, which is empty.
    assert!(store.bans(late.known()).await.expect("the list").reset);
    follow(&store, &late).await;
    assert!(copy.read().is_empty() && late.read().is_empty());
}

#[tokio::test]
async fn a_direct_room_is_in_both_lists_before_its_message_is_stored_or_nothing_is() {
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    let direct = "direct:3:ann:bob";
    let first = |client_id: &str| {
        let mut append = message(direct, client_id);
        append.access = Access {
            direct: true,
            open: false,
            ..append.access
        };
        append.index = vec![user("ann"), user("bob")];
        append
    };
    // Something that is no list stands where Bob's should be.
    let key = store.client().keys().user_rooms(&user("bob"));
    redis.tell(&["SET", &key, "in the way"]).await;
    let both = join_all([
        store.append(first("one")),
        store.append(message("lobby", "beside-it")),
    ])
    .await;
    assert!(matches!(both[0], Err(Error::Corrupt(_))), "{both:?}");
    assert_eq!(
        both[1].as_ref().map(|appended| appended.seq),
        Ok(1),
        "other rooms of the batch are stored"
    );
    assert_eq!(
        store.heads(&[room(direct)]).await.expect("heads"),
        [(0, 0)],
        "nothing is stored"
    );
    redis.tell(&["DEL", &key]).await;
    let sends = ["one", "two", "three"].map(|client_id| store.append(first(client_id)));
    let seqs: Vec<u64> = join_all(sends)
        .await
        .into_iter()
        .map(|stored| stored.expect("stored").seq)
        .collect();
    assert_eq!(seqs, [1, 2, 3]);
    for who in ["ann", "bob"] {
        assert_eq!(
            store.user_rooms(&user(who), None, 10).await.expect("rooms"),
            [room(direct)]
        );
    }
}
