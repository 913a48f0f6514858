//! All caches of an operator, and the watches that keep them.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::DynamicObject;
use kube::core::{ApiResource, DeserializeGuard, GroupVersionKind};
use kube::{Api, Client, Resource};
use tokio::sync::watch;

use crate::api::{ImCluster, Tier};
use crate::build;
use crate::kubernetes::cache::{Cache, Change, follow};
use crate::kubernetes::drift;
use crate::kubernetes::key::{CLUSTER, Key};

/// What the operator applies, and so watches, besides Secrets.
fn applied() -> Vec<(ApiResource, &'static str)> {
    vec![
        (ApiResource::erase::<ServiceAccount>(&()), "serviceaccounts"),
        (ApiResource::erase::<Service>(&()), "services"),
        (ApiResource::erase::<NetworkPolicy>(&()), "networkpolicies"),
        (
            ApiResource::erase::<PodDisruptionBudget>(&()),
            "poddisruptionbudgets",
        ),
        (ApiResource::erase::<StatefulSet>(&()), "statefulsets"),
        (ApiResource::erase::<Deployment>(&()), "deployments"),
    ]
}

/// The kind by which the Prometheus operator finds pods; not every Kubernetes cluster has it.
pub(crate) fn pod_monitors() -> ApiResource {
    let kind = GroupVersionKind::gvk("monitoring.coreos.com", "v1", "PodMonitor");
    ApiResource::from_gvk_with_plural(&kind, "podmonitors")
}

const POD_MONITORS: &str = "podmonitors";

/// A kind of which not everything has been told yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnreadKind {
    /// Its plural.
    pub(crate) kind: &'static str,
    /// What went wrong last; empty: nothing yet.
    pub(crate) why: String,
    /// Whether nothing can be decided without it. Of the others each object is asked for by itself.
    pub(crate) decides: bool,
}

/// Everything the operator keeps in mind.
#[derive(Debug)]
pub(crate) struct Stores {
    /// The ImClusters.
    pub(crate) clusters: Arc<Cache<ImCluster>>,
    /// Their pods.
    pub(crate) pods: Arc<Cache<Pod>>,
    /// Their volume claims.
    pub(crate) claims: Arc<Cache<PersistentVolumeClaim>>,
    /// Their Secrets.
    pub(crate) secrets: Arc<Cache<Secret>>,
    /// What their Deployments have made of their templates, without the templates.
    pub(crate) replica_sets: Arc<Cache<ReplicaSet>>,
    /// Who scales their Deployments, whoever made it.
    autoscalers: Arc<Cache<HorizontalPodAutoscaler>>,
    objects: Vec<(ApiResource, Arc<Cache<DynamicObject>>)>,
    pod_monitors: watch::Sender<bool>,
    namespaces: Vec<Option<String>>,
}

/// Hears of an ImCluster about which something has changed.
pub(crate) type Wake = Arc<dyn Fn(Key) + Send + Sync>;

/// Hears of an ImCluster that cannot be read: which, its generation, and why.
pub(crate) type Unreadable = Arc<dyn Fn(Key, Option<i64>, String) + Send + Sync>;

