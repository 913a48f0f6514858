//! What is to be measured: from the command line to each worker's part.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use im_cli::failure::Failure;
use im_cli::token::KeyArgs;
use serde::{Deserialize, Serialize};

use crate::stamp;

/// `imctl bench`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchArgs {
    /// Where clients connect: tcp://host:3101 or ws://host:3102/ws; several share the clients.
    #[arg(
        long,
        short,
        env = "IM_ADDRESS",
        value_delimiter = ',',
        conflicts_with = "start"
    )]
    pub(crate) address: Vec<String>,
    /// The HTTP API, for --from api.
    #[arg(long, env = "IM_HTTP", value_name = "URL", conflicts_with = "start")]
    pub(crate) http: Option<String>,
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// Start servers for the run, from the programs beside imctl; a cluster takes redis-server and etcd from the PATH.
    #[arg(long, value_enum)]
    pub(crate) start: Option<Start>,
    /// With --start cluster: so many connect processes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) connects: u16,
    /// With --start: a setting for the servers, as its variable: IM_SHARDS=1.
    #[arg(long, value_name = "IM_…=VALUE", value_parser = pair)]
    pub(crate) set: Vec<(String, String)>,
    /// Over WebSocket; without, --start's servers are spoken to over TCP.
    #[arg(long)]
    pub(crate) websocket: bool,
    /// What the clients speak.
    #[arg(long, value_enum, default_value = "native")]
    pub(crate) dialect: Dialect,
    /// Open rooms.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rooms: u32,
    /// Clients in each room, each in one.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) members: u32,
    /// Messages per second over all rooms; several are measured one after the other. 0: idle connections.
    #[arg(long, value_delimiter = ',', default_value = "20")]
    pub(crate) rate: Vec<f64>,
    /// Bytes of a message's body.
    #[arg(long, default_value_t = 100)]
    pub(crate) size: usize,
    /// Who sends: the clients themselves, or a backend over the HTTP API.
    #[arg(long, value_enum, default_value = "clients")]
    pub(crate) from: From,
    /// How long is measured.
    #[arg(long, default_value = "10s", value_parser = im_cli::duration::duration)]
    pub(crate) duration: Duration,
    /// How long messages are sent before it.
    #[arg(long, default_value = "2s", value_parser = im_cli::duration::duration)]
    pub(crate) warmup: Duration,
    /// Rooms that each client hears and leaves again before anything else: what they have left behind in the servers at the
    /// end is told per room. Rooms that were left are kept for IM_ROOM_LINGER.
    #[arg(long, value_name = "ROOMS", default_value_t = 0, conflicts_with = "floor", value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub(crate) visit: u32,
    /// A room of so many further clients, in which so many messages per second are sent meanwhile: what it does to the
    /// others. Measured without it first.
    #[arg(long, value_name = "MEMBERS@RATE", value_parser = neighbour)]
    pub(crate) beside: Option<Neighbour>,
    /// Processes that the clients are spread over.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub(crate) workers: u16,
    /// Connections opened per second.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) connect_rate: u32,
    /// A server's process on this machine: its CPU time and memory are read from the system.
    #[arg(long, value_name = "NAME=PID", value_parser = named_pid)]
    pub(crate) pid: Vec<(String, u32)>,
    /// A server's admin address: its figures are read from there, and without --pid its CPU time and memory as well.
    #[arg(long, value_name = "NAME=URL", value_parser = pair)]
    pub(crate) admin: Vec<(String, String)>,
    /// Measure the floor in the same run: a server that does nothing but read and write.
    #[arg(long)]
    pub(crate) floor: bool,
    /// The floor joins what has arrived at once into one write per client.
    #[arg(long, requires = "floor")]
    pub(crate) floor_joins: bool,
    /// Measure so many times; the middle and the extremes are shown.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) rounds: u16,
    /// Fail where deliveries per CPU-second are less than this share of the floor's.
    #[arg(long, value_name = "SHARE", requires = "floor")]
    pub(crate) at_least: Option<f64>,
    /// Fail where a server's process grew by more bytes per connection than this, over all connections at once.
    #[arg(long, value_name = "BYTES")]
    pub(crate) at_most: Option<f64>,
    /// Print everything as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write a page with plots to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

