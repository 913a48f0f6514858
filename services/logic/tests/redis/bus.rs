//! The subscriber.

use im_logic::store::{History, Messages};
use im_proto::v1::Signal;
use im_proto::v1::bus_event::Event;
use im_redis_bus::BusNotification;

use crate::servers::{Server, until};
use crate::stage::{Ear, options, room, say, store};

#[tokio::test]
async fn only_rooms_that_are_wanted_are_heard() {
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    let mut ear = Ear::new(&store, 64);
    for id in ["one", "}two{", "three"] {
        ear.hear(id).await;
    }
    ear.subscriber.unsubscribe(&room("one"));
    until("the room is left", async || {
        let channels: Vec<String> = redis
            .ask(redis::cmd("PUBSUB").arg("SHARDCHANNELS"))
            .await
            .expect("redis lists channels");
        channels.len() == 2
    })
    .await;
    for id in ["one", "}two{", "three", "four"] {
        say(&store, id, "hello").await;
    }
    assert_eq!(ear.logged().await.0, "}two{");
    assert_eq!(ear.logged().await.0, "three");
    assert!(ear.heard.try_recv().is_err());
}

#[tokio::test]
async fn a_room_that_is_heard_already_is_confirmed_again() {
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    let mut ear = Ear::new(&store, 64);
    ear.hear("lobby").await;
    ear.hear("lobby").await;
    ear.subscriber.unsubscribe(&room("lobby"));
    ear.hear("lobby").await;
    say(&store, "lobby", "one").await;
    assert_eq!(ear.logged().await.1.seq, 1);
}

#[tokio::test]
async fn signals_are_heard_and_not_stored() {
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    let mut ear = Ear::new(&store, 64);
    ear.hear("lobby").await;
    let signal = Signal {
        from: "ann".into(),
        r#type: "typing".into(),
        ..Signal::default()
    };
    store
        .signal(&room("lobby"), signal.clone())
        .await
        .expect("published");
    let BusNotification::Event(event) = ear.next().await else {
        panic!("an event is expected")
    };
    assert_eq!(
        (event.room.as_str(), event.event),
        ("lobby", Some(Event::Signal(signal)))
    );
    assert_eq!(store.heads(&[room("lobby")]).await, Ok(vec![(0, 0)]));
}

#[tokio::test]
async fn a_killed_connection_is_replaced_and_the_disturbance_told_once_everything_is_heard_again() {
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    let mut ear = Ear::new(&store, 4096);
    let rooms: Vec<String> = (0..700).map(|number| format!("room{number}")).collect();
    for id in &rooms {
        ear.subscriber.subscribe(room(id));
    }
    for _ in &rooms {
        assert!(matches!(ear.next().await, BusNotification::Subscribed(_)));
    }
    let killed: usize = redis
        .ask(redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub"))
        .await
        .expect("redis kills");
    assert_eq!(killed, 1);
    let mut confirmed = 0;
    loop {
        match ear.next().await {
            BusNotification::Subscribed(_) => confirmed += 1,
            BusNotification::GapPossible => break,
            BusNotification::Event(event) => panic!("{event:?}"),
        }
    }
    assert_eq!(confirmed, 700);
    say(&store, "room3", "one").await;
    assert_eq!(ear.logged().await.0, "room3");
}

#[tokio::test]
async fn subscriptions_wait_for_a_server_that_comes_late() {
    let mut redis = Server::start(&[]).await;
    redis.kill();
    let store =
        im_logic::store::redis::RedisStore::start(options(redis.url())).expect("good options");
    let mut ear = Ear::new(&store, 64);
    ear.subscriber.subscribe(room("lobby"));
    redis.revive().await;
    ear.until(|tiding| *tiding == BusNotification::Subscribed(room("lobby")))
        .await;
}

#[tokio::test]
async fn events_that_nobody_takes_are_dropped_and_the_loss_is_told() {
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    let dropped = || {
        let families = prometheus::gather();
        let family = families
            .iter()
            .find(|family| family.name() == "im_bus_dropped_total");
        family.map_or(0.0, |family| {
            family.get_metric()[0].get_counter().get_value()
        })
    };
    // Too many, and too many bytes.
    for (places, bytes) in [(4, 64 << 20), (4_096, 2_048)] {
        let before = dropped();
        let mut ear = Ear::bounded(&store, places, bytes);
        ear.hear("lobby").await;
        for number in 0..20 {
            say(&store, "lobby", &format!("m{places}-{number}")).await;
        }
        until("something is dropped", async || dropped() > before).await;
        ear.until(|tiding| *tiding == BusNotification::GapPossible)
            .await;
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_noticed() {
    let redis = Server::start(&[]).await;
    let store = store(options(redis.url())).await;
    let mut ear = Ear::new(&store, 64);
    ear.hear("lobby").await;
    let sleeper = async {
        redis
            .ask::<redis::Value>(redis::cmd("DEBUG").arg("SLEEP").arg("4"))
            .await
    };
    let (_, ()) = tokio::join!(
        sleeper,
        ear.until(|tiding| *tiding == BusNotification::GapPossible)
    );
    say_when_back(&store).await;
    ear.logged().await;
}

async fn say_when_back(store: &im_logic::store::redis::RedisStore) {
    crate::stage::insist(store, crate::stage::message("lobby", "back")).await;
}
