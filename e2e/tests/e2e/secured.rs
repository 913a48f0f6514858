//! Mutual TLS on every internal link: clients chat across nodes, and nobody without a certificate gets anywhere.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use im_e2e::cluster::{SECRET, program};
use im_e2e::console::Console;
use im_e2e::process::{Process, until};
use im_e2e::token::token;
use im_operator::api::RedisMode;
use im_operator::redis_secret;
use im_runtime::tls::{Files, ServerName, Tls};
use im_runtime::unused_port;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PATIENCE: Duration = Duration::from_secs(40);
/// Redis'.
const PASSWORD: &str = "0123456789abcdef";

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
    /// Redis' port.
    redis: u16,
    /// What connect is told of redis.
    connect_url: String,
    processes: Vec<Process>,
    folder: tempfile::TempDir,
}

impl Secured {
    async fn start() -> Result<Self> {
        let own = tempfile::Builder::new().prefix("im-e2e-tls-").tempdir()?;
        let folder = own.path();
        let certificates = Certificates::new(folder)?;
        let mut processes = Vec::new();

        let (redis, sentinel, etcd) = (unused_port()?, unused_port()?, unused_port()?);
        let [certificate, key, authority] = certificates.issue("redis")?;
        // As the operator sets a redis up, connect's user and its few rights included.
        let secret = redis_secret("im", "tests", RedisMode::Sentinel, PASSWORD);
        let tls = format!(
            "tls-cert-file {certificate}\ntls-key-file {key}\ntls-ca-cert-file {authority}\ntls-auth-clients yes\ntls-replication yes\n"
        );
        let common = format!("bind 127.0.0.1\nport 0\ndir {}\n{tls}", folder.display());
        let redis_conf = format!("{common}tls-port {redis}\nappendonly yes\n{}", secret["redis.conf"]);
        let sentinel_conf = format!(
            "{common}tls-port {sentinel}\nsentinel monitor im 127.0.0.1 {redis} 1\nsentinel auth-pass im {PASSWORD}\n{}",
            secret["sentinel.conf"]
        );
        for (program, text, users) in [
            ("redis-server", redis_conf, &secret["redis-users.acl"]),
            ("redis-sentinel", sentinel_conf, &secret["sentinel-users.acl"]),
        ] {
            let (file, own) = (folder.join(format!("{program}.conf")), folder.join(format!("{program}.acl")));
            std::fs::write(&own, users)?;
            std::fs::write(&file, text.replace("/etc/imcluster/redis/users.acl", &own.to_string_lossy()))?;
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

        let mut secured = Self {
            connects: Vec::new(),
            grpc: String::new(),
            redis,
            connect_url: secret["connect-url"].clone(),
            processes,
            folder: own,
        };
        for tier in ["im-logic", "im-connect", "im-connect"] {
            let [certificate, key, authority] = certificates.issue(tier)?;
            let address = || unused_port().map(|port| format!("127.0.0.1:{port}"));
            let (grpc, admin, http, tcp, ws) = (address()?, address()?, address()?, address()?, address()?);
            let mut command = Command::new(program(tier)?);
            command.env("IM_TLS_CERT_FILE", certificate).env("IM_TLS_KEY_FILE", key).env("IM_TLS_CA_FILE", authority);
            let of_redis = if tier == "im-connect" { &secret["connect-url"] } else { &secret["url"] };
            command.env("IM_REDIS_URL", at(of_redis, sentinel)).env("IM_ETCD_ENDPOINTS", &url);
            command.env("IM_GRPC_LISTEN", &grpc).env("IM_ADVERTISE", &grpc).env("IM_ADMIN_LISTEN", &admin);
            if tier == "im-logic" {
                command.env("IM_HTTP_LISTEN", http).env("IM_AUTH_HS256_SECRET", SECRET);
                secured.grpc = grpc;
            } else {
                command.env("IM_TCP_LISTEN", tcp).env("IM_WS_LISTEN", &ws);
                secured.connects.push(ws);
            }
            let process =
                Process::start(&format!("{tier}-{}", secured.connects.len()), command, secured.folder.path())?;
            let ready = until("ready", PATIENCE, async || {
                im_e2e::http::get(&admin, "/readyz").await.ok().filter(|(status, _)| *status == 200).map(drop)
            });
            ready.await.with_context(|| process.tail(30))?;
            secured.processes.push(process);
        }
        Ok(secured)
    }
}

/// The URL of the operator's making, for the one Sentinel here.
fn at(url: &str, sentinel: u16) -> String {
    let (credentials, rest) = url.split_once('@').unwrap_or_default();
    let (_, service) = rest.split_once('/').unwrap_or_default();
    format!("{credentials}@127.0.0.1:{sentinel}/{service}")
}

impl Secured {
    /// What redis answers to a command of connect's user.
    fn as_connect(&self, command: &[&str]) -> Result<String> {
        let (user, password) = self
            .connect_url
            .trim_start_matches("rediss+sentinel://")
            .split_once('@')
            .unwrap_or_default()
            .0
            .split_once(':')
            .context("user:password")?;
        let file = |name: &str| self.folder.path().join(name);
        let mut asked = Command::new("redis-cli");
        asked.args(["-p", &self.redis.to_string(), "--no-auth-warning", "--user", user, "--pass", password, "--tls"]);
        asked.arg("--cert").arg(file("im-connect.crt")).arg("--key").arg(file("im-connect.key"));
        let answered = asked.arg("--cacert").arg(file("ca.crt")).args(command).output()?;
        Ok(String::from_utf8_lossy(&[answered.stdout, answered.stderr].concat()).trim().to_owned())
    }