/// A room next to those that are measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Neighbour {
    pub(crate) members: u32,
    /// Messages per second.
    pub(crate) rate: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Start {
    /// One im-standalone, its data in a temporary folder.
    Standalone,
    /// One redis, one etcd, one im-logic and --connects im-connect.
    Cluster,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Dialect {
    /// The native protocol's binary frames.
    Native,
    /// Its JSON frames, over WebSocket.
    Json,
    /// goim's.
    Goim,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum From {
    Clients,
    Api,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn neighbour(text: &str) -> Result<Neighbour, String> {
    let read = || {
        let (members, rate) = text.split_once('@')?;
        let members = members.parse().ok()?;
        let rate = rate.parse().ok()?;
        ((1..=1_000_000).contains(&members) && rate > 0.0 && f64::is_finite(rate))
            .then_some(Neighbour { members, rate })
    };
    read().ok_or_else(|| format!("{text:?} is not MEMBERS@RATE, as in 5000@8"))
}

fn named_pid(text: &str) -> Result<(String, u32), String> {
    let (name, pid) = pair(text)?;
    Ok((
        name,
        pid.parse()
            .map_err(|_| format!("{pid:?} is not a process id"))?,
    ))
}

impl BenchArgs {
    /// Checks what clap cannot.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let wrong = |text: &str| Err(Failure::usage(text));
        if self.start.is_none() && self.address.is_empty() {
            return wrong(
                "nothing to measure: give --start standalone, --start cluster, or --address",
            );
        }
        if self.size < stamp::LENGTH {
            return Err(Failure::usage(format!(
                "--size {}: {} at least, for the stamp",
                self.size,
                stamp::LENGTH
            )));
        }
        if self
            .rate
            .iter()
            .any(|rate| !rate.is_finite() || *rate < 0.0)
        {
            return wrong("--rate: a number of messages per second, 0 or more");
        }
        if self.dialect == Dialect::Json
            && !(self.websocket || self.address.iter().all(|a| a.starts_with("ws://")))
        {
            return wrong("--dialect json needs WebSocket: give --websocket, or ws:// addresses");
        }
        if self.visit > 0 && self.dialect == Dialect::Goim {
            return wrong(
                "--visit: over goim a client has one room; give --dialect native or json",
            );
        }
        if self.beside.is_some() && self.from == From::Api {
            return wrong("--beside: its clients send themselves; give --from clients");
        }
        if self.from == From::Api && self.start.is_none() && self.http.is_none() {
            return wrong("--from api needs --http");
        }
        Ok(())
    }
}

/// Where a client connects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// The path to upgrade at; `None`: TCP.
    pub(crate) path: Option<String>,
}

impl Target {
    /// From `tcp://host:port` or `ws://host:port/path`.
    pub(crate) fn new(url: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            Failure::usage(format!(
                "{url:?} is not tcp://host:port or ws://host:port/path: {why}"
            ))
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("no scheme"))?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, "ws"));
        let path = match scheme {
            "tcp" => None,
            "ws" => Some(format!("/{path}")),
            _ => return Err(wrong("tcp or ws only; TLS is not spoken here")),
        };
        let default = if scheme == "tcp" { 3101 } else { 3102 };
        let authority = if authority.contains(':') {
            authority.to_owned()
        } else {
            format!("{authority}:{default}")
        };
        let mut addresses = authority
            .to_socket_addrs()
            .map_err(|error| wrong(&error.to_string()))?;
        let address = addresses
            .find(SocketAddr::is_ipv4)
            .ok_or_else(|| wrong("no IPv4 address"))?;
        Ok(Self { address, path })
    }
}

/// How to send over the HTTP API.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    /// Connections of one worker.
    pub(crate) connections: usize,
}

/// One worker's part of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Part {
    /// Which worker, from 0.
    pub(crate) number: usize,
    pub(crate) workers: usize,
    pub(crate) targets: Vec<Target>,
    pub(crate) dialect: Dialect,
    pub(crate) rooms: Vec<String>,
    pub(crate) members: usize,
    pub(crate) size: usize,
    /// One per client of this worker, in the order of [`Part::clients`].
    pub(crate) tokens: Vec<String>,
    /// This worker's share, per second.
    pub(crate) connect_rate: f64,
    /// Where the API sends; `None`: the clients do.
    pub(crate) api: Option<Api>,
}

/// Who a client is: the `member`-th of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) room: usize,
    pub(crate) member: usize,
}

/// A room's members are spread over all workers.
pub(crate) fn clients(
    rooms: usize,
    members: usize,
    number: usize,
    workers: usize,
) -> impl Iterator<Item = Who> {
    let own = (0..members).filter(move |member| member % workers == number);
    own.flat_map(move |member| (0..rooms).map(move |room| Who { room, member }))
}

