//! The real stores that a cluster stands on: redis (a master, replicas, Sentinels) and etcd, from the machine's own
//! programs, on free ports, with their data in the test's folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use im_runtime::unused_port;

use crate::forwarder::Forwarder;
use crate::process::{Process, until};

/// How long Sentinels wait before they call a master down.
const DOWN_AFTER: Duration = Duration::from_millis(1500);
/// The account that replicas and Sentinels' failovers copy under: switched off, it cuts the replicas off.
const REPLICATION_USER: &str = "copier";
const SERVICE: &str = "im";
const PATIENCE: Duration = Duration::from_secs(30);

/// One redis server.
#[derive(Debug)]
pub struct RedisServer {
    /// Where it listens on loopback.
    pub port: u16,
    number: usize,
    /// Whose replica it was started as.
    master: Option<u16>,
    process: Process,
}

impl RedisServer {
    /// A client of this one server, wherever it stands in the replication.
    async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> redis::RedisResult<T> {
        ask(self.port, command).await
    }

    async fn is_master(&self) -> bool {
        let role: redis::RedisResult<redis::Value> = self.ask(&redis::cmd("ROLE")).await;
        role.is_ok_and(|role| format!("{role:?}").contains("master"))
    }
}

async fn ask<T: redis::FromRedisValue>(port: u16, command: &redis::Cmd) -> redis::RedisResult<T> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    command.query_async(&mut connection).await
}

/// How the master is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Three Sentinels say who it is, and choose another where it dies.
    Sentinels,
    /// One address leads to it; who it is is decided by hand.
    OneAddress,
}

/// A master with two replicas.
#[derive(Debug)]
pub struct RedisSet {
    servers: Vec<RedisServer>,
    /// Three, or none where there is one address.
    sentinels: Vec<(u16, Process)>,
    address: Option<Forwarder>,
}

impl RedisSet {
    /// Starts everything and waits until both replicas are in step and every Sentinel knows the others.
    pub async fn start(folder: &Path, way: Way) -> Result<Self> {
        let mut servers = Vec::new();
        for number in 0..3 {
            let master = servers.first().map(|server: &RedisServer| server.port);
            servers.push(start_server(folder, number, unused_port()?, master)?);
        }
        for server in &servers {
            until("redis answers", PATIENCE, async || server.ask::<String>(&redis::cmd("PING")).await.ok()).await?;
        }
        let mut sentinels = Vec::new();
        let mut address = None;
        match way {
            Way::OneAddress => address = Some(Forwarder::to(servers[0].port).await?),
            Way::Sentinels => {
                for number in 0..3 {
                    sentinels.push(configure_sentinel(folder, number, servers[0].port)?);
                }
            }
        }
        let set = Self { servers, sentinels, address };
        set.in_step().await?;
        Ok(set)
    }

    async fn in_step(&self) -> Result<()> {
        until("replicas in step and Sentinels complete", PATIENCE, async || self.settled().await.then_some(())).await
    }

    /// `kill -9` of every server and every Sentinel.
    pub fn kill(&mut self) -> Result<()> {
        let sentinels = self.sentinels.iter_mut().map(|(_, sentinel)| sentinel);
        self.servers.iter_mut().map(|server| &mut server.process).chain(sentinels).try_for_each(Process::kill)
    }

    /// Starts all that was killed on its data, in the roles it had at the start, and waits until they are in step.
    pub async fn restart(&mut self, folder: &Path) -> Result<()> {
        for server in &mut self.servers {
            *server = start_server(folder, server.number, server.port, server.master)?;
        }
        for (number, (_, sentinel)) in self.sentinels.iter_mut().enumerate() {
            *sentinel = start_sentinel(folder, number)?;
        }
        self.in_step().await
    }

    async fn settled(&self) -> bool {
        let Some(master) = self.master_port().await else { return false };
        let info: String = ask(master, redis::cmd("INFO").arg("replication")).await.unwrap_or_default();
        let in_step = info.matches("state=online").count() == self.servers.len() - 1;
        let mut complete = true;
        for (port, _) in &self.sentinels {
            let said: String = ask(*port, redis::cmd("INFO").arg("sentinel")).await.unwrap_or_default();
            complete &= said.contains("slaves=2,sentinels=3");
        }
        in_step && complete
    }

    /// What im's processes are given.
    pub fn url(&self) -> String {
        if let Some(address) = &self.address {
            return format!("redis://127.0.0.1:{}", address.port());
        }
        let hosts: Vec<String> = self.sentinels.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect();
        format!("redis+sentinel://{}/{SERVICE}", hosts.join(","))
    }

