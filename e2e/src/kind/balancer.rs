//! A balancer of TCP connections before a Service of type LoadBalancer with `externalTrafficPolicy: Local`, as clouds have
//! them: it looks at the health check port of every worker, sends new connections to healthy ones alone, and cuts those of one
//! that is not healthy any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::api::Api;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::kube::{Kube, node_port, until};
use crate::forwarder::accept_each;
use crate::http;

/// How often a node is asked whether it is healthy.
const INTERVAL: Duration = Duration::from_secs(2);
/// After so many failures in a row it is not; after one success it is again.
const UNHEALTHY: u32 = 3;
/// How long a connection to a node may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the first node may take to be healthy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs until it is dropped.
pub struct Balancer {
    tcp: String,
    ws: String,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    /// Each worker's address, and whether it is healthy.
    nodes: Vec<(String, watch::Sender<bool>)>,
    next: AtomicUsize,
    cut: AtomicU64,
}

impl Balancer {
    /// Before a Service, as soon as a node is healthy.
    pub async fn before(kube: &Kube, namespace: &str, service: &str) -> Result<Self> {
        let found = Api::<Service>::namespaced(kube.client.clone(), namespace).get(service).await?;
        let check = found.spec.as_ref().and_then(|spec| spec.health_check_node_port).filter(|port| *port > 0);
        let check = check.with_context(|| format!("Service {service} has no healthCheckNodePort"))?;
        let (tcp, ws) = (node_port(&found, "tcp")?, node_port(&found, "ws")?);
        let workers = kube.workers().await?;
        let nodes = workers.into_iter().map(|address| (address, watch::Sender::new(false))).collect();
        let shared = Arc::new(Shared { nodes, next: AtomicUsize::new(0), cut: AtomicU64::new(0) });
        let mut tasks = JoinSet::new();
        for node in 0..shared.nodes.len() {
            tasks.spawn(look_at(Arc::clone(&shared), node, check));
        }
        let mut listen = async |to: i32| -> Result<String> {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?.to_string();
            let shared = Arc::clone(&shared);
            tasks.spawn(accept_each(listener, move |near| forward(near, Arc::clone(&shared), to)));
            Ok(address)
        };
        let (tcp, ws) = (listen(tcp).await?, listen(ws).await?);
        let balancer = Self { tcp, ws, shared, _tasks: tasks };
        until("a node is healthy for the balancer", PATIENCE, async || {
            ensure!(!balancer.shared.healthy().is_empty(), "none is");
            Ok(())
        })
        .await?;
        Ok(balancer)
    }

    /// Where it takes connections for the Service's port of this name, `tcp` or `ws`: `127.0.0.1:port`.
    pub fn address(&self, port: &str) -> &str {
        if port == "tcp" { &self.tcp } else { &self.ws }
    }

    /// How many connections it has cut so far.
    pub fn cut(&self) -> u64 {
        self.shared.cut.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn healthy(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| *self.nodes[*node].1.borrow()).collect()
    }

    /// The next healthy node in turn.
    fn choose(&self) -> Option<usize> {
        let healthy = self.healthy();
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        healthy.get(turn.checked_rem(healthy.len())?).copied()
    }
}

async fn look_at(shared: Arc<Shared>, node: usize, port: i32) {
    let (address, healthy) = &shared.nodes[node];
    let mut failures = 0;
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        let answer = tokio::time::timeout(INTERVAL, http::get(&format!("{address}:{port}"), "/healthz")).await;
        failures = if matches!(answer, Ok(Ok((200, _)))) { 0 } else { failures + 1 };
        let now = failures == 0 || *healthy.borrow() && failures < UNHEALTHY;
        healthy.send_if_modified(|before| std::mem::replace(before, now) != now);
    }
}

/// Until one side ends or the node is not healthy any more. Where no node is, the client is refused.
async fn forward(mut near: TcpStream, shared: Arc<Shared>, port: i32) {
    let Some(node) = shared.choose() else { return };
    let (address, healthy) = &shared.nodes[node];
    let far = tokio::time::timeout(CONNECT, TcpStream::connect(format!("{address}:{port}"))).await;
    let Ok(Ok(mut far)) = far else { return };
    let mut healthy = healthy.subscribe();
    tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => {}
        _ = healthy.wait_for(|healthy| !healthy) => drop(shared.cut.fetch_add(1, Ordering::Relaxed)),
    }
}
