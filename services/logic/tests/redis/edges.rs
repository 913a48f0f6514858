//! The edges of a log in redis: windows that change, clocks that are wrong, positions that cannot be, entries that nobody
//! can read, masters that hide who they are.

use std::time::Duration;

use im_logic::store::redis::{Options, RedisStore};
use im_logic::store::suite::goes_over_unreadable;
use im_logic::store::{Error, History, Messages, Retention};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::servers::{Server, until};
use crate::stage::{log, message, options, room, say, store};

async fn with_window(redis: &Server, window: Duration) -> RedisStore {
    let retention = Retention {
        dedupe_window: window,
        ..Retention::default()
    };
    store(Options {
        retention,
        ..options(redis.url())
    })
    .await
}

/// What is left of the life of the room's dedupe hashes, in milliseconds; −2: there is none, −1: it lives for ever.
async fn lives(redis: &Server, of: &str) -> Vec<i64> {
    let mut lives = Vec::new();
    for number in [0, 1] {
        let key = format!("im:r:{{{of}}}:dedupe:{number}");
        lives.push(
            redis
                .ask(redis::cmd("PTTL").arg(key))
                .await
                .expect("it answers"),
        );
    }
    lives
}

async fn repeats(store: &RedisStore, of: &str, client_id: &str) -> bool {
    say(store, of, client_id).await.duplicate
}

#[tokio::test]
async fn a_dedupe_window_made_longer_is_in_force_at_once_and_nothing_lives_for_ever() {
    let redis = Server::start(&[]).await;
    let (short, long) = (Duration::from_secs(1), Duration::from_secs(20));
    let (before, after) = (
        with_window(&redis, short).await,
        with_window(&redis, long).await,
    );
    say(&before, "lobby", "one").await;
    let begun = tokio::time::Instant::now();
    say(&after, "lobby", "two").await;
    // Past all that the short window would have kept, and well within the long one.
    until("the short window is over", async || {
        begun.elapsed() > 3 * short
    })
    .await;
    for number in 0..5 {
        say(&after, "lobby", &format!("more{number}")).await;
    }
    assert!(
        repeats(&after, "lobby", "two").await,
        "{:?}",
        begun.elapsed()
    );
    let lives = lives(&redis, "lobby").await;
    assert!(lives.iter().all(|left| *left != -1), "{lives:?}");
    let longest = i64::try_from(3 * long.as_millis()).expect("small");
    assert!(
        lives.iter().any(|left| *left > 10_000) && lives.iter().all(|left| *left <= longest),
        "{lives:?}"
    );
}

#[tokio::test]
async fn a_dedupe_window_made_shorter_forgets_nothing_at_once() {
    let redis = Server::start(&[]).await;
    let before = with_window(&redis, Duration::from_secs(20)).await;
    say(&before, "lobby", "one").await;
    let after = with_window(&redis, Duration::from_secs(2)).await;
    say(&after, "lobby", "two").await;
    assert!(repeats(&after, "lobby", "one").await);
    assert!(repeats(&after, "lobby", "two").await);
}

#[tokio::test]
async fn two_dedupe_windows_in_force_at_once_keep_what_either_promises() {
    let redis = Server::start(&[]).await;
    let short = Duration::from_millis(500);
    let stores = [
        with_window(&redis, short).await,
        with_window(&redis, Duration::from_secs(60)).await,
    ];
    let begun = tokio::time::Instant::now();
    let mut said = Vec::new();
    for round in 0.. {
        let id = format!("m{round}");
        say(&stores[round % 2], "lobby", &id).await;
        said.push((id, tokio::time::Instant::now(), round % 2 == 1));
        for (id, at, long) in said.iter().rev().take(60) {
            let is_known = repeats(&stores[(round + 1) % 2], "lobby", id).await;
            assert!(
                is_known || (!*long && at.elapsed() >= short),
                "{id} after {:?}",
                at.elapsed()
            );
        }
        let lives = lives(&redis, "lobby").await;
        assert!(lives.iter().all(|left| *left != -1), "{lives:?}");
        if begun.elapsed() > Duration::from_secs(3) {
            break;
        }
    }
    let first_long = said
        .iter()
        .find(|(_, _, long)| *long)
        .expect("one was said");
    assert!(repeats(&stores[0], "lobby", &first_long.0).await);
}

