//! A logic service on free ports, and how the tests talk to it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use im_logic::auth::Secret;
use im_logic::nodes::{Node, Tally, To};
use im_logic::store::{Publish, Store};
use im_logic::{Handle, Nodes, Options, Service};
use im_proto::v1::{
    Authenticate, Authenticated, Entry, Fault, KickRequest, PushRequest, RoomsChangedRequest,
    Signal, call, reply,
};
use im_wire::ids::{Epoch, RoomId, Seq};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// What a request to nodes was.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Told {
    Push(To, PushRequest),
    Kick(To, KickRequest),
    RoomsChanged(To, RoomsChangedRequest),
}

/// Nodes that only remember what they were told; each reaches one connection.
#[derive(Default)]
pub(crate) struct Remembering {
    told: Mutex<Vec<Told>>,
    /// Whoever is asked does not answer.
    pub(crate) away: AtomicBool,
    /// So many were not answered.
    pub(crate) unanswered: AtomicUsize,
}

impl Remembering {
    fn tell(&self, told: Told) -> Tally {
        let (Told::Push(to, _) | Told::Kick(to, _) | Told::RoomsChanged(to, _)) = &told;
        if self.away.load(Ordering::SeqCst) {
            self.unanswered.fetch_add(1, Ordering::SeqCst);
            let failed = if let To::Named(names) = to {
                names.clone()
            } else {
                Vec::new()
            };
            return Tally {
                connections: 0,
                failed,
            };
        }
        self.told.lock().unwrap().push(told);
        Tally {
            connections: 1,
            failed: Vec::new(),
        }
    }

