//! Real etcd on free ports.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use im_runtime::unused_port;

use crate::process::Process;
use crate::wait::until;

const TIMEOUT: Duration = Duration::from_secs(30);

/// One etcd server; it is killed when dropped.
#[derive(Debug)]
pub struct Etcd {
    client: u16,
    peer: u16,
    data: PathBuf,
    process: Process,
}

impl Etcd {
    /// Starts it and waits until it is healthy.
    pub async fn start(folder: &Path) -> Result<Self> {
        let client = unused_port()?;
        let peer = unused_port()?;
        let data = folder.join("etcd");
        let process = start_etcd(folder, client, peer, &data)?;
        let etcd = Self {
            client,
            peer,
            data,
            process,
        };
        etcd.healthy().await?;
        Ok(etcd)
    }

    /// The value of `IM_ETCD_ENDPOINTS`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Restarts it on its data.
    pub async fn restart(&mut self, folder: &Path) -> Result<()> {
        self.process = start_etcd(folder, self.client, self.peer, &self.data)?;
        self.healthy().await
    }

    async fn healthy(&self) -> Result<()> {
        let address = format!("127.0.0.1:{}", self.client);
        until("etcd is healthy", TIMEOUT, async || {
            let (status, body) = crate::http::get(&address, "/health").await.ok()?;
            (status == 200 && body.contains("true")).then_some(())
        })
        .await
    }
}

fn start_etcd(folder: &Path, client: u16, peer: u16, data: &Path) -> Result<Process> {
    let client = format!("http://127.0.0.1:{client}");
    let peer = format!("http://127.0.0.1:{peer}");
    let mut command = Command::new("etcd");
    command.args(["--name", "one", "--data-dir", &data.to_string_lossy()]);
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
    command.args([
        "--initial-cluster",
        &format!("one={peer}"),
        "--heartbeat-interval",
        "50",
        "--election-timeout",
        "500",
    ]);
    Process::start("etcd", command, folder)
}
