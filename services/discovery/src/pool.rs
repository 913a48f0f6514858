//! Links to all processes of one kind, and the choice among them: of two at random the one with fewer calls in flight,
//! leaving out those that drain and those that failed a moment ago.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use im_runtime::tls::Tls;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint as Target};

use crate::metrics::SET_ASIDE;
use crate::{Kind, Node, Watch};

/// How links are made and when they are given up.
#[derive(Debug, Clone)]
pub struct PoolOptions {
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How often an open link is pinged.
    pub ping_interval: Duration,
    /// How long a ping may stay unanswered before the link counts as broken.
    pub ping_timeout: Duration,
    /// For how long an endpoint is ejected at its first failure; doubled at each further one.
    pub ejection_min: Duration,
    /// For how long at most.
    pub ejection_max: Duration,
    /// Makes links speak TLS: the others must show a certificate that names `im-logic` or `im-connect`.
    pub tls: Option<Arc<Tls>>,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            ping_interval: Duration::from_secs(1),
            ping_timeout: Duration::from_millis(2500),
            ejection_min: Duration::from_millis(500),
            ejection_max: Duration::from_secs(10),
            tls: None,
        }
    }
}

impl PoolOptions {
    /// A link that connects when it is first used, and again when it broke. `None` where the address is not one.
    fn channel(&self, kind: Kind, address: &str) -> Option<Channel> {
        let target = Target::from_shared(format!("http://{address}")).ok()?;
        let target = target
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(self.ping_interval)
            .keep_alive_timeout(self.ping_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20);
        let Some(tls) = &self.tls else {
            return Some(target.connect_lazy());
        };
        Some(target.connect_with_connector_lazy(tls.connector(kind.certificate_name())))
    }
}

/// One process, and the link to it.
#[derive(Debug)]
pub struct Endpoint<L> {
    kind: Kind,
    node: ArcSwap<Node>,
    link: L,
    in_flight: AtomicU32,
    failures: AtomicU32,
    /// Milliseconds after `began` until which it is not to be chosen.
    ejected_until: AtomicU64,
    began: Instant,
    ejection_min: Duration,
    ejection_max: Duration,
    listed: AtomicBool,
}

impl<L> Endpoint<L> {
    /// What etcd last said about it.
    pub fn node(&self) -> Arc<Node> {
        self.node.load_full()
    }

    /// What was made for it.
    pub fn link(&self) -> &L {
        &self.link
    }

    /// Calls in flight, as [`Endpoint::track`] counts them.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a call until the result is dropped.
    pub fn track(self: &Arc<Self>) -> InFlightGuard<L> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlightGuard {
            endpoint: Arc::clone(self),
        }
    }

    /// It answered: nothing is held against it any more.
    pub fn answered(&self) {
        if self.failures.swap(0, Ordering::Relaxed) != 0 {
            self.ejected_until.store(0, Ordering::Relaxed);
        }
    }

    /// It failed: it is not chosen for a while, longer each time, with jitter; after that the next call tries it.
    pub fn failed(&self) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(16);
        let pause = self
            .ejection_min
            .saturating_mul(1 << failures)
            .min(self.ejection_max);
        let pause = pause.mul_f64(rand::random_range(0.75..1.25));
        let until = u64::try_from((self.began.elapsed() + pause).as_millis()).unwrap_or(u64::MAX);
        self.ejected_until.store(until, Ordering::Relaxed);
        SET_ASIDE.with_label_values(&[self.kind.as_str()]).inc();
    }

    /// Whether it failed a moment ago.
    pub fn is_ejected(&self) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        until != 0 && Duration::from_millis(until) > self.began.elapsed()
    }

    /// Whether etcd still lists it.
    pub fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Relaxed)
    }
}

/// A call in flight.
#[derive(Debug)]
pub struct InFlightGuard<L> {
    endpoint: Arc<Endpoint<L>>,
}

impl<L> InFlightGuard<L> {
    /// Where the call went.
    pub fn endpoint(&self) -> &Arc<Endpoint<L>> {
        &self.endpoint
    }
}

