//! Attackers run in a process of the lowest priority: what the pairs notice is then what the servers do, and not that the
//! attacker has taken a core, which would be another machine's.

use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::attacks::Attack;
use super::target::{Prepared, Target};

/// The standard input of the process.
#[derive(Serialize, Deserialize)]
struct Input {
    attack: Attack,
    tcp: String,
    ws: String,
    http: String,
    rooms: Vec<String>,
    span: Duration,
}

/// Its standard output.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// How the server reacted.
    pub(super) ended: String,
    pub(super) bytes: u64,
    pub(super) sockets: u64,
    /// Sockets that the server closed.
    pub(super) closed: u64,
}

/// Runs an attack in a process of its own. A failure or a timeout is its outcome.
pub(super) async fn run_attack(
    attack: Attack,
    target: &Target,
    prepared: Prepared,
    span: Duration,
    timeout: Duration,
) -> Outcome {
    let input = Input {
        attack,
        tcp: target.tcp.clone(),
        ws: target.ws.clone(),
        http: target.http.clone(),
        rooms: prepared.rooms,
        span,
    };
    let failed = |ended: String| Outcome {
        ended,
        bytes: 0,
        sockets: 0,
        closed: 0,
    };
    match tokio::time::timeout(timeout, run(&input)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => failed(format!("failed: {error:#}")),
        Err(_) => failed("never ended".to_owned()),
    }
}

async fn run(input: &Input) -> Result<Outcome> {
    let mut child = Command::new("nice")
        .args(["-n", "19"])
        .arg(std::env::current_exe()?)
        .arg("attacker")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("nice: install coreutils")?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(&serde_json::to_vec(input)?).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    ensure!(output.status.success(), "the attacker: {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The attacker's process: runs the attack that standard input describes, and prints the outcome.
///
/// # Errors
/// The input is invalid.
pub async fn attacker() -> Result<()> {
    let mut input = Vec::new();
    tokio::io::stdin().read_to_end(&mut input).await?;
    let Input {
        attack,
        tcp,
        ws,
        http,
        rooms,
        span,
    } = serde_json::from_slice(&input)?;
    let target = Target::new(tcp, ws, http);
    let ended = attack
        .run(&target, Prepared { rooms }, span)
        .await
        .unwrap_or_else(|error| format!("failed: {error:#}"));
    let traffic = &target.traffic;
    let outcome = Outcome {
        ended,
        bytes: traffic.bytes.load(Ordering::Relaxed),
        sockets: traffic.sockets.load(Ordering::Relaxed),
        closed: traffic.closed.load(Ordering::Relaxed),
    };
    let mut output = tokio::io::stdout();
    output.write_all(&serde_json::to_vec(&outcome)?).await?;
    Ok(output.flush().await?)
}
