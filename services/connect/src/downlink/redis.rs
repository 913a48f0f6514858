//! The bus of a cluster: redis pub/sub, as `im-redis-bus` hears it.

use async_trait::async_trait;
use im_redis_bus::{BusNotification as Received, Client, Subscriber};
use im_runtime::limits::queue::Sender;
use im_wire::ids::RoomId;

use super::{Bus, BusNotification};

/// Hears rooms over redis.
#[derive(Debug)]
pub struct RedisBus {
    subscriber: Subscriber,
}

impl RedisBus {
    /// A bus over this client's connections; hears nothing before it runs.
    pub fn new(client: &Client) -> Self {
        Self {
            subscriber: Subscriber::new(client),
        }
    }
}

impl From<Received> for BusNotification {
    fn from(received: Received) -> Self {
        match received {
            Received::Event(event) => Self::Event(event),
            Received::Subscribed(room) => Self::Subscribed(room),
            Received::GapPossible => Self::GapPossible,
        }
    }
}

#[async_trait]
impl Bus for RedisBus {
    async fn run(&self, into: Sender<BusNotification>) {
        self.subscriber.run(into).await;
    }

    fn subscribe(&self, room: RoomId) {
        self.subscriber.subscribe(room);
    }

    fn unsubscribe(&self, room: &RoomId) {
        self.subscriber.unsubscribe(room);
    }
}
