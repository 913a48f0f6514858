//! Real redis on free ports: a master, two replicas and Sentinels, from the machine's own programs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use im_runtime::unused_port;

use crate::process::Process;
use crate::proxies::redis::RedisProxy;
use crate::wait::until;

/// How long Sentinels wait before they declare a master down.
const DOWN_AFTER: Duration = Duration::from_millis(1500);
/// The account that replicas copy with, also after a failover: disabling it cuts the replicas off.
const REPLICATION_USER: &str = "copier";
const SERVICE: &str = "im";
const TIMEOUT: Duration = Duration::from_secs(30);

/// One redis server.
#[derive(Debug)]
struct RedisServer {
    port: u16,
    number: usize,
    /// The master that it was started as a replica of.
    master: Option<u16>,
    process: Process,
}

impl RedisServer {
    async fn query<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> redis::RedisResult<T> {
        query(self.port, command).await
    }

    async fn is_master(&self) -> bool {
        let role: redis::RedisResult<redis::Value> = self.query(&redis::cmd("ROLE")).await;
        role.is_ok_and(|role| format!("{role:?}").contains("master"))
    }
}

/// Runs a command on the server at this port, whatever its role.
async fn query<T: redis::FromRedisValue>(port: u16, command: &redis::Cmd) -> redis::RedisResult<T> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    command.query_async(&mut connection).await
}

/// How clients find the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MasterDiscovery {
    /// Three Sentinels name it, and elect another when it dies.
    Sentinels,
    /// One address always leads to it; a failover is done by hand.
    OneAddress,
}

/// A master with two replicas; all are killed when it is dropped.
#[derive(Debug)]
pub struct RedisSet {
    servers: Vec<RedisServer>,
    /// Port and process of three Sentinels; none with [`MasterDiscovery::OneAddress`].
    sentinels: Vec<(u16, Process)>,
    proxy: Option<RedisProxy>,
}

impl RedisSet {
    /// Starts everything and waits until both replicas are in sync and every Sentinel knows the others.
    pub async fn start(folder: &Path, discovery: MasterDiscovery) -> Result<Self> {
        let mut servers = Vec::new();
        for number in 0..3 {
            let master = servers.first().map(|server: &RedisServer| server.port);
            servers.push(start_server(folder, number, unused_port()?, master)?);
        }
        for server in &servers {
            until("redis answers", TIMEOUT, async || {
                server.query::<String>(&redis::cmd("PING")).await.ok()
            })
            .await?;
        }
        let mut sentinels = Vec::new();
        let mut proxy = None;
        match discovery {
            MasterDiscovery::OneAddress => proxy = Some(RedisProxy::start(servers[0].port).await?),
            MasterDiscovery::Sentinels => {
                for number in 0..3 {
                    sentinels.push(configure_sentinel(folder, number, servers[0].port)?);
                }
            }
        }
        let set = Self {
            servers,
            sentinels,
            proxy,
        };
        set.in_sync().await?;
        Ok(set)
    }

    async fn in_sync(&self) -> Result<()> {
        until(
            "replicas in sync and Sentinels complete",
            TIMEOUT,
            async || self.is_complete().await.then_some(()),
        )
        .await
    }

    /// `kill -9` of every server and every Sentinel.
    pub fn kill(&mut self) -> Result<()> {
        let sentinels = self.sentinels.iter_mut().map(|(_, sentinel)| sentinel);
        self.servers
            .iter_mut()
            .map(|server| &mut server.process)
            .chain(sentinels)
            .try_for_each(Process::kill)
    }

    /// Restarts all killed servers on their data, in their original roles, and waits until they are in sync.
    pub async fn restart(&mut self, folder: &Path) -> Result<()> {
        for server in &mut self.servers {
            *server = start_server(folder, server.number, server.port, server.master)?;
        }
        for (number, (_, sentinel)) in self.sentinels.iter_mut().enumerate() {
            *sentinel = start_sentinel(folder, number)?;
        }
        self.in_sync().await
    }