#[tokio::test]
async fn marks_of_the_release_before_are_known_and_get_an_end() {
    let redis = Server::start(&[]).await;
    let window = Duration::from_secs(20);
    let store = with_window(&redis, window).await;
    say(&store, "lobby", "one").await;
    // As the release before named its generations: by the number of the window since 1970.
    let mark: String = {
        let [even, odd] = [0, 1].map(|number| format!("im:r:{{lobby}}:dedupe:{number}"));
        let mut marks: Vec<String> = redis
            .ask(redis::cmd("HVALS").arg(even))
            .await
            .expect("a hash or none");
        marks.extend(
            redis
                .ask::<Vec<String>>(redis::cmd("HVALS").arg(odd))
                .await
                .expect("a hash or none"),
        );
        marks.pop().expect("one mark")
    };
    redis
        .tell(&["DEL", "im:r:{lobby}:dedupe:0", "im:r:{lobby}:dedupe:1"])
        .await;
    let number = crate::stage::now_ms() / 20_000;
    let key = format!("im:r:{{lobby}}:dedupe:{}", number % 2);
    redis.tell(&["HSET", &key, "ann\0one", &mark]).await;
    redis
        .tell(&[
            "HSET",
            "im:r:{lobby}:meta",
            "g",
            &number.to_string(),
            "q",
            "0",
        ])
        .await;
    redis.tell(&["HDEL", "im:r:{lobby}:meta", "w"]).await;
    assert!(repeats(&store, "lobby", "one").await);
    say(&store, "lobby", "two").await;
    assert!(repeats(&store, "lobby", "one").await);
    let lives = lives(&redis, "lobby").await;
    assert!(lives.iter().all(|left| *left != -1), "{lives:?}");
}

#[tokio::test]
async fn the_clock_of_one_process_removes_nothing_from_a_log() {
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    for number in 0..100 {
        say(&store, "lobby", &format!("m{number}")).await;
    }
    let mut ahead = message("lobby", "ahead");
    ahead.entry.time_ms += 31 * 86_400_000;
    store.append(ahead).await.expect("stored");
    assert_eq!(log(&store, "lobby").await.len(), 101);
}

