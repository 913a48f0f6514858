//! The connect processes of a cluster: found through discovery, asked over gRPC, many at once and each for a bounded time.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use im_discovery::{Endpoint, Pool, PoolOptions, Watch};
use im_proto::v1::connect_client::ConnectClient;
use im_proto::v1::{KickRequest, PushRequest, RoomsChangedRequest};
use prometheus::{IntCounterVec, register_int_counter_vec};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::auth::Secret;
use crate::nodes::{Node, Nodes, Tally, To};

static CALLS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Calls to connect processes by what (push, kick, rooms_changed) and result: ok, failed, or skipped because the \
        process had failed a moment ago.";
    register_int_counter_vec!("im_logic_node_calls_total", help, &["call", "result"])
        .expect("registered once")
});

/// How connect processes are asked.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long one process may take to answer.
    pub timeout: Duration,
    /// How long it may take to a push to everyone that is paced.
    pub paced_timeout: Duration,
    /// Processes asked at the same time; further ones wait.
    pub at_once: usize,
    /// What is shown to them; the same as connect's own setting.
    pub secret: Option<Secret>,
    /// The links to them.
    pub pool: PoolOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(2),
            paced_timeout: Duration::from_secs(60),
            at_once: 64,
            secret: None,
            pool: PoolOptions::default(),
        }
    }
}

/// Why it cannot start.
#[derive(Debug, thiserror::Error)]
#[error("the peer secret has characters that no HTTP header may have")]
pub struct BadSecret;

type Client = ConnectClient<Channel>;

/// Reaches connect processes over gRPC.
#[derive(Debug, Clone)]
pub struct Peers {
    pool: Pool<Client>,
    options: Arc<Options>,
    credential: Option<MetadataValue<Ascii>>,
}

impl Peers {
    /// Follows what discovery lists of connect. Called within a tokio runtime.
    ///
    /// # Errors
    /// A secret that cannot be sent.
    pub fn start(options: Options, watch: Watch) -> Result<Self, BadSecret> {
        let credential = options
            .secret
            .as_ref()
            .map(|secret| format!("Bearer {}", secret.expose()).parse());
        let credential = credential.transpose().map_err(|_| BadSecret)?;
        let pool = Pool::start(options.pool.clone(), watch, |_, channel| {
            ConnectClient::new(channel)
        });
        Ok(Self {
            pool,
            options: Arc::new(options),
            credential,
        })
    }

    /// The processes that are meant, and the names of those that are not known.
    fn find(&self, to: To) -> (Vec<Arc<Endpoint<Client>>>, Vec<String>) {
        match to {
            To::All => (self.pool.endpoints().iter().cloned().collect(), Vec::new()),
            To::Named(names) => {
                let mut found = Vec::new();
                let mut unknown = Vec::new();
                for name in names {
                    match self.pool.get(&name) {
                        Some(endpoint) => found.push(endpoint),
                        None => unknown.push(name),
                    }
                }
                (found, unknown)
            }
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(credential) = &self.credential {
            request
                .metadata_mut()
                .insert("authorization", credential.clone());
        }
        request
    }

    /// Asks all that are meant; `ask` returns how many connections were reached.
    async fn ask<F>(&self, what: Ask, to: To, ask: impl Fn(Client) -> F) -> Tally
    where
        F: Future<Output = Result<u64, Status>>,
    {
        let (found, failed) = self.find(to);
        let mut tally = Tally {
            connections: 0,
            failed,
        };
        let answers = found.into_iter().map(|endpoint| {
            let answer = ask(endpoint.link().clone());
            async move {
                let result = one(what, &endpoint, answer).await;
                result.map_err(|()| endpoint.node().id.clone())
            }
        });
        let mut answers =
            futures::stream::iter(answers).buffer_unordered(self.options.at_once.max(1));
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(connections) => tally.connections += connections,
                Err(node) => tally.failed.push(node),
            }
        }
        tally
    }
}

/// What is asked, and how.
#[derive(Debug, Clone, Copy)]
struct Ask {
    name: &'static str,
    timeout: Duration,
    /// Also asked where it failed a moment ago.
    always: bool,
}

async fn one(
    what: Ask,
    endpoint: &Arc<Endpoint<Client>>,
    answer: impl Future<Output = Result<u64, Status>>,
) -> Result<u64, ()> {
    let count = |result: &str| CALLS.with_label_values(&[what.name, result]).inc();
    if endpoint.is_ejected() && !what.always {
        count("skipped");
        return Err(());
    }
    let _in_flight = endpoint.track();
    let status = match tokio::time::timeout(what.timeout, answer).await {
        Ok(Ok(connections)) => {
            endpoint.answered();
            count("ok");
            return Ok(connections);
        }
        Ok(Err(status)) => status,
        Err(_) => Status::deadline_exceeded("no answer in time"),
    };
    endpoint.failed();
    count("failed");
    tracing::warn!(node = endpoint.node().id, call = what.name, %status, "call to a connect process failed");
    Err(())
}

#[async_trait]
impl Nodes for Peers {
    async fn push(&self, to: To, request: PushRequest) -> Tally {
        let timeout = if request.speed == 0 {
            self.options.timeout
        } else {
            self.options.paced_timeout
        };
        let what = Ask {
            name: "push",
            timeout,
            always: false,
        };
        self.ask(what, to, |mut client| {
            let request = self.request(request.clone());
            async move {
                client
                    .push(request)
                    .await
                    .map(Response::into_inner)
                    .map(|reply| reply.delivered)
            }
        })
        .await
    }

