//! Rooms that end in redis: what is told, and what is left behind.

use std::time::Duration;

use im_logic::store::redis::{Options, RedisStore};
use im_logic::store::{
    Access, Create, Delete, Deleted, Error, History, Kind, Messages, Result, Retention, Role, Rooms,
};

use crate::servers::{Server, until};
use crate::stage::{Ear, message, options, room, say, store, user};

async fn delete(store: &RedisStore, id: &str) -> Result<Deleted> {
    let mut entry = message(id, "end").entry;
    entry.r#type = "im.delete".to_owned();
    store
        .delete(Delete {
            room: room(id),
            entry,
        })
        .await
}

async fn keys(redis: &Server) -> Vec<String> {
    let mut keys: Vec<String> = redis
        .ask(redis::cmd("KEYS").arg("im:r:*"))
        .await
        .expect("keys");
    keys.sort();
    keys
}

/// -1: for ever, -2: there is none.
async fn life(redis: &Server, key: &str) -> i64 {
    redis
        .ask(redis::cmd("PTTL").arg(key))
        .await
        .expect("it answers")
}

#[tokio::test]
async fn the_end_of_a_room_is_told_behind_what_was_said_in_it() {
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    let mut ear = Ear::new(&store, 64);
    ear.hear("lobby").await;
    let said = say(&store, "lobby", "one").await;
    let deleted = delete(&store, "lobby").await.expect("it is there");
    assert_eq!((deleted.epoch, deleted.seq), (said.epoch, 2));
    assert_eq!(ear.logged().await.1.seq, 1);
    let (_, end) = ear.logged().await;
    assert_eq!((end.epoch, end.seq), (said.epoch, 2));
    assert_eq!(end.entry.expect("an entry").r#type, "im.delete");
    say(&store, "lobby", "one").await;
    let (_, next) = ear.logged().await;
    assert!(next.epoch > said.epoch && next.seq == 1, "{next:?}");
}

#[tokio::test]
async fn a_deleted_room_leaves_its_epoch_for_a_while_and_nothing_else() {
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    let members = vec![(user("ann"), Role::Owner), (user("bob"), Role::Member)];
    let create = Create {
        room: room("team"),
        kind: Kind::Group,
        members,
        time_ms: 1_000,
    };
    store.create(create.clone()).await.expect("created");
    let append = || {
        let access = Access {
            user: user("ann"),
            direct: false,
            open: false,
            system: false,
        };
        im_logic::store::Append {
            access,
            ..message("team", "one")
        }
    };
    let first = store.append(append()).await.expect("a member");
    store
        .mark_read(&room("team"), &user("bob"), 1)
        .await
        .expect("a member");
    assert!(keys(&redis).await.len() >= 6, "{:?}", keys(&redis).await);
    delete(&store, "team").await.expect("it is there");
    assert_eq!(keys(&redis).await, ["im:r:{team}:meta"]);
    let left: Vec<String> = redis
        .ask(redis::cmd("HKEYS").arg("im:r:{team}:meta"))
        .await
        .expect("a hash");
    assert_eq!(left, ["d"]);
    let life_left = life(&redis, "im:r:{team}:meta").await;
    assert!(life_left > 3_600_000, "{life_left}");
    // A clock that was set back since.
    redis
        .tell(&[
            "HSET",
            "im:r:{team}:meta",
            "d",
            &(first.epoch + (3_600_000 << 11)).to_string(),
        ])
        .await;
    store.create(create).await.expect("created again");
    let again = store.append(append()).await.expect("a member");
    assert!(
        again.epoch > first.epoch + (3_600_000 << 11),
        "{} after {}",
        again.epoch,
        first.epoch
    );
    assert_eq!(
        life(&redis, "im:r:{team}:meta").await,
        -1,
        "the room that took the id does not end"
    );
}

#[tokio::test]
async fn a_redis_that_is_full_deletes() {
    let redis = Server::start(&["--maxmemory-policy", "noeviction"]).await;
    let store = store(options(redis.url())).await;
    say(&store, "lobby", "one").await;
    redis.tell(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    let refused = store.append(message("lobby", "two")).await;
    assert!(matches!(refused, Err(Error::Full(_))), "{refused:?}");
    assert_eq!(
        delete(&store, "lobby")
            .await
            .expect("it takes no memory")
            .seq,
        2
    );
}

#[tokio::test]
async fn after_another_master_the_end_is_told_in_its_epoch() {
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    let said = say(&store, "lobby", "one").await;
    redis
        .tell(&["HSET", "im:r:{lobby}:meta", "r", "another"])
        .await;
    let deleted = delete(&store, "lobby").await.expect("it is there");
    assert!(deleted.epoch > said.epoch);
    assert!(say(&store, "lobby", "one").await.epoch > deleted.epoch);
}

#[tokio::test]
async fn all_keys_of_a_room_that_may_be_abandoned_end_at_once() {
    let redis = Server::start(&[]).await;
    let retention = Retention {
        rooms_end_after: Duration::from_secs(3600),
        ..Retention::default()
    };
    let store = store(Options {
        retention,
        ..options(redis.url())
    })
    .await;
    say(&store, "lobby", "one").await;
    store
        .mark_read(&room("lobby"), &user("bob"), 1)
        .await
        .expect("a room");
    let mut ends = Vec::new();
    for part in ["meta", "log", "read"] {
        let key = format!("im:r:{{lobby}}:{part}");
        ends.push(
            redis
                .ask::<i64>(redis::cmd("PEXPIRETIME").arg(key))
                .await
                .expect("it answers"),
        );
    }
    assert!(
        ends[0] > 0 && ends.iter().all(|end| *end == ends[0]),
        "{ends:?}"
    );
    // Never: what was set before is taken back with the next messages.
    let for_ever = Retention {
        rooms_end_after: Duration::ZERO,
        max_age: Duration::ZERO,
        ..Retention::default()
    };
    let store = crate::stage::store(Options {
        retention: for_ever,
        ..options(redis.url())
    })
    .await;
    for number in 0..64 {
        say(&store, "lobby", &format!("m{number}")).await;
    }
    for part in ["meta", "log", "read"] {
        assert_eq!(
            life(&redis, &format!("im:r:{{lobby}}:{part}")).await,
            -1,
            "{part}"
        );
    }
}

#[tokio::test]
async fn a_log_lives_as_long_as_its_youngest_entry_is_kept() {
    let redis = Server::start(&[]).await;
    let (age, window) = (Duration::from_secs(3600), Duration::from_secs(60));
    let retention = Retention {
        max_age: age,
        dedupe_window: window,
        ..Retention::default()
    };
    let store = store(Options {
        retention,
        ..options(redis.url())
    })
    .await;
    let least = age.as_millis() as i64 - 10_000;
    let most = (age + 2 * window).as_millis() as i64;
    for number in 0..200 {
        say(&store, "lobby", &format!("m{number}")).await;
        if number % 20 == 0 {
            let left = life(&redis, "im:r:{lobby}:log").await;
            assert!((least..=most).contains(&left), "{left} after {number}");
        }
    }
    // A log that lost its end, as one of the release before has none, gets it again.
    redis.tell(&["PERSIST", "im:r:{lobby}:log"]).await;
    for number in 200..264 {
        say(&store, "lobby", &format!("m{number}")).await;
    }
    until("it has an end", async || {
        life(&redis, "im:r:{lobby}:log").await > 0
    })
    .await;
}
