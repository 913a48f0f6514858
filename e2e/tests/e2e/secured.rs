//! Mutual TLS on every internal link: clients chat across nodes, and nobody without a certificate gets anywhere.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use im_e2e::cluster::{SECRET, program};
use im_e2e::console::Console;
use im_e2e::process::{Process, until};
use im_e2e::token::token;
use im_runtime::unused_port;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PATIENCE: Duration = Duration::from_secs(40);

/// One authority, and one certificate for whoever asks.
struct Certificates {
    authority: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Certificates {
    fn new(folder: &Path) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = named("the authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        std::fs::write(folder.join("ca.crt"), authority.pem())?;
        Ok(Self { authority, folder: folder.to_owned() })
    }

    /// Certificate, key and authority of a process.
    fn issue(&self, name: &str) -> Result<[String; 3]> {
        let key = KeyPair::generate()?;
        let names = [name, "localhost", "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = named(name);
        let certificate = params.signed_by(&key, &self.authority)?;
        let file = |extension: &str| self.folder.join(format!("{name}.{extension}"));
        std::fs::write(file("crt"), certificate.pem())?;
        std::fs::write(file("key"), key.serialize_pem())?;
        let paths = [file("crt"), file("key"), self.folder.join("ca.crt")];
        Ok(paths.map(|path| path.to_string_lossy().into_owned()))
    }
}

/// OpenSSL takes a certificate that is named as its issuer for a self-signed one.
fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// A cluster in which nothing but clients, the HTTP API and the admin ports speak without TLS.
struct Secured {
    connects: Vec<String>,
    grpc: String,
    processes: Vec<Process>,
    _folder: tempfile::TempDir,
}

impl Secured {
    async fn start() -> Result<Self> {
        let own = tempfile::Builder::new().prefix("im-e2e-tls-").tempdir()?;
        let folder = own.path();
        let certificates = Certificates::new(folder)?;
        let mut processes = Vec::new();

        let (redis, sentinel, etcd) = (unused_port()?, unused_port()?, unused_port()?);
        let [certificate, key, authority] = certificates.issue("redis")?;
        let tls = format!(
            "tls-cert-file {certificate}\ntls-key-file {key}\ntls-ca-cert-file {authority}\ntls-auth-clients yes\ntls-replication yes\n"
        );
        let common = format!("bind 127.0.0.1\nport 0\ndir {}\n{tls}", folder.display());
        let sentinel_conf = format!("{common}tls-port {sentinel}\nsentinel monitor im 127.0.0.1 {redis} 1\n");
        for (program, text) in
            [("redis-server", format!("{common}tls-port {redis}\nappendonly yes\n")), ("redis-sentinel", sentinel_conf)]
        {
            let file = folder.join(format!("{program}.conf"));
            std::fs::write(&file, text)?;
            let mut command = Command::new(program);
            command.arg(file);
            processes.push(Process::start(program, command, folder)?);
        }

        let [certificate, key, authority] = certificates.issue("etcd")?;
        let (url, peers) = (format!("https://127.0.0.1:{etcd}"), format!("http://127.0.0.1:{}", unused_port()?));
        let mut command = Command::new("etcd");
        command.args(["--name", "one", "--initial-cluster", &format!("one={peers}"), "--client-cert-auth"]);
        command.args([
            "--data-dir",
            &folder.join("etcd").to_string_lossy(),
            "--listen-client-urls",
            &url,
            "--advertise-client-urls",
            &url,
        ]);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        command.args(["--cert-file", &certificate, "--key-file", &key, "--trusted-ca-file", &authority]);
        processes.push(Process::start("etcd", command, folder)?);

        let mut secured = Self { connects: Vec::new(), grpc: String::new(), processes, _folder: own };
        for tier in ["im-logic", "im-connect", "im-connect"] {
            let [certificate, key, authority] = certificates.issue(tier)?;
            let address = || unused_port().map(|port| format!("127.0.0.1:{port}"));
            let (grpc, admin, http, tcp, ws) = (address()?, address()?, address()?, address()?, address()?);
            let mut command = Command::new(program(tier)?);
            command.env("IM_TLS_CERT_FILE", certificate).env("IM_TLS_KEY_FILE", key).env("IM_TLS_CA_FILE", authority);
            command
                .env("IM_REDIS_URL", format!("rediss+sentinel://127.0.0.1:{sentinel}/im"))
                .env("IM_ETCD_ENDPOINTS", &url);
            command.env("IM_GRPC_LISTEN", &grpc).env("IM_ADVERTISE", &grpc).env("IM_ADMIN_LISTEN", &admin);
            if tier == "im-logic" {
                command.env("IM_HTTP_LISTEN", http).env("IM_AUTH_HS256_SECRET", SECRET);
                secured.grpc = grpc;
            } else {
                command.env("IM_TCP_LISTEN", tcp).env("IM_WS_LISTEN", &ws);
                secured.connects.push(ws);
            }
            let process =
                Process::start(&format!("{tier}-{}", secured.connects.len()), command, secured._folder.path())?;
            let ready = until("ready", PATIENCE, async || {
                im_e2e::http::get(&admin, "/readyz").await.ok().filter(|(status, _)| *status == 200).map(drop)
            });
            ready.await.with_context(|| process.tail(30))?;
            secured.processes.push(process);
        }
        Ok(secured)
    }
}

impl Secured {
    /// What every process said last.
    fn said(&self) -> String {
        self.processes.iter().map(|process| format!("{}:\n{}\n", process.name(), process.tail(12))).collect()
    }
}

#[tokio::test]
async fn clients_chat_while_every_internal_link_shows_certificates() -> Result<()> {
    let cluster = Secured::start().await?;
    let mut consoles = Vec::new();
    for (user, address) in ["alice", "bob"].iter().zip(&cluster.connects) {
        let token = token(user, "", &["lobby"])?;
        let open = until("a connection is let in", PATIENCE, async || Console::open(address, &token).await.ok());
        let mut console = open.await.with_context(|| cluster.said())?;
        let heard = console.ask(serde_json::json!({"op": "subscribe", "rooms": [{"room": "lobby"}]})).await?;
        ensure!(heard["op"] == "subscribed", "{heard}");
        consoles.push(console);
    }
    for number in 1..=20_u64 {
        let speaker = usize::from(number % 2 == 0);
        let answer = consoles[speaker].send("lobby", &format!("c{number}")).await?;
        ensure!(answer["seq"] == number, "{answer}");
        consoles[1 - speaker].heard("lobby", number).await?;
    }

    // gRPC without TLS meets an alert (21) and the end, or the end at once.
    let mut plain = tokio::net::TcpStream::connect(&cluster.grpc).await?;
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut answer)).await?;
    ensure!(answer.first().is_none_or(|first| *first == 21), "{answer:?}");
    Ok(())
}