    /// The address that leads to the master.
    pub fn address(&self) -> Result<&Forwarder> {
        self.address.as_ref().context("Sentinels lead to this redis, and no address")
    }

    /// The port of the master that the Sentinels agree on first, or of the one there is.
    pub async fn master_port(&self) -> Option<u16> {
        if self.address.is_some() {
            for server in &self.servers {
                if server.is_master().await {
                    return Some(server.port);
                }
            }
            return None;
        }
        for (port, _) in &self.sentinels {
            let mut question = redis::cmd("SENTINEL");
            question.arg("get-master-addr-by-name").arg(SERVICE);
            if let Ok((_, master)) = ask::<(String, u16)>(*port, &question).await {
                return Some(master);
            }
        }
        None
    }

    /// The process id of the master.
    pub async fn master_pid(&self) -> Option<u32> {
        let port = self.master_port().await?;
        self.servers.iter().find(|server| server.port == port).map(|server| server.process.pid())
    }

    /// Bytes that the master has taken from the network and given to it, replication included.
    pub async fn network(&self) -> Result<(u64, u64)> {
        let master = self.master_port().await.context("no master")?;
        let info: redis::InfoDict = ask(master, redis::cmd("INFO").arg("stats")).await?;
        let bytes = |field: &str| info.get::<u64>(field).with_context(|| format!("INFO has no {field}"));
        Ok((bytes("total_net_input_bytes")?, bytes("total_net_output_bytes")?))
    }

    /// Changes a setting of the master while it runs.
    pub async fn configure_master(&self, key: &str, value: &str) -> Result<()> {
        let master = self.master_port().await.context("no master")?;
        Ok(ask(master, redis::cmd("CONFIG").arg("SET").arg(key).arg(value)).await?)
    }

    /// Stops all redis servers and Sentinels for the moment, as a frozen machine would; they keep what they have. A Sentinel
    /// that went on might promote a replica that is frozen too, beside a master that comes back.
    pub fn freeze(&self) -> Result<()> {
        let sentinels = self.sentinels.iter().map(|(_, sentinel)| sentinel);
        let mut all = sentinels.chain(self.servers.iter().map(|server| &server.process));
        all.try_for_each(|process| process.signal(libc::SIGSTOP))
    }

    /// Lets all that is frozen go on; Sentinels find their servers alive.
    pub async fn thaw(&self) -> Result<()> {
        for server in &self.servers {
            server.process.signal(libc::SIGCONT)?;
        }
        for server in &self.servers {
            until("redis answers", PATIENCE, async || server.ask::<String>(&redis::cmd("PING")).await.ok()).await?;
        }
        self.sentinels.iter().try_for_each(|(_, sentinel)| sentinel.signal(libc::SIGCONT))
    }

    /// Cuts the replicas off: nothing that is written from now on reaches them.
    pub async fn cut_replicas_off(&self) -> Result<()> {
        let master = self.master_port().await.context("no master")?;
        ask::<()>(master, redis::cmd("ACL").arg("SETUSER").arg(REPLICATION_USER).arg("off")).await?;
        let killed: u32 = ask(master, redis::cmd("CLIENT").arg("KILL").arg("USER").arg(REPLICATION_USER)).await?;
        ensure!(killed >= 2, "{killed} replicas were connected");
        Ok(())
    }

    /// Kills the master and waits until the Sentinels name another that takes writes. Returns its port.
    pub async fn fail_over(&mut self) -> Result<u16> {
        let old = self.master_port().await.context("no master")?;
        let place = self.servers.iter().position(|server| server.port == old).context("an unknown master")?;
        self.servers.remove(place).process.kill()?;
        until("another master", PATIENCE, async || {
            let port = self.master_port().await.filter(|port| *port != old)?;
            let server = self.servers.iter().find(|server| server.port == port)?;
            server.is_master().await.then_some(port)
        })
        .await
    }

    /// Makes a replica the master, as an operator would before work on the master's machine: nothing is lost, both live on,
    /// and then the address leads to the new one. Connections that stand stay with the old one.
    pub async fn hand_over(&mut self) -> Result<()> {
        let old = self.master_port().await.context("no master")?;
        ask::<()>(old, redis::cmd("FAILOVER").arg("TIMEOUT").arg(10_000)).await?;
        let new =
            until("a replica has taken over", PATIENCE, async || self.master_port().await.filter(|port| *port != old));
        let new = new.await?;
        self.address()?.switch(new);
        for server in self.servers.iter().filter(|server| ![old, new].contains(&server.port)) {
            server.ask::<()>(redis::cmd("REPLICAOF").arg("127.0.0.1").arg(new)).await?;
        }
        self.in_step().await
    }