    async fn kick(&self, to: To, request: KickRequest) -> Tally {
        let what = Ask {
            name: "kick",
            timeout: self.options.timeout,
            always: true,
        };
        self.ask(what, to, |mut client| {
            let request = self.request(request.clone());
            async move {
                client
                    .kick(request)
                    .await
                    .map(Response::into_inner)
                    .map(|reply| reply.closed)
            }
        })
        .await
    }

    async fn rooms_changed(&self, to: To, request: RoomsChangedRequest) -> Tally {
        let what = Ask {
            name: "rooms_changed",
            timeout: self.options.timeout,
            always: false,
        };
        self.ask(what, to, |mut client| {
            let request = self.request(request.clone());
            async move {
                client
                    .rooms_changed(request)
                    .await
                    .map(Response::into_inner)
                    .map(|reply| reply.connections)
            }
        })
        .await
    }

    fn known(&self) -> Vec<Node> {
        let known = self.pool.endpoints();
        let known = known.iter().map(|endpoint| {
            let node = endpoint.node();
            let client = |port: &str| node.clients.get(port).cloned().unwrap_or_default();
            Node {
                name: node.id.clone(),
                version: node.version.clone(),
                zone: node.zone.clone(),
                tcp: client("tcp"),
                ws: client("ws"),
                grpc: node.address.clone(),
                draining: node.draining,
            }
        });
        known.collect()
    }
}

#[cfg(test)]
mod tests {
    use im_discovery::Kind;
    use im_proto::v1::connect_server::{Connect, ConnectServer};
    use im_proto::v1::{KickReply, PushReply, RoomsChangedReply};
    use tokio::net::TcpListener;
    use tonic::transport::server::TcpIncoming;

    use super::*;

    /// A connect process that reaches `0` connections; only with the secret `hush`.
    struct Fake(u64);

    impl Fake {
        fn check<T>(request: &Request<T>) -> Result<(), Status> {
            let shown = request
                .metadata()
                .get("authorization")
                .and_then(|value| value.to_str().ok());
            if shown == Some("Bearer hush") {
                Ok(())
            } else {
                Err(Status::unauthenticated("no secret"))
            }
        }
    }

    #[tonic::async_trait]
    impl Connect for Fake {
        async fn push(&self, request: Request<PushRequest>) -> Result<Response<PushReply>, Status> {
            Self::check(&request)?;
            Ok(Response::new(PushReply { delivered: self.0 }))
        }

        async fn kick(&self, request: Request<KickRequest>) -> Result<Response<KickReply>, Status> {
            Self::check(&request)?;
            Ok(Response::new(KickReply { closed: self.0 }))
        }

        async fn rooms_changed(
            &self,
            request: Request<RoomsChangedRequest>,
        ) -> Result<Response<RoomsChangedReply>, Status> {
            Self::check(&request)?;
            Ok(Response::new(RoomsChangedReply {
                connections: self.0,
            }))
        }
    }

    async fn node(connections: u64) -> im_discovery::Node {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = ConnectServer::new(Fake(connections));
        tokio::spawn(async move {
            let incoming = TcpIncoming::from(listener);
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        im_discovery::Node::new(format!("node-{connections}"), address, "0.1.0")
    }

    fn peers(nodes: Vec<im_discovery::Node>, secret: &str) -> Peers {
        let options = Options {
            secret: Some(Secret::new(secret)),
            timeout: Duration::from_millis(500),
            ..Options::default()
        };
        Peers::start(options, Watch::fixed(Kind::Connect, nodes)).unwrap()
    }

    #[tokio::test]
    async fn all_or_the_named_ones_are_asked_and_unknown_ones_are_named() {
        let peers = peers(vec![node(1).await, node(20).await], "hush");
        assert_eq!(
            peers.push(To::All, PushRequest::default()).await,
            Tally {
                connections: 21,
                failed: vec![]
            }
        );
        let named = To::Named(vec!["node-20".into(), "node-7".into()]);
        let tally = peers
            .rooms_changed(named, RoomsChangedRequest::default())
            .await;
        assert_eq!(
            tally,
            Tally {
                connections: 20,
                failed: vec!["node-7".into()]
            }
        );
        let names: Vec<String> = peers.known().into_iter().map(|node| node.name).collect();
        assert_eq!(names, ["node-1", "node-20"]);
    }

    #[tokio::test]
    async fn one_that_stands_still_delays_nobody_for_longer_than_its_time_and_is_left_out_afterwards()
     {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let nodes = vec![
            node(1).await,
            im_discovery::Node::new("silent", address, "0.1.0"),
        ];
        let peers = peers(nodes, "hush");
        let expected = Tally {
            connections: 1,
            failed: vec!["silent".into()],
        };
        assert_eq!(peers.push(To::All, PushRequest::default()).await, expected);
        let began = std::time::Instant::now();
        assert_eq!(peers.push(To::All, PushRequest::default()).await, expected);
        assert!(
            began.elapsed() < Duration::from_millis(300),
            "it is not waited for again so soon"
        );
        assert_eq!(
            peers.kick(To::All, KickRequest::default()).await,
            expected,
            "a kick is tried all the same"
        );
    }

    #[tokio::test]
    async fn a_wrong_secret_reaches_nobody() {
        let peers = peers(vec![node(3).await], "other");
        assert_eq!(
            peers.kick(To::All, KickRequest::default()).await.failed,
            ["node-3"]
        );
    }
}
