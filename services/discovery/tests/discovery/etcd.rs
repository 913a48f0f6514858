//! A real etcd on free ports with its data in a temporary folder; ended when dropped.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use etcd_client::Client;
use im_discovery::Options;
use im_runtime::unused_port;
use tempfile::TempDir;

use crate::eventually;

pub(crate) struct Etcd {
    client_port: u16,
    peer_port: u16,
    folder: TempDir,
    process: Option<Child>,
}

impl Etcd {
    /// One that does not run yet.
    pub(crate) fn prepared() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (client_port, peer_port) = (unused_port().unwrap(), unused_port().unwrap());
        Self {
            client_port,
            peer_port,
            folder,
            process: None,
        }
    }

    pub(crate) async fn started() -> Self {
        let mut etcd = Self::prepared();
        etcd.start().await;
        etcd
    }

    pub(crate) async fn start(&mut self) {
        let client = format!("http://127.0.0.1:{}", self.client_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let child = Command::new("etcd")
            .args(["--name", "one", "--data-dir"])
            .arg(self.folder.path().join("data"))
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args([
                "--initial-cluster",
                &format!("one={peer}"),
                "--unsafe-no-fsync=true",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is installed: apt-get install etcd-server");
        self.process = Some(child);
        let mut client = self.client().await;
        eventually("etcd answers", async || {
            tokio::time::timeout(Duration::from_secs(1), client.status())
                .await
                .is_ok_and(|status| status.is_ok())
        })
        .await;
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Takes all data away; only while it does not run.
    pub(crate) fn wipe(&self) {
        std::fs::remove_dir_all(self.folder.path().join("data")).unwrap();
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect([format!("http://127.0.0.1:{}", self.client_port)], None)
            .await
            .unwrap()
    }

    /// Impatient, so that tests are quick.
    pub(crate) fn options(&self) -> Options {
        Options {
            endpoints: vec![format!("http://127.0.0.1:{}", self.client_port)],
            lease: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            pause_min: Duration::from_millis(20),
            pause_max: Duration::from_millis(200),
            ..Options::default()
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}
