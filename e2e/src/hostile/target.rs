//! The servers under attack, and what every attack shares.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::raw_socket::{RawSocket, Traffic};

/// The address that attackers connect from: another than that of the pairs, so that limits per address tell them apart.
pub(super) const ATTACKER_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
/// Marks the outcome of an attack that succeeded.
pub(super) const HARM: &str = "HARM";
/// The server closed the attacker's connection.
pub(super) const CUT_OFF: &str = "cut off";
/// The attacker's connection was served until the attack was over.
pub(super) const SERVED: &str = "served to the end";
/// The attacker's connection was left open until the attack was over.
pub(super) const STILL_HELD: &str = "still held";

#[derive(Clone)]
pub(super) struct Target {
    /// connect's TCP listener.
    pub(super) tcp: String,
    /// connect's WebSocket listener.
    pub(super) ws: String,
    /// logic's HTTP API.
    pub(super) http: String,
    pub(super) traffic: Arc<Traffic>,
}

/// What an attack has ready before it begins.
#[derive(Default)]
pub(super) struct Prepared {
    pub(super) rooms: Vec<String>,
}

impl Target {
    pub(super) fn new(tcp: String, ws: String, http: String) -> Self {
        Self {
            tcp,
            ws,
            http,
            traffic: Arc::default(),
        }
    }

    pub(super) async fn connect(&self, to: &str) -> Result<RawSocket> {
        RawSocket::connect(ATTACKER_ADDRESS, to, &self.traffic).await
    }

    /// A WebSocket of the native dialect before auth.
    pub(super) async fn websocket(&self) -> Result<RawSocket> {
        RawSocket::websocket(ATTACKER_ADDRESS, &self.ws, &self.traffic).await
    }

    /// A WebSocket of the native dialect after auth.
    pub(super) async fn authenticated(&self, token: &str) -> Result<RawSocket> {
        RawSocket::authenticated(ATTACKER_ADDRESS, &self.ws, token, &self.traffic).await
    }
}

/// Waits for `end`: whether the server has closed the socket by then.
pub(super) async fn hold(mut socket: RawSocket, end: Instant) -> &'static str {
    tokio::time::sleep_until(end).await;
    if socket.is_closed() {
        CUT_OFF
    } else {
        STILL_HELD
    }
}

/// Runs `number` attackers at the same time. The result says how many ended with each outcome.
pub(super) async fn attackers<F>(number: usize, attacker: impl Fn(usize) -> F) -> String
where
    F: Future<Output = Result<&'static str>> + Send + 'static,
{
    let mut attackers = JoinSet::new();
    for index in 0..number {
        attackers.spawn(attacker(index));
    }
    let mut counts = BTreeMap::<String, usize>::new();
    for outcome in attackers.join_all().await {
        let outcome = outcome.map_or_else(|error| shorten(&error), str::to_owned);
        *counts.entry(outcome).or_default() += 1;
    }
    let counts: Vec<_> = counts
        .into_iter()
        .map(|(outcome, count)| format!("{count} × {outcome}"))
        .collect();
    counts.join(", ")
}

/// An error in a word or two, so that equal ones can be counted.
fn shorten(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let code = text
        .split("\"code\":\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let code = code.map(str::to_owned).or_else(|| {
        let number = text.split("\"code\":").nth(1)?.split([',', '}']).next()?;
        Some(format!("close {number}"))
    });
    code.unwrap_or_else(|| {
        if text.contains("reset") || text.contains("Broken pipe") {
            CUT_OFF.to_owned()
        } else {
            text
        }
    })
}
