//! What the operator knows of the cluster: one cache per kind, each kept by watches of its own that begin again by
//! themselves. One that fails keeps no other from going on.
//!
//! Neither kube's `Controller`, whose watches share one backoff, nor its `reflector::Store`, which cannot take the answer to a
//! write: that our own writes are known at once is why a settled cluster causes none.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};

use futures::StreamExt;
use kube::core::DeserializeGuard;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::kubernetes::key::Key;
use crate::metrics;

/// A watch is ended and begun again after so long, so that a connection that died silently is noticed.
const TURN: u32 = 120;

/// The objects of a kind, as last seen.
#[derive(Debug)]
pub(crate) struct Cache<T> {
    kind: &'static str,
    objects: RwLock<BTreeMap<Key, Arc<T>>>,
    /// By namespace (`None`: all of them) what went wrong last with a watch that has not told all there is; empty: nothing yet.
    unread: watch::Sender<BTreeMap<Option<String>, String>>,
}

impl<T> Cache<T> {
    /// Empty, to be filled by a watch of each of these namespaces (`None`: of all). `kind` is the plural, for logs and metrics.
    pub(crate) fn new(kind: &'static str, namespaces: &[Option<String>]) -> Self {
        let unread = namespaces
            .iter()
            .map(|namespace| (namespace.clone(), String::new()))
            .collect();
        Self {
            kind,
            objects: RwLock::default(),
            unread: watch::Sender::new(unread),
        }
    }

    /// The plural of what it holds.
    pub(crate) fn kind(&self) -> &'static str {
        self.kind
    }

    /// Whether all there is in this namespace has been told at least once: only then is what is not here not there. Otherwise
    /// what went wrong last, empty where nothing has yet.
    ///
    /// # Errors
    /// It has not.
    pub(crate) fn complete_in(&self, namespace: &str) -> Result<(), String> {
        let unread = self.unread.borrow();
        let found = unread
            .iter()
            .find(|(of, _)| of.as_deref().is_none_or(|of| of == namespace));
        found.map_or(Ok(()), |(_, why)| Err(why.clone()))
    }

    /// Notes what became of a namespace's first list.
    fn listed(&self, namespace: Option<&str>, outcome: Result<(), String>) {
        let unlisted =
            metrics::WATCH_UNREAD.with_label_values(&[self.kind, namespace.unwrap_or_default()]);
        unlisted.set(i64::from(outcome.is_err()));
        let namespace = namespace.map(str::to_owned);
        self.unread.send_modify(|unread| match outcome {
            Ok(()) => _ = unread.remove(&namespace),
            Err(why) => _ = unread.insert(namespace, why),
        });
    }

    /// One object.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<T>> {
        self.objects
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    /// Every object.
    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        self.objects
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    fn change<R>(&self, change: impl FnOnce(&mut BTreeMap<Key, Arc<T>>) -> R) -> R {
        change(&mut self.objects.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T: Resource> Cache<T> {
    /// What belongs to an ImCluster, by name.
    pub(crate) fn of_cluster(&self, cluster: &Key) -> Vec<Arc<T>> {
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        let of = |object: &&Arc<T>| Key::of_cluster(object.as_ref()).as_ref() == Some(cluster);
        objects.values().filter(of).cloned().collect()
    }

    /// Takes an object as it is now, unless a newer state is known.
    pub(crate) fn put(&self, object: T) {
        let key = Key::of(&object);
        self.change(|objects| {
            let newer = objects
                .get(&key)
                .is_some_and(|known| is_newer(known.as_ref(), &object));
            if !newer {
                objects.insert(key, Arc::new(object));
            }
        });
    }

    /// The object is no more.
    pub(crate) fn remove(&self, key: &Key) {
        self.change(|objects| objects.remove(key));
    }
}

/// Whether `one` is a later state of the same object than `two`. A watch that lags behind our own writes must not make
/// them look like somebody's changes.
fn is_newer(one: &impl Resource, two: &impl Resource) -> bool {
    let version = |text: Option<String>| text?.parse::<u64>().ok();
    one.uid() == two.uid() && version(one.resource_version()) > version(two.resource_version())
}

/// What a watch has seen.
#[derive(Debug)]
pub(crate) enum Change<'o, T> {
    /// As it was before and as it is now; one of the two may be missing.
    Changed(Option<&'o T>, Option<&'o T>),
    /// There is an object that cannot be read.
    Invalid(&'o InvalidObject),
}

/// Keeps a cache by watching, for ever. `namespace` is what the watch is confined to; `None`: everything.
/// `trim` takes from objects what nobody needs; `notify` hears what changes, after the cache; `read`, that all there is has been
/// told for the first time.
pub(crate) async fn follow<T>(
    api: Api<DeserializeGuard<T>>,
    selector: Option<&str>,
    namespace: Option<&str>,
    cache: Arc<Cache<T>>,
    trim: impl Fn(&mut T) + Send,
    notify: impl Fn(Change<'_, T>) + Send,
    on_listed: impl Fn() + Send,
) where
    T: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let config = watcher::Config {
        label_selector: selector.map(str::to_owned),
        ..watcher::Config::default()
    };
    let mut events = watch_objects(api, config.timeout(TURN))
        .default_backoff()
        .boxed();
    let mut listed = HashSet::new();
    let mut complete = false;
    cache.listed(namespace, Err(String::new()));
    // The stream has no end.
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                metrics::WATCH_ERRORS.with_label_values(&[cache.kind]).inc();
                tracing::warn!(%error, kind = cache.kind, namespace, "watch failed, restarting");
                if !complete {
                    cache.listed(namespace, Err(error.to_string()));
                }
                continue;
            }
        };
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(object) => {
                listed.insert(Key::of(&object));
                store(&cache, object, &trim, &notify);
            }
            Event::InitDone => {
                let here = |key: &Key| namespace.is_none_or(|namespace| key.namespace == namespace);
                let gone = cache.change(|objects| {
                    let gone: Vec<Key> = objects
                        .keys()
                        .filter(|key| here(key) && !listed.contains(*key))
                        .cloned()
                        .collect();
                    gone.into_iter()
                        .filter_map(|key| objects.remove(&key))
                        .collect::<Vec<_>>()
                });
                gone.iter()
                    .for_each(|object| notify(Change::Changed(Some(object), None)));
                listed.clear();
                if !std::mem::replace(&mut complete, true) {
                    cache.listed(namespace, Ok(()));
                    on_listed();
                }
            }
            Event::Apply(object) => store(&cache, object, &trim, &notify),
            Event::Delete(object) => {
                let known = cache.change(|objects| objects.remove(&Key::of(&object)));
                let last = object.0.ok().map(Arc::new).or(known);
                notify(Change::Changed(last.as_deref(), None));
            }
        }
    }
}

