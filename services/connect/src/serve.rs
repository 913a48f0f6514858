//! What logic asks of this node over gRPC: pushes, kicks, changes of a user's rooms.

use std::sync::Arc;
use std::time::Duration;

use im_discovery::Kind;
use im_proto::v1::connect_server::{Connect, ConnectServer};
use im_proto::v1::{
    KickReply, KickRequest, PushReply, PushRequest, RoomsChangedReply, RoomsChangedRequest,
};
use im_runtime::peer;
use im_runtime::settings::Secret;
use im_runtime::tls::{Incoming, Tls};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::service::Handle;

/// How often a connection is checked, and how long the other side may take to answer.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Serves logic's calls until `end`, over TLS where there is a certificate; callers must show the secret where there is one.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    handle: Handle,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    secret: Option<Secret>,
    end: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let wanted = secret.map(|secret| format!("Bearer {}", secret.reveal()));
    let admit = move |request: Request<()>| match (&wanted, request.metadata().get("authorization"))
    {
        (None, _) => Ok(request),
        (Some(wanted), Some(shown)) if peer::same(shown.as_bytes(), wanted.as_bytes()) => {
            Ok(request)
        }
        _ => Err(Status::unauthenticated(
            "the call shows no secret of this cluster",
        )),
    };
    let router = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(InterceptedService::new(
            ConnectServer::new(Served(handle)),
            admit,
        ));
    let end = end.cancelled_owned();
    match tls {
        Some(tls) => {
            router
                .serve_with_incoming_shutdown(
                    Incoming::new(tls, listener, Kind::Logic.certificate_name()),
                    end,
                )
                .await
        }
        None => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            router.serve_with_incoming_shutdown(incoming, end).await
        }
    }
}

/// Carries calls to the node's handle.
#[derive(Debug)]
struct Served(Handle);

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
