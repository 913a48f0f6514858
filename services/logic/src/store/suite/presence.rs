//! Users' indexes of rooms, nodes' leases, and who is online.

use std::time::Duration;

use im_wire::ids::{RoomId, UserId};

use super::Stage;
use crate::store::{Asserted, Counts, Ended, Presence, Stray};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(200);

pub(super) async fn cases(stage: &Stage) {
    rooms_are_listed_in_order(stage).await;
    direct_rooms_come_first(stage).await;
    what_a_user_has_in_a_day_is_counted(stage).await;
    users_are_online_while_their_node_lives(stage).await;
    a_lease_that_runs_out_takes_its_connections_along(stage).await;
    nodes_count_who_is_online(stage).await;
    a_node_asserts_what_it_has(stage).await;
    what_a_lost_node_left_behind_comes_back_with_it(stage).await;
}

async fn rooms_are_listed_in_order(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let mut rooms: Vec<RoomId> = (0..7).map(|_| stage.room()).collect();
    for room in rooms.iter().rev().chain(&rooms) {
        let users = if *room == rooms[0] {
            vec![ann.clone(), bob.clone()]
        } else {
            vec![ann.clone()]
        };
        assert_eq!(stage.store.index.index_room(&users, room).await, Ok(()));
    }
    assert_eq!(
        stage.store.index.user_rooms(&bob, None, 10).await,
        Ok(vec![rooms[0].clone()])
    );
    rooms.sort();
    let gone = rooms.remove(3);
    for _ in 0..2 {
        assert_eq!(stage.store.index.unindex_room(&ann, &gone).await, Ok(()));
    }
    let first = stage
        .store
        .index
        .user_rooms(&ann, None, 4)
        .await
        .expect("an index");
    assert_eq!(first, rooms[..4]);
    assert_eq!(
        stage
            .store
            .index
            .user_rooms(&ann, first.last(), 4)
            .await
            .expect("an index"),
        rooms[4..]
    );
    assert_eq!(
        stage
            .store
            .index
            .user_rooms(&stage.user("nobody"), None, 4)
            .await,
        Ok(Vec::new())
    );
}

async fn direct_rooms_come_first(stage: &Stage) {
    let (ann, mark) = (stage.user("ann"), stage.room());
    let named = |name: &str| RoomId::new(format!("{name}{mark}")).expect("a good id");
    let direct = |other: &str| RoomId::direct(&ann, &stage.user(other)).expect("two users");
    let mut directs: Vec<RoomId> = ["bob", "cat", "dan"].into_iter().map(direct).collect();
    directs.sort();
    let before = [named("!"), named("a"), named("direct!")];
    let behind = [named("direct;"), named("e"), named("g-")];
    let wanted: Vec<RoomId> = directs
        .iter()
        .chain(&before)
        .chain(&behind)
        .cloned()
        .collect();
    for room in wanted.iter().rev() {
        assert_eq!(
            stage
                .store
                .index
                .index_room(std::slice::from_ref(&ann), room)
                .await,
            Ok(())
        );
    }
    for step in [1, 2, 4, 9, 100] {
        let mut seen: Vec<RoomId> = Vec::new();
        loop {
            let more = stage
                .store
                .index
                .user_rooms(&ann, seen.last(), step)
                .await
                .expect("an index");
            let end = more.len() < step;
            seen.extend(more);
            if end {
                break;
            }
        }
        assert_eq!(seen, wanted, "in steps of {step}");
    }
}

async fn what_a_user_has_in_a_day_is_counted(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let spend = async |user: &UserId, what, day, amount| {
        stage.store.quotas.spend(user, what, day, amount, 10).await
    };
    assert_eq!(spend(&ann, "groups", 20_000, 7).await, Ok(true));
    assert_eq!(spend(&ann, "groups", 20_000, 4).await, Ok(false));
    assert_eq!(
        spend(&ann, "groups", 20_000, 3).await,
        Ok(true),
        "what was refused is not counted"
    );
    assert_eq!(spend(&ann, "groups", 20_000, 1).await, Ok(false));
    assert_eq!(spend(&ann, "adds", 20_000, 10).await, Ok(true));
    assert_eq!(spend(&bob, "groups", 20_000, 10).await, Ok(true));
    assert_eq!(
        spend(&ann, "groups", 20_001, 10).await,
        Ok(true),
        "a new day"
    );
}

