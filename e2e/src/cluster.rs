//! A whole cluster on loopback: redis with Sentinels, etcd, logic and connect processes of this build.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use im_runtime::unused_port;
use tempfile::TempDir;

use crate::backing::{Etcd, RedisSet, Way};
use crate::process::{Process, until};

/// The secret that signs the test's tokens.
pub const SECRET: &str = "end-to-end secret, at least thirty-two bytes";
const PATIENCE: Duration = Duration::from_secs(40);

/// How a cluster is made.
#[derive(Debug, Clone)]
pub struct Plan {
    /// connect processes.
    pub connect: usize,
    /// logic processes.
    pub logic: usize,
    /// How the redis master is found.
    pub redis: Way,
    /// Replicas that must confirm before an acknowledgement.
    pub wait_replicas: u32,
    /// Further `IM_…` variables for connect.
    pub connect_env: Vec<(&'static str, String)>,
    /// Further `IM_…` variables for logic.
    pub logic_env: Vec<(&'static str, String)>,
}

impl Default for Plan {
    fn default() -> Self {
        let (connect_env, logic_env) = (Vec::new(), Vec::new());
        Self { connect: 2, logic: 2, redis: Way::Sentinels, wait_replicas: 1, connect_env, logic_env }
    }
}

/// One connect process.
#[derive(Debug)]
pub struct Connect {
    /// `127.0.0.1:port` for TCP clients.
    pub tcp: String,
    /// `127.0.0.1:port` for WebSocket clients.
    pub ws: String,
    /// `127.0.0.1:port` of health, readiness and metrics.
    pub admin: String,
    /// The program.
    pub process: Process,
}

/// One logic process.
#[derive(Debug)]
pub struct Logic {
    /// `127.0.0.1:port` of the HTTP API.
    pub http: String,
    /// `127.0.0.1:port` of health, readiness and metrics.
    pub admin: String,
    /// The program.
    pub process: Process,
}

/// Everything, ended when dropped.
#[derive(Debug)]
pub struct Cluster {
    /// How it was made.
    pub plan: Plan,
    /// The connect processes that run.
    pub connects: Vec<Connect>,
    /// The logic processes that run.
    pub logics: Vec<Logic>,
    /// The store.
    pub redis: RedisSet,
    /// Discovery.
    pub etcd: Etcd,
    /// Where the HTTP API is or was, as logic processes come and go.
    pub apis: Apis,
    started: usize,
    folder: TempDir,
}

impl Cluster {
    /// Starts everything and waits until it is ready.
    pub async fn start(plan: Plan) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("im-e2e-").tempdir()?;
        let (redis, etcd) = tokio::try_join!(RedisSet::start(folder.path(), plan.redis), Etcd::start(folder.path()))?;
        let (connects, logics) = (Vec::new(), Vec::new());
        let mut cluster = Self { plan, connects, logics, redis, etcd, apis: Apis::default(), started: 0, folder };
        for _ in 0..cluster.plan.logic {
            cluster.add_logic()?;
        }
        for _ in 0..cluster.plan.connect {
            cluster.add_connect()?;
        }
        cluster.ready().await?;
        Ok(cluster)
    }

    /// Where data and output are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Waits until every process says that it is ready.
    pub async fn ready(&self) -> Result<()> {
        let admins = self.connects.iter().map(|c| (&c.admin, &c.process));
        for (admin, process) in admins.chain(self.logics.iter().map(|l| (&l.admin, &l.process))) {
            let ready = until("ready", PATIENCE, async || {
                let (status, _) = crate::http::get(admin, "/readyz").await.ok()?;
                (status == 200).then_some(())
            });
            ready.await.with_context(|| format!("{}:\n{}", process.name(), process.tail(30)))?;
        }
        Ok(())
    }

    /// Starts one more connect; wait with [`Cluster::ready`].
    pub fn add_connect(&mut self) -> Result<()> {
        let [tcp, ws, ..] = addresses()?;
        self.add_connect_at(&tcp, &ws)
    }

    /// Starts one more connect that clients find at these addresses.
    pub fn add_connect_at(&mut self, tcp: &str, ws: &str) -> Result<()> {
        let name = self.name("connect");
        let [grpc, admin, ..] = addresses()?;
        let mut command = self.command("im-connect", &name, &grpc, &admin)?;
        command.env("IM_TCP_LISTEN", tcp).env("IM_WS_LISTEN", ws);
        command.envs(self.plan.connect_env.iter().map(|(key, value)| (key, value)));
        let process = Process::start(&name, command, self.folder.path())?;
        self.connects.push(Connect { tcp: tcp.to_owned(), ws: ws.to_owned(), admin, process });
        Ok(())
    }

    /// Starts one more logic; wait with [`Cluster::ready`].
    pub fn add_logic(&mut self) -> Result<()> {
        let name = self.name("logic");
        let [http, grpc, admin, _] = addresses()?;
        let mut command = self.command("im-logic", &name, &grpc, &admin)?;
        command.env("IM_HTTP_LISTEN", &http).env("IM_AUTH_HS256_SECRET", SECRET);
        command.env("IM_REDIS_WAIT_REPLICAS", self.plan.wait_replicas.to_string());
        command.envs(self.plan.logic_env.iter().map(|(key, value)| (key, value)));
        let process = Process::start(&name, command, self.folder.path())?;
        self.apis.add(&http);
        self.logics.push(Logic { http, admin, process });
        Ok(())
    }

    fn name(&mut self, tier: &str) -> String {
        self.started += 1;
        format!("{tier}-{}", self.started)
    }

    fn command(&self, binary: &str, name: &str, grpc: &str, admin: &str) -> Result<Command> {
        let mut command = Command::new(program(binary)?);
        command
            .env("IM_NODE", name)
            .env("IM_GRPC_LISTEN", grpc)
            .env("IM_ADVERTISE", grpc)
            .env("IM_ADMIN_LISTEN", admin)
            .env("IM_REDIS_URL", self.redis.url())
            .env("IM_ETCD_ENDPOINTS", self.etcd.endpoint());
        Ok(command)
    }
}

/// The addresses of the HTTP API that were ever given out; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Apis(Arc<Mutex<Vec<String>>>);

impl Apis {
    /// One more.
    pub fn add(&self, address: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(address.to_owned());
    }

    /// All, the newest first: it is the likeliest to answer.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }
}

fn addresses() -> Result<[String; 4]> {
    let address = || unused_port().map(|port| format!("127.0.0.1:{port}"));
    Ok([address()?, address()?, address()?, address()?])
}

/// A program of this build: beside the running one, or one folder up, where cargo puts binaries next to its tests.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    ensure!(found.is_some(), "{name} is not built: cargo build --workspace --bins");
    found.context("just checked")
}
