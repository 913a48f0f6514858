//! The standalone program on loopback, with its data in a folder that can be copied and put back.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use im_runtime::unused_port;
use tempfile::TempDir;

use crate::cluster::{Apis, SECRET, program};
use crate::process::{Process, until};

const PATIENCE: Duration = Duration::from_secs(40);

/// One process with its store, ended when dropped.
#[derive(Debug)]
pub struct Standalone {
    /// `127.0.0.1:port` for TCP clients.
    pub tcp: String,
    /// `127.0.0.1:port` for WebSocket clients.
    pub ws: String,
    /// Where the HTTP API is.
    pub apis: Apis,
    http: String,
    admin: String,
    page: String,
    times: [(&'static str, String); 2],
    process: Process,
    folder: TempDir,
}

impl Standalone {
    /// Starts it and waits until it is ready.
    pub async fn start(times: [(&'static str, String); 2]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("im-e2e-").tempdir()?;
        let address = || unused_port().map(|port| format!("127.0.0.1:{port}"));
        let (tcp, ws, http, admin, page) = (address()?, address()?, address()?, address()?, address()?);
        let command = command(folder.path(), [&tcp, &ws, &http, &admin, &page], &times)?;
        let process = Process::start("standalone", command, folder.path())?;
        let apis = Apis::default();
        apis.add(&http);
        let standalone = Self { tcp, ws, apis, http, admin, page, times, process, folder };
        standalone.ready().await?;
        Ok(standalone)
    }

    /// Where the HTTP API is.
    pub fn http(&self) -> &str {
        &self.http
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(&mut self) -> Result<()> {
        self.process.signal(libc::SIGTERM)?;
        let status = self.process.wait(PATIENCE).await?;
        ensure!(status.success(), "standalone ended with {status}:\n{}", self.process.tail(20));
        Ok(())
    }

    /// Starts it again at the same addresses on what is in its folder.
    pub async fn start_again(&mut self) -> Result<()> {
        let addresses = [&self.tcp, &self.ws, &self.http, &self.admin, &self.page];
        let command = command(self.folder.path(), addresses, &self.times)?;
        self.process = Process::start("standalone", command, self.folder.path())?;
        self.ready().await
    }

    /// Copies the data of a stopped process aside.
    pub fn back_up(&self) -> Result<()> {
        copy(&self.data(), &self.backup())
    }

    /// Puts the copy in the place of the data of a stopped process.
    pub fn restore(&self) -> Result<()> {
        std::fs::remove_dir_all(self.data())?;
        copy(&self.backup(), &self.data())
    }

    fn data(&self) -> PathBuf {
        data(self.folder.path())
    }

    fn backup(&self) -> PathBuf {
        self.folder.path().join("backup")
    }

    async fn ready(&self) -> Result<()> {
        let ready = until("standalone is ready", PATIENCE, async || {
            let (status, _) = crate::http::get(&self.admin, "/readyz").await.ok()?;
            (status == 200).then_some(())
        });
        ready.await.map_err(|error| error.context(self.process.tail(30)))
    }
}

fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

fn command(folder: &Path, [tcp, ws, http, admin, page]: [&String; 5], times: &[(&str, String)]) -> Result<Command> {
    let mut command = Command::new(program("im-standalone")?);
    command
        .env("IM_TCP_LISTEN", tcp)
        .env("IM_WS_LISTEN", ws)
        .env("IM_HTTP_LISTEN", http)
        .env("IM_ADMIN_LISTEN", admin)
        .env("IM_PAGE_LISTEN", page)
        .envs(times.iter().map(|(name, time)| (name, time)))
        .env("IM_AUTH_HS256_SECRET", SECRET)
        .env("IM_DATA_DIR", data(folder));
    Ok(command)
}

/// A folder of files, whole.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        ensure!(entry.file_type()?.is_file(), "{} is no file", entry.path().display());
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