    async fn is_complete(&self) -> bool {
        let Some(master) = self.master_port().await else {
            return false;
        };
        let info: String = query(master, redis::cmd("INFO").arg("replication"))
            .await
            .unwrap_or_default();
        let in_sync = info.matches("state=online").count() == self.servers.len() - 1;
        let mut complete = true;
        for (port, _) in &self.sentinels {
            let info: String = query(*port, redis::cmd("INFO").arg("sentinel"))
                .await
                .unwrap_or_default();
            complete &= info.contains("slaves=2,sentinels=3");
        }
        in_sync && complete
    }

    /// The value of `IM_REDIS_URL`.
    pub fn url(&self) -> String {
        if let Some(proxy) = &self.proxy {
            return format!("redis://127.0.0.1:{}", proxy.port());
        }
        let hosts: Vec<String> = self
            .sentinels
            .iter()
            .map(|(port, _)| format!("127.0.0.1:{port}"))
            .collect();
        format!("redis+sentinel://{}/{SERVICE}", hosts.join(","))
    }

    /// The proxy in front of the master.
    pub(crate) fn proxy(&self) -> Result<&RedisProxy> {
        self.proxy
            .as_ref()
            .context("this redis is found by Sentinels, there is no proxy")
    }

    /// The port of the master: the first that a Sentinel names, or the only one.
    pub async fn master_port(&self) -> Option<u16> {
        if self.proxy.is_some() {
            for server in &self.servers {
                if server.is_master().await {
                    return Some(server.port);
                }
            }
            return None;
        }
        for (port, _) in &self.sentinels {
            let mut command = redis::cmd("SENTINEL");
            command.arg("get-master-addr-by-name").arg(SERVICE);
            if let Ok((_, master)) = query::<(String, u16)>(*port, &command).await {
                return Some(master);
            }
        }
        None
    }

    /// The process id of the master.
    pub(crate) async fn master_pid(&self) -> Option<u32> {
        let port = self.master_port().await?;
        self.servers
            .iter()
            .find(|server| server.port == port)
            .map(|server| server.process.pid())
    }

    /// Bytes that the master has received and sent, replication included.
    pub(crate) async fn network(&self) -> Result<(u64, u64)> {
        let master = self.master_port().await.context("no master")?;
        let info: redis::InfoDict = query(master, redis::cmd("INFO").arg("stats")).await?;
        let bytes = |field: &str| {
            info.get::<u64>(field)
                .with_context(|| format!("INFO has no {field}"))
        };
        Ok((
            bytes("total_net_input_bytes")?,
            bytes("total_net_output_bytes")?,
        ))
    }

    /// Changes a setting of the master while it runs.
    pub async fn configure_master(&self, key: &str, value: &str) -> Result<()> {
        let master = self.master_port().await.context("no master")?;
        Ok(query(master, redis::cmd("CONFIG").arg("SET").arg(key).arg(value)).await?)
    }

    /// Pauses all redis servers and Sentinels, as a frozen machine would; they keep their data. A Sentinel that kept running
    /// might promote a replica that is frozen too, beside a master that comes back.
    pub fn freeze(&self) -> Result<()> {
        let sentinels = self.sentinels.iter().map(|(_, sentinel)| sentinel);
        let mut all = sentinels.chain(self.servers.iter().map(|server| &server.process));
        all.try_for_each(|process| process.signal(libc::SIGSTOP))
    }

    /// Resumes everything that is frozen, Sentinels last, so that they find their servers alive.
    pub async fn thaw(&self) -> Result<()> {
        for server in &self.servers {
            server.process.signal(libc::SIGCONT)?;
        }
        for server in &self.servers {
            until("redis answers", TIMEOUT, async || {
                server.query::<String>(&redis::cmd("PING")).await.ok()
            })
            .await?;
        }
        self.sentinels
            .iter()
            .try_for_each(|(_, sentinel)| sentinel.signal(libc::SIGCONT))
    }

    /// Cuts off the replicas: no further write reaches them.
    pub async fn cut_replicas_off(&self) -> Result<()> {
        let master = self.master_port().await.context("no master")?;
        query::<()>(
            master,
            redis::cmd("ACL")
                .arg("SETUSER")
                .arg(REPLICATION_USER)
                .arg("off"),
        )
        .await?;
        let killed: u32 = query(
            master,
            redis::cmd("CLIENT")
                .arg("KILL")
                .arg("USER")
                .arg(REPLICATION_USER),
        )
        .await?;
        ensure!(killed >= 2, "{killed} replicas were connected");
        Ok(())
    }