fn presence(user: &UserId, conn: &str, node: &str, since_ms: u64) -> Presence {
    let device = format!("{conn}'s phone");
    let conn = conn.into();
    let node = node.into();
    Presence {
        user: user.clone(),
        device,
        conn,
        node,
        since_ms,
        place: 0,
    }
}

fn ended(user: &UserId, conn: &str, node: &str, at_ms: u64) -> Ended {
    Ended {
        conn: conn.to_owned(),
        user: Some(user.clone()),
        node: node.to_owned(),
        place: 0,
        at_ms,
    }
}

/// As it is shown.
fn shown(presence: &Presence) -> Presence {
    Presence {
        place: 0,
        ..presence.clone()
    }
}

/// Everything a node counts.
fn all(counts: Vec<(RoomId, u64)>) -> Counts {
    Counts {
        since: 0,
        state: 1,
        changed: counts,
    }
}

async fn users_are_online_while_their_node_lives(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let (one, other) = (stage.name("node"), stage.name("node"));
    let store = &stage.store;
    for (node, connections) in [(&one, 2), (&other, 1)] {
        assert_eq!(
            store
                .leases
                .node_beat(node, LONG, connections, Counts::default())
                .await,
            Ok(true)
        );
    }
    let nodes = store.leases.nodes().await.expect("nodes");
    assert!(nodes.contains(&(one.clone(), 2)) && nodes.contains(&(other.clone(), 1)));
    let (first, second) = (
        presence(&ann, "c1", &one, 10),
        presence(&ann, "c2", &other, 20),
    );
    for connection in [&first, &second, &second, &presence(&bob, "c3", &one, 30)] {
        assert_eq!(
            store.connections.connected(connection.clone()).await,
            Ok(())
        );
    }
    let nobody = stage.user("nobody");
    let online = store
        .connections
        .presence(&[bob.clone(), nobody, ann.clone()])
        .await
        .expect("presence");
    assert_eq!(
        (
            online[0].0.len(),
            online[0].1,
            online[1].0.len(),
            online[1].1
        ),
        (1, 0, 0, 0)
    );
    assert_eq!(online[2].0, [first, second.clone()]);
    for _ in 0..2 {
        assert_eq!(
            store
                .connections
                .disconnected(ended(&ann, "c1", &one, 500))
                .await,
            Ok(())
        );
    }
    assert_eq!(
        store.connections.presence(std::slice::from_ref(&ann)).await,
        Ok(vec![(vec![second], 500)])
    );
    // The newest time stays.
    assert_eq!(
        store
            .connections
            .disconnected(ended(&ann, "c9", &one, 400))
            .await,
        Ok(())
    );
    for _ in 0..2 {
        assert_eq!(store.leases.node_gone(&other).await, Ok(()));
    }
    assert_eq!(
        store.connections.presence(std::slice::from_ref(&ann)).await,
        Ok(vec![(Vec::new(), 500)])
    );
    assert_eq!(
        store
            .connections
            .presence(std::slice::from_ref(&bob))
            .await
            .expect("presence")[0]
            .0
            .len(),
        1
    );
    assert!(
        store
            .leases
            .nodes()
            .await
            .expect("nodes")
            .iter()
            .all(|(node, _)| *node != other)
    );
    assert_eq!(store.leases.node_gone(&one).await, Ok(()));
}

async fn a_lease_that_runs_out_takes_its_connections_along(stage: &Stage) {
    let (ann, node) = (stage.user("ann"), stage.name("node"));
    let room = stage.room();
    let store = &stage.store;
    let counted = all(vec![(room.clone(), 5)]);
    assert_eq!(
        store
            .leases
            .node_beat(&node, SHORT, 1, counted.clone())
            .await,
        Ok(true)
    );
    let connection = presence(&ann, "c1", &node, 10);
    assert_eq!(
        store.connections.connected(connection.clone()).await,
        Ok(())
    );
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !store
        .connections
        .presence(std::slice::from_ref(&ann))
        .await
        .expect("presence")[0]
        .0
        .is_empty()
    {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the lease does not run out"
        );
        tokio::time::sleep(SHORT / 10).await;
    }
    assert!(
        store
            .leases
            .nodes()
            .await
            .expect("nodes")
            .iter()
            .all(|(living, _)| *living != node)
    );
    assert_eq!(
        store.leases.online(std::slice::from_ref(&room)).await,
        Ok(vec![0])
    );
    // A node that was only late comes back with its connections.
    assert_eq!(
        store.leases.node_beat(&node, LONG, 1, counted).await,
        Ok(true)
    );
    assert_eq!(
        store.connections.presence(std::slice::from_ref(&ann)).await,
        Ok(vec![(vec![connection], 0)])
    );
    assert_eq!(store.leases.online(&[room]).await, Ok(vec![5]));
    assert_eq!(store.leases.node_gone(&node).await, Ok(()));
}

