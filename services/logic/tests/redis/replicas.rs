//! Appends that replicas must confirm.

use std::time::Duration;

use im_logic::store::redis::Options;
use im_logic::store::{Access, Create, Error, Kind, Membership, Messages, Role, Rooms, Store};
use im_redis_bus::BusNotification;
use im_wire::ids::UserId;

use crate::servers::Server;
use crate::stage::{Ear, insist, log, message, now_ms, options, room, say, store};

/// Patient: a busy machine is no lost replica.
fn waiting(url: String) -> Options {
    Options {
        wait_replicas: 1,
        wait_timeout: Duration::from_secs(5),
        ..options(url)
    }
}

#[tokio::test]
async fn a_confirmed_append_is_published() {
    let master = Server::start(&[]).await;
    let _replica = Server::start_replica(&master).await;
    let store = store(waiting(master.url())).await;
    let mut ear = Ear::new(&store, 64);
    ear.hear("lobby").await;
    for number in 1..=5 {
        assert_eq!(
            say(&store, "lobby", &format!("m{number}")).await.seq,
            number
        );
        assert_eq!(ear.logged().await.1.seq, number);
    }
}

#[tokio::test]
async fn what_no_replica_confirms_is_not_acknowledged_and_a_retry_finds_it_stored() {
    let master = Server::start(&[]).await;
    let replica = Server::start_replica(&master).await;
    let impatient = Options {
        wait_timeout: Duration::from_millis(300),
        ..waiting(master.url())
    };
    let (one, other) = (store(impatient.clone()).await, store(impatient).await);
    let mut ear = Ear::new(&one, 64);
    ear.hear("lobby").await;
    insist(&one, message("lobby", "before")).await;
    assert_eq!(ear.logged().await.1.seq, 1);
    master.cut_replicas_off().await;
    let first = message("lobby", "one");
    let failed = one.append(first.clone()).await;
    assert_eq!(
        failed,
        Err(Error::NotReplicated {
            confirmed: 0,
            wanted: 1
        })
    );
    // A connection that has not written it itself must not be told that it is confirmed.
    let failed = other.append(message("lobby", "one")).await;
    assert_eq!(
        failed,
        Err(Error::NotReplicated {
            confirmed: 0,
            wanted: 1
        })
    );
    let create = Create {
        room: room("room"),
        kind: Kind::Open,
        members: Vec::new(),
        time_ms: now_ms(),
    };
    let failed = other.create(create).await;
    assert_eq!(
        failed,
        Err(Error::NotReplicated {
            confirmed: 0,
            wanted: 1
        })
    );
    assert!(
        ear.heard.try_recv().is_err(),
        "nothing is published before it is confirmed"
    );
    master.let_replicas_in().await;
    master.wait_in_step(1).await;
    let again = insist(&other, message("lobby", "one")).await;
    assert_eq!(
        (again.seq, again.duplicate, &again.id),
        (2, true, &first.entry.id)
    );
    let (_, logged) = ear.logged().await;
    assert_eq!(
        (logged.seq, logged.entry.expect("an entry").id),
        (2, first.entry.id)
    );
    assert_eq!(log(&one, "lobby").await, ["before", "one"]);
    let copied: usize = replica
        .ask(redis::cmd("XLEN").arg("im:r:{lobby}:log"))
        .await
        .expect("a replica may be read");
    assert_eq!(copied, 2);
}

#[tokio::test]
async fn whoever_left_is_not_said_to_have_left_before_replicas_confirm_it() {
    let master = Server::start(&[]).await;
    let _replica = Server::start_replica(&master).await;
    let impatient = Options {
        wait_timeout: Duration::from_millis(300),
        ..waiting(master.url())
    };
    let (one, other) = (store(impatient.clone()).await, store(impatient).await);
    let ann = UserId::new("ann").expect("a user");
    let members = vec![(ann.clone(), Role::Member)];
    let create = Create {
        room: room("group"),
        kind: Kind::Group,
        members,
        time_ms: now_ms(),
    };
    while let Err(error) = one.create(create.clone()).await {
        assert!(matches!(error, Error::NotReplicated { .. }), "{error}");
    }
    let leaves = || Membership {
        room: room("group"),
        user: ann.clone(),
        role: None,
        access: Access {
            user: ann.clone(),
            direct: false,
            open: false,
            system: true,
        },
        entry: message("group", "leaves").entry,
    };
    master.cut_replicas_off().await;
    for store in [&one, &other] {
        assert_eq!(
            store.change_membership(leaves()).await,
            Err(Error::NotReplicated {
                confirmed: 0,
                wanted: 1
            })
        );
    }
    master.let_replicas_in().await;
    master.wait_in_step(1).await;
    let mut answer = other.change_membership(leaves()).await;
    while matches!(answer, Err(Error::NotReplicated { .. })) {
        answer = other.change_membership(leaves()).await;
    }
    assert_eq!(answer, Ok(None));
}

#[tokio::test]
async fn a_master_that_wants_replicas_itself_refuses_writes_without_them() {
    let master = Server::start(&[]).await;
    let _replica = Server::start_replica(&master).await;
    let store = store(options(master.url())).await;
    say(&store, "lobby", "one").await;
    master.cut_replicas_off().await;
    master
        .tell(&["CONFIG", "SET", "min-replicas-to-write", "1"])
        .await;
    let refused = store.append(message("lobby", "two")).await;
    assert!(matches!(refused, Err(Error::Full(_))), "{refused:?}");
    master.let_replicas_in().await;
    assert_eq!(insist(&store, message("lobby", "two")).await.seq, 2);
}

#[tokio::test]
async fn confirmed_messages_are_published_in_order_under_load() {
    let master = Server::start(&[]).await;
    let _replica = Server::start_replica(&master).await;
    let store = store(waiting(master.url())).await;
    let mut ear = Ear::new(&store, 4096);
    ear.hear("lobby").await;
    let sends = (0..500).map(|number| store.append(message("lobby", &format!("m{number}"))));
    for appended in futures::future::join_all(sends).await {
        appended.expect("stored");
    }
    let mut seqs = Vec::new();
    while let Ok(tiding) = ear.heard.try_recv() {
        if let BusNotification::Event(event) = tiding
            && let Some(im_proto::v1::bus_event::Event::Logged(logged)) = event.event
        {
            seqs.push(logged.seq);
        }
    }
    while seqs.len() < 500 {
        seqs.push(ear.logged().await.1.seq);
    }
    assert_eq!(seqs, (1..=500).collect::<Vec<_>>());
}

#[tokio::test]
async fn with_a_replica_to_wait_for_it_does_what_every_store_must_do() {
    let master = Server::start(&[]).await;
    let _replica = Server::start_replica(&master).await;
    im_logic::store::suite::cases(Store::new(std::sync::Arc::new(
        store(waiting(master.url())).await,
    )))
    .await;
}
