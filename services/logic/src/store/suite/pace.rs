//! How fast a store appends, for tests that print it for people.

use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use im_wire::ids::{RoomId, UserId};

use super::{message, open};
use crate::store::Messages;

/// Keeps `flying` appends to so many rooms in flight until `count` are stored. Returns the appends per second and the
/// slowest hundredth.
///
/// # Panics
/// Where one is not stored.
pub async fn pace(
    store: &dyn Messages,
    count: usize,
    flying: usize,
    rooms: usize,
) -> (f64, Duration) {
    let mut begun = 0;
    let mut took = Vec::with_capacity(count);
    let run = uuid::Uuid::now_v7();
    let ann = UserId::new("ann").expect("a good id");
    let start = Instant::now();
    let mut flight = FuturesUnordered::new();
    while took.len() < count {
        while begun < count && flight.len() < flying {
            let room = RoomId::new(format!("room{}", begun % rooms)).expect("a good id");
            let append = message(&room, open(&ann), &format!("{run}-{begun}"));
            begun += 1;
            flight.push(async {
                let at = Instant::now();
                store.append(append).await.map(|_| at.elapsed())
            });
        }
        took.push(
            flight
                .next()
                .await
                .expect("something flies")
                .expect("stored"),
        );
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    took.sort_unstable();
    (rate, took[count * 99 / 100])
}
