//! redis servers, Sentinels and clusters of a test's own, in a folder that goes away with them.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use im_runtime::unused_port;
use redis::{Cmd, FromRedisValue, RedisResult};
use tempfile::TempDir;

/// The account under which replicas copy: switched off, it cuts them off.
const COPIER: &str = "copier";

/// One redis-server (or Sentinel) process; ends with it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) port: u16,
    arguments: Vec<String>,
    folder: TempDir,
    process: Option<Child>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    /// Starts a server with further arguments and waits until it answers.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = unused_port().expect("a port");
        let mut all: Vec<String> = ["--bind", "127.0.0.1", "--appendonly", "yes", "--save", ""]
            .map(str::to_owned)
            .into();
        all.extend(
            [
                "--repl-diskless-sync-delay",
                "0",
                "--repl-diskless-load",
                "swapdb",
            ]
            .map(str::to_owned),
        );
        all.extend(["--enable-debug-command", "local"].map(str::to_owned));
        all.extend(["--masteruser", COPIER, "--masterauth", "copy"].map(str::to_owned));
        all.extend(["--user", COPIER, "on", ">copy", "~*", "&*", "+@all"].map(str::to_owned));
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let mut server = Self {
            port,
            arguments: all,
            folder,
            process: None,
        };
        server.revive().await;
        server
    }

    /// A replica of another server, in step.
    pub(crate) async fn start_replica(master: &Self) -> Self {
        let replica = Self::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]).await;
        master.wait_in_step(1).await;
        replica
    }

    /// Starts it (again) on its data.
    pub(crate) async fn revive(&mut self) {
        let mut command = Command::new("redis-server");
        command
            .arg("--port")
            .arg(self.port.to_string())
            .arg("--dir")
            .arg(self.folder.path());
        self.run(command.args(&self.arguments)).await;
    }

    async fn run(&mut self, command: &mut Command) {
        self.process = Some(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("redis is installed"),
        );
        until("redis answers", async || {
            self.ask::<String>(&redis::cmd("PING")).await.is_ok()
        })
        .await;
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A command over a connection of its own.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        command.query_async(&mut connection).await
    }

    /// A command in words, whose reply does not matter.
    pub(crate) async fn tell(&self, words: &[&str]) {
        self.ask::<redis::Value>(redis::cmd(words[0]).arg(&words[1..]))
            .await
            .unwrap_or_else(|error| {
                panic!("{words:?}: {error}");
            });
    }

    /// Whether it is a master just now.
    pub(crate) async fn is_master(&self) -> bool {
        let role: Vec<redis::Value> = self.ask(&redis::cmd("ROLE")).await.expect("it answers");
        redis::from_redis_value::<String>(role[0].clone()).expect("a word") == "master"
    }

    /// So many replicas have all that is written here.
    pub(crate) async fn wait_in_step(&self, replicas: usize) {
        until("replicas are in step", async || {
            let client = redis::Client::open(self.url()).expect("a good URL");
            let Ok(mut connection) = client.get_multiplexed_async_connection().await else {
                return false;
            };
            let mut written = redis::pipe();
            written
                .cmd("SET")
                .arg("in-step")
                .arg(1)
                .ignore()
                .cmd("WAIT")
                .arg(replicas)
                .arg(200);
            written
                .query_async::<(usize,)>(&mut connection)
                .await
                .is_ok_and(|(confirmed,)| confirmed >= replicas)
        })
        .await;
    }

    /// From now on nothing that is written reaches the replicas.
    pub(crate) async fn cut_replicas_off(&self) {
        self.tell(&["ACL", "SETUSER", COPIER, "off"]).await;
        self.tell(&["CLIENT", "KILL", "USER", COPIER]).await;
    }

    /// The replicas may copy again.
    pub(crate) async fn let_replicas_in(&self) {
        self.tell(&["ACL", "SETUSER", COPIER, "on"]).await;
    }

    /// A Sentinel that alone decides over the master.
    pub(crate) async fn start_sentinel(master: &Self) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = unused_port().expect("a port");
        let file = folder.path().join("sentinel.conf");
        let settings = format!(
            "bind 127.0.0.1\nport {port}\nsentinel monitor im 127.0.0.1 {} 1\nsentinel down-after-milliseconds im 500\n\
             sentinel failover-timeout im 5000\n",
            master.port
        );
        std::fs::write(&file, settings).expect("the folder can be written");
        let mut server = Self {
            port,
            arguments: Vec::new(),
            folder,
            process: None,
        };
        server.run(Command::new("redis-sentinel").arg(file)).await;
        until("the Sentinel knows the replica", async || {
            let info: String = server
                .ask(redis::cmd("INFO").arg("sentinel"))
                .await
                .unwrap_or_default();
            info.contains("slaves=1") && server.replica_is_good().await
        })
        .await;
        server
    }

    /// Whether this Sentinel would promote the replica: it must have read that it follows the master.
    async fn replica_is_good(&self) -> bool {
        let replicas: Vec<std::collections::HashMap<String, String>> = self
            .ask(redis::cmd("SENTINEL").arg("REPLICAS").arg("im"))
            .await
            .unwrap_or_default();
        replicas.iter().any(|one| {
            one.get("master-link-status")
                .is_some_and(|status| status == "ok")
        })
    }

    pub(crate) fn sentinel_url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}/im", self.port)
    }

    /// Three masters that share the slots.
    pub(crate) async fn start_cluster() -> Vec<Self> {
        let mut nodes = Vec::new();
        let buses = [(); 3].map(|()| unused_port().expect("a port").to_string());
        for bus in &buses {
            let cluster = [
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                "2000",
                "--cluster-port",
                bus,
            ];
            nodes.push(Self::start(&cluster).await);
        }
        for (node, (from, to)) in nodes.iter().zip([(0, 5460), (5461, 10922), (10923, 16383)]) {
            node.tell(&[
                "CLUSTER",
                "ADDSLOTSRANGE",
                &from.to_string(),
                &to.to_string(),
            ])
            .await;
            node.tell(&[
                "CLUSTER",
                "MEET",
                "127.0.0.1",
                &nodes[0].port.to_string(),
                &buses[0],
            ])
            .await;
        }
        for node in &nodes {
            until("the cluster is complete", async || {
                let info: String = node
                    .ask(redis::cmd("CLUSTER").arg("INFO"))
                    .await
                    .unwrap_or_default();
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            })
            .await;
        }
        nodes
    }
}

/// Waits until something holds; a test that waits longer than half a minute has failed.
pub(crate) async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(
            tokio::time::Instant::now() < deadline,
            "not within 30 s: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
