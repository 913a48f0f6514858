//! Records the life of every pod of a namespace: its version, when it was ready, how it drained and how it terminated.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{AsyncBufReadExt, StreamExt, pin_mut};
use im_runtime::clock;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use kube::api::LogParams;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio_util::task::AbortOnDropHandle;

use super::client::{Kube, seconds};
use crate::sync::lock;

/// How often a terminating pod is asked about its drain.
const DRAIN_INTERVAL: Duration = Duration::from_millis(500);
const ADMIN_PORT: u16 = 9100;

/// One pod from creation to deletion. Times are seconds since 1970.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct PodRecord {
    pub(crate) name: String,
    pub(crate) uid: String,
    /// connect, logic, redis, sentinel or etcd.
    pub(crate) tier: String,
    pub(crate) node: String,
    /// The image of its first container.
    pub(crate) image: String,
    /// The version that its program reports.
    pub(crate) version: Option<String>,
    /// When it was first Ready.
    pub(crate) ready: Option<f64>,
    /// Whether it is Ready now.
    pub(crate) is_ready: bool,
    /// When its deletion was requested.
    pub(crate) deleted: Option<f64>,
    /// When it would be killed.
    pub(crate) deadline: Option<f64>,
    /// What it reported while it was terminating, oldest first.
    pub(crate) drain: Vec<DrainStatus>,
    /// When its drain began, as it reports.
    pub(crate) drain_began: Option<f64>,
    /// Connections that it closed at its deadline, as it reports at the end of the drain.
    pub(crate) forced: Option<u64>,
    /// How its container terminated.
    pub(crate) end: Option<Termination>,
    /// When each restart of its container was seen.
    pub(crate) restarts: Vec<f64>,
    /// When it was gone from the API.
    pub(crate) gone: Option<f64>,
    #[serde(skip)]
    logs_followed: i32,
}

/// The drain of a connect pod at one time.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DrainStatus {
    pub(crate) at: f64,
    /// `serving` or `draining`.
    pub(crate) phase: String,
    pub(crate) connections: u64,
}

/// How a container terminated.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Termination {
    /// Its exit code.
    pub(crate) code: i32,
    /// `Completed`, `Error`, `OOMKilled` …
    pub(crate) reason: String,
    pub(crate) at: f64,
}

impl PodRecord {
    /// Connections it had when it was deleted.
    pub(crate) fn connections_at_deletion(&self) -> Option<u64> {
        self.drain.first().map(|drain| drain.connections)
    }

    /// Whether its container exited by itself before its deadline.
    pub(crate) fn exited_in_time(&self) -> bool {
        let in_time = |end: &Termination| {
            end.code == 0 && self.deadline.is_some_and(|deadline| end.at < deadline)
        };
        self.end.as_ref().is_some_and(in_time)
    }

    /// How often its container was restarted since `from` (seconds since 1970).
    pub(crate) fn restarts_since(&self, from: f64) -> usize {
        self.restarts.iter().filter(|at| **at >= from).count()
    }
}

#[derive(Deserialize)]
struct DrainPage {
    phase: String,
    connections: u64,
    since_ms: Option<u64>,
}

/// The log line of connect at the end of a drain: no other one has this field.
#[derive(Deserialize)]
struct DrainedLine {
    forced: u64,
}

type Records = Arc<Mutex<HashMap<String, PodRecord>>>;

/// Records all pods of a namespace until it is dropped.
pub(crate) struct PodRecorder {
    records: Records,
    _task: AbortOnDropHandle<()>,
}

impl PodRecorder {
    /// Starts to record, and to write every container's log to `folder`.
    pub(crate) fn start(kube: &Kube, namespace: &str, folder: &Path) -> Self {
        let records = Records::default();
        let watch = watch_pods(
            kube.clone(),
            namespace.to_owned(),
            Arc::clone(&records),
            folder.to_owned(),
        );
        Self {
            records,
            _task: AbortOnDropHandle::new(tokio::spawn(watch)),
        }
    }

