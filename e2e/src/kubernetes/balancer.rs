//! A TCP load balancer in front of a Service of type LoadBalancer with `externalTrafficPolicy: Local`, as clouds have them: it
//! checks the health check port of every worker, sends new connections only to healthy ones, and cuts the connections of a
//! worker that becomes unhealthy.

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

use super::client::{Kube, node_port};
use crate::http;
use crate::proxies::accept_each;
use crate::wait::until_ok;

/// Between two health checks of a node.
const INTERVAL: Duration = Duration::from_secs(2);
/// This many failed checks in a row make a node unhealthy; one success makes it healthy again.
const UNHEALTHY_THRESHOLD: u32 = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the first node may take to become healthy.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// The load balancer; it ends when dropped.
pub(crate) struct Balancer {
    tcp: String,
    ws: String,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    /// The address of each worker, and whether it is healthy.
    nodes: Vec<(String, watch::Sender<bool>)>,
    next: AtomicUsize,
    cut: AtomicU64,
}

impl Balancer {
    /// Starts in front of a Service and waits until a node is healthy.
    pub(crate) async fn start(kube: &Kube, namespace: &str, service: &str) -> Result<Self> {
        let found = Api::<Service>::namespaced(kube.client.clone(), namespace)
            .get(service)
            .await?;
        let check = found
            .spec
            .as_ref()
            .and_then(|spec| spec.health_check_node_port)
            .filter(|port| *port > 0);
        let check =
            check.with_context(|| format!("Service {service} has no healthCheckNodePort"))?;
        let tcp = node_port(&found, "tcp")?;
        let ws = node_port(&found, "ws")?;
        let workers = kube.workers().await?;
        let nodes = workers
            .into_iter()
            .map(|address| (address, watch::Sender::new(false)))
            .collect();
        let shared = Arc::new(Shared {
            nodes,
            next: AtomicUsize::new(0),
            cut: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        for node in 0..shared.nodes.len() {
            tasks.spawn(check_health(Arc::clone(&shared), node, check));
        }
        let mut listen = async |to: i32| -> Result<String> {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?.to_string();
            let shared = Arc::clone(&shared);
            tasks.spawn(accept_each(listener, move |client| {
                forward(client, Arc::clone(&shared), to)
            }));
            Ok(address)
        };
        let tcp = listen(tcp).await?;
        let ws = listen(ws).await?;
        let balancer = Self {
            tcp,
            ws,
            shared,
            _tasks: tasks,
        };
        until_ok(
            "a node is healthy for the load balancer",
            READY_TIMEOUT,
            async || {
                ensure!(!balancer.shared.healthy().is_empty(), "no node is healthy");
                Ok(())
            },
        )
        .await?;
        Ok(balancer)
    }

    /// Where it accepts connections for the Service's port `tcp` or `ws`: `127.0.0.1:port`.
    pub(crate) fn address(&self, port: &str) -> &str {
        if port == "tcp" { &self.tcp } else { &self.ws }
    }

    /// How many connections it has cut.
    pub(crate) fn cut(&self) -> u64 {
        self.shared.cut.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn healthy(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|node| *self.nodes[*node].1.borrow())
            .collect()
    }

    /// The next healthy node in turn.
    fn choose(&self) -> Option<usize> {
        let healthy = self.healthy();
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        healthy.get(turn.checked_rem(healthy.len())?).copied()
    }
}

async fn check_health(shared: Arc<Shared>, node: usize, port: i32) {
    let (address, healthy) = &shared.nodes[node];
    let mut failures = 0;
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        let response = tokio::time::timeout(
            INTERVAL,
            http::get(&format!("{address}:{port}"), "/healthz"),
        )
        .await;
        failures = if matches!(response, Ok(Ok((200, _)))) {
            0
        } else {
            failures + 1
        };
        let now = failures == 0 || *healthy.borrow() && failures < UNHEALTHY_THRESHOLD;
        healthy.send_if_modified(|before| std::mem::replace(before, now) != now);
    }
}

/// Copies until one side ends or the node becomes unhealthy. Closes the connection if no node is healthy.
async fn forward(mut client: TcpStream, shared: Arc<Shared>, port: i32) {
    let Some(node) = shared.choose() else { return };
    let (address, healthy) = &shared.nodes[node];
    let server = tokio::time::timeout(
        CONNECT_TIMEOUT,
        TcpStream::connect(format!("{address}:{port}")),
    )
    .await;
    let Ok(Ok(mut server)) = server else { return };
    let mut healthy = healthy.subscribe();
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => {}
        _ = healthy.wait_for(|healthy| !healthy) => drop(shared.cut.fetch_add(1, Ordering::Relaxed)),
    }
}