async fn nodes_count_who_is_online(stage: &Stage) {
    let (one, other) = (stage.name("node"), stage.name("node"));
    let (both, single, none) = (stage.room(), stage.room(), stage.room());
    let store = &stage.store;
    let counts = vec![(both.clone(), 3), (single.clone(), 4)];
    assert_eq!(
        store.leases.node_beat(&one, LONG, 7, all(counts)).await,
        Ok(true)
    );
    assert_eq!(
        store
            .leases
            .node_beat(&other, LONG, 2, all(vec![(both.clone(), 2)]))
            .await,
        Ok(true)
    );
    let rooms = [none, both.clone(), single.clone()];
    assert_eq!(store.leases.online(&rooms).await, Ok(vec![0, 5, 4]));
    let shown = store.leases.online_rooms().await.expect("rooms");
    assert!(shown.contains(&(both.clone(), 5)) && shown.contains(&(single.clone(), 4)));
    // What has changed is enough, where the store has what it is a change of.
    let change = |since, state, changed| Counts {
        since,
        state,
        changed,
    };
    assert_eq!(
        store
            .leases
            .node_beat(&one, LONG, 7, change(1, 1, Vec::new()))
            .await,
        Ok(true)
    );
    let fewer = vec![(both.clone(), 1), (single.clone(), 0)];
    assert_eq!(
        store
            .leases
            .node_beat(&one, LONG, 7, change(1, 2, fewer.clone()))
            .await,
        Ok(true)
    );
    assert_eq!(store.leases.online(&rooms).await, Ok(vec![0, 3, 0]));
    assert_eq!(
        store
            .leases
            .node_beat(&one, LONG, 7, change(1, 2, fewer))
            .await,
        Ok(false)
    );
    assert_eq!(
        store
            .leases
            .node_beat(&one, LONG, 7, change(7, 8, vec![(both.clone(), 9)]))
            .await,
        Ok(false)
    );
    assert_eq!(store.leases.online(&rooms).await, Ok(vec![0, 3, 0]));
    // From nothing: what was counted before is void. Also of very many rooms.
    let many: Vec<_> = (0..2_500)
        .map(|_| (stage.room(), 1))
        .chain([(both, 1)])
        .collect();
    assert_eq!(
        store
            .leases
            .node_beat(
                &one,
                LONG,
                1,
                Counts {
                    since: 0,
                    state: 3,
                    changed: many.clone()
                }
            )
            .await,
        Ok(true)
    );
    assert_eq!(store.leases.online(&rooms).await, Ok(vec![0, 3, 0]));
    let some: Vec<RoomId> = many
        .iter()
        .step_by(499)
        .map(|(room, _)| room.clone())
        .collect();
    assert_eq!(store.leases.online(&some).await, Ok(vec![1; some.len()]));
    let none: Vec<_> = many.iter().map(|(room, _)| (room.clone(), 0)).collect();
    assert_eq!(
        store
            .leases
            .node_beat(&one, LONG, 1, change(3, 4, none))
            .await,
        Ok(true)
    );
    assert_eq!(store.leases.online(&some).await, Ok(vec![0; some.len()]));
    for node in [one, other] {
        assert_eq!(store.leases.node_gone(&node).await, Ok(()));
    }
    assert_eq!(store.leases.online(&rooms).await, Ok(vec![0, 0, 0]));
}