    /// All records so far, by tier and name.
    pub(crate) fn records(&self) -> Vec<PodRecord> {
        let mut records: Vec<PodRecord> = lock(&self.records).values().cloned().collect();
        records.sort_by(|a, b| (&a.tier, &a.name, &a.uid).cmp(&(&b.tier, &b.name, &b.uid)));
        records
    }

    /// The pods of a tier that exist and are not terminating.
    pub(crate) fn running(&self, tier: &str) -> Vec<PodRecord> {
        let is_running = |record: &PodRecord| {
            record.tier == tier && record.deleted.is_none() && record.gone.is_none()
        };
        self.records().into_iter().filter(is_running).collect()
    }

    /// The pods of a tier that are terminating now.
    pub(crate) fn terminating(&self, tier: &str) -> Vec<PodRecord> {
        let is_terminating = |record: &PodRecord| {
            record.tier == tier && record.deleted.is_some() && record.gone.is_none()
        };
        self.records().into_iter().filter(is_terminating).collect()
    }
}

async fn watch_pods(kube: Kube, namespace: String, records: Records, folder: PathBuf) {
    let config = watcher::Config::default().labels("app.kubernetes.io/managed-by=im-operator");
    let events = watch(kube.pods(&namespace), config).default_backoff();
    pin_mut!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) => {
                let next = update(&records, &pod);
                let follower = Follower {
                    kube: kube.clone(),
                    namespace: namespace.clone(),
                    name: pod.name_any(),
                    uid: pod.uid().unwrap_or_default(),
                    records: Arc::clone(&records),
                };
                if next.log {
                    let path = folder.join(format!("{}.log", follower.name));
                    tokio::spawn(follower.clone().write_log(path));
                }
                if next.version {
                    tokio::spawn(follower.clone().read_version());
                }
                if next.drain {
                    tokio::spawn(follower.follow_drain());
                }
            }
            Ok(Event::Delete(pod)) => {
                update(&records, &pod);
                if let Some(record) = lock(&records).get_mut(&pod.uid().unwrap_or_default()) {
                    record.gone = Some(now());
                }
            }
            Ok(Event::Init | Event::InitDone) => {}
            Err(error) => tracing::warn!(%error, "watch of pods failed, retrying"),
        }
    }
}

/// What to start for a pod, each only once.
#[derive(Default)]
struct NextTasks {
    log: bool,
    version: bool,
    drain: bool,
}

fn update(records: &Records, pod: &Pod) -> NextTasks {
    let mut records = lock(records);
    let record = records.entry(pod.uid().unwrap_or_default()).or_default();
    let mut next = NextTasks::default();
    let labels = pod.labels();
    if record.uid.is_empty() {
        record.uid = pod.uid().unwrap_or_default();
        record.name = pod.name_any();
        record.tier = labels
            .get("app.kubernetes.io/component")
            .cloned()
            .unwrap_or_default();
        let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
        record.image = container
            .and_then(|container| container.image.clone())
            .unwrap_or_default();
    }
    if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
        record.node = node;
    }
    let container = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref()?.first());
    if let Some(container) = container {
        next.log = update_container(record, container);
    }
    let ours = record.tier == "connect" || record.tier == "logic";
    record.is_ready = container.is_some_and(|container| container.ready);
    if record.ready.is_none() && record.is_ready {
        record.ready = Some(now());
        next.version = ours;
    }
    if let (None, Some(deadline)) = (record.deleted, &pod.metadata.deletion_timestamp) {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        record.deadline = Some(seconds(deadline));
        record.deleted = Some(seconds(deadline) - grace as f64);
        next.drain = record.tier == "connect";
    }
    next
}

