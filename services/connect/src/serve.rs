//! What logic asks of this node over gRPC: pushes, kicks, changes of a user's rooms.

use im_proto::v1::connect_server::{Connect, ConnectServer};
use im_proto::v1::{KickReply, KickRequest, PushReply, PushRequest, RoomsChangedReply, RoomsChangedRequest};
use tonic::{Request, Response, Status};

use crate::service::Handle;

/// The gRPC service of a node.
pub fn server(handle: Handle) -> ConnectServer<Served> {
    ConnectServer::new(Served(handle))
}

/// Carries calls to the node's handle.
#[derive(Debug)]
pub struct Served(Handle);

#[tonic::async_trait]
impl Connect for Served {
    async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushReply>, Status> {
        let delivered = self.0.push(request.into_inner()).await;
        Ok(Response::new(PushReply { delivered }))
    }

    async fn kick(&self, request: Request<KickRequest>) -> Result<Response<KickReply>, Status> {
        let closed = self.0.kick(request.into_inner()).await;
        Ok(Response::new(KickReply { closed }))
    }

    async fn rooms_changed(
        &self,
        request: Request<RoomsChangedRequest>,
    ) -> Result<Response<RoomsChangedReply>, Status> {
        let connections = self.0.rooms_changed(request.into_inner()).await;
        Ok(Response::new(RoomsChangedReply { connections }))
    }
}
