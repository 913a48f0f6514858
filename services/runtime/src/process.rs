//! The skeleton of every main: settings, logs, admin server, signals, then the program's own body.

use std::error::Error as StdError;
use std::ffi::OsString;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use crate::admin::Admin;
use crate::descriptors::{descriptor_limit, raise_descriptor_limit};
use crate::settings::{Program, Reader, Stop};
use crate::{Shutdown, Tasks, logs, metrics, panics, settings, version};

/// The settings that every program has.
#[derive(Debug, Clone)]
pub struct Options {
    /// The process's name among its kind.
    pub node: String,
    /// Where health, readiness and metrics are served.
    pub admin_listen: SocketAddr,
    /// The log and traces.
    pub logs: logs::Options,
    /// How long the drain may take.
    pub drain: Duration,
    /// Threads that serve everything that is not bound to a shard.
    pub threads: usize,
    /// Variables that are set and mean nothing here, because others of our programs read them.
    pub passed_over: Vec<String>,
}

/// What holds for a program where nothing else is said.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// See [`Options::drain`].
    pub drain: Duration,
    /// See [`Options::admin_listen`].
    pub admin_listen: SocketAddr,
}

/// A program with this time to drain, whose admin server listens on port 9100 of every address.
impl From<Duration> for Defaults {
    fn from(drain: Duration) -> Self {
        Self {
            drain,
            admin_listen: SocketAddr::from(([0, 0, 0, 0], 9100)),
        }
    }
}

impl Options {
    /// Reads them.
    pub fn read(from: &mut Reader<'_>, defaults: Defaults) -> Self {
        const FORMATS: &[(&str, logs::Format)] = &[
            ("auto", logs::Format::Auto),
            ("text", logs::Format::Text),
            ("json", logs::Format::Json),
        ];
        let default = logs::Options::default();
        from.group("Process");
        Self {
            node: from
                .text("node", "The process's name in logs, discovery and `imctl node`. A random suffix is added to it, so that a process that is started again is another node.")
                .or_computed(host_name(), "the host's name"),
            admin_listen: from
                .address("admin_listen", "Where `/healthz`, `/readyz` and `/metrics` are served.")
                .or(defaults.admin_listen),
            drain: from
                .duration("drain_deadline", "How long the process may take to hand over its work after SIGTERM before it ends anyway.")
                .within(Duration::ZERO..=Duration::from_secs(3600))
                .or(defaults.drain),
            threads: from
                .integer("threads", "Threads for everything that is not bound to a shard; in logic, for everything.")
                .within(1..=1024)
                .or_computed(default_threads(), "one per four cores"),
            logs: logs::Options {
                filter: from
                    .text("log", "What is logged: a level (error, warn, info, debug, trace), also per module: `info,im_connect=debug`.")
                    .check(|filter| logs::check_filter(filter))
                    .or(default.filter),
                format: from
                    .choice("log_format", FORMATS, "How log lines are written; auto: text at a terminal, JSON otherwise.")
                    .or(default.format),
                otlp_endpoint: from
                    .url("otlp_endpoint", &["http", "https"], "Where traces are sent over OTLP/gRPC. Not given: nowhere.")
                    .environment("OTEL_EXPORTER_OTLP_ENDPOINT")
                    .optional(),
                otlp_timeout: default.otlp_timeout,
            },
            passed_over: from.of_others().to_vec(),
        }
    }
}

fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// What others dial to reach a port of this process where nothing else is said: the address it listens on, or else the
/// host's name.
pub fn own_address(listening: IpAddr, port: u16) -> String {
    if listening.is_unspecified() {
        format!("{}:{port}", host_name())
    } else {
        SocketAddr::new(listening, port).to_string()
    }
}

/// What a program's body is given.
#[derive(Debug)]
pub struct Process {
    /// Unique: the configured name and a random suffix, so that a process that is started again is another node.
    pub node: String,
    /// Runs already.
    pub admin: Admin,
    /// Listens to signals already.
    pub shutdown: Shutdown,
    /// For work without which the process is of no use: its early end ends the process.
    pub tasks: Tasks,
}

/// A program's main. `read` names its settings; `body` builds, serves, waits for the drain, drains and returns.
///
/// The exit code is 0 where the body returned without error, 2 where the settings have mistakes, and 1 otherwise.
pub fn run<T, F, E>(
    program: Program,
    defaults: impl Into<Defaults>,
    read: impl Fn(&mut Reader<'_>) -> T,
    body: impl FnOnce(T, Process) -> F,
) -> ExitCode
where
    F: Future<Output = Result<(), E>>,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    run_with(program, defaults, std::env::args_os().skip(1), read, body)
}