    /// Kills the master and waits until the Sentinels name another that accepts writes. Returns its port.
    pub async fn fail_over(&mut self) -> Result<u16> {
        let old = self.master_port().await.context("no master")?;
        let index = self
            .servers
            .iter()
            .position(|server| server.port == old)
            .context("an unknown master")?;
        self.servers.remove(index).process.kill()?;
        until("another master", TIMEOUT, async || {
            let port = self.master_port().await.filter(|port| *port != old)?;
            let server = self.servers.iter().find(|server| server.port == port)?;
            server.is_master().await.then_some(port)
        })
        .await
    }

    /// Makes a replica the master, as one would before maintenance of the master's machine: nothing is lost, both servers keep
    /// running, and the address then leads to the new master. Open connections stay with the old one.
    pub(crate) async fn switch_over(&mut self) -> Result<()> {
        let old = self.master_port().await.context("no master")?;
        query::<()>(old, redis::cmd("FAILOVER").arg("TIMEOUT").arg(10_000)).await?;
        let new = until("a replica is promoted", TIMEOUT, async || {
            self.master_port().await.filter(|port| *port != old)
        });
        let new = new.await?;
        self.proxy()?.switch(new);
        for server in self
            .servers
            .iter()
            .filter(|server| ![old, new].contains(&server.port))
        {
            server
                .query::<()>(redis::cmd("REPLICAOF").arg("127.0.0.1").arg(new))
                .await?;
        }
        self.in_sync().await
    }

    /// `kill -9` of the master, which restarts at the same port without data; its replicas lose theirs by following it.
    pub(crate) async fn wipe(&mut self, folder: &Path) -> Result<()> {
        let port = self.master_port().await.context("no master")?;
        let server = self
            .servers
            .iter_mut()
            .find(|server| server.port == port)
            .context("an unknown master")?;
        server.process.kill()?;
        std::fs::remove_dir_all(data(folder, server.number))?;
        *server = start_server(folder, server.number, port, None)?;
        self.in_sync().await
    }

    /// Starts a new, empty replica in place of a server that was killed.
    pub async fn replace_lost(&mut self, folder: &Path) -> Result<()> {
        let master = self.master_port().await.context("no master")?;
        let number = self
            .servers
            .iter()
            .map(|server| usize::from(server.port))
            .sum();
        self.servers
            .push(start_server(folder, number, unused_port()?, Some(master))?);
        until("the new replica in sync", TIMEOUT, async || {
            let info: String = query(master, redis::cmd("INFO").arg("replication"))
                .await
                .ok()?;
            (info.matches("state=online").count() == self.servers.len() - 1).then_some(())
        })
        .await
    }
}

/// The data folder of a server.
fn data(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("redis-{number}"))
}

fn start_server(
    folder: &Path,
    number: usize,
    port: u16,
    master: Option<u16>,
) -> Result<RedisServer> {
    let name = format!("redis-{number}");
    let data = data(folder, number);
    std::fs::create_dir_all(&data)?;
    let mut command = Command::new("redis-server");
    command.args([
        "--bind",
        "127.0.0.1",
        "--port",
        &port.to_string(),
        "--appendonly",
        "yes",
        "--save",
        "",
    ]);
    command.args([
        "--dir",
        &data.to_string_lossy(),
        "--repl-diskless-sync-delay",
        "0",
        "--repl-diskless-load",
        "swapdb",
    ]);
    command.args(["--masteruser", REPLICATION_USER, "--masterauth", "copy"]);
    command.args([
        "--user",
        REPLICATION_USER,
        "on",
        ">copy",
        "~*",
        "&*",
        "+@all",
    ]);
    if let Some(master) = master {
        command.args(["--replicaof", "127.0.0.1", &master.to_string()]);
    }
    Ok(RedisServer {
        port,
        number,
        master,
        process: Process::start(&name, command, folder)?,
    })
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
