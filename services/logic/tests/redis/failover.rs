//! A master that dies, its Sentinel, and the replica that takes over.

use std::time::Duration;

use im_logic::store::redis::RedisStore;
use im_logic::store::{Bans as _, History};
use im_proto::bans::{Bans, subject};
use im_proto::v1::Ban;
use im_redis_bus::BusNotification;
use tokio::sync::Mutex;

use crate::forwarder::Forwarder;
use crate::servers::{Server, until};
use crate::stage::{Ear, insist, log, message, options, room, say, store};

/// What is said before the subscription has moved is not heard: it is found by comparing heads.
async fn hears_what_is_said(store: &RedisStore, ear: &Mutex<Ear>) {
    until("events come from the new master", async || {
        let last = insist(store, message("lobby", &uuid::Uuid::now_v7().to_string())).await;
        let mut ear = ear.lock().await;
        let heard = async { while ear.logged().await.1.seq != last.seq {} };
        tokio::time::timeout(Duration::from_millis(200), heard)
            .await
            .is_ok()
    })
    .await;
}

/// A master, its replica, the Sentinel that watches them, and a store that asks it where the master is.
struct Watched {
    master: Server,
    replica: Server,
    sentinel: Server,
    store: RedisStore,
}

impl Watched {
    async fn start() -> Self {
        let master = Server::start(&[]).await;
        let replica = Server::start_replica(&master).await;
        let sentinel = Server::start_sentinel(&master).await;
        let store = store(options(sentinel.sentinel_url())).await;
        Self {
            master,
            replica,
            sentinel,
            store,
        }
    }
}

/// A master and a replica in step with it, behind one address, which is all that the store knows. The ear has heard what
/// was said.
struct Behind {
    old: Server,
    new: Server,
    address: Forwarder,
    store: RedisStore,
    ear: Mutex<Ear>,
}

impl Behind {
    async fn start() -> Self {
        let old = Server::start(&[]).await;
        let new = Server::start_replica(&old).await;
        let address = Forwarder::to(old.port).await;
        let store = store(options(address.url())).await;
        let mut ear = Ear::new(&store, 64);
        ear.hear("lobby").await;
        say(&store, "lobby", "before").await;
        assert_eq!(ear.logged().await.1.seq, 1);
        old.wait_in_step(1).await;
        Self {
            old,
            new,
            address,
            store,
            ear: Mutex::new(ear),
        }
    }
}

#[tokio::test]
async fn after_a_failover_appends_and_events_go_on_in_another_epoch() {
    let mut watched = Watched::start().await;
    let mut ear = Ear::new(&watched.store, 64);
    ear.hear("lobby").await;
    let before = say(&watched.store, "lobby", "one").await;
    assert_eq!(ear.logged().await.1.seq, 1);
    watched.master.wait_in_step(1).await;
    watched.master.kill();
    let after = insist(&watched.store, message("lobby", "two")).await;
    assert!(after.epoch > before.epoch);
    assert_eq!(log(&watched.store, "lobby").await, ["one", "two"]);
    ear.until(|tiding| *tiding == BusNotification::GapPossible)
        .await;
    let last = insist(&watched.store, message("lobby", "three")).await;
    while ear.logged().await.1.seq != last.seq {}
}

#[tokio::test]
async fn a_tail_that_a_failover_takes_back_is_told_to_whoever_had_it() {
    let mut watched = Watched::start().await;
    for id in ["kept1", "kept2"] {
        say(&watched.store, "lobby", id).await;
    }
    watched.master.wait_in_step(1).await;
    watched.master.cut_replicas_off().await;
    let mut lost = Vec::new();
    for id in ["lost3", "lost4", "lost5"] {
        lost.push(say(&watched.store, "lobby", id).await);
    }
    watched.master.kill();
    // The seqs 3 and 4 are given again.
    let new = insist(&watched.store, message("lobby", "new3")).await;
    say(&watched.store, "lobby", "new4").await;
    assert_eq!((new.seq, lost[0].seq), (3, 3));
    assert!(new.epoch > lost[0].epoch);
    let phantom = &lost[2];
    let tail = watched
        .store
        .tail(&room("lobby"), phantom.epoch, phantom.seq, 100, 1 << 20)
        .await
        .expect("readable");
    assert_eq!(
        (tail.reset_to, tail.epoch, tail.head),
        (Some(2), new.epoch, 4)
    );
    assert_eq!(
        tail.entries
            .iter()
            .map(|entry| entry.seq)
            .collect::<Vec<_>>(),
        [3, 4]
    );
    // Whoever had only what was kept forgets nothing.
    let tail = watched
        .store
        .tail(&room("lobby"), phantom.epoch, 2, 100, 1 << 20)
        .await
        .expect("readable");
    assert_eq!((tail.reset_to, tail.entries.len()), (None, 2));
    assert_eq!(
        log(&watched.store, "lobby").await,
        ["kept1", "kept2", "new3", "new4"]
    );
    // What was taken back is not taken for a retry.
    assert!(
        !insist(&watched.store, message("lobby", "lost3"))
            .await
            .duplicate
    );
}

