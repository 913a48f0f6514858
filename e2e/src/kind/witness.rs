//! Writes down the life of every pod of a namespace: who it was, what it said of itself, how it drained and how it ended.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::{AsyncBufReadExt, StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use kube::api::LogParams;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio_util::task::AbortOnDropHandle;

use super::kube::{Kube, seconds};

/// How often a pod that ends is asked how far it is.
const DRAIN_POLL: Duration = Duration::from_millis(500);
const ADMIN: u16 = 9100;

/// One pod, from the first to the last that was seen of it. Times are seconds since 1970.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Life {
    /// Its name.
    pub name: String,
    /// Tells it from another of the same name.
    pub uid: String,
    /// connect, logic, redis, sentinel or etcd.
    pub tier: String,
    /// Where it ran.
    pub node: String,
    /// The image of its first container.
    pub image: String,
    /// The version that the program in it reports, once asked.
    pub version: Option<String>,
    /// When it was first Ready.
    pub ready: Option<f64>,
    /// Whether it is now.
    pub is_ready: bool,
    /// When its deletion was asked for.
    pub deleted: Option<f64>,
    /// When it would be killed.
    pub deadline: Option<f64>,
    /// What it said while it ended, oldest first.
    pub drain: Vec<Drain>,
    /// When its drain began, as it says itself.
    pub drain_began: Option<f64>,
    /// Clients that it closed at its deadline, as it said in the end.
    pub forced: Option<u64>,
    /// How its container ended.
    pub end: Option<End>,
    /// When each restart of its container was seen.
    pub restarts: Vec<f64>,
    /// When it was gone from the API.
    pub gone: Option<f64>,
    #[serde(skip)]
    logs_followed: i32,
}

/// What a connect says of its drain at one time.
#[derive(Debug, Clone, Serialize)]
pub struct Drain {
    /// When it was asked.
    pub at: f64,
    /// `serving` or `draining`.
    pub phase: String,
    /// Clients it has.
    pub connections: u64,
}

/// How a container ended.
#[derive(Debug, Clone, Serialize)]
pub struct End {
    /// Its exit code.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled` …
    pub reason: String,
    /// When.
    pub at: f64,
}

impl Life {
    /// Clients it had when its deletion was seen.
    pub fn held(&self) -> Option<u64> {
        self.drain.first().map(|drain| drain.connections)
    }

    /// How often its container was started again since `from` (seconds since 1970).
    pub fn restarts_since(&self, from: f64) -> usize {
        self.restarts.iter().filter(|at| **at >= from).count()
    }
}

#[derive(Deserialize)]
struct DrainPage {
    phase: String,
    connections: u64,
    since_ms: Option<u64>,
}

/// A line of our programs' log.
#[derive(Deserialize)]
struct Line {
    message: String,
    forced: Option<u64>,
}

type Lives = Arc<Mutex<HashMap<String, Life>>>;

/// Sees all pods of a namespace while it lives.
pub struct Witness {
    lives: Lives,
    _task: AbortOnDropHandle<()>,
}

impl Witness {
    /// Begins to look, and to keep every container's log in `folder`.
    pub fn begin(kube: &Kube, namespace: &str, folder: &Path) -> Self {
        let lives = Lives::default();
        let look = look(kube.clone(), namespace.to_owned(), Arc::clone(&lives), folder.to_owned());
        Self { lives, _task: AbortOnDropHandle::new(tokio::spawn(look)) }
    }

    /// Every life seen until now, in the order of their names.
    pub fn lives(&self) -> Vec<Life> {
        let mut lives: Vec<Life> = lock(&self.lives).values().cloned().collect();
        lives.sort_by(|a, b| (&a.tier, &a.name, &a.uid).cmp(&(&b.tier, &b.name, &b.uid)));
        lives
    }

    /// The pods of a tier that are there and are not about to end.
    pub fn staying(&self, tier: &str) -> Vec<Life> {
        let stays = |life: &Life| life.tier == tier && life.deleted.is_none() && life.gone.is_none();
        self.lives().into_iter().filter(stays).collect()
    }

    /// The pods of a tier that end just now.
    pub fn ending(&self, tier: &str) -> Vec<Life> {
        let ends = |life: &Life| life.tier == tier && life.deleted.is_some() && life.gone.is_none();
        self.lives().into_iter().filter(ends).collect()
    }
}

async fn look(kube: Kube, namespace: String, lives: Lives, folder: PathBuf) {
    let config = watcher::Config::default().labels("app.kubernetes.io/managed-by=im-operator");
    let events = watch(kube.pods(&namespace), config).default_backoff();
    pin_mut!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) => {
                let asked = note(&lives, &pod);
                let (uid, name) = (pod.uid().unwrap_or_default(), pod.name_any());
                if asked.log {
                    let path = folder.join(format!("{name}.log"));
                    let (kube, lives) = (kube.clone(), Arc::clone(&lives));
                    tokio::spawn(keep_log(kube, namespace.clone(), name.clone(), uid.clone(), path, lives));
                }
                if asked.version {
                    tokio::spawn(ask_version(
                        kube.clone(),
                        namespace.clone(),
                        name.clone(),
                        uid.clone(),
                        Arc::clone(&lives),
                    ));
                }
                if asked.drain {
                    tokio::spawn(follow_drain(kube.clone(), namespace.clone(), name, uid, Arc::clone(&lives)));
                }
            }
            Ok(Event::Delete(pod)) => {
                note(&lives, &pod);
                if let Some(life) = lock(&lives).get_mut(&pod.uid().unwrap_or_default()) {
                    life.gone = Some(now());
                }
            }
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => tracing::warn!(%error, "the watch of pods is broken, and tried again"),
        }
    }
}

