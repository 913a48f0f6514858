//! Where the process listens: told to people at the start, and to programs in a file.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;

/// The addresses that are bound: the real ports where 0 was asked for.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Addresses {
    /// TCP clients.
    pub(crate) tcp: SocketAddr,
    /// WebSocket clients.
    pub(crate) ws: SocketAddr,
    /// The HTTP API.
    pub(crate) http: SocketAddr,
    /// The page.
    pub(crate) page: SocketAddr,
    /// Health, readiness and metrics.
    pub(crate) admin: SocketAddr,
}

impl Addresses {
    /// Writes them as one JSON object. Whoever sees the file sees all of it: it is written beside and moved in place.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let beside = Path::new(&name);
        let mut file = File::create(beside)?;
        serde_json::to_writer(&mut file, self)?;
        file.write_all(b"\n")?;
        std::fs::rename(beside, path)
    }

    /// What a person needs to begin: where to go, where the data is, how to get a token.
    pub(crate) fn greeting(&self, data: &str, secret: &Secret<'_>) -> String {
        let Self {
            tcp,
            ws,
            http,
            page,
            admin,
        } = self;
        let mut text = String::from("\n  ImCluster is ready.\n\n");
        let mut line = |name: &str, value: &str| text.push_str(&format!("  {name:<11}{value}\n"));
        line("Page", &format!("http://{}/", shown(*page)));
        line(
            "WebSocket",
            &format!("ws://{}/ws  (goim: /sub)", shown(*ws)),
        );
        line("TCP", &format!("tcp://{}", shown(*tcp)));
        line("HTTP API", &format!("http://{}/v1/", shown(*http)));
        line(
            "Health",
            &format!("http://{}/readyz  (/healthz, /metrics)", shown(*admin)),
        );
        line("Data", data);
        match secret {
            Secret::Configured => line("Tokens", "signed with what you configured"),
            Secret::File(path) => {
                line(
                    "Secret",
                    &format!(
                        "{}  (made here; whoever reads it can be anybody)",
                        path.display()
                    ),
                );
                line(
                    "Token",
                    &format!(
                        "imctl token --secret-file {} --user alice --rooms 'lobby*'",
                        path.display()
                    ),
                );
                line(
                    "Chat",
                    &format!(
                        "IM_TOKEN=… imctl chat --address tcp://{} --room lobby",
                        shown(*tcp)
                    ),
                );
            }
        }
        text
    }
}

/// Where the key that tokens are checked with comes from.
pub(crate) enum Secret<'a> {
    /// The settings.
    Configured,
    /// A file that was made at the first start.
    File(&'a Path),
}

/// As one dials it: "any address" is reached as localhost.
fn shown(address: SocketAddr) -> String {
    match address.ip().is_unspecified() || address.ip().is_loopback() {
        true => format!("localhost:{}", address.port()),
        false => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Addresses {
        let at = |ip: [u8; 4], port| SocketAddr::from((ip, port));
        let local = [127, 0, 0, 1];
        Addresses {
            tcp: at([0; 4], 1),
            ws: at([10, 0, 0, 7], 2),
            http: at(local, 3),
            page: at(local, 4),
            admin: at(local, 5),
        }
    }

    #[test]
    fn the_greeting_says_what_to_type() {
        let secret = Path::new("data/auth.secret");
        let text = addresses().greeting("./data", &Secret::File(secret));
        for wanted in [
            "http://localhost:4/",
            "ws://10.0.0.7:2/ws",
            "tcp://localhost:1",
            "--secret-file data/auth.secret",
        ] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
        assert!(
            !addresses()
                .greeting("./data", &Secret::Configured)
                .contains("imctl")
        );
    }

    #[test]
    fn the_file_holds_all_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ports.json");
        addresses().write(&path).unwrap();
        let told: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(told["ws"], "10.0.0.7:2");
        assert_eq!(told.as_object().unwrap().len(), 5);
    }
}