#[tokio::test]
async fn a_failover_that_is_asked_for_is_followed_although_the_old_master_lives() {
    let watched = Watched::start().await;
    let mut ear = Ear::new(&watched.store, 64);
    ear.hear("lobby").await;
    let ear = Mutex::new(ear);
    say(&watched.store, "lobby", "one").await;
    watched.master.wait_in_step(1).await;
    watched.sentinel.tell(&["SENTINEL", "FAILOVER", "im"]).await;
    until("the replica is the master", async || {
        watched.replica.is_master().await
    })
    .await;
    // The old master may still take writes for a moment; those are what the new epoch takes back.
    until("appends go to the new master", async || {
        insist(
            &watched.store,
            message("lobby", &uuid::Uuid::now_v7().to_string()),
        )
        .await;
        watched
            .replica
            .ask::<usize>(redis::cmd("XLEN").arg("im:r:{lobby}:log"))
            .await
            .is_ok_and(|length| length > 1)
    })
    .await;
    // What is said before the subscription has moved too is not heard, and nobody said that it would be.
    hears_what_is_said(&watched.store, &ear).await;
}

/// Both servers of a planned failover live on; the address in front of them is all that says which is meant.
#[tokio::test]
async fn after_a_planned_failover_behind_one_address_the_bus_follows_the_master() {
    let Behind {
        old,
        new,
        address,
        store,
        ear,
    } = Behind::start().await;
    old.tell(&["FAILOVER"]).await;
    until("the replica is the master", async || new.is_master().await).await;
    address.switch(new.port);
    let begun = tokio::time::Instant::now();
    hears_what_is_said(&store, &ear).await;
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "heard after {:?}",
        begun.elapsed()
    );
}

/// The address leads elsewhere and the old server still believes to be a master, as a replica is promoted by hand.
#[tokio::test]
async fn when_commands_go_to_another_server_behind_the_address_the_bus_goes_there_too() {
    let Behind {
        old,
        new,
        address,
        store,
        ear,
    } = Behind::start().await;
    new.tell(&["REPLICAOF", "NO", "ONE"]).await;
    address.switch(new.port);
    // Commands are made to connect again; the subscription's connection stays as it is.
    old.tell(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    hears_what_is_said(&store, &ear).await;
}

#[tokio::test]
async fn bans_that_a_failover_takes_back_are_out_of_every_copy() {
    let mut watched = Watched::start().await;
    let ban = |user: &str| {
        let ban = Ban {
            user: user.to_owned(),
            ..Ban::default()
        };
        Ban {
            id: subject(&ban).expect("about a user").1,
            ..ban
        }
    };
    let copy = Bans::default();
    assert_eq!(watched.store.ban(ban("kept"), 10).await, Ok(true));
    watched.master.wait_in_step(1).await;
    watched.master.cut_replicas_off().await;
    assert_eq!(watched.store.ban(ban("lost"), 10).await, Ok(true));
    copy.apply(watched.store.bans(copy.known()).await.expect("the list"));
    assert_eq!(copy.read().len(), 2);
    watched.master.kill();
    // The new master's first change comes before the copy has asked again.
    until("another ban is taken", async || {
        watched.store.ban(ban("new"), 10).await == Ok(true)
    })
    .await;
    copy.apply(watched.store.bans(copy.known()).await.expect("the list"));
    let book = copy.read();
    let found = ["user:kept", "user:lost", "user:new"].map(|id| book.get(id).is_some());
    assert_eq!(found, [true, false, true]);
}
