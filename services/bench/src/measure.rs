//! One pass: clients connect, each rate is run and measured in turn, clients leave.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::Stdio;
use std::time::Duration;

use im_cli::failure::{Exit, Failure};
use im_cli::token::{Claims, Signer};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::plan::{self, Api, BenchArgs, Dialect, Neighbour, Part, Phase, Target};
use crate::probe::{Machine, Sample, Server};
use crate::stamp;
use crate::tally::Figures;
use crate::workers::Workers;

/// Connections to the HTTP API of each worker.
const API_CONNECTIONS: usize = 32;
/// From the order until a phase begins.
const HEAD_START: u64 = 300_000_000;
const TOKENS_LIVE: Duration = Duration::from_secs(24 * 3600);

/// What is measured.
pub(crate) struct Aim {
    pub(crate) name: String,
    pub(crate) targets: Vec<Target>,
    pub(crate) api: Option<SocketAddr>,
    pub(crate) servers: Vec<Server>,
    /// `None`: nobody looks at tokens.
    pub(crate) signer: Option<Signer>,
    pub(crate) dialect: Dialect,
}

/// What one process used while a phase was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Used {
    pub(crate) name: String,
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: f64,
    /// By how much its own figures grew; those that did not are left out.
    pub(crate) grew: BTreeMap<String, f64>,
}

/// A phase that has been measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measured {
    pub(crate) rate: f64,
    pub(crate) seconds: f64,
    pub(crate) figures: Figures,
    pub(crate) servers: Vec<Used>,
    pub(crate) client_cpu_seconds: f64,
    /// Per cent of the machine.
    pub(crate) steal: f64,
    pub(crate) idle: f64,
    /// The rate of the room beside, and what its clients saw.
    pub(crate) beside: Option<(f64, Figures)>,
    /// Deliveries by the servers' own count, over the whole phase.
    pub(crate) server_deliveries: Option<f64>,
}

impl Measured {
    /// The same stretch as the room beside saw it.
    pub(crate) fn of_beside(&self) -> Option<Self> {
        let (rate, figures) = self.beside.clone()?;
        Some(Self {
            rate,
            figures,
            beside: Some((self.rate, self.figures.clone())),
            ..self.clone()
        })
    }
}

/// What connecting cost.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Entry {
    pub(crate) clients: usize,
    pub(crate) seconds: f64,
    pub(crate) failed: BTreeMap<String, u64>,
    pub(crate) server_cpu_seconds: f64,
    /// By how much each process grew per connection it has a share in, in bytes.
    pub(crate) user_bytes: BTreeMap<String, f64>,
    /// By how much the kernel's memory grew per connection; both ends of it are here where the servers are.
    pub(crate) kernel_bytes: f64,
}

/// Rooms that were heard for a moment.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Visited {
    pub(crate) rooms: u64,
    pub(crate) seconds: f64,
    /// By how much each process has grown per room since before, when the pass ended, in bytes.
    pub(crate) user_bytes: BTreeMap<String, f64>,
}

/// One pass.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Pass {
    pub(crate) name: String,
    pub(crate) round: u16,
    pub(crate) entry: Entry,
    /// Where rooms were visited.
    pub(crate) visited: Option<Visited>,
    pub(crate) phases: Vec<Measured>,
}

/// `host:port` of an `http://` URL.
pub(crate) fn authority(url: &str) -> Result<SocketAddr, Failure> {
    let wrong = || Failure::usage(format!("{url:?} is not http://host:port"));
    let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
    let host = rest.split('/').next().unwrap_or_default();
    host.to_socket_addrs()
        .ok()
        .and_then(|mut all| all.find(SocketAddr::is_ipv4))
        .ok_or_else(wrong)
}

