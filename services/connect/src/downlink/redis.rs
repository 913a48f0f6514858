//! The bus of a cluster: redis pub/sub, as `im-redis-bus` hears it.

use async_trait::async_trait;
use im_redis_bus::{BusNotification, Client, Subscriber};
use im_runtime::limits::queue::Sender;
use im_wire::ids::RoomId;

use super::{Bus, Tidings};

/// Hears rooms over redis.
#[derive(Debug)]
pub struct RedisBus {
    subscriber: Subscriber,
}

impl RedisBus {
    /// A bus over this client's connections; hears nothing before it runs.
    pub fn new(client: &Client) -> Self {
        Self { subscriber: Subscriber::new(client) }
    }
}

impl From<BusNotification> for Tidings {
    fn from(tiding: BusNotification) -> Self {
        match tiding {
            BusNotification::Event(event) => Self::Event(event),
            BusNotification::Subscribed(room) => Self::Subscribed(room),
            BusNotification::GapPossible => Self::Disturbed,
        }
    }
}

#[async_trait]
impl Bus for RedisBus {
    async fn run(&self, into: Sender<Tidings>) {
        self.subscriber.run(into).await;
    }

    fn subscribe(&self, room: RoomId) {
        self.subscriber.subscribe(room);
    }

    fn unsubscribe(&self, room: &RoomId) {
        self.subscriber.unsubscribe(room);
    }
}
