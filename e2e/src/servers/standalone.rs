//! The standalone program on loopback. Its data can be backed up and restored.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use tempfile::TempDir;

use super::{ApiAddresses, free_address, program, ready};
use crate::process::Process;
use crate::token::SECRET;

const STOP_TIMEOUT: Duration = Duration::from_secs(40);

/// One process with its embedded store; it is killed when dropped.
#[derive(Debug)]
pub(crate) struct Standalone {
    pub(crate) tcp: String,
    pub(crate) ws: String,
    pub(crate) apis: ApiAddresses,
    pub(crate) http: String,
    admin: String,
    page: String,
    env: [(&'static str, String); 2],
    process: Process,
    folder: TempDir,
}

impl Standalone {
    /// Starts it and waits until it is ready.
    pub(crate) async fn start(env: [(&'static str, String); 2]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("im-e2e-").tempdir()?;
        let tcp = free_address()?;
        let ws = free_address()?;
        let http = free_address()?;
        let admin = free_address()?;
        let page = free_address()?;
        let command = command(folder.path(), [&tcp, &ws, &http, &admin, &page], &env)?;
        let process = Process::start("standalone", command, folder.path())?;
        let apis = ApiAddresses::default();
        apis.add(&http);
        let standalone = Self {
            tcp,
            ws,
            apis,
            http,
            admin,
            page,
            env,
            process,
            folder,
        };
        ready(&standalone.process, &standalone.admin).await?;
        Ok(standalone)
    }

    /// SIGTERM, and waits for the exit.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.process.signal(libc::SIGTERM)?;
        let status = self.process.wait(STOP_TIMEOUT).await?;
        ensure!(
            status.success(),
            "standalone ended with {status}:\n{}",
            self.process.tail(20)
        );
        Ok(())
    }

    /// Starts it again at the same addresses, on the data in its folder.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        let addresses = [&self.tcp, &self.ws, &self.http, &self.admin, &self.page];
        let command = command(self.folder.path(), addresses, &self.env)?;
        self.process = Process::start("standalone", command, self.folder.path())?;
        ready(&self.process, &self.admin).await
    }

    /// Copies the data of the stopped process.
    pub(crate) fn back_up(&self) -> Result<()> {
        copy(&self.data(), &self.backup())
    }

    /// Replaces the data of the stopped process by the copy.
    pub(crate) fn restore(&self) -> Result<()> {
        std::fs::remove_dir_all(self.data())?;
        copy(&self.backup(), &self.data())
    }

    fn data(&self) -> PathBuf {
        data(self.folder.path())
    }

    fn backup(&self) -> PathBuf {
        self.folder.path().join("backup")
    }
}

fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

fn command(
    folder: &Path,
    [tcp, ws, http, admin, page]: [&String; 5],
    env: &[(&str, String)],
) -> Result<Command> {
    let mut command = Command::new(program("im-standalone")?);
    command
        .env("IM_TCP_LISTEN", tcp)
        .env("IM_WS_LISTEN", ws)
        .env("IM_HTTP_LISTEN", http)
        .env("IM_ADMIN_LISTEN", admin)
        .env("IM_PAGE_LISTEN", page)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .env("IM_AUTH_HS256_SECRET", SECRET)
        .env("IM_DATA_DIR", data(folder));
    Ok(command)
}

/// Copies a folder that holds files only.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        ensure!(
            entry.file_type()?.is_file(),
            "{} is not a file",
            entry.path().display()
        );
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