/// Whether there is an API of PodMonitors.
///
/// # Errors
/// The API server did not tell.
pub(crate) async fn pod_monitors_exist(client: &Client) -> Result<bool, kube::Error> {
    let kind = pod_monitors();
    match client.list_api_group_resources(&kind.api_version).await {
        Ok(list) => Ok(list
            .resources
            .iter()
            .any(|resource| resource.name == kind.plural)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

impl Stores {
    /// Empty, for these namespaces (none: all).
    pub(crate) fn new(namespaces: &[String]) -> Self {
        let namespaces: Vec<Option<String>> = if namespaces.is_empty() {
            vec![None]
        } else {
            namespaces.iter().cloned().map(Some).collect()
        };
        let mut kinds = applied();
        kinds.push((pod_monitors(), POD_MONITORS));
        let objects = kinds
            .into_iter()
            .map(|(kind, plural)| (kind, Arc::new(Cache::new(plural, &namespaces))))
            .collect();
        Self {
            clusters: Arc::new(Cache::new("imclusters", &namespaces)),
            pods: Arc::new(Cache::new("pods", &namespaces)),
            claims: Arc::new(Cache::new("persistentvolumeclaims", &namespaces)),
            secrets: Arc::new(Cache::new("secrets", &namespaces)),
            replica_sets: Arc::new(Cache::new("replicasets", &namespaces)),
            autoscalers: Arc::new(Cache::new("horizontalpodautoscalers", &namespaces)),
            objects,
            pod_monitors: watch::Sender::new(false),
            namespaces,
        }
    }

    /// Whether the API of PodMonitors is there.
    pub(crate) fn has_pod_monitors(&self) -> bool {
        *self.pod_monitors.borrow()
    }

    /// Takes note of whether the API of PodMonitors is there; says whether that is new.
    pub(crate) fn found_pod_monitors(&self, there: bool) -> bool {
        self.pod_monitors.send_replace(there) != there
    }

    /// What has not been read yet in a namespace. PodMonitors are not waited for: nothing depends on them.
    pub(crate) fn unread(&self, namespace: &str) -> Vec<UnreadKind> {
        let objects = self
            .objects
            .iter()
            .filter(|(_, cache)| cache.kind() != POD_MONITORS);
        let mut unread: Vec<UnreadKind> = objects
            .filter_map(|(_, cache)| {
                let kind = cache.kind();
                let decides = matches!(kind, "statefulsets" | "deployments");
                cache
                    .complete_in(namespace)
                    .err()
                    .map(|why| UnreadKind { kind, why, decides })
            })
            .collect();
        let mut add = |kind: &'static str, complete: Result<(), String>| {
            unread.extend(complete.err().map(|why| UnreadKind {
                kind,
                why,
                decides: true,
            }));
        };
        add(self.pods.kind(), self.pods.complete_in(namespace));
        add(self.claims.kind(), self.claims.complete_in(namespace));
        add(self.secrets.kind(), self.secrets.complete_in(namespace));
        add(
            self.replica_sets.kind(),
            self.replica_sets.complete_in(namespace),
        );
        // Unseen, one would be worked against.
        add(
            self.autoscalers.kind(),
            self.autoscalers.complete_in(namespace),
        );
        unread
    }

    /// Whether an autoscaler says how many pods a Deployment has.
    pub(crate) fn is_autoscaled(&self, deployment: &Key) -> bool {
        self.autoscalers
            .all()
            .iter()
            .any(|scaler| scaled(scaler).as_ref() == Some(deployment))
    }

    /// An object as last seen or written.
    pub(crate) fn get(&self, kind: &ApiResource, key: &Key) -> Option<Arc<DynamicObject>> {
        self.cache(kind)?.get(key)
    }

    /// An object as last seen or written, typed. `None` too where it cannot be read as such.
    pub(crate) fn typed<K>(&self, key: &Key) -> Option<K>
    where
        K: Resource<DynamicType = ()> + serde::de::DeserializeOwned,
    {
        let object = self.get(&ApiResource::erase::<K>(&()), key)?;
        object.as_ref().clone().try_parse().ok()
    }

    /// Takes the answer to a write.
    pub(crate) fn put(&self, kind: &ApiResource, object: DynamicObject) {
        if let Some(cache) = self.cache(kind) {
            cache.put(object);
        }
    }

    /// Takes the answer to a removal.
    pub(crate) fn remove(&self, kind: &ApiResource, key: &Key) {
        if let Some(cache) = self.cache(kind) {
            cache.remove(key);
        }
    }

    /// What was applied for an ImCluster, of every kind that has been read.
    pub(crate) fn of_cluster(&self, cluster: &Key) -> Vec<(ApiResource, Arc<DynamicObject>)> {
        let read = self
            .objects
            .iter()
            .filter(|(_, cache)| cache.complete_in(&cluster.namespace).is_ok());
        read.flat_map(|(kind, cache)| {
            cache
                .of_cluster(cluster)
                .into_iter()
                .map(|object| (kind.clone(), object))
        })
        .collect()
    }

    fn cache(&self, kind: &ApiResource) -> Option<&Arc<Cache<DynamicObject>>> {
        self.objects
            .iter()
            .find(|(known, _)| known.kind == kind.kind && known.group == kind.group)
            .map(|(_, cache)| cache)
    }

    /// One endless watch per kind and namespace, each by itself. What changes wakes its ImCluster.
    pub(crate) fn watches(
        &self,
        client: &Client,
        wake: &Wake,
        unreadable: &Unreadable,
    ) -> Vec<(&'static str, BoxFuture<'static, ()>)> {
        let mut watches = Vec::new();
        for namespace in &self.namespaces {
            let namespace = namespace.as_deref();
            watches.push(self.watch_clusters(client, namespace, wake, unreadable));
            watches.push(watch_one(
                typed(client, namespace),
                namespace,
                &self.pods,
                &self.clusters,
                wake,
                |pod: &mut Pod| {
                    pod.metadata.managed_fields = None;
                },
            ));
            watches.push(watch_one(
                typed(client, namespace),
                namespace,
                &self.claims,
                &self.clusters,
                wake,
                |claim: &mut PersistentVolumeClaim| {
                    claim.metadata.managed_fields = None;
                },
            ));
            watches.push(watch_one(
                typed(client, namespace),
                namespace,
                &self.secrets,
                &self.clusters,
                wake,
                |secret: &mut Secret| {
                    secret.metadata.managed_fields = None;
                },
            ));
            watches.push(watch_one(
                typed(client, namespace),
                namespace,
                &self.replica_sets,
                &self.clusters,
                wake,
                |set: &mut ReplicaSet| {
                    set.metadata.managed_fields = None;
                    set.spec = None;
                },
            ));
            watches.push(self.watch_autoscalers(client, namespace, wake));
            for (kind, cache) in &self.objects {
                let api = match namespace {
                    Some(namespace) => Api::namespaced_with(client.clone(), namespace, kind),
                    None => Api::all_with(client.clone(), kind),
                };
                let (kind, work) =
                    watch_one(api, namespace, cache, &self.clusters, wake, drift::trim);
                let mut there = self.pod_monitors.subscribe();
                let when_there = async move {
                    if kind == POD_MONITORS && there.wait_for(|there| *there).await.is_err() {
                        return;
                    }
                    work.await;
                };
                watches.push((kind, when_there.boxed()));
            }
        }
        watches
    }

    fn watch_autoscalers(
        &self,
        client: &Client,
        namespace: Option<&str>,
        wake: &Wake,
    ) -> (&'static str, BoxFuture<'static, ()>) {
        let api = typed(client, namespace);
        let cache = Arc::clone(&self.autoscalers);
        let clusters = Arc::clone(&self.clusters);
        let wake = Arc::clone(wake);
        let namespace = namespace.map(str::to_owned);
        let kind = cache.kind();
        let work = async move {
            let trim = |scaler: &mut HorizontalPodAutoscaler| {
                scaler.metadata.managed_fields = None;
                scaler.status = None;
            };
            let notify = |seen: Change<'_, HorizontalPodAutoscaler>| {
                let Change::Changed(before, now) = seen else {
                    return;
                };
                let (before, now) = (before.and_then(scaled), now.and_then(scaled));
                // Its status changes all the time.
                if before != now {
                    let names = [before, now];
                    wake_all(&clusters, &wake, |key| {
                        let logic =
                            Key::new(&key.namespace, build::object_name(&key.name, Tier::Logic));
                        names.iter().flatten().any(|name| *name == logic)
                    });
                }
            };
            let on_listed =
                || wake_all(&clusters, &wake, |key| is_within(key, namespace.as_deref()));
            follow(
                api,
                None,
                namespace.as_deref(),
                cache,
                trim,
                notify,
                on_listed,
            )
            .await;
        };
        (kind, work.boxed())
    }

    fn watch_clusters(
        &self,
        client: &Client,
        namespace: Option<&str>,
        wake: &Wake,
        unreadable: &Unreadable,
    ) -> (&'static str, BoxFuture<'static, ()>) {
        let api = typed(client, namespace);
        let cache = Arc::clone(&self.clusters);
        let wake = Arc::clone(wake);
        let unreadable = Arc::clone(unreadable);
        let namespace = namespace.map(str::to_owned);
        let work = async move {
            let trim = |cluster: &mut ImCluster| cluster.metadata.managed_fields = None;
            let notify = |seen: Change<'_, ImCluster>| match seen {
                Change::Changed(before, Some(now))
                    if before.is_some_and(|before| only_status(before, now)) => {}
                Change::Changed(before, now) => {
                    if let Some(cluster) = now.or(before) {
                        wake(Key::of(cluster));
                    }
                }
                Change::Invalid(invalid) => {
                    let name = |text: &Option<String>| text.clone().unwrap_or_default();
                    let key = Key::new(
                        name(&invalid.metadata.namespace),
                        name(&invalid.metadata.name),
                    );
                    unreadable(key, invalid.metadata.generation, invalid.error.clone());
                }
            };
            follow(api, None, namespace.as_deref(), cache, trim, notify, || {}).await;
        };
        ("watch of imclusters", work.boxed())
    }
}

