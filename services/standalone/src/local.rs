//! connect and logic in one process: each calls the other where a cluster has gRPC.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use im_connect::uplink::Logic;
use im_logic::nodes::{Node, Nodes, Tally, To};
use im_proto::v1::{Fault, KickRequest, PushRequest, RoomsChangedRequest, call, reply};

/// The way up: connect calls logic.
pub(crate) struct LocalLogic(pub(crate) im_logic::Handle);

#[async_trait]
impl Logic for LocalLogic {
    async fn call(&self, grant: Bytes, conn: &str, op: call::Op) -> Result<reply::Result, Fault> {
        self.0.call(grant, conn, op).await
    }

    fn on_this_thread(self: Arc<Self>) -> Arc<dyn Logic> {
        self
    }
}

/// The one node there is, once it is bound. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct OneNode(Arc<OnceLock<Bound>>);

struct Bound {
    node: Node,
    connect: im_connect::Handle,
}

impl OneNode {
    /// From now on this is the node.
    pub(crate) fn bound(&self, node: Node, connect: im_connect::Handle) {
        let _ = self.0.set(Bound { node, connect });
    }

    async fn each(&self, to: To, reach: impl AsyncFnOnce(&im_connect::Handle) -> u64) -> Tally {
        let mut here = true;
        let mut failed = Vec::new();
        let bound = self.0.get();
        if let To::Named(names) = to {
            let own = bound.map(|bound| bound.node.name.as_str());
            here = names.iter().any(|name| Some(name.as_str()) == own);
            failed.extend(names.into_iter().filter(|name| Some(name.as_str()) != own));
        }
        let connections = match bound {
            Some(Bound { connect, .. }) if here => reach(connect).await,
            _ => 0,
        };
        Tally {
            connections,
            failed,
        }
    }
}

#[async_trait]
impl Nodes for OneNode {
    async fn push(&self, to: To, request: PushRequest) -> Tally {
        self.each(to, async |connect| connect.push(request).await)
            .await
    }

    async fn kick(&self, to: To, request: KickRequest) -> Tally {
        self.each(to, async |connect| connect.kick(request).await)
            .await
    }

    async fn rooms_changed(&self, to: To, request: RoomsChangedRequest) -> Tally {
        self.each(to, async |connect| connect.rooms_changed(request).await)
            .await
    }

    fn known(&self) -> Vec<Node> {
        self.0
            .get()
            .map(|bound| bound.node.clone())
            .into_iter()
            .collect()
    }
}