impl<L> Drop for InFlightGuard<L> {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Links to everything a watch lists. Cheap to clone; ends with its last clone.
///
/// Should etcd list nothing at all after it listed something, the last ones stay: an etcd that lost its data, or leases
/// that ran out because etcd stood still, must not cut the cluster in two.
#[derive(Debug)]
pub struct Pool<L> {
    endpoints: Arc<ArcSwap<Vec<Arc<Endpoint<L>>>>>,
    _end: Arc<DropGuard>,
}

impl<L> Clone for Pool<L> {
    fn clone(&self) -> Self {
        Self {
            endpoints: Arc::clone(&self.endpoints),
            _end: Arc::clone(&self._end),
        }
    }
}

impl<L: Send + Sync + 'static> Pool<L> {
    /// Follows a watch; `make` is given each new node and the channel to it.
    pub fn start(
        options: PoolOptions,
        watch: Watch,
        make: impl FnMut(&Node, Channel) -> L + Send + 'static,
    ) -> Self {
        let endpoints = Arc::new(ArcSwap::from_pointee(Vec::new()));
        let end = CancellationToken::new();
        let mut follower = Follower {
            options,
            make,
            endpoints: Arc::clone(&endpoints),
            kind: watch.kind(),
        };
        follower.follow(&watch.nodes());
        let ended = end.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = follower.run(watch) => {}
                () = ended.cancelled() => {}
            }
        });
        Self {
            endpoints,
            _end: Arc::new(end.drop_guard()),
        }
    }

    /// All of them.
    pub fn endpoints(&self) -> Arc<Vec<Arc<Endpoint<L>>>> {
        self.endpoints.load_full()
    }

    /// The one with this id.
    pub fn get(&self, id: &str) -> Option<Arc<Endpoint<L>>> {
        self.endpoints
            .load()
            .iter()
            .find(|endpoint| endpoint.node.load().id == id)
            .cloned()
    }

    /// The better of two at random among those that `fits`, do not drain and are not ejected; where there is none, among
    /// those that drain; where there is none either, among those ejected.
    pub fn choose(&self, fits: impl Fn(&Endpoint<L>) -> bool) -> Option<Arc<Endpoint<L>>> {
        let endpoints = self.endpoints.load();
        let draining = |endpoint: &Endpoint<L>| endpoint.node.load().draining;
        let best = better_of_two(&endpoints, |e| fits(e) && !e.is_ejected() && !draining(e));
        let best = best.or_else(|| better_of_two(&endpoints, |e| fits(e) && !e.is_ejected()));
        best.or_else(|| better_of_two(&endpoints, |e| fits(e)))
            .cloned()
    }
}

/// One pass: each of those that fit has the same chance to be one of the two.
fn better_of_two<L>(
    endpoints: &[Arc<Endpoint<L>>],
    fits: impl Fn(&Endpoint<L>) -> bool,
) -> Option<&Arc<Endpoint<L>>> {
    let mut first = None;
    let mut second = None;
    let mut seen = 0_u32;
    for endpoint in endpoints.iter().filter(|endpoint| fits(endpoint)) {
        seen += 1;
        match seen {
            1 => first = Some(endpoint),
            2 => second = Some(endpoint),
            _ => match rand::random_range(0..seen) {
                0 => first = Some(endpoint),
                1 => second = Some(endpoint),
                _ => {}
            },
        }
    }
    match (first, second) {
        (Some(one), Some(other)) if other.in_flight() < one.in_flight() => Some(other),
        (Some(one), Some(other)) if other.in_flight() == one.in_flight() && rand::random() => {
            Some(other)
        }
        (one, _) => one,
    }
}

struct Follower<L, M> {
    options: PoolOptions,
    make: M,
    endpoints: Arc<ArcSwap<Vec<Arc<Endpoint<L>>>>>,
    kind: Kind,
}

impl<L, M: FnMut(&Node, Channel) -> L> Follower<L, M> {
    async fn run(mut self, mut watch: Watch) {
        loop {
            watch.changed().await;
            self.follow(&watch.nodes());
        }
    }

    fn follow(&mut self, nodes: &BTreeMap<String, Node>) {
        let before = self.endpoints.load_full();
        if nodes.is_empty() && !before.is_empty() {
            tracing::warn!(kind = %self.kind, "etcd lists no processes; keeping the last known ones");
            return;
        }
        let after = nodes.values().filter_map(|node| {
            let same = before.iter().find(|endpoint| {
                let known = endpoint.node.load();
                known.id == node.id && known.address == node.address
            });
            match same {
                Some(endpoint) => {
                    endpoint.node.store(Arc::new(node.clone()));
                    Some(Arc::clone(endpoint))
                }
                None => self.endpoint(node),
            }
        });
        let after: Vec<_> = after.collect();
        for gone in before
            .iter()
            .filter(|one| !after.iter().any(|other| Arc::ptr_eq(one, other)))
        {
            gone.listed.store(false, Ordering::Relaxed);
        }
        self.endpoints.store(Arc::new(after));
    }

    fn endpoint(&mut self, node: &Node) -> Option<Arc<Endpoint<L>>> {
        let Some(channel) = self.options.channel(self.kind, &node.address) else {
            tracing::warn!(
                node = node.id,
                address = node.address,
                "skipped an entry in etcd with an invalid address"
            );
            return None;
        };
        Some(Arc::new(Endpoint {
            kind: self.kind,
            link: (self.make)(node, channel),
            node: ArcSwap::from_pointee(node.clone()),
            in_flight: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            began: Instant::now(),
            ejection_min: self.options.ejection_min,
            ejection_max: self.options.ejection_max,
            listed: AtomicBool::new(true),
        }))
    }
}