/// What is to be asked of a pod, each only once.
#[derive(Default)]
struct Asked {
    log: bool,
    version: bool,
    drain: bool,
}

fn note(lives: &Lives, pod: &Pod) -> Asked {
    let mut lives = lock(lives);
    let life = lives.entry(pod.uid().unwrap_or_default()).or_default();
    let mut asked = Asked::default();
    let labels = pod.labels();
    if life.uid.is_empty() {
        life.uid = pod.uid().unwrap_or_default();
        life.name = pod.name_any();
        life.tier = labels.get("app.kubernetes.io/component").cloned().unwrap_or_default();
        let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
        life.image = container.and_then(|container| container.image.clone()).unwrap_or_default();
    }
    if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
        life.node = node;
    }
    let container = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref()?.first());
    if let Some(container) = container {
        asked.log = note_container(life, container);
    }
    let ours = life.tier == "connect" || life.tier == "logic";
    life.is_ready = container.is_some_and(|container| container.ready);
    if life.ready.is_none() && life.is_ready {
        life.ready = Some(now());
        asked.version = ours;
    }
    if let (None, Some(deadline)) = (life.deleted, &pod.metadata.deletion_timestamp) {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        life.deadline = Some(seconds(deadline));
        life.deleted = Some(seconds(deadline) - grace as f64);
        asked.drain = life.tier == "connect";
    }
    asked
}

/// True when its log can be followed from now on.
fn note_container(life: &mut Life, container: &ContainerStatus) -> bool {
    let restarts = usize::try_from(container.restart_count).unwrap_or(0);
    while life.restarts.len() < restarts {
        life.restarts.push(now());
    }
    let state = container.state.as_ref();
    if let Some(end) = state.and_then(|state| state.terminated.as_ref()) {
        let reason = end.reason.clone().unwrap_or_default();
        let at = end.finished_at.as_ref().map_or_else(now, seconds);
        life.end = Some(End { code: end.exit_code, reason, at });
    }
    let runs = state.is_some_and(|state| state.running.is_some());
    let new = runs && life.logs_followed <= container.restart_count;
    if new {
        life.logs_followed = container.restart_count + 1;
    }
    new
}

async fn ask_version(kube: Kube, namespace: String, name: String, uid: String, lives: Lives) {
    for _ in 0..5 {
        match kube.get(&namespace, &name, ADMIN, "/metrics").await {
            Ok((200, text)) => {
                if let (Some(version), Some(life)) = (version(&text), lock(&lives).get_mut(&uid)) {
                    life.version = Some(version);
                }
                return;
            }
            Ok((status, _)) => tracing::warn!(name, status, "no metrics"),
            Err(error) => tracing::warn!(name, %error, "no metrics"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The label `version` of the build's metric.
fn version(metrics: &str) -> Option<String> {
    let line = metrics.lines().find(|line| line.starts_with("im_runtime_build_info{"))?;
    let (_, rest) = line.split_once("version=\"")?;
    Some(rest.split_once('"')?.0.to_owned())
}

async fn follow_drain(kube: Kube, namespace: String, name: String, uid: String, lives: Lives) {
    loop {
        let at = now();
        let answer = kube.get(&namespace, &name, ADMIN, "/drain").await;
        let page = answer.ok().and_then(|(_, body)| serde_json::from_str::<DrainPage>(&body).ok());
        match (page, lock(&lives).get_mut(&uid)) {
            (Some(page), Some(life)) => {
                life.drain_began = page.since_ms.map(|since| since as f64 / 1000.0);
                life.drain.push(Drain { at, phase: page.phase, connections: page.connections });
            }
            (_, Some(life)) if life.gone.is_some() || life.end.is_some() => return,
            (_, None) => return,
            (None, Some(_)) => {}
        }
        tokio::time::sleep(DRAIN_POLL).await;
    }
}

async fn keep_log(kube: Kube, namespace: String, name: String, uid: String, path: PathBuf, lives: Lives) {
    let follow = LogParams { follow: true, timestamps: true, ..LogParams::default() };
    let Ok(stream) = kube.pods(&namespace).log_stream(&name, &follow).await else { return };
    let Ok(mut file) = tokio::fs::OpenOptions::new().create(true).append(true).open(&path).await else { return };
    let mut lines = stream.lines();
    while let Some(Ok(mut line)) = lines.next().await {
        let said = line.split_once(' ').and_then(|(_, json)| serde_json::from_str::<Line>(json).ok());
        if let Some(Line { message, forced: Some(forced) }) = said
            && message == "drained"
            && let Some(life) = lock(&lives).get_mut(&uid)
        {
            life.forced = Some(forced);
        }
        line.push('\n');
        if file.write_all(line.as_bytes()).await.is_err() {
            return;
        }
    }
    let _ = file.flush().await;
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