impl Part {
    pub(crate) fn clients(&self) -> impl Iterator<Item = Who> {
        clients(self.rooms.len(), self.members, self.number, self.workers)
    }
}

/// A stretch of sending at one rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Phase {
    pub(crate) number: u8,
    /// Messages per second over all rooms and workers.
    pub(crate) rate: f64,
    /// When it begins, on [`crate::clock`].
    pub(crate) begin: u64,
    /// When measuring begins.
    pub(crate) from: u64,
    /// When measuring and sending end.
    pub(crate) to: u64,
    /// Senders per room.
    pub(crate) senders: usize,
}

/// Sends per second that one client makes at most: the servers' default limit is 100.
const PER_SENDER: f64 = 50.0;

/// How many of a room's members take turns at sending, so that none is over its rate.
pub(crate) fn senders(rate: f64, rooms: u32, members: u32) -> usize {
    let wanted = (rate / f64::from(rooms) / PER_SENDER).ceil().max(1.0);
    (wanted as usize)
        .min(members as usize)
        .min(usize::from(u16::MAX))
}

/// One message that is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// The how-manieth of the phase over all rooms, from 0.
    pub(crate) message: u64,
    /// When, on [`crate::clock`].
    pub(crate) at: u64,
    pub(crate) room: usize,
    /// Which of the room's senders.
    pub(crate) sender: usize,
    /// That sender's how-manieth, from 1.
    pub(crate) number: u32,
}

impl Phase {
    /// A message of the phase, counted over all workers; `None`: the phase is over by then.
    pub(crate) fn due(&self, message: u64, rooms: usize) -> Option<Due> {
        if self.rate <= 0.0 {
            return None;
        }
        let at = self.begin + (message as f64 * 1e9 / self.rate) as u64;
        if at >= self.to {
            return None;
        }
        let rooms = rooms as u64;
        let room = (message % rooms) as usize;
        let turn = message / rooms;
        let senders = self.senders as u64;
        let sender = (turn % senders) as usize;
        let number = (turn / senders) as u32 + 1;
        Some(Due {
            message,
            at,
            room,
            sender,
            number,
        })
    }

    /// Which member of the room that sender is: rooms differ, so that the workers share the sending.
    pub(crate) fn member(due: Due, members: usize) -> usize {
        (due.room + due.sender) % members
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    #[test]
    fn every_client_belongs_to_one_worker() {
        let mut seen = HashSet::new();
        for number in 0..3 {
            for who in clients(7, 10, number, 3) {
                assert!(seen.insert((who.room, who.member)));
            }
        }
        assert_eq!(seen.len(), 70);
    }

    #[test]
    fn senders_take_turns_and_count_without_a_gap() {
        let phase = Phase {
            number: 0,
            rate: 1000.0,
            begin: 5,
            from: 5,
            to: 1_000_000_005,
            senders: 4,
        };
        let mut last: HashMap<(usize, usize), u32> = HashMap::new();
        let all: Vec<Due> = (0..).map_while(|k| phase.due(k, 3)).collect();
        for due in &all {
            let number = last.entry((due.room, due.sender)).or_default();
            assert_eq!(due.number, *number + 1);
            *number = due.number;
        }
        assert_eq!((all.len(), last.len()), (1000, 12));
        assert!(all.is_sorted_by_key(|due| due.at));
    }

    #[test]
    fn nobody_sends_over_the_limit_where_there_are_enough_members() {
        assert_eq!(senders(20.0, 1, 1000), 1);
        assert_eq!(senders(1000.0, 1, 1000), 20);
        assert_eq!(senders(15_000.0, 500, 2), 1);
        assert_eq!(senders(100_000.0, 1, 10), 10);
    }

    #[test]
    fn a_neighbour_has_members_and_a_rate() {
        assert_eq!(
            neighbour("5000@8"),
            Ok(Neighbour {
                members: 5_000,
                rate: 8.0
            })
        );
        for wrong in ["5000", "0@8", "5000@0", "5000@inf", "@", "a@b"] {
            assert!(neighbour(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_are_understood() {
        let target = Target::new("ws://127.0.0.1:9/sub").unwrap();
        assert_eq!(
            (target.address.port(), target.path.as_deref()),
            (9, Some("/sub"))
        );
        assert_eq!(Target::new("tcp://127.0.0.1").unwrap().address.port(), 3101);
        assert!(Target::new("wss://localhost").is_err());
    }
}
