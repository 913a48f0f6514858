//! What attackers do. Each kind has what it needs made before the neighbours are measured, goes on for a given time, and says
//! in the end what the server did with it.

mod api;
mod connections;
mod rooms;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::raw::Spent;

/// Where attackers come from: not the neighbours' address, so that limits per address can tell them apart.
pub(super) const FROM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

/// The servers under attack.
#[derive(Clone)]
pub(super) struct Target {
    /// connect's TCP listener.
    pub(super) tcp: String,
    /// connect's WebSocket listener.
    pub(super) ws: String,
    /// logic's HTTP API.
    pub(super) http: String,
    /// What is spent on it.
    pub(super) spent: Arc<Spent>,
}

impl Target {
    /// Nothing is spent on it yet.
    pub(super) fn new(tcp: String, ws: String, http: String) -> Self {
        Self { tcp, ws, http, spent: Arc::default() }
    }
}

/// One kind of attacker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Attack {
    /// goim clients that accept 32,000 operations and take as many back, again and again.
    LongAccepts,
    /// One user who subscribes to all of many full rooms from their beginning, again and again.
    ResumeStorm,
    /// Positions just below 2^64 in a thousand rooms.
    FarPositions,
    /// Many connections of one user that ask for pages of history and do not read.
    UnreadPages,
    /// Thousands of sockets that send the most of a frame before auth, and no more.
    HalfFrames,
    /// WebSocket pongs as fast as the socket takes them, before auth.
    Pongs,
    /// The same of somebody with a token.
    PongsAfterAuth,
    /// HTTP requests whose header never ends.
    HttpHeaders,
    /// Idle HTTP connections, as many as the server has.
    HttpIdle,
    /// HTTP requests whose body comes a byte a second, without a token.
    HttpSlowBodies,
    /// A stranger who puts somebody into a thousand groups.
    GroupBombs,
    /// A message that strict JSON parsers refuse, in somebody's list of conversations.
    BadJson,
    /// One user who sends the longest messages as fast as the server takes them.
    FatMessages,
    /// The same in an open room of slow readers.
    FatRoom,
    /// Subscribing to and leaving a thousand new rooms per request.
    SubscribeStorm,
    /// Tokens that are not good, as fast as connections can be made.
    BadTokens,
    /// Ten thousand sockets that say nothing.
    HalfOpen,
    /// Sockets that send their upgrade a byte at a time.
    SlowUpgrades,
}

/// What an attack has ready before it begins.
#[derive(Default)]
pub(super) struct Prepared {
    pub(super) rooms: Vec<String>,
}

impl Attack {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::LongAccepts,
        Self::ResumeStorm,
        Self::FarPositions,
        Self::UnreadPages,
        Self::HalfFrames,
        Self::Pongs,
        Self::PongsAfterAuth,
        Self::HttpHeaders,
        Self::HttpIdle,
        Self::HttpSlowBodies,
        Self::GroupBombs,
        Self::BadJson,
        Self::FatMessages,
        Self::FatRoom,
        Self::SubscribeStorm,
        Self::BadTokens,
        Self::HalfOpen,
        Self::SlowUpgrades,
    ];

    pub(super) async fn prepare(self, target: &Target) -> Result<Prepared> {
        match self {
            Self::ResumeStorm => rooms::full_rooms(target, 200, 4, 60 << 10).await,
            Self::FarPositions => rooms::full_rooms(target, 1_000, 1, 10).await,
            Self::UnreadPages => rooms::full_rooms(target, 1, 20, 60 << 10).await,
            Self::FatRoom => rooms::full_rooms(target, 1, 1, 10).await,
            _ => Ok(Prepared::default()),
        }
    }

    /// Goes on for about `span`, and says what the server did.
    pub(super) async fn run(self, target: &Target, prepared: Prepared, span: Duration) -> Result<String> {
        match self {
            Self::LongAccepts => connections::long_accepts(target, span).await,
            Self::ResumeStorm => rooms::resume_storm(target, &prepared.rooms, span).await,
            Self::FarPositions => rooms::far_positions(target, &prepared.rooms, span).await,
            Self::UnreadPages => rooms::unread_pages(target, &prepared.rooms, span).await,
            Self::HalfFrames => connections::half_frames(target, span).await,
            Self::Pongs => connections::pongs(target, false, span).await,
            Self::PongsAfterAuth => connections::pongs(target, true, span).await,
            Self::HttpHeaders => api::endless_headers(target, span).await,
            Self::HttpIdle => api::idle(target, span).await,
            Self::HttpSlowBodies => api::slow_bodies(target, span).await,
            Self::GroupBombs => api::group_bombs(target, span).await,
            Self::BadJson => api::bad_json(target, span).await,
            Self::FatMessages => rooms::fat_messages(target, span).await,
            Self::FatRoom => rooms::fat_room(target, &prepared.rooms, span).await,
            Self::SubscribeStorm => rooms::subscribe_storm(target, span).await,
            Self::BadTokens => connections::bad_tokens(target, span).await,
            Self::HalfOpen => connections::half_open(target, 10_000, span).await,
            Self::SlowUpgrades => connections::slow_upgrades(target, span).await,
        }
    }

    /// What must not be, by what the attacker saw.
    pub(super) fn harm(self, ended: &str) -> Vec<String> {
        let bad = ended.contains(HARM) || ended.starts_with("failed") || ended == "never ended";
        bad.then(|| ended.to_owned()).into_iter().collect()
    }
}

/// Marks an outcome that harms somebody.
pub(super) const HARM: &str = "HARM";

/// Runs `attacker` so many times at once; each says what came of it, and the counts of that are the result.
pub(super) async fn crowd<F>(number: usize, attacker: impl Fn(usize) -> F) -> String
where
    F: Future<Output = Result<&'static str>> + Send + 'static,
{
    let mut attackers = JoinSet::new();
    for index in 0..number {
        attackers.spawn(attacker(index));
    }
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for outcome in attackers.join_all().await {
        let outcome = outcome.map_or_else(|error| short(&error), str::to_owned);
        *counts.entry(outcome).or_default() += 1;
    }
    let counts: Vec<_> = counts.into_iter().map(|(outcome, count)| format!("{count} × {outcome}")).collect();
    counts.join(", ")
}

/// An error as a word or two, so that equal ones can be counted.
fn short(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let code = text.split("\"code\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let code = code.map(str::to_owned).or_else(|| {
        let number = text.split("\"code\":").nth(1)?.split([',', '}']).next()?;
        Some(format!("close {number}"))
    });
    code.unwrap_or_else(|| {
        if text.contains("reset") || text.contains("Broken pipe") { "cut off".to_owned() } else { text }
    })
}
