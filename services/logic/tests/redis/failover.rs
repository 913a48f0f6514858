//! A master that dies, its Sentinel, and the replica that takes over.

use im_logic::store::Store;
use im_redis_bus::Tiding;

use crate::servers::Server;
use crate::stage::{Ear, insist, log, message, options, room, say, store};

#[tokio::test]
async fn after_a_failover_appends_and_events_go_on_in_another_epoch() {
    let mut master = Server::start(&[]).await;
    let replica = Server::start_replica(&master).await;
    let sentinel = Server::start_sentinel(&master).await;
    let store = store(options(sentinel.sentinel_url())).await;
    let mut ear = Ear::new(&store, 64);
    ear.hear("lobby").await;
    let before = say(&store, "lobby", "one").await;
    assert_eq!(ear.logged().await.1.seq, 1);
    master.wait_in_step(1).await;
    master.kill();
    let after = insist(&store, message("lobby", "two")).await;
    assert!(after.epoch > before.epoch);
    assert_eq!(log(&store, "lobby").await, ["one", "two"]);
    ear.until(|tiding| *tiding == Tiding::Disturbed).await;
    let last = insist(&store, message("lobby", "three")).await;
    while ear.logged().await.1.seq != last.seq {}
    drop(replica);
}

#[tokio::test]
async fn a_tail_that_a_failover_takes_back_is_told_to_whoever_had_it() {
    let mut master = Server::start(&[]).await;
    let _replica = Server::start_replica(&master).await;
    let sentinel = Server::start_sentinel(&master).await;
    let store = store(options(sentinel.sentinel_url())).await;
    for id in ["kept1", "kept2"] {
        say(&store, "lobby", id).await;
    }
    master.wait_in_step(1).await;
    master.cut_replicas_off().await;
    let mut lost = Vec::new();
    for id in ["lost3", "lost4", "lost5"] {
        lost.push(say(&store, "lobby", id).await);
    }
    master.kill();
    // The seqs 3 and 4 are given again.
    let new = insist(&store, message("lobby", "new3")).await;
    say(&store, "lobby", "new4").await;
    assert_eq!((new.seq, lost[0].seq), (3, 3));
    assert!(new.epoch > lost[0].epoch);
    let phantom = &lost[2];
    let tail = store.tail(&room("lobby"), phantom.epoch, phantom.seq, 100, 1 << 20).await.expect("readable");
    assert_eq!((tail.reset_to, tail.epoch, tail.head), (Some(2), new.epoch, 4));
    assert_eq!(tail.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [3, 4]);
    // Whoever had only what was kept forgets nothing.
    let tail = store.tail(&room("lobby"), phantom.epoch, 2, 100, 1 << 20).await.expect("readable");
    assert_eq!((tail.reset_to, tail.entries.len()), (None, 2));
    assert_eq!(log(&store, "lobby").await, ["kept1", "kept2", "new3", "new4"]);
    // What was taken back is not taken for a retry.
    assert!(!insist(&store, message("lobby", "lost3")).await.duplicate);
}

#[tokio::test]
async fn a_failover_that_is_asked_for_is_followed_although_the_old_master_lives() {
    let master = Server::start(&[]).await;
    let replica = Server::start_replica(&master).await;
    let sentinel = Server::start_sentinel(&master).await;
    let store = store(options(sentinel.sentinel_url())).await;
    let mut ear = Ear::new(&store, 64);
    ear.hear("lobby").await;
    let ear = tokio::sync::Mutex::new(ear);
    say(&store, "lobby", "one").await;
    master.wait_in_step(1).await;
    sentinel.tell(&["SENTINEL", "FAILOVER", "im"]).await;
    crate::servers::until("the replica is the master", async || {
        let role: Vec<redis::Value> = replica.ask(&redis::cmd("ROLE")).await.expect("it answers");
        redis::from_redis_value::<String>(role[0].clone()).expect("a word") == "master"
    })
    .await;
    // The old master may still take writes for a moment; those are what the new epoch takes back.
    crate::servers::until("appends go to the new master", async || {
        insist(&store, message("lobby", &uuid::Uuid::now_v7().to_string())).await;
        replica.ask::<usize>(redis::cmd("XLEN").arg("im:r:{lobby}:log")).await.is_ok_and(|length| length > 1)
    })
    .await;
    // What is said before the subscription has moved too is not heard, and nobody said that it would be.
    crate::servers::until("events come from the new master", async || {
        let last = insist(&store, message("lobby", &uuid::Uuid::now_v7().to_string())).await;
        let mut ear = ear.lock().await;
        let heard = tokio::time::timeout(std::time::Duration::from_millis(200), async {
            while ear.logged().await.1.seq != last.seq {}
        });
        heard.await.is_ok()
    })
    .await;
}