/// Puts a log entry behind the last one that is no entry.
async fn spoil(redis: &Server, of: &str, seq: u64, words: &[&str]) {
    let (key, place) = (format!("im:r:{{{of}}}:log"), format!("{seq}-0"));
    let mut command = vec!["XADD", &key, &place];
    command.extend(words);
    redis.tell(&command).await;
    redis
        .tell(&[
            "HSET",
            &format!("im:r:{{{of}}}:meta"),
            "h",
            &seq.to_string(),
        ])
        .await;
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_is_gone_and_what_follows_is_not() {
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    for id in ["one", "two", "three"] {
        say(&store, "lobby", id).await;
    }
    spoil(&redis, "lobby", 4, &["t", "1", "e", "\u{7f}no entry"]).await;
    spoil(&redis, "lobby", 5, &["of", "another program"]).await;
    assert_eq!(say(&store, "lobby", "six").await.seq, 6);
    goes_over_unreadable(&store, &room("lobby")).await;
}

#[tokio::test]
async fn an_entry_of_another_program_does_not_stop_retention() {
    let redis = Server::start(&[]).await;
    let retention = Retention {
        max_age: Duration::from_millis(100),
        ..Retention::default()
    };
    let store = store(Options {
        retention,
        ..options(redis.url())
    })
    .await;
    say(&store, "lobby", "one").await;
    spoil(&redis, "lobby", 2, &["of", "another program"]).await;
    until("what is old has gone", async || {
        let appended = store
            .append(message("lobby", &uuid::Uuid::now_v7().to_string()))
            .await
            .expect("stored");
        let tail = store
            .tail(&room("lobby"), 0, 0, 10_000, 1 << 20)
            .await
            .expect("readable");
        tail.truncated
            .is_some_and(|(from, to)| from == 1 && to >= 2 && to < appended.seq)
    })
    .await;
}

#[tokio::test]
async fn epochs_that_two_masters_give_at_the_same_moment_differ() {
    let (one, other) = (Server::start(&[]).await, Server::start(&[]).await);
    // Both stand behind the room's last epoch with their clocks, so neither clock tells the two apart.
    let mut epochs = Vec::new();
    let ahead = (crate::stage::now_ms() + 3_600_000) * 2048;
    for server in [&one, &other] {
        let info: String = server
            .ask(redis::cmd("INFO").arg("replication"))
            .await
            .expect("it answers");
        let id = info.split("master_replid:").nth(1).expect("a master's id");
        let mark = u64::from_str_radix(&id[..3], 16).expect("hexadecimal") % 2048;
        let store = store(options(server.url())).await;
        for number in 0..4 {
            let name = format!("room{number}");
            say(&store, &name, "one").await;
            server
                .tell(&[
                    "HSET",
                    &format!("im:r:{{{name}}}:meta"),
                    "e",
                    &ahead.to_string(),
                    "r",
                    "another",
                ])
                .await;
            epochs.push((say(&store, &name, "two").await.epoch, mark));
        }
    }
    assert!(
        epochs
            .iter()
            .all(|(epoch, _)| *epoch > ahead && *epoch < 1 << 53),
        "{epochs:?}"
    );
    assert!(
        epochs.iter().all(|(epoch, mark)| epoch % 2048 == *mark),
        "{epochs:?}"
    );
}

#[tokio::test]
async fn a_room_that_has_seen_many_masters_forgets_no_base() {
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    for number in 1..=20 {
        say(&store, "lobby", &format!("m{number}")).await;
    }
    let old: Vec<String> = (1..=32)
        .map(|number| format!("{}:{}", number * 10, if number == 1 { 3 } else { 15 }))
        .collect();
    redis
        .tell(&[
            "HSET",
            "im:r:{lobby}:meta",
            "p",
            &old.join(","),
            "e",
            "320",
            "r",
            "another",
        ])
        .await;
    say(&store, "lobby", "last").await;
    let kept: String = redis
        .ask(redis::cmd("HGET").arg("im:r:{lobby}:meta").arg("p"))
        .await
        .expect("text");
    assert_eq!(kept.split(',').count(), 32, "{kept}");
    // Of before the oldest that was ever listed: what that one's base took back stays taken back.
    let tail = store
        .tail(&room("lobby"), 5, 10, 100, 1 << 20)
        .await
        .expect("readable");
    assert_eq!(tail.reset_to, Some(3));
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_and_was_not_sent_is_not_stored() {
    let redis = Server::start(&[]).await;
    let patient = Options {
        append_workers: 1,
        command_timeout: Duration::from_secs(30),
        ..options(redis.url())
    };
    let store = store(patient).await;
    say(&store, "lobby", "one").await;
    redis.tell(&["CLIENT", "PAUSE", "60000", "WRITE"]).await;
    let sender = store.clone();
    let under_way = tokio::spawn(async move { sender.append(message("lobby", "two")).await });
    // The worker has taken it: what comes now waits in the queue.
    until("the first batch is under way", async || {
        redis_has_blocked(&redis).await
    })
    .await;
    {
        let mut left = Box::pin(store.append(message("lobby", "left")));
        assert!(futures::poll!(&mut left).is_pending());
    }
    let mut last = Box::pin(store.append(message("lobby", "three")));
    assert!(futures::poll!(&mut last).is_pending());
    redis.tell(&["CLIENT", "UNPAUSE"]).await;
    let (two, three) = tokio::join!(under_way, last);
    let two = two.expect("the sender has not panicked");
    assert_eq!(
        (two.expect("stored").seq, three.expect("stored").seq),
        (2, 3)
    );
    assert_eq!(log(&store, "lobby").await, ["one", "two", "three"]);
    assert!(!say(&store, "lobby", "left").await.duplicate);
}

async fn redis_has_blocked(redis: &Server) -> bool {
    let info: String = redis
        .ask(redis::cmd("INFO").arg("clients"))
        .await
        .expect("it answers");
    info.contains("blocked_clients:1")
}

/// Stands between a client and its redis, and changes what redis says: `hidden` becomes as many other letters.
async fn hide(redis: &Server, hidden: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let to = redis.port;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else {
                continue;
            };
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                    let said = &mut buffer[..count];
                    while let Some(at) = said
                        .windows(hidden.len())
                        .position(|part| part == hidden.as_bytes())
                    {
                        said[at..at + hidden.len()].fill(b'x');
                    }
                    if to_client.write_all(said).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_redis_that_does_not_say_which_master_it_is_is_refused() {
    let redis = Server::start(&[]).await;
    let port = hide(&redis, "master_replid").await;
    let store =
        RedisStore::start(options(format!("redis://127.0.0.1:{port}"))).expect("good options");
    let refused = store.append(message("lobby", "one")).await;
    assert!(
        matches!(&refused, Err(Error::Unavailable(why)) if why.contains("master_replid")),
        "{refused:?}"
    );
}