async fn a_node_asserts_what_it_has(stage: &Stage) {
    let (ann, bob, node) = (stage.user("ann"), stage.user("bob"), stage.name("node"));
    let store = &stage.store;
    let at = |user: &UserId, conn: &str, place| Presence {
        place,
        ..presence(user, conn, &node, 10 * place)
    };
    let stray = |one: &Presence| Stray {
        conn: one.conn.clone(),
        user: one.user.clone(),
    };
    assert_eq!(
        store
            .leases
            .node_beat(&node, LONG, 3, Counts::default())
            .await,
        Ok(true)
    );
    let (first, second, third) = (at(&ann, "c1", 1), at(&ann, "c2", 2), at(&bob, "c3", 300));
    for connection in [&first, &third] {
        assert_eq!(
            store.connections.connected(connection.clone()).await,
            Ok(())
        );
    }
    let settled = Ok(Asserted::default());
    assert_eq!(
        store
            .connections
            .assert_presence(&node, 1..301, vec![first.clone(), third.clone()])
            .await,
        settled
    );
    // Another place's connections are not the question.
    assert_eq!(
        store
            .connections
            .assert_presence(&node, 1..300, vec![first.clone()])
            .await,
        settled
    );
    // What is missing is put back.
    let put_back = Ok(Asserted {
        restored: vec![stray(&second)],
        strays: Vec::new(),
    });
    assert_eq!(
        store
            .connections
            .assert_presence(&node, 1..300, vec![first.clone(), second.clone()])
            .await,
        put_back
    );
    let online = store
        .connections
        .presence(&[ann.clone(), bob.clone()])
        .await
        .expect("presence");
    assert_eq!(
        (&online[0].0, &online[1].0),
        (&vec![shown(&first), shown(&second)], &vec![shown(&third)])
    );
    // What is not named is told, and ends when the node says so.
    let told = Ok(Asserted {
        restored: Vec::new(),
        strays: vec![stray(&third)],
    });
    for _ in 0..2 {
        assert_eq!(
            store
                .connections
                .assert_presence(&node, 300..301, Vec::new())
                .await,
            told
        );
    }
    assert_eq!(
        store
            .connections
            .disconnected(ended(&bob, "c3", &node, 700))
            .await,
        Ok(())
    );
    assert_eq!(
        store.connections.presence(std::slice::from_ref(&bob)).await,
        Ok(vec![(Vec::new(), 700)])
    );
    assert_eq!(
        store
            .connections
            .assert_presence(&node, 1..301, vec![first.clone(), second.clone()])
            .await,
        settled
    );
    // Whose auth was never answered ends by its place.
    let by_place = |conn: &str, place| Ended {
        conn: conn.into(),
        user: None,
        node: node.clone(),
        place,
        at_ms: 800,
    };
    for (conn, place) in [("c2", 2), ("c2", 2), ("c1", 9), ("c9", 1)] {
        assert_eq!(
            store.connections.disconnected(by_place(conn, place)).await,
            Ok(()),
            "{conn} {place}"
        );
    }
    let online = store
        .connections
        .presence(std::slice::from_ref(&ann))
        .await
        .expect("presence");
    assert_eq!(online[0].0, [shown(&first)]);
    assert_eq!(store.leases.node_gone(&node).await, Ok(()));
}

async fn what_a_lost_node_left_behind_comes_back_with_it(stage: &Stage) {
    const BLINK: Duration = Duration::from_millis(20);
    let (ann, lost, other) = (stage.user("ann"), stage.name("node"), stage.name("node"));
    let store = &stage.store;
    let connection = Presence {
        place: 1,
        ..presence(&ann, "c1", &lost, 10)
    };
    assert_eq!(
        store
            .leases
            .node_beat(&lost, BLINK, 1, Counts::default())
            .await,
        Ok(true)
    );
    assert_eq!(
        store.connections.connected(connection.clone()).await,
        Ok(())
    );
    // It does not beat for so long that nothing of it is kept.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let restored = loop {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the node is not lost"
        );
        tokio::time::sleep(BLINK * 10).await;
        assert_eq!(
            store
                .leases
                .node_beat(&other, BLINK, 0, Counts::default())
                .await,
            Ok(true)
        );
        let asserted = store
            .connections
            .assert_presence(&lost, 1..2, vec![connection.clone()])
            .await
            .expect("asserted");
        if !asserted.restored.is_empty() {
            break asserted.restored;
        }
    };
    assert_eq!(
        restored,
        [Stray {
            conn: "c1".to_owned(),
            user: ann.clone()
        }]
    );
    assert_eq!(
        store
            .leases
            .node_beat(&lost, LONG, 1, Counts::default())
            .await,
        Ok(true)
    );
    assert_eq!(
        store.connections.presence(std::slice::from_ref(&ann)).await,
        Ok(vec![(vec![shown(&connection)], 0)])
    );
    for node in [lost, other] {
        assert_eq!(store.leases.node_gone(&node).await, Ok(()));
    }
}