/// Whether its log can be followed from now on.
fn update_container(record: &mut PodRecord, container: &ContainerStatus) -> bool {
    let restarts = usize::try_from(container.restart_count).unwrap_or(0);
    while record.restarts.len() < restarts {
        record.restarts.push(now());
    }
    let state = container.state.as_ref();
    if let Some(end) = state.and_then(|state| state.terminated.as_ref()) {
        let reason = end.reason.clone().unwrap_or_default();
        let at = end.finished_at.as_ref().map_or_else(now, seconds);
        record.end = Some(Termination {
            code: end.exit_code,
            reason,
            at,
        });
    }
    let is_running = state.is_some_and(|state| state.running.is_some());
    let is_new = is_running && record.logs_followed <= container.restart_count;
    if is_new {
        record.logs_followed = container.restart_count + 1;
    }
    is_new
}

/// Asks one pod, and adds what it answers to its record.
#[derive(Clone)]
struct Follower {
    kube: Kube,
    namespace: String,
    name: String,
    uid: String,
    records: Records,
}

impl Follower {
    async fn read_version(self) {
        for _ in 0..5 {
            match self
                .kube
                .get(&self.namespace, &self.name, ADMIN_PORT, "/metrics")
                .await
            {
                Ok((200, text)) => {
                    if let (Some(version), Some(record)) =
                        (version(&text), lock(&self.records).get_mut(&self.uid))
                    {
                        record.version = Some(version);
                    }
                    return;
                }
                Ok((status, _)) => tracing::warn!(self.name, status, "could not read metrics"),
                Err(error) => tracing::warn!(self.name, %error, "could not read metrics"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn follow_drain(self) {
        loop {
            let at = now();
            let response = self
                .kube
                .get(&self.namespace, &self.name, ADMIN_PORT, "/drain")
                .await;
            let page = response
                .ok()
                .and_then(|(_, body)| serde_json::from_str::<DrainPage>(&body).ok());
            match (page, lock(&self.records).get_mut(&self.uid)) {
                (Some(page), Some(record)) => {
                    record.drain_began = page.since_ms.map(|since| since as f64 / 1000.0);
                    record.drain.push(DrainStatus {
                        at,
                        phase: page.phase,
                        connections: page.connections,
                    });
                }
                (_, Some(record)) if record.gone.is_some() || record.end.is_some() => return,
                (_, None) => return,
                (None, Some(_)) => {}
            }
            tokio::time::sleep(DRAIN_INTERVAL).await;
        }
    }

    async fn write_log(self, path: PathBuf) {
        let follow = LogParams {
            follow: true,
            timestamps: true,
            ..LogParams::default()
        };
        let Ok(stream) = self
            .kube
            .pods(&self.namespace)
            .log_stream(&self.name, &follow)
            .await
        else {
            return;
        };
        let Ok(mut file) = tokio::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .await
        else {
            return;
        };
        let mut lines = stream.lines();
        while let Some(Ok(mut line)) = lines.next().await {
            self.note_drained(&line);
            line.push('\n');
            if file.write_all(line.as_bytes()).await.is_err() {
                return;
            }
        }
        let _ = file.flush().await;
        self.read_last_lines().await;
    }

    /// What a container wrote last is not always followed to its end where the node is busy.
    async fn read_last_lines(&self) {
        let last = LogParams {
            tail_lines: Some(20),
            timestamps: true,
            ..LogParams::default()
        };
        let pods = self.kube.pods(&self.namespace);
        // A pod that is gone by now has no log.
        let text = pods.logs(&self.name, &last).await.unwrap_or_default();
        text.lines().for_each(|line| self.note_drained(line));
    }

    fn note_drained(&self, line: &str) {
        let drained = line
            .split_once(' ')
            .and_then(|(_, json)| serde_json::from_str::<DrainedLine>(json).ok());
        if let Some(DrainedLine { forced }) = drained
            && let Some(record) = lock(&self.records).get_mut(&self.uid)
        {
            record.forced = Some(forced);
        }
    }
}

/// The label `version` of `im_runtime_build_info`.
fn version(metrics: &str) -> Option<String> {
    let line = metrics
        .lines()
        .find(|line| line.starts_with("im_runtime_build_info{"))?;
    let (_, rest) = line.split_once("version=\"")?;
    Some(rest.split_once('"')?.0.to_owned())
}

/// Seconds since 1970.
fn now() -> f64 {
    clock::unix().as_secs_f64()
}
