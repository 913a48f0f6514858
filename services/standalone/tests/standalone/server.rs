//! The real program, on ports that the system chooses, with its data in a directory of the test's own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use im_e2e::process::Process;
use im_e2e::wait::until;
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const LISTENERS: [&str; 5] = ["tcp", "ws", "http", "page", "admin"];

/// What the ports file says.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) tcp: String,
    pub(crate) ws: String,
    pub(crate) http: String,
    pub(crate) page: String,
    pub(crate) admin: String,
}

pub(crate) struct Server {
    pub(crate) folder: TempDir,
    pub(crate) addresses: Addresses,
    pub(crate) process: Process,
}

/// The program with nothing of the test's own environment that it would take for a setting.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_im-standalone"));
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("IM_"))
    {
        command.env_remove(name);
    }
    command
}

/// The flags that let the system choose every port.
pub(crate) fn any_ports() -> Vec<String> {
    LISTENERS
        .iter()
        .flat_map(|name| [format!("--{name}-listen"), "127.0.0.1:0".to_owned()])
        .collect()
}

impl Server {
    /// Starts it and waits until everything answers.
    pub(crate) async fn start(more: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut flags = any_ports();
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        let (process, addresses) = run(folder.path(), &flags).await?;
        Ok(Self {
            folder,
            addresses,
            process,
        })
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// `kill -9`, then the same again on the same ports.
    pub(crate) async fn kill_and_start(&mut self, more: &[&str]) -> Result<()> {
        self.process.kill()?;
        let Addresses {
            tcp,
            ws,
            http,
            page,
            admin,
        } = &self.addresses;
        let own = LISTENERS.iter().zip([tcp, ws, http, page, admin]);
        let mut flags: Vec<String> = own
            .flat_map(|(name, address)| [format!("--{name}-listen"), address.clone()])
            .collect();
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        let (process, _) = run(self.folder.path(), &flags).await?;
        self.process = process;
        Ok(())
    }

    /// A token of an hour, signed with the secret that the program made.
    pub(crate) fn token(&self, user: &str, rooms: &[&str], scope: &str) -> Result<String> {
        let secret = std::fs::read_to_string(self.data().join("auth.secret"))?;
        let iat = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let claims =
            json!({"sub": user, "iat": iat, "exp": iat + 3600, "rooms": rooms, "scope": scope});
        let key = jsonwebtoken::EncodingKey::from_secret(secret.trim().as_bytes());
        Ok(jsonwebtoken::encode(
            &jsonwebtoken::Header::default(),
            &claims,
            &key,
        )?)
    }
}

async fn run(folder: &Path, flags: &[String]) -> Result<(Process, Addresses)> {
    let ports = folder.join("ports.json");
    let _ = std::fs::remove_file(&ports);
    let mut command = program();
    command
        .args(flags)
        .arg("--data-dir")
        .arg(folder.join("data"))
        .arg("--ports-file")
        .arg(&ports);
    let mut process = Process::start("im-standalone", command, folder)?;
    let told = until("the ports are told", PATIENCE, async || {
        if process.exit_status().ok().flatten().is_some() {
            return Some(None);
        }
        std::fs::read(&ports).ok().map(Some)
    });
    let told = told
        .await?
        .with_context(|| format!("it ended: {}", process.tail(20)))?;
    Ok((process, serde_json::from_slice(&told)?))
}