/// Wakes the ImClusters that are meant.
fn wake_all(clusters: &Cache<ImCluster>, wake: &Wake, which: impl Fn(&Key) -> bool) {
    clusters
        .all()
        .iter()
        .map(|cluster| Key::of(cluster.as_ref()))
        .filter(which)
        .for_each(|key| wake(key));
}

/// Whether an ImCluster is where a watch looks; `None`: everywhere.
fn is_within(key: &Key, namespace: Option<&str>) -> bool {
    namespace.is_none_or(|of| of == key.namespace)
}

/// The Deployment that an autoscaler scales.
fn scaled(scaler: &HorizontalPodAutoscaler) -> Option<Key> {
    let target = &scaler.spec.as_ref()?.scale_target_ref;
    let namespace = scaler.metadata.namespace.clone()?;
    (target.kind == "Deployment" && scaler.metadata.deletion_timestamp.is_none())
        .then(|| Key::new(namespace, &target.name))
}

/// Whether only what we report ourselves differs.
fn only_status(before: &ImCluster, now: &ImCluster) -> bool {
    before.spec == now.spec
        && before.metadata.generation == now.metadata.generation
        && before.metadata.uid == now.metadata.uid
        && before.metadata.annotations == now.metadata.annotations
        && before.metadata.labels == now.metadata.labels
        && before.metadata.deletion_timestamp == now.metadata.deletion_timestamp
}