    pub(crate) fn take(&self) -> Vec<Told> {
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

#[async_trait]
impl Nodes for Remembering {
    async fn push(&self, to: To, request: PushRequest) -> Tally {
        self.tell(Told::Push(to, request))
    }

    async fn kick(&self, to: To, request: KickRequest) -> Tally {
        self.tell(Told::Kick(to, request))
    }

    async fn rooms_changed(&self, to: To, request: RoomsChangedRequest) -> Tally {
        self.tell(Told::RoomsChanged(to, request))
    }

    fn known(&self) -> Vec<Node> {
        vec![Node {
            name: "node-1".to_owned(),
            version: "0.1.0".to_owned(),
            zone: "a".to_owned(),
            tcp: "192.0.2.1:3101".to_owned(),
            ws: "ws.example:3102".to_owned(),
            grpc: "10.0.0.1:3109".to_owned(),
            draining: false,
        }]
    }
}

/// What the store published.
#[derive(Default)]
pub(crate) struct Bus {
    pub(crate) logged: Mutex<Vec<(String, Seq, Entry)>>,
    pub(crate) signals: Mutex<Vec<(String, Signal)>>,
}

impl Publish for Bus {
    fn logged(&self, room: &RoomId, _: Epoch, seq: Seq, entry: &Entry) {
        self.logged
            .lock()
            .unwrap()
            .push((room.as_str().to_owned(), seq, entry.clone()));
    }

    fn signal(&self, room: &RoomId, signal: &Signal) {
        self.signals
            .lock()
            .unwrap()
            .push((room.as_str().to_owned(), signal.clone()));
    }
}

/// An embedded store in memory, and what it publishes.
pub(crate) fn store() -> (Store, Arc<Bus>) {
    let bus = Arc::new(Bus::default());
    (Store::new(Arc::new(embedded(Arc::clone(&bus)))), bus)
}

pub(crate) fn embedded(bus: Arc<Bus>) -> im_logic::store::embedded::EmbeddedStore {
    im_logic::store::embedded::EmbeddedStore::in_memory(Default::default(), bus)
        .expect("an empty store in memory")
}

/// Options that accept the tests' tokens.
pub(crate) fn options() -> Options {
    let mut options = Options::default();
    options.auth.hs256_secrets = vec![Secret::new(SECRET)];
    options.http.user_rate = 0.0;
    options
}

pub(crate) struct Site {
    pub(crate) service: Arc<Service>,
    pub(crate) handle: Handle,
    pub(crate) nodes: Arc<Remembering>,
    pub(crate) bus: Arc<Bus>,
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// What a request was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// The body of a good answer.
    pub(crate) fn good(self) -> Value {
        assert!((200..300).contains(&self.status), "{self:?}");
        self.body
    }

    /// (status, code, field) of a refusal in the API's shape.
    pub(crate) fn refused(&self) -> (u16, &str, &str) {
        let error = &self.body["error"];
        assert!(
            error["text"].as_str().is_some_and(|text| !text.is_empty()),
            "{self:?}"
        );
        assert!(error["retryable"].is_boolean(), "{self:?}");
        (
            self.status,
            error["code"].as_str().unwrap_or_default(),
            error["field"].as_str().unwrap_or_default(),
        )
    }
}

impl Site {
    pub(crate) async fn new() -> Self {
        Self::with(options()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let (store, bus) = store();
        Self::over(options, store, bus).await
    }

    pub(crate) async fn over(options: Options, store: Store, bus: Arc<Bus>) -> Self {
        let nodes = Arc::new(Remembering::default());
        let nodes_of_service: Arc<dyn Nodes> = nodes.clone();
        let service = Arc::new(Service::new(options, store, nodes_of_service).unwrap());
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http_at = http.local_addr().unwrap();
        let grpc_at = grpc.local_addr().unwrap();
        let (over_http, over_grpc) = (service.clone(), service.clone());
        tokio::spawn(async move { over_http.serve_http(http).await });
        tokio::spawn(async move { over_grpc.serve_grpc(grpc, None).await.unwrap() });
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self {
            handle: service.handle(),
            service,
            nodes,
            bus,
            http: http_at,
            grpc: grpc_at,
            client,
        }
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let response = tokio::time::timeout(TIMEOUT, self.client.request(request))
            .await
            .unwrap()
            .unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let body =
            serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{error}: {bytes:?}"));
        Answer {
            status,
            headers,
            body,
        }
    }

    /// A request with a body as it is.
    pub(crate) async fn raw(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.http));
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        self.send(request.body(Full::new(body.into())).unwrap())
            .await
    }

    pub(crate) async fn get(&self, token: &str, path: &str) -> Answer {
        self.raw(Method::GET, path, token, "").await
    }

    pub(crate) async fn post(&self, token: &str, path: &str, body: Value) -> Answer {
        self.raw(Method::POST, path, token, body.to_string()).await
    }

    pub(crate) async fn put(&self, token: &str, path: &str, body: Value) -> Answer {
        self.raw(Method::PUT, path, token, body.to_string()).await
    }

    pub(crate) async fn delete(&self, token: &str, path: &str) -> Answer {
        self.raw(Method::DELETE, path, token, "").await
    }

    /// A group of `owner` and others; its id.
    pub(crate) async fn group(&self, owner: &str, others: &[&str]) -> String {
        let made = self
            .post(
                owner,
                "/v1/rooms",
                json!({"kind": "group", "members": others}),
            )
            .await
            .good();
        made["id"].as_str().unwrap().to_owned()
    }

    /// Says something and returns its seq.
    pub(crate) async fn say(&self, token: &str, room: &str, text: &str) -> u64 {
        let path = format!("/v1/rooms/{}/messages", encoded(room));
        self.post(token, &path, json!({"body": text})).await.good()["seq"]
            .as_u64()
            .unwrap()
    }

    /// A connection of the token's user on `node-1`.
    pub(crate) async fn connect(&self, token: &str, conn: &str) -> Authenticated {
        let ask = Authenticate {
            token: token.to_owned(),
            node: "node-1".to_owned(),
            ..Authenticate::default()
        };
        match self
            .call(Bytes::new(), conn, call::Op::Authenticate(ask))
            .await
        {
            Ok(reply::Result::Authenticated(authenticated)) => authenticated,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn call(
        &self,
        grant: Bytes,
        conn: &str,
        op: call::Op,
    ) -> Result<reply::Result, Fault> {
        self.handle.call(grant, conn, op).await
    }

    /// `node-1` lives.
    pub(crate) async fn beat(&self) {
        let beat = im_proto::v1::NodeBeat {
            node: "node-1".to_owned(),
            lease_ms: 60_000,
            connections: 3,
            ..Default::default()
        };
        self.call(Bytes::new(), "", call::Op::NodeBeat(beat))
            .await
            .unwrap();
    }

    /// What the nodes were told, once there is something: follow-ups come after the answer.
    pub(crate) async fn told(&self) -> Vec<Told> {
        eventually(|| Some(self.nodes.take()).filter(|told| !told.is_empty())).await
    }
}

/// Waits until there is a result.
pub(crate) async fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let search = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, search)
        .await
        .expect("it happens in time")
}

pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

pub(crate) fn signed(claims: &Value) -> String {
    encode(
        &Header::default(),
        claims,
        &EncodingKey::from_secret(SECRET.as_bytes()),
    )
    .unwrap()
}

/// A user's token.
pub(crate) fn token(user: &str) -> String {
    signed(&json!({"sub": user, "exp": now() + 600}))
}

/// A token that covers open rooms.
pub(crate) fn token_for(user: &str, rooms: &[&str]) -> String {
    signed(&json!({"sub": user, "exp": now() + 600, "rooms": rooms}))
}

/// A backend's token.
pub(crate) fn admin() -> String {
    signed(&json!({"sub": "backend", "exp": now() + 600, "scope": "admin"}))
}

/// A room id as it stands in a path.
pub(crate) fn encoded(room: &str) -> String {
    form_urlencoded::byte_serialize(room.as_bytes()).collect()
}
