//! A whole cluster on loopback: redis with Sentinels, etcd, logic and connect processes of this build.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use super::etcd::Etcd;
use super::redis::{MasterDiscovery, RedisSet};
use super::{ApiAddresses, free_address, program, ready};
use crate::process::Process;
use crate::token::SECRET;

/// How to set up a cluster.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Number of connect processes.
    pub connect: usize,
    /// Number of logic processes.
    pub logic: usize,
    /// How the redis master is found.
    pub redis: MasterDiscovery,
    /// Replicas that must confirm a write before it is acknowledged.
    pub wait_replicas: u32,
    /// More `IM_…` variables for connect.
    pub connect_env: Vec<(&'static str, String)>,
    /// More `IM_…` variables for logic.
    pub logic_env: Vec<(&'static str, String)>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            connect: 2,
            logic: 2,
            redis: MasterDiscovery::Sentinels,
            wait_replicas: 1,
            connect_env: Vec::new(),
            logic_env: Vec::new(),
        }
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

/// All processes of a cluster; they are killed when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    plan: Plan,
    /// The connect processes that run.
    pub connects: Vec<Connect>,
    /// The logic processes that run.
    pub logics: Vec<Logic>,
    /// The message store.
    pub redis: RedisSet,
    /// Service discovery.
    pub etcd: Etcd,
    pub(crate) apis: ApiAddresses,
    started: usize,
    folder: TempDir,
}

impl Cluster {
    /// Starts everything and waits until it is ready.
    pub async fn start(plan: Plan) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("im-e2e-").tempdir()?;
        let (redis, etcd) = tokio::try_join!(
            RedisSet::start(folder.path(), plan.redis),
            Etcd::start(folder.path())
        )?;
        let mut cluster = Self {
            plan,
            connects: Vec::new(),
            logics: Vec::new(),
            redis,
            etcd,
            apis: ApiAddresses::default(),
            started: 0,
            folder,
        };
        for _ in 0..cluster.plan.logic {
            cluster.add_logic()?;
        }
        for _ in 0..cluster.plan.connect {
            cluster.add_connect()?;
        }
        cluster.ready().await?;
        Ok(cluster)
    }

    /// The folder with all data and output.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Waits until every process reports ready.
    pub async fn ready(&self) -> Result<()> {
        let admins = self.connects.iter().map(|c| (&c.admin, &c.process));
        for (admin, process) in admins.chain(self.logics.iter().map(|l| (&l.admin, &l.process))) {
            ready(process, admin).await?;
        }
        Ok(())
    }

    /// Starts one more connect; wait with [`Cluster::ready`].
    pub fn add_connect(&mut self) -> Result<()> {
        self.add_connect_at(&free_address()?, &free_address()?)
    }

    /// Starts one more connect that listens at these addresses.
    pub fn add_connect_at(&mut self, tcp: &str, ws: &str) -> Result<()> {
        let name = self.name("connect");
        let grpc = free_address()?;
        let admin = free_address()?;
        let mut command = self.command("im-connect", &name, &grpc, &admin)?;
        command.env("IM_TCP_LISTEN", tcp).env("IM_WS_LISTEN", ws);
        command.envs(
            self.plan
                .connect_env
                .iter()
                .map(|(key, value)| (key, value)),
        );
        let process = Process::start(&name, command, self.folder.path())?;
        self.connects.push(Connect {
            tcp: tcp.to_owned(),
            ws: ws.to_owned(),
            admin,
            process,
        });
        Ok(())
    }

    /// Starts one more logic; wait with [`Cluster::ready`].
    pub fn add_logic(&mut self) -> Result<()> {
        let name = self.name("logic");
        let http = free_address()?;
        let grpc = free_address()?;
        let admin = free_address()?;
        let mut command = self.command("im-logic", &name, &grpc, &admin)?;
        command
            .env("IM_HTTP_LISTEN", &http)
            .env("IM_AUTH_HS256_SECRET", SECRET);
        command.env(
            "IM_REDIS_WAIT_REPLICAS",
            self.plan.wait_replicas.to_string(),
        );
        command.envs(self.plan.logic_env.iter().map(|(key, value)| (key, value)));
        let process = Process::start(&name, command, self.folder.path())?;
        self.apis.add(&http);
        self.logics.push(Logic {
            http,
            admin,
            process,
        });
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