/// The same for a program that takes some of its arguments for itself, such as a subcommand: `arguments` are the rest.
pub fn run_with<T, F, E>(
    program: Program,
    defaults: impl Into<Defaults>,
    arguments: impl IntoIterator<Item = OsString>,
    read: impl Fn(&mut Reader<'_>) -> T,
    body: impl FnOnce(T, Process) -> F,
) -> ExitCode
where
    F: Future<Output = Result<(), E>>,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    let defaults = defaults.into();
    let read_all = |from: &mut Reader<'_>| (read(from), Options::read(from, defaults));
    let (settings, options) =
        match settings::load(program, read_all, arguments, std::env::vars_os()) {
            Ok(loaded) => loaded,
            Err(stop) => return stopped(&stop),
        };
    let ended = start(program, &options, |process| body(settings, process));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let causes: Vec<String> =
                std::iter::successors(error.source(), |cause| (*cause).source())
                    .map(ToString::to_string)
                    .collect();
            let _ = writeln!(
                std::io::stderr(),
                "{}: {error}{}",
                program.name,
                causes.iter().map(|c| format!(": {c}")).collect::<String>()
            );
            ExitCode::FAILURE
        }
    }
}

fn stopped(stop: &Stop) -> ExitCode {
    match stop {
        Stop::Print(text) => {
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Stop::Mistakes(mistakes) => {
            let _ = writeln!(std::io::stderr(), "{mistakes}");
            ExitCode::from(2)
        }
    }
}

/// Threads that share work wake each other for every message that finds them asleep, and one of them can do more than a redis
/// master takes: docs/performance.md has the figures.
fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(4))
}

fn start<F, E>(
    program: Program,
    options: &Options,
    body: impl FnOnce(Process) -> F,
) -> Result<(), Box<dyn StdError + Send + Sync>>
where
    F: Future<Output = Result<(), E>>,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    let mut builder = match options.threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder
        .worker_threads(options.threads)
        .thread_name(program.name)
        .enable_all()
        .build()?;
    let node = format!("{}.{:05x}", options.node, rand::random_range(0..0x10_0000));
    let ended = runtime.block_on(async {
        let logs = logs::start(&options.logs, program.name, &node)?;
        let ended = serve(program, options, node, body).await;
        if let Err(error) = &ended {
            tracing::error!(%error, "ending");
        }
        // Waits for the exporter's thread: not on a thread that the exporter needs.
        let _ = tokio::task::spawn_blocking(|| logs.flush()).await;
        ended
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

async fn serve<F, E>(
    program: Program,
    options: &Options,
    node: String,
    body: impl FnOnce(Process) -> F,
) -> Result<(), Box<dyn StdError + Send + Sync>>
where
    F: Future<Output = Result<(), E>>,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    panics::install();
    metrics::announce(program.name);
    let descriptors = raise_descriptor_limit().unwrap_or_else(|error| {
        tracing::warn!(%error, "the limit of descriptors cannot be raised");
        descriptor_limit()
    });
    let shutdown = Shutdown::new(options.drain);
    shutdown.on_signals()?;
    let tasks = Tasks::new(shutdown.clone());
    let admin = Admin::start(options.admin_listen, &tasks).await?;
    tracing::info!(node, version = version::VERSION, commit = version::COMMIT, descriptors, admin = %admin.address(), "{} starts", program.name);
    if !options.passed_over.is_empty() {
        tracing::info!(
            variables = options.passed_over.join(" "),
            "passed over: these are settings of other programs"
        );
    }
    let process = Process {
        node,
        admin,
        shutdown,
        tasks: tasks.clone(),
    };
    tokio::select! {
        ended = Box::pin(body(process)) => ended.map_err(Into::into)?,
        ended = tasks.ended() => return Err(ended.into()),
    }
    if let Some(failed) = tasks.failure() {
        return Err(failed.into());
    }
    tracing::info!("{} has ended", program.name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[tokio::test]
    async fn a_process_that_has_lost_a_part_drains_the_rest_and_ends_as_failed() {
        let program = Program {
            name: "sample",
            about: "A test's.",
        };
        let options = Options {
            node: "sample".to_owned(),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            logs: logs::Options::default(),
            drain: Duration::from_secs(1),
            threads: 1,
            passed_over: Vec::new(),
        };
        let (drained, has_drained) = tokio::sync::oneshot::channel();
        let body = async move |process: Process| {
            process.tasks.drain_after(
                "shard",
                tokio::spawn(async { Err("number 1: its inbox panicked") }),
            );
            process.shutdown.begun().await;
            let _told = drained.send(());
            Ok::<_, Infallible>(())
        };
        let ended = serve(program, &options, "sample.1".to_owned(), body).await;
        assert_eq!(
            ended.unwrap_err().to_string(),
            "shard ended: number 1: its inbox panicked"
        );
        has_drained.await.unwrap();
    }
}
