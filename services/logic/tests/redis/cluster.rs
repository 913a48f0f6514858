//! A Redis Cluster of three masters.

use futures::future::join_all;
use im_logic::store::redis::Options;
use im_logic::store::{Error, History, Messages, Rooms, Store};
use im_redis_bus::BusNotification;

use crate::servers::Server;
use crate::stage::{Ear, insist, log, message, options, room, say, store, user};

fn url(nodes: &[Server]) -> String {
    let hosts: Vec<String> = nodes
        .iter()
        .map(|node| format!("127.0.0.1:{}", node.port))
        .collect();
    format!("redis+cluster://{}", hosts.join(","))
}

#[tokio::test]
async fn rooms_on_all_masters_are_stored_listed_and_heard() {
    let nodes = Server::start_cluster().await;
    let store = store(options(url(&nodes))).await;
    let mut ear = Ear::new(&store, 4096);
    let names: Vec<String> = (0..60).map(|number| format!("room{number}")).collect();
    for name in &names {
        ear.hear(name).await;
    }
    let sends = names
        .iter()
        .flat_map(|name| (0..5).map(move |number| message(name, &format!("m{number}"))));
    for appended in join_all(sends.map(|append| store.append(append))).await {
        appended.expect("stored");
    }
    for name in &names {
        assert_eq!(log(&store, name).await, ["m0", "m1", "m2", "m3", "m4"]);
    }
    for _ in 0..names.len() * 5 {
        ear.logged().await;
    }
    let rooms: Vec<_> = names.iter().map(|name| room(name)).collect();
    let heads = store.heads(&rooms).await.expect("heads");
    assert!(heads.iter().all(|(epoch, seq)| *epoch > 0 && *seq == 5));
    let views = store.views(&rooms, &user("ann")).await.expect("views");
    assert!(
        views
            .iter()
            .all(|view| view.as_ref().is_some_and(|view| view.head == 5))
    );
    for node in &nodes {
        let size: usize = node.ask(&redis::cmd("DBSIZE")).await.expect("it answers");
        assert!(size > 0, "every master has rooms");
    }
}

#[tokio::test]
async fn replicas_are_waited_for_on_each_master() {
    let nodes = Server::start_cluster().await;
    let store = store(Options {
        wait_replicas: 1,
        ..options(url(&nodes))
    })
    .await;
    let outcomes =
        join_all((0..20).map(|number| store.append(message(&format!("room{number}"), "one"))))
            .await;
    for outcome in outcomes {
        assert_eq!(
            outcome,
            Err(Error::NotReplicated {
                confirmed: 0,
                wanted: 1
            })
        );
    }
}

#[tokio::test]
async fn a_slot_that_moves_takes_its_room_along() {
    let nodes = Server::start_cluster().await;
    let store = store(options(url(&nodes))).await;
    let mut ear = Ear::new(&store, 64);
    ear.hear("lobby").await;
    say(&store, "lobby", "one").await;
    assert_eq!(ear.logged().await.1.seq, 1);
    move_slot(&nodes, "im:r:{lobby}:").await;
    let moved = insist(&store, message("lobby", "two")).await;
    assert_eq!(moved.seq, 2);
    assert_eq!(log(&store, "lobby").await, ["one", "two"]);
    ear.until(|tiding| *tiding == BusNotification::GapPossible)
        .await;
    say(&store, "lobby", "three").await;
    while ear.logged().await.1.seq != 3 {}
}

#[tokio::test]
async fn a_send_into_a_slot_on_its_way_waits_for_its_arrival() {
    let nodes = Server::start_cluster().await;
    let store = store(options(url(&nodes))).await;
    say(&store, "lobby", "one").await;
    let (under_way, arrives) = tokio::sync::oneshot::channel();
    let send = async {
        under_way_of(arrives).await;
        // One call, as a client's send: nobody repeats it.
        store.append(message("lobby", "two")).await
    };
    let ((), sent) = tokio::join!(
        move_slot_slowly(&nodes, "im:r:{lobby}:", Some(under_way)),
        send
    );
    assert_eq!(sent.expect("stored once the slot has arrived").seq, 2);
    assert_eq!(log(&store, "lobby").await, ["one", "two"]);
}

async fn under_way_of(arrives: tokio::sync::oneshot::Receiver<()>) {
    arrives.await.expect("the slot begins to move");
}

async fn move_slot(nodes: &[Server], key: &str) {
    move_slot_slowly(nodes, key, None).await;
}

/// Moves the slot of a key to another master, the way redis-cli does; tells when it is under way and waits a while then.
async fn move_slot_slowly(
    nodes: &[Server],
    key: &str,
    told: Option<tokio::sync::oneshot::Sender<()>>,
) {
    let ask = async |node: &Server, words: &[&str]| -> redis::Value {
        node.ask(redis::cmd(words[0]).arg(&words[1..]))
            .await
            .unwrap_or_else(|error| panic!("{words:?}: {error}"))
    };
    let text = |value: redis::Value| redis::from_redis_value::<String>(value).expect("text");
    let slot = text(ask(&nodes[0], &["CLUSTER", "KEYSLOT", key]).await);
    let mut owner = 0;
    for (number, node) in nodes.iter().enumerate() {
        let keys = text(ask(node, &["CLUSTER", "COUNTKEYSINSLOT", &slot]).await);
        if keys != "0" {
            owner = number;
        }
    }
    let from = &nodes[owner];
    let to = &nodes[(owner + 1) % nodes.len()];
    let (from_id, to_id) = (
        text(ask(from, &["CLUSTER", "MYID"]).await),
        text(ask(to, &["CLUSTER", "MYID"]).await),
    );
    ask(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await;
    ask(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await;
    if let Some(told) = told {
        told.send(()).expect("somebody waits");
        // As long as a slot with a good deal in it is on its way.
        tokio::time::sleep(std::time::Duration::from_millis(450)).await;
    }
    let keys: Vec<String> =
        redis::from_redis_value(ask(from, &["CLUSTER", "GETKEYSINSLOT", &slot, "100"]).await)
            .expect("names");
    assert!(!keys.is_empty());
    let port = to.port.to_string();
    let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
    words.extend(keys.iter().map(String::as_str));
    ask(from, &words).await;
    for node in [to, from] {
        ask(node, &["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]).await;
    }
}

#[tokio::test]
async fn a_lost_master_fails_its_rooms_only() {
    let mut nodes = Server::start_cluster().await;
    for node in &nodes {
        node.tell(&["CONFIG", "SET", "cluster-require-full-coverage", "no"])
            .await;
    }
    let store = store(options(url(&nodes))).await;
    nodes[0].kill();
    let outcomes =
        join_all((0..60).map(|number| store.append(message(&format!("room{number}"), "one"))))
            .await;
    let stored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let failed = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Err(Error::Unavailable(_))))
        .count();
    assert!(
        stored > 20 && failed > 5 && stored + failed == 60,
        "{stored} stored, {failed} failed"
    );
    nodes[0].revive().await;
    for number in 0..60 {
        insist(&store, message(&format!("room{number}"), "two")).await;
    }
}

#[tokio::test]
async fn a_cluster_does_what_every_store_must_do() {
    let nodes = Server::start_cluster().await;
    im_logic::store::suite::cases(Store::new(std::sync::Arc::new(
        store(options(url(&nodes))).await,
    )))
    .await;
}
