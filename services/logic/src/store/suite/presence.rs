//! Users' indexes of rooms, nodes' leases, and who is online.

use std::time::Duration;

use im_wire::ids::{RoomId, UserId};

use super::Stage;
use crate::store::Presence;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(200);

pub(super) async fn cases(stage: &Stage) {
    rooms_are_listed_in_order(stage).await;
    direct_rooms_come_first(stage).await;
    what_a_user_has_in_a_day_is_counted(stage).await;
    users_are_online_while_their_node_lives(stage).await;
    a_lease_that_runs_out_takes_its_connections_along(stage).await;
    nodes_count_who_is_online(stage).await;
}

async fn rooms_are_listed_in_order(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let mut rooms: Vec<RoomId> = (0..7).map(|_| stage.room()).collect();
    for room in rooms.iter().rev().chain(&rooms) {
        let users = if *room == rooms[0] { vec![ann.clone(), bob.clone()] } else { vec![ann.clone()] };
        assert_eq!(stage.store.index_room(&users, room).await, Ok(()));
    }
    assert_eq!(stage.store.user_rooms(&bob, None, 10).await, Ok(vec![rooms[0].clone()]));
    rooms.sort();
    let gone = rooms.remove(3);
    for _ in 0..2 {
        assert_eq!(stage.store.unindex_room(&ann, &gone).await, Ok(()));
    }
    let first = stage.store.user_rooms(&ann, None, 4).await.expect("an index");
    assert_eq!(first, rooms[..4]);
    assert_eq!(stage.store.user_rooms(&ann, first.last(), 4).await.expect("an index"), rooms[4..]);
    assert_eq!(stage.store.user_rooms(&stage.user("nobody"), None, 4).await, Ok(Vec::new()));
}

