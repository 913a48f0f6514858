//! What the operator asks and tells redis and etcd, against real ones with mutual TLS.

mod etcd;
mod hand_over;
mod redis;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::pki::{self, Pair};
use crate::secrets::Credentials;
use jiff::Timestamp;
use tokio::time::{Instant, sleep};

/// A program that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &str, arguments: &[String], folder: &Path) -> Running {
    let log = std::fs::File::create(folder.join(format!("{program}.log"))).expect("a log");
    let child = Command::new(program)
        .args(arguments)
        .stdout(log.try_clone().expect("the log"))
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{program} does not start ({error}): apt-get install redis-server etcd-server")
        });
    Running(child)
}

/// What a redis is told that serves over TLS alone, with the files of this folder, and keeps its data in that.
fn redis_words(port: u16, tls: &Path, data: &Path) -> Vec<String> {
    let file = |name: &str| tls.join(name).display().to_string();
    let arguments = [
        ("--port", "0".to_owned()),
        ("--tls-port", port.to_string()),
        ("--tls-cert-file", file("tls.crt")),
        ("--tls-key-file", file("tls.key")),
        ("--tls-ca-cert-file", file("ca.crt")),
        ("--tls-auth-clients", "yes".to_owned()),
        ("--requirepass", "secret".to_owned()),
        ("--dir", data.display().to_string()),
    ];
    arguments
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
}

/// An authority, and what it signs for everybody on this machine.
struct Authority(Pair);

impl Authority {
    fn new() -> Self {
        Self(pki::authority("the test's", Timestamp::now()).expect("an authority"))
    }

    fn leaf(&self) -> Pair {
        self.leaf_for(&["localhost", "127.0.0.1"])
    }

    fn leaf_for(&self, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        pki::leaf(&self.0, "im-test", &names, Timestamp::now()).expect("a certificate")
    }

    /// Where pods have it.
    fn write(&self, folder: &Path, leaf: &Pair) {
        for (file, text) in [
            ("ca.crt", &self.0.certificate),
            ("tls.crt", &leaf.certificate),
            ("tls.key", &leaf.key),
        ] {
            std::fs::write(folder.join(file), text).expect("written");
        }
    }

    fn known(&self, shown: &Pair) -> Credentials {
        Credentials {
            authority: self.0.certificate.clone(),
            change: None,
            authority_until: Timestamp::MAX,
            renewal: Timestamp::MAX,
            own: self.leaf(),
            redis_certificate: Some(shown.certificate.clone()),
            sentinel_certificate: None,
            redis_password: Some("secret".to_owned()),
        }
    }
}

/// Waits until there is something.
async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within 30 s");
        sleep(Duration::from_millis(100)).await;
    }
}
