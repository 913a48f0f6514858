//! The attacks. Each prepares what it needs before the pairs are measured, runs for a given time, and reports how the server
//! reacted.

mod api;
mod connections;
mod rooms;

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::target::{HARM, Prepared, Target};

/// What attackers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Attack {
    /// goim clients that accept 32,000 operations and then drop as many, repeatedly.
    LongAccepts,
    /// One user who subscribes to many full rooms from their beginning, repeatedly.
    ResumeStorm,
    /// Positions just below 2^64 in a thousand rooms.
    FarPositions,
    /// Many connections of one user that request pages of history and do not read them.
    UnreadPages,
    /// Thousands of sockets that send most of a frame before auth and then nothing.
    HalfFrames,
    /// WebSocket pongs before auth, as fast as the server reads.
    Pongs,
    /// The same after auth.
    PongsAfterAuth,
    /// HTTP requests whose header never ends.
    HttpHeaders,
    /// Idle HTTP connections, as many as the server allows.
    HttpIdle,
    /// HTTP requests without a token whose body is sent one byte per second.
    HttpSlowBodies,
    /// A stranger who adds a user to a thousand groups.
    GroupBombs,
    /// A message that strict JSON parsers reject, in a user's list of conversations.
    BadJson,
    /// One user who sends messages of the maximum size as fast as the server reads.
    FatMessages,
    /// The same in an open room with slow readers.
    FatRoom,
    /// Requests that subscribe to and unsubscribe from a thousand new rooms.
    SubscribeStorm,
    /// Invalid tokens, as fast as connections can be opened.
    BadTokens,
    /// Ten thousand sockets that send nothing.
    HalfOpen,
    /// Sockets that send their HTTP upgrade byte by byte.
    SlowUpgrades,
}

impl Attack {
    /// All attacks.
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

    /// Runs for about `span`: how the server reacted.
    pub(super) async fn run(
        self,
        target: &Target,
        prepared: Prepared,
        span: Duration,
    ) -> Result<String> {
        match self {
            Self::LongAccepts => connections::long_accepts(target, span).await,
            Self::ResumeStorm => rooms::resume_storm(target, &prepared.rooms, span).await,
            Self::FarPositions => rooms::far_positions(target, &prepared.rooms, span).await,
            Self::UnreadPages => rooms::unread_pages(target, &prepared.rooms, span).await,
            Self::HalfFrames => connections::half_frames(target, span).await,
            Self::Pongs => connections::pongs(target, false, span).await,
            Self::PongsAfterAuth => connections::pongs(target, true, span).await,
            Self::HttpHeaders => api::endless_headers(target, span).await,
            Self::HttpIdle => connections::idle(target, &target.http, 4_200, span).await,
            Self::HttpSlowBodies => api::slow_bodies(target, span).await,
            Self::GroupBombs => api::group_bombs(target, span).await,
            Self::BadJson => api::bad_json(target, span).await,
            Self::FatMessages => rooms::fat_messages(target, span).await,
            Self::FatRoom => rooms::fat_room(target, &prepared.rooms, span).await,
            Self::SubscribeStorm => rooms::subscribe_storm(target, span).await,
            Self::BadTokens => connections::bad_tokens(target, span).await,
            Self::HalfOpen => connections::idle(target, &target.tcp, 10_000, span).await,
            Self::SlowUpgrades => connections::slow_upgrades(target, span).await,
        }
    }

    /// The harm that an outcome stands for.
    pub(super) fn harm(ended: &str) -> Vec<String> {
        let bad = ended.contains(HARM) || ended.starts_with("failed") || ended == "never ended";
        bad.then(|| ended.to_owned()).into_iter().collect()
    }
}