async fn direct_rooms_come_first(stage: &Stage) {
    let (ann, mark) = (stage.user("ann"), stage.room());
    let named = |name: &str| RoomId::new(format!("{name}{mark}")).expect("a good id");
    let direct = |other: &str| RoomId::direct(&ann, &stage.user(other)).expect("two users");
    let mut directs: Vec<RoomId> = ["bob", "cat", "dan"].into_iter().map(direct).collect();
    directs.sort();
    let before = [named("!"), named("a"), named("direct!")];
    let behind = [named("direct;"), named("e"), named("g-")];
    let wanted: Vec<RoomId> = directs.iter().chain(&before).chain(&behind).cloned().collect();
    for room in wanted.iter().rev() {
        assert_eq!(stage.store.index_room(std::slice::from_ref(&ann), room).await, Ok(()));
    }
    for step in [1, 2, 4, 9, 100] {
        let mut seen: Vec<RoomId> = Vec::new();
        loop {
            let more = stage.store.user_rooms(&ann, seen.last(), step).await.expect("an index");
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
    let spend = async |user: &UserId, what, day, amount| stage.store.spend(user, what, day, amount, 10).await;
    assert_eq!(spend(&ann, "groups", 20_000, 7).await, Ok(true));
    assert_eq!(spend(&ann, "groups", 20_000, 4).await, Ok(false));
    assert_eq!(spend(&ann, "groups", 20_000, 3).await, Ok(true), "what was refused is not counted");
    assert_eq!(spend(&ann, "groups", 20_000, 1).await, Ok(false));
    assert_eq!(spend(&ann, "adds", 20_000, 10).await, Ok(true));
    assert_eq!(spend(&bob, "groups", 20_000, 10).await, Ok(true));
    assert_eq!(spend(&ann, "groups", 20_001, 10).await, Ok(true), "a new day");
}

fn presence(user: &UserId, conn: &str, node: &str, since_ms: u64) -> Presence {
    Presence { user: user.clone(), device: format!("{conn}'s phone"), conn: conn.into(), node: node.into(), since_ms }
}

async fn users_are_online_while_their_node_lives(stage: &Stage) {
    let (ann, bob) = (stage.user("ann"), stage.user("bob"));
    let (one, other) = (stage.name("node"), stage.name("node"));
    let store = &stage.store;
    for (node, connections) in [(&one, 2), (&other, 1)] {
        assert_eq!(store.node_beat(node, LONG, connections, Vec::new()).await, Ok(()));
    }
    let nodes = store.nodes().await.expect("nodes");
    assert!(nodes.contains(&(one.clone(), 2)) && nodes.contains(&(other.clone(), 1)));
    let (first, second) = (presence(&ann, "c1", &one, 10), presence(&ann, "c2", &other, 20));
    for connection in [&first, &second, &second, &presence(&bob, "c3", &one, 30)] {
        assert_eq!(store.connected(connection.clone()).await, Ok(()));
    }
    let nobody = stage.user("nobody");
    let online = store.presence(&[bob.clone(), nobody, ann.clone()]).await.expect("presence");
    assert_eq!((online[0].0.len(), online[0].1, online[1].0.len(), online[1].1), (1, 0, 0, 0));
    assert_eq!(online[2].0, [first, second.clone()]);
    for _ in 0..2 {
        assert_eq!(store.disconnected(&ann, "c1", 500).await, Ok(()));
    }
    assert_eq!(store.presence(std::slice::from_ref(&ann)).await, Ok(vec![(vec![second], 500)]));
    // The newest time stays.
    assert_eq!(store.disconnected(&ann, "c9", 400).await, Ok(()));
    for _ in 0..2 {
        assert_eq!(store.node_gone(&other).await, Ok(()));
    }
    assert_eq!(store.presence(std::slice::from_ref(&ann)).await, Ok(vec![(Vec::new(), 500)]));
    assert_eq!(store.presence(std::slice::from_ref(&bob)).await.expect("presence")[0].0.len(), 1);
    assert!(store.nodes().await.expect("nodes").iter().all(|(node, _)| *node != other));
    assert_eq!(store.node_gone(&one).await, Ok(()));
}

async fn a_lease_that_runs_out_takes_its_connections_along(stage: &Stage) {
    let (ann, node) = (stage.user("ann"), stage.name("node"));
    let room = stage.room();
    let store = &stage.store;
    let counted = vec![(room.clone(), 5)];
    assert_eq!(store.node_beat(&node, SHORT, 1, counted.clone()).await, Ok(()));
    let connection = presence(&ann, "c1", &node, 10);
    assert_eq!(store.connected(connection.clone()).await, Ok(()));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !store.presence(std::slice::from_ref(&ann)).await.expect("presence")[0].0.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "the lease does not run out");
        tokio::time::sleep(SHORT / 10).await;
    }
    assert!(store.nodes().await.expect("nodes").iter().all(|(living, _)| *living != node));
    assert_eq!(store.online(std::slice::from_ref(&room)).await, Ok(vec![0]));
    // A node that was only late comes back with its connections.
    assert_eq!(store.node_beat(&node, LONG, 1, counted).await, Ok(()));
    assert_eq!(store.presence(std::slice::from_ref(&ann)).await, Ok(vec![(vec![connection], 0)]));
    assert_eq!(store.online(&[room]).await, Ok(vec![5]));
    assert_eq!(store.node_gone(&node).await, Ok(()));
}

async fn nodes_count_who_is_online(stage: &Stage) {
    let (one, other) = (stage.name("node"), stage.name("node"));
    let (both, single, none) = (stage.room(), stage.room(), stage.room());
    let store = &stage.store;
    let counts = vec![(both.clone(), 3), (single.clone(), 4)];
    assert_eq!(store.node_beat(&one, LONG, 7, counts).await, Ok(()));
    assert_eq!(store.node_beat(&other, LONG, 2, vec![(both.clone(), 2)]).await, Ok(()));
    let rooms = [none, both.clone(), single.clone()];
    assert_eq!(store.online(&rooms).await, Ok(vec![0, 5, 4]));
    let all = store.online_rooms().await.expect("rooms");
    assert!(all.contains(&(both.clone(), 5)) && all.contains(&(single, 4)));
    // A beat replaces what the node counted before.
    assert_eq!(store.node_beat(&one, LONG, 1, vec![(both, 1)]).await, Ok(()));
    assert_eq!(store.online(&rooms).await, Ok(vec![0, 3, 0]));
    for node in [one, other] {
        assert_eq!(store.node_gone(&node).await, Ok(()));
    }
    assert_eq!(store.online(&rooms).await, Ok(vec![0, 0, 0]));
}