    /// Whether logic takes a call from who shows the certificate of this tier.
    async fn logic_hears(&self, tier: &str) -> bool {
        let file = |name: String| self.folder.path().join(name);
        let files = Files {
            certificate: file(format!("{tier}.crt")),
            key: file(format!("{tier}.key")),
            authority: file("ca.crt".to_owned()),
        };
        let Ok(tls) = Tls::load(files) else { return false };
        let Ok(name) = ServerName::try_from("im-logic") else { return false };
        let Ok(mut stream) = tls.connect(&self.grpc, name).await else { return false };
        // The preface of HTTP/2 and empty settings, which are answered with the server's.
        let spoken = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
        let heard = tokio::time::timeout(PATIENCE, stream.read_exact(&mut [0; 9])).await;
        spoken.is_ok() && matches!(heard, Ok(Ok(_)))
    }

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

    // Belonging to the cluster is not enough.
    ensure!(cluster.logic_hears("im-connect").await, "{}", cluster.said());
    for tier in ["redis", "etcd", "im-logic"] {
        ensure!(!cluster.logic_hears(tier).await, "{tier} may call logic");
    }
    ensure!(cluster.as_connect(&["ROLE"])?.starts_with("master"), "{}", cluster.as_connect(&["ROLE"])?);
    for beyond in [
        &["GET", "im:{grants}:key"][..],
        &["HGETALL", "im:r:{lobby}:meta"],
        &["XRANGE", "im:r:{lobby}:log", "-", "+"],
        &["KEYS", "*"],
        &["SET", "im:x", "1"],
        &["SPUBLISH", "im:r:{lobby}:bus", "x"],
        &["SSUBSCRIBE", "other"],
        &["EVAL", "return 1", "0"],
        &["CONFIG", "GET", "*"],
        &["ACL", "LIST"],
        &["CLIENT", "LIST"],
        &["SHUTDOWN", "NOSAVE"],
    ] {
        let answer = cluster.as_connect(beyond)?;
        ensure!(answer.starts_with("NOPERM"), "{beyond:?}: {answer}");
    }
    Ok(())
}
