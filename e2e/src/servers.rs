//! The servers that tests run on loopback: a whole cluster or a standalone program, with real redis and etcd.

pub mod cluster;
pub mod etcd;
pub mod redis;
pub(crate) mod standalone;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use im_runtime::unused_port;

use crate::process::Process;
use crate::sync::lock;
use crate::wait::until;

/// How long a server may take to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(40);

/// Every address that an HTTP API has had, as logic processes come and go; clones share the list.
#[derive(Debug, Clone, Default)]
pub struct ApiAddresses(Arc<Mutex<Vec<String>>>);

impl ApiAddresses {
    pub(crate) fn add(&self, address: &str) {
        lock(&self.0).push(address.to_owned());
    }

    /// The newest first: it is the most likely to answer.
    pub(crate) fn all(&self) -> Vec<String> {
        lock(&self.0).iter().rev().cloned().collect()
    }
}

/// A loopback address with a port that is free.
pub fn free_address() -> Result<String> {
    Ok(format!("127.0.0.1:{}", unused_port()?))
}

/// Waits until `/readyz` at this admin address answers 200; an error carries the end of the program's output.
pub async fn ready(process: &Process, admin: &str) -> Result<()> {
    let ready = until("ready", READY_TIMEOUT, async || {
        let (status, _) = crate::http::get(admin, "/readyz").await.ok()?;
        (status == 200).then_some(())
    });
    ready
        .await
        .with_context(|| format!("{}:\n{}", process.name(), process.tail(30)))
}

/// The path of a program of this build: beside the running one, or one folder up, where cargo puts binaries next to tests.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    found.with_context(|| format!("{name} is not built: cargo build --workspace --bins"))
}
