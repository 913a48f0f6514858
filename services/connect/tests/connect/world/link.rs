//! One node's way up to the world's logic and down from its bus.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use im_connect::downlink::{Bus, BusNotification};
use im_connect::uplink::Logic;
use im_proto::v1::{Fault, call, reply};
use im_runtime::limits::queue::Sender;
use im_wire::ids::RoomId;

use super::World;

/// See the module's top.
pub(crate) struct Link {
    pub(super) world: World,
    pub(super) number: usize,
}

#[async_trait]
impl Logic for Link {
    async fn call(&self, grant: Bytes, _conn: &str, op: call::Op) -> Result<reply::Result, Fault> {
        let grant = String::from_utf8(grant.to_vec()).unwrap();
        let gate = match op {
            call::Op::Send(_) | call::Op::Heads(_) => Some(&self.world.answering),
            call::Op::Fetch(_) | call::Op::History(_) => Some(&self.world.paging),
            call::Op::Authenticate(_) => Some(&self.world.identifying),
            call::Op::Subscribe(_) => Some(&self.world.judging),
            _ => None,
        };
        let answer = self.world.state().answer(&grant, op);
        if let Some(gate) = gate {
            let _ = gate.subscribe().wait_for(|open| *open).await;
        }
        answer
    }

    fn on_this_thread(self: Arc<Self>) -> Arc<dyn Logic> {
        self
    }
}

#[async_trait]
impl Bus for Link {
    async fn run(&self, into: Sender<BusNotification>) {
        {
            let node = &mut self.world.state().nodes[self.number];
            node.into = Some(into);
            for notification in std::mem::take(&mut node.early) {
                node.tell(notification);
            }
        }
        std::future::pending().await
    }

    fn subscribe(&self, room: RoomId) {
        let mut state = self.world.state();
        let away = state.bus_away;
        let node = &mut state.nodes[self.number];
        if node.heard.insert(room.clone()) && !away {
            node.tell(BusNotification::Subscribed(room));
        }
    }

    fn unsubscribe(&self, room: &RoomId) {
        self.world.state().nodes[self.number].heard.remove(room);
    }
}
