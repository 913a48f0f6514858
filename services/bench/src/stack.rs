//! Servers started for a run, from the programs beside this one, on free ports, with their data in a temporary folder; all
//! end with it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use im_cli::failure::{Exit, Failure};
use im_cli::http;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::plan::{BenchArgs, Start};
use crate::probe::Server;

/// Signs the tokens of servers that nobody else can reach: they listen on loopback and live as long as the run.
pub(crate) const SECRET: &str = "only for servers that a benchmark starts for itself";
const TIMEOUT: Duration = Duration::from_secs(30);

/// What runs.
pub(crate) struct Stack {
    /// `tcp://…` or `ws://…`, one per connect process.
    pub(crate) addresses: Vec<String>,
    /// `http://…` of the HTTP API.
    pub(crate) http: String,
    pub(crate) servers: Vec<Server>,
    children: Vec<Child>,
    folder: TempDir,
}

/// An address that nobody listens on.
fn free() -> Result<String, Failure> {
    let port = im_runtime::unused_port().map_err(|error| {
        Failure::new(Exit::Failed, format!("no free port on 127.0.0.1: {error}"))
    })?;
    Ok(format!("127.0.0.1:{port}"))
}

fn beside(name: &str) -> Result<PathBuf, Failure> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    let failure = Failure::usage(format!("{} is not there", path.display()));
    Err(failure.hint(format!("build it: cargo build --release -p {name}")))
}

/// Nothing but the machine is to limit a run: all clients come from one address and send as fast as they are told to.
fn unlimited(command: &mut Command) {
    for limit in [
        "IM_REQUESTS_PER_SECOND",
        "IM_USER_REQUESTS_PER_SECOND",
        "IM_IP_REQUESTS_PER_SECOND",
    ] {
        command.env(limit, "1000000");
    }
    for bytes in ["IM_BYTES_PER_SECOND", "IM_USER_BYTES_PER_SECOND"] {
        command.env(bytes, "1GiB");
    }
    for limit in [
        "IM_MAX_CONNECTIONS_PER_IP",
        "IM_MAX_CONNECTIONS_PER_USER",
        "IM_MAX_UNIDENTIFIED",
    ] {
        command.env(limit, "1000000");
    }
    for rate in ["IM_ACCEPTS_PER_SECOND", "IM_ACCEPTS_PER_SECOND_PER_IP"] {
        command.env(rate, "1000000");
    }
}