/// Starts the floor and reads where it listens.
pub(crate) async fn start_floor(joins: bool) -> Result<(Child, SocketAddr), Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("floor").args(joins.then_some("--joins"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let silent = || Failure::new(Exit::Failed, "the floor does not say where it listens");
    let mut lines = BufReader::new(child.stdout.take().ok_or_else(silent)?).lines();
    let line = timeout(Duration::from_secs(5), lines.next_line())
        .await
        .map_err(|_| silent())??;
    let address = line
        .and_then(|line| line.trim().parse().ok())
        .ok_or_else(silent)?;
    Ok((child, address))
}

fn parts(args: &BenchArgs, aim: &Aim, round: u16) -> Result<Vec<Part>, Failure> {
    let workers = usize::from(args.workers);
    let run = format!("{:x}-{round}", clock::now());
    let rooms: Vec<String> = (0..args.rooms)
        .map(|number| format!("bench://{run}-{number}"))
        .collect();
    let mut parts = Vec::new();
    for number in 0..workers {
        let clients = plan::clients(rooms.len(), args.members as usize, number, workers);
        let names = clients.map(|who| format!("b{run}-{}-{}", who.room, who.member));
        let tokens = names
            .map(|name| token(aim, &name, false))
            .collect::<Result<Vec<_>, _>>()?;
        enough_descriptors(tokens.len())?;
        let api = match aim.api {
            Some(address) => Some(Api {
                address,
                token: token(aim, &format!("b{run}-api-{number}"), true)?,
                connections: API_CONNECTIONS,
            }),
            None => None,
        };
        parts.push(Part {
            number,
            workers,
            targets: aim.targets.clone(),
            dialect: aim.dialect,
            rooms: rooms.clone(),
            members: args.members as usize,
            size: args.size,
            tokens,
            connect_rate: f64::from(args.connect_rate) / workers as f64,
            api,
        });
    }
    Ok(parts)
}

fn enough_descriptors(wanted: usize) -> Result<(), Failure> {
    let limit = im_runtime::descriptor_limit().unwrap_or(u64::MAX);
    if (wanted + API_CONNECTIONS + 16) as u64 <= limit {
        return Ok(());
    }
    let text = format!("{wanted} connections in one process, which may open {limit} files");
    Err(Failure::usage(text).hint("give more --workers, or raise the limit: ulimit -n"))
}

fn token(aim: &Aim, user: &str, admin: bool) -> Result<String, Failure> {
    let Some(signer) = &aim.signer else {
        return Ok(String::new());
    };
    let mut claims = Claims::new(user, TOKENS_LIVE).admin(admin);
    claims.rooms = vec!["*".to_owned()];
    signer
        .sign(&claims)
        .map_err(|error| Failure::new(Exit::Failed, error))
}

async fn look(servers: &[Server]) -> Result<Vec<Sample>, Failure> {
    let mut samples = Vec::with_capacity(servers.len());
    for server in servers {
        samples.push(server.look().await?);
    }
    Ok(samples)
}

/// The clients of a room beside, all of them in.
async fn neighbours(
    args: &BenchArgs,
    aim: &Aim,
    beside: Neighbour,
    round: u16,
) -> Result<Workers, Failure> {
    let args = BenchArgs {
        rooms: 1,
        members: beside.members,
        ..args.clone()
    };
    let parts = parts(&args, aim, round)?;
    let mut workers = Workers::start(parts.len())?;
    let connected = workers.connect(parts).await?;
    if connected.clients < beside.members as usize {
        return Err(nobody(
            &format!("{} of {} clients beside", connected.clients, beside.members),
            connected.failed,
        ));
    }
    Ok(workers)
}

fn nobody(who: &str, failed: BTreeMap<String, u64>) -> Failure {
    let why: Vec<String> = failed
        .into_iter()
        .map(|(why, count)| format!("{count}: {why}"))
        .collect();
    Failure::new(
        Exit::Unreachable,
        format!("{who} got in ({})", why.join("; ")),
    )
}

/// Does it all once, next to another room where one is given.
pub(crate) async fn pass(
    args: &BenchArgs,
    aim: &Aim,
    beside: Option<Neighbour>,
    round: u16,
) -> Result<Pass, Failure> {
    let parts = parts(args, aim, round)?;
    let mut workers = Workers::start(parts.len())?;
    let before = look(&aim.servers).await?;
    let machine = Machine::look();
    let connected = workers.connect(parts).await?;
    if connected.clients == 0 {
        return Err(nobody("no client", connected.failed));
    }
    let after = look(&aim.servers).await?;
    let clients = connected.clients as f64;
    let entry = Entry {
        clients: connected.clients,
        seconds: connected.seconds,
        failed: connected.failed,
        server_cpu_seconds: before
            .iter()
            .zip(&after)
            .map(|(before, after)| after.cpu_seconds - before.cpu_seconds)
            .sum(),
        user_bytes: grown(aim, &before, &after, clients),
        kernel_bytes: (Machine::look().kernel_bytes - machine.kernel_bytes) / clients,
    };
    let visited = match args.visit {
        0 => None,
        each => Some(workers.visit(each, connected.clients).await?),
    };
    let mut other = match beside {
        None => None,
        Some(beside) => Some((beside, neighbours(args, aim, beside, round).await?)),
    };
    let mut phases = Vec::new();
    for (number, rate) in args.rate.iter().enumerate() {
        phases.push(phase(args, aim, &mut workers, &mut other, number, *rate).await?);
    }
    let visited = match visited {
        None => None,
        Some((rooms, seconds)) => {
            let user_bytes = grown(aim, &after, &look(&aim.servers).await?, rooms as f64);
            Some(Visited {
                rooms,
                seconds,
                user_bytes,
            })
        }
    };
    workers.leave().await?;
    let name = if beside.is_some() {
        format!("{} beside", aim.name)
    } else {
        aim.name.clone()
    };
    if let Some((_, other)) = other {
        other.leave().await?;
    }
    Ok(Pass {
        name,
        round,
        entry,
        visited,
        phases,
    })
}

/// By how many bytes each process has grown for each of so many.
fn grown(aim: &Aim, before: &[Sample], after: &[Sample], of: f64) -> BTreeMap<String, f64> {
    let both = aim.servers.iter().zip(before.iter().zip(after));
    let each = |(server, (before, after)): (&Server, (&Sample, &Sample))| {
        (
            server.name.clone(),
            (after.resident_bytes - before.resident_bytes) / of,
        )
    };
    both.map(each).collect()
}

async fn phase(
    args: &BenchArgs,
    aim: &Aim,
    workers: &mut Workers,
    beside: &mut Option<(Neighbour, Workers)>,
    number: usize,
    rate: f64,
) -> Result<Measured, Failure> {
    let at_first = look(&aim.servers).await?;
    let begin = clock::now() + HEAD_START;
    let from = begin + args.warmup.as_nanos() as u64;
    let to = from + args.duration.as_nanos() as u64;
    let phase =
        // Phases that follow each other differ; those as many apart are never under way together.
        Phase { number: (number % stamp::PHASES) as u8, rate, begin, from, to, senders: plan::senders(rate, args.rooms, args.members) };
    workers.begin(phase).await?;
    if let Some((Neighbour { members, rate }, other)) = beside {
        other
            .begin(Phase {
                rate: *rate,
                senders: plan::senders(*rate, 1, *members),
                ..phase
            })
            .await?;
    }
    let clients_cpu = |workers: &Workers, beside: &Option<(Neighbour, Workers)>| {
        workers.cpu_seconds()
            + beside
                .as_ref()
                .map_or(0.0, |(_, other)| other.cpu_seconds())
    };

    sleep_until(from).await;
    let before = look(&aim.servers).await?;
    let machine = Machine::look();
    let clients = clients_cpu(workers, beside);
    let began = clock::now();
    sleep_until(to).await;
    let after = look(&aim.servers).await?;
    let later = Machine::look();
    let clients_after = clients_cpu(workers, beside);
    let seconds = (clock::now() - began) as f64 / 1e9;
    let figures = workers.end(phase).await?;
    let beside = match beside {
        None => None,
        Some((room, other)) => Some((room.rate, other.end(phase).await?)),
    };
    let at_last = look(&aim.servers).await?;

    let (steal, idle) = later.steal_and_idle(&machine);
    let both = aim.servers.iter().zip(before.iter().zip(&after));
    let servers = both.map(|(server, (before, after))| Used {
        name: server.name.clone(),
        cpu_seconds: after.cpu_seconds - before.cpu_seconds,
        resident_bytes: after.resident_bytes,
        grew: growth(before, after),
    });
    let deliveries = |samples: &[Sample]| -> Option<f64> {
        let counts: Vec<f64> = samples
            .iter()
            .filter_map(|sample| sample.figures.get("im_connect_deliveries_total").copied())
            .collect();
        (!counts.is_empty()).then(|| counts.iter().sum())
    };
    Ok(Measured {
        rate,
        seconds,
        figures,
        servers: servers.collect(),
        client_cpu_seconds: clients_after - clients,
        beside,
        steal,
        idle,
        server_deliveries: deliveries(&at_last)
            .zip(deliveries(&at_first))
            .map(|(last, first)| last - first),
    })
}

fn growth(before: &Sample, after: &Sample) -> BTreeMap<String, f64> {
    let grown = after.figures.iter().map(|(name, value)| {
        (
            name.clone(),
            value - before.figures.get(name).copied().unwrap_or(0.0),
        )
    });
    grown
        .filter(|(name, by)| name.ends_with("_total") && *by > 0.0)
        .collect()
}

async fn sleep_until(at: u64) {
    sleep(Duration::from_nanos(at.saturating_sub(clock::now()))).await;
}
