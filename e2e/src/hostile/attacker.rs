//! The attacker's process: the lowest priority, so that what the neighbours feel beside it is what the servers do about it and
//! not that the attacker has taken a core, which would be another machine's.

use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::attacks::{Attack, Prepared, Target};

/// What the process is told on its input.
#[derive(Serialize, Deserialize)]
struct Orders {
    attack: Attack,
    tcp: String,
    ws: String,
    http: String,
    rooms: Vec<String>,
    span: Duration,
}

/// What it says in the end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// What came of it for the attacker.
    pub(super) ended: String,
    /// Bytes written.
    pub(super) bytes: u64,
    /// Sockets opened.
    pub(super) sockets: u64,
    /// Of them, closed by the server.
    pub(super) closed: u64,
}

/// Lets this program attack in a process of its own. One that fails, or that goes on for longer than `patience`, says so in
/// its outcome.
pub(super) async fn send_out(
    attack: Attack,
    target: &Target,
    prepared: Prepared,
    span: Duration,
    patience: Duration,
) -> Outcome {
    let orders = Orders {
        attack,
        tcp: target.tcp.clone(),
        ws: target.ws.clone(),
        http: target.http.clone(),
        rooms: prepared.rooms,
        span,
    };
    let failed = |ended: String| Outcome { ended, bytes: 0, sockets: 0, closed: 0 };
    match tokio::time::timeout(patience, run(&orders)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => failed(format!("failed: {error:#}")),
        Err(_) => failed("never ended".to_owned()),
    }
}

async fn run(orders: &Orders) -> Result<Outcome> {
    let mut child = Command::new("nice")
        .args(["-n", "19"])
        .arg(std::env::current_exe()?)
        .arg("attacker")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("nice: install coreutils")?;
    let mut input = child.stdin.take().context("it has an input")?;
    input.write_all(&serde_json::to_vec(orders)?).await?;
    drop(input);
    let output = child.wait_with_output().await?;
    ensure!(output.status.success(), "the attacker: {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Carries out the orders on the input, and prints the outcome.
///
/// # Errors
/// The input holds no orders.
pub async fn attacker() -> Result<()> {
    let mut orders = Vec::new();
    tokio::io::stdin().read_to_end(&mut orders).await?;
    let Orders { attack, tcp, ws, http, rooms, span } = serde_json::from_slice(&orders)?;
    let target = Target::new(tcp, ws, http);
    let ended =
        attack.run(&target, Prepared { rooms }, span).await.unwrap_or_else(|error| format!("failed: {error:#}"));
    let spent = &target.spent;
    let outcome = Outcome {
        ended,
        bytes: spent.bytes.load(Ordering::Relaxed),
        sockets: spent.sockets.load(Ordering::Relaxed),
        closed: spent.closed.load(Ordering::Relaxed),
    };
    let mut output = tokio::io::stdout();
    output.write_all(&serde_json::to_vec(&outcome)?).await?;
    Ok(output.flush().await?)
}