    /// `kill -9` of the master, which comes back at the same port with nothing at all; its replicas forget with it.
    pub async fn wipe(&mut self, folder: &Path) -> Result<()> {
        let port = self.master_port().await.context("no master")?;
        let server = self.servers.iter_mut().find(|server| server.port == port).context("an unknown master")?;
        server.process.kill()?;
        std::fs::remove_dir_all(data(folder, server.number))?;
        *server = start_server(folder, server.number, port, None)?;
        self.in_step().await
    }

    /// Starts a new, empty server that joins as a replica, in the place of one that was killed.
    pub async fn replace_lost(&mut self, folder: &Path) -> Result<()> {
        let master = self.master_port().await.context("no master")?;
        let number = self.servers.iter().map(|server| usize::from(server.port)).sum();
        self.servers.push(start_server(folder, number, unused_port()?, Some(master))?);
        until("the new replica in step", PATIENCE, async || {
            let info: String = ask(master, redis::cmd("INFO").arg("replication")).await.ok()?;
            (info.matches("state=online").count() == self.servers.len() - 1).then_some(())
        })
        .await
    }
}

/// Where a server keeps what it has.
fn data(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("redis-{number}"))
}

fn start_server(folder: &Path, number: usize, port: u16, master: Option<u16>) -> Result<RedisServer> {
    let name = format!("redis-{number}");
    let data = data(folder, number);
    std::fs::create_dir_all(&data)?;
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--appendonly", "yes", "--save", ""]);
    command.args([
        "--dir",
        &data.to_string_lossy(),
        "--repl-diskless-sync-delay",
        "0",
        "--repl-diskless-load",
        "swapdb",
    ]);
    command.args(["--masteruser", REPLICATION_USER, "--masterauth", "copy"]);
    command.args(["--user", REPLICATION_USER, "on", ">copy", "~*", "&*", "+@all"]);
    if let Some(master) = master {
        command.args(["--replicaof", "127.0.0.1", &master.to_string()]);
    }
    Ok(RedisServer { port, number, master, process: Process::start(&name, command, folder)? })
}

fn configure_sentinel(folder: &Path, number: usize, master: u16) -> Result<(u16, Process)> {
    let port = unused_port()?;
    let down_after = DOWN_AFTER.as_millis();
    std::fs::write(
        sentinel_file(folder, number),
        format!(
            "bind 127.0.0.1\nport {port}\ndir {}\nsentinel monitor {SERVICE} 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds {SERVICE} {down_after}\nsentinel failover-timeout {SERVICE} 10000\n\
             sentinel parallel-syncs {SERVICE} 2\n",
            folder.display()
        ),
    )?;
    Ok((port, start_sentinel(folder, number)?))
}

fn start_sentinel(folder: &Path, number: usize) -> Result<Process> {
    let mut command = Command::new("redis-sentinel");
    command.arg(sentinel_file(folder, number));
    Process::start(&format!("sentinel-{number}"), command, folder)
}

fn sentinel_file(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("sentinel-{number}.conf"))
}

/// One etcd server.
#[derive(Debug)]
pub struct Etcd {
    client: u16,
    peer: u16,
    data: PathBuf,
    process: Process,
}

impl Etcd {
    /// Starts it and waits until it is healthy.
    pub async fn start(folder: &Path) -> Result<Self> {
        let (client, peer, data) = (unused_port()?, unused_port()?, folder.join("etcd"));
        let process = start_etcd(folder, client, peer, &data)?;
        let etcd = Self { client, peer, data, process };
        etcd.healthy().await?;
        Ok(etcd)
    }

    /// What im's processes are given.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again on its data.
    pub async fn restart(&mut self, folder: &Path) -> Result<()> {
        self.process = start_etcd(folder, self.client, self.peer, &self.data)?;
        self.healthy().await
    }

    async fn healthy(&self) -> Result<()> {
        let address = format!("127.0.0.1:{}", self.client);
        until("etcd is healthy", PATIENCE, async || {
            let (status, body) = crate::http::get(&address, "/health").await.ok()?;
            (status == 200 && body.contains("true")).then_some(())
        })
        .await
    }
}

fn start_etcd(folder: &Path, client: u16, peer: u16, data: &Path) -> Result<Process> {
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let mut command = Command::new("etcd");
    command.args(["--name", "one", "--data-dir", &data.to_string_lossy()]);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args([
        "--initial-cluster",
        &format!("one={peer}"),
        "--heartbeat-interval",
        "50",
        "--election-timeout",
        "500",
    ]);
    Process::start("etcd", command, folder)
}