fn typed<T>(client: &Client, namespace: Option<&str>) -> Api<DeserializeGuard<T>>
where
    T: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn watch_one<T>(
    api: Api<DeserializeGuard<T>>,
    namespace: Option<&str>,
    cache: &Arc<Cache<T>>,
    clusters: &Arc<Cache<ImCluster>>,
    wake: &Wake,
    trim: impl Fn(&mut T) + Send + Sync + 'static,
) -> (&'static str, BoxFuture<'static, ()>)
where
    T: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let cache = Arc::clone(cache);
    let clusters = Arc::clone(clusters);
    let wake = Arc::clone(wake);
    let namespace = namespace.map(str::to_owned);
    let kind = cache.kind();
    let work = async move {
        let notify = |seen: Change<'_, T>| {
            if let Change::Changed(before, now) = seen
                && let Some(cluster) = now.or(before).and_then(|object| Key::of_cluster(object))
            {
                wake(cluster);
            }
        };
        // Whoever has waited for it goes on.
        let on_listed = || wake_all(&clusters, &wake, |key| is_within(key, namespace.as_deref()));
        follow(
            api,
            Some(CLUSTER),
            namespace.as_deref(),
            cache,
            trim,
            notify,
            on_listed,
        )
        .await;
    };
    (kind, work.boxed())
}