impl Stack {
    /// Starts what `--start` asks for and waits until it is ready.
    pub(crate) async fn start(args: &BenchArgs, what: Start) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("imctl-bench-").tempdir()?;
        let http = free()?;
        let mut stack = Self {
            addresses: Vec::new(),
            http: format!("http://{http}"),
            servers: Vec::new(),
            children: Vec::new(),
            folder,
        };
        match what {
            Start::Standalone => stack.standalone(args, &http)?,
            Start::Cluster => stack.cluster(args, &http).await?,
        }
        stack.ready().await?;
        Ok(stack)
    }

    fn run(
        &mut self,
        name: &str,
        mut command: Command,
        admin: Option<&str>,
    ) -> Result<(), Failure> {
        let log = std::fs::File::create(self.log(name))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        let child = command.spawn().map_err(|error| {
            let failure = Failure::new(Exit::Failed, format!("cannot start {name}: {error}"));
            failure.hint("is it installed, and on the PATH?")
        })?;
        let admin = admin.map(|admin| format!("http://{admin}"));
        self.servers.push(Server {
            name: name.to_owned(),
            pid: child.id(),
            admin,
        });
        self.children.push(child);
        Ok(())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    fn data(&self, name: &str) -> Result<PathBuf, Failure> {
        let data = self.folder.path().join(name);
        std::fs::create_dir_all(&data)?;
        Ok(data)
    }

    fn listens(&mut self, args: &BenchArgs, command: &mut Command) -> Result<(), Failure> {
        let tcp = free()?;
        let ws = free()?;
        command.env("IM_TCP_LISTEN", &tcp).env("IM_WS_LISTEN", &ws);
        self.addresses.push(if args.websocket {
            format!("ws://{ws}/ws")
        } else {
            format!("tcp://{tcp}")
        });
        unlimited(command);
        Ok(())
    }

    fn standalone(&mut self, args: &BenchArgs, http: &str) -> Result<(), Failure> {
        let admin = free()?;
        let mut command = clean(&beside("im-standalone")?);
        self.listens(args, &mut command)?;
        command
            .env("IM_HTTP_LISTEN", http)
            .env("IM_PAGE_LISTEN", free()?)
            .env("IM_ADMIN_LISTEN", &admin);
        command
            .env("IM_DATA_DIR", self.data("data")?)
            .env("IM_AUTH_HS256_SECRET", SECRET);
        command.envs(settings(args, "standalone"));
        self.run("standalone", command, Some(&admin))
    }

    async fn cluster(&mut self, args: &BenchArgs, http: &str) -> Result<(), Failure> {
        let redis = free()?;
        let port = redis.rsplit(':').next().unwrap_or_default();
        let mut command = Command::new("redis-server");
        command.args([
            "--bind",
            "127.0.0.1",
            "--port",
            port,
            "--appendonly",
            "yes",
            "--save",
            "",
            "--dir",
        ]);
        command.arg(self.data("redis")?);
        self.run("redis", command, None)?;

        let client = format!("http://{}", free()?);
        let peer = format!("http://{}", free()?);
        let mut command = Command::new("etcd");
        command.args([
            "--name",
            "one",
            "--initial-cluster",
            &format!("one={peer}"),
            "--data-dir",
        ]);
        command.arg(self.data("etcd")?);
        command.args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ]);
        command.args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
        self.run("etcd", command, None)?;
        for address in [redis.as_str(), client.trim_start_matches("http://")] {
            self.listening(address).await?;
        }

        let redis = format!("redis://{redis}/");
        let mut logic = self.member("im-logic", "logic", &redis, &client)?;
        logic
            .0
            .env("IM_HTTP_LISTEN", http)
            .env("IM_AUTH_HS256_SECRET", SECRET);
        logic.0.envs(settings(args, "logic"));
        self.run("logic", logic.0, Some(&logic.1))?;
        for number in 1..=args.connects {
            let name = if args.connects == 1 {
                "connect".to_owned()
            } else {
                format!("connect-{number}")
            };
            let (mut command, admin) = self.member("im-connect", &name, &redis, &client)?;
            self.listens(args, &mut command)?;
            command.envs(settings(args, "connect"));
            self.run(&name, command, Some(&admin))?;
        }
        Ok(())
    }

    fn member(
        &self,
        program: &str,
        name: &str,
        redis: &str,
        etcd: &str,
    ) -> Result<(Command, String), Failure> {
        let grpc = free()?;
        let admin = free()?;
        let mut command = clean(&beside(program)?);
        command
            .env("IM_NODE", name)
            .env("IM_GRPC_LISTEN", &grpc)
            .env("IM_ADVERTISE", &grpc);
        command
            .env("IM_ADMIN_LISTEN", &admin)
            .env("IM_REDIS_URL", redis)
            .env("IM_ETCD_ENDPOINTS", etcd);
        Ok((command, admin))
    }

    async fn listening(&self, address: &str) -> Result<(), Failure> {
        let until = Instant::now() + TIMEOUT;
        while tokio::net::TcpStream::connect(address).await.is_err() {
            if Instant::now() > until {
                return Err(Failure::new(
                    Exit::Failed,
                    format!("nothing listens on {address} after {TIMEOUT:?}"),
                ));
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn ready(&mut self) -> Result<(), Failure> {
        let until = Instant::now() + TIMEOUT;
        for (server, child) in self.servers.iter().zip(&mut self.children) {
            let Some(admin) = &server.admin else { continue };
            let url = format!("{admin}/readyz");
            loop {
                if http::get(&url, None, Duration::from_secs(1))
                    .await
                    .is_ok_and(|answer| answer.status.is_success())
                {
                    break;
                }
                if Instant::now() > until || child.try_wait()?.is_some() {
                    let log = self.folder.path().join(format!("{}.log", server.name));
                    let text = std::fs::read_to_string(log).unwrap_or_default();
                    let end: Vec<&str> = text.lines().rev().take(5).collect();
                    let end = end.into_iter().rev().collect::<Vec<_>>().join("\n");
                    return Err(Failure::new(
                        Exit::Failed,
                        format!("{} does not get ready:\n{end}", server.name),
                    ));
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Ends everything and waits until it has ended.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        for child in &mut self.children {
            child.kill().await?;
        }
        Ok(())
    }
}

/// A program without the settings of ours that this process was given.
fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("IM_") {
            command.env_remove(name);
        }
    }
    command.env("IM_LOG", "warn");
    command
}

/// `--set` for this program: `logic:IM_…` for logic, the others for what clients connect to.
fn settings<'a>(args: &'a BenchArgs, program: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    args.set.iter().filter_map(move |(name, value)| {
        let (whose, name) = name.split_once(':').unwrap_or(("", name));
        let ours = if program == "logic" {
            whose == "logic"
        } else {
            whose != "logic"
        };
        ours.then_some((name, value.as_str()))
    })
}