fn store<T: Resource>(
    cache: &Cache<T>,
    object: DeserializeGuard<T>,
    trim: &impl Fn(&mut T),
    notify: &impl Fn(Change<'_, T>),
) {
    match object.0 {
        Ok(mut object) => {
            trim(&mut object);
            let key = Key::of(&object);
            let before = cache.get(&key);
            cache.put(object);
            let after = cache.get(&key);
            let version = |object: &Option<Arc<T>>| {
                object.as_ref().and_then(|object| object.resource_version())
            };
            if version(&before).is_none() || version(&before) != version(&after) {
                notify(Change::Changed(before.as_deref(), after.as_deref()));
            }
        }
        Err(invalid) => {
            metrics::INVALID.with_label_values(&[cache.kind]).inc();
            let name = invalid.metadata.name.as_deref();
            tracing::warn!(error = %invalid.error, kind = cache.kind, namespace = invalid.metadata.namespace, name, "cannot decode object");
            notify(Change::Invalid(&invalid));
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn object(name: &str, version: &str, cluster: &str) -> ConfigMap {
        let metadata = json!({"namespace": "chat", "name": name, "uid": name, "resourceVersion": version,
            "labels": {CLUSTER_LABEL: cluster}});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    const CLUSTER_LABEL: &str = crate::kubernetes::key::CLUSTER;

    #[test]
    fn a_watch_that_lags_takes_nothing_back() {
        let cache = Cache::new("configmaps", &[]);
        cache.put(object("a", "12", "demo"));
        cache.put(object("a", "9", "demo"));
        assert_eq!(cache.all()[0].resource_version().as_deref(), Some("12"));
        let mut again = object("a", "3", "demo");
        again.metadata.uid = Some("another".to_owned());
        cache.put(again);
        assert_eq!(cache.all()[0].resource_version().as_deref(), Some("3"));
    }

    #[test]
    fn objects_are_told_apart_by_their_cluster() {
        let cache = Cache::new("configmaps", &[]);
        cache.put(object("a", "1", "demo"));
        cache.put(object("b", "2", "other"));
        let names: Vec<_> = cache
            .of_cluster(&Key::new("chat", "demo"))
            .iter()
            .map(|object| object.name_any())
            .collect();
        assert_eq!(names, ["a"]);
        assert!(cache.of_cluster(&Key::new("elsewhere", "demo")).is_empty());
    }
}
