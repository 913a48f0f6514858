//! The world around a node that is alone: logic that nobody can reach, a bus that carries nothing.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use im_proto::v1::{Fault, call, reply};
use im_runtime::limits::queue::Sender;
use im_wire::code::ErrorCode;
use im_wire::ids::RoomId;

use crate::downlink::{Bus, BusNotification};
use crate::translate;
use crate::uplink::Logic;

pub(crate) struct Nobody;

#[async_trait]
impl Logic for Nobody {
    async fn call(&self, _: Bytes, _: &str, _: call::Op) -> Result<reply::Result, Fault> {
        Err(translate::retryable(
            ErrorCode::Unavailable,
            "nobody is there",
        ))
    }

    fn on_this_thread(self: Arc<Self>) -> Arc<dyn Logic> {
        self
    }
}

#[async_trait]
impl Bus for Nobody {
    async fn run(&self, _: Sender<BusNotification>) {}

    fn subscribe(&self, _: RoomId) {}

    fn unsubscribe(&self, _: &RoomId) {}
}
