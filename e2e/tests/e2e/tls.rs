//! Mutual TLS on every internal connection: clients chat across nodes, and nothing works without the right certificate.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use im_e2e::clients::json::JsonClient;
use im_e2e::process::Process;
use im_e2e::servers::{free_address, program, ready};
use im_e2e::token::{SECRET, token};
use im_e2e::wait::until;
use im_operator::api::RedisMode;
use im_operator::redis_secret;
use im_runtime::tls::{Files, ServerName, Tls};
use im_runtime::unused_port;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TIMEOUT: Duration = Duration::from_secs(40);
const REDIS_PASSWORD: &str = "0123456789abcdef";

/// A certificate authority that issues one certificate per process.
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
        Ok(Self {
            authority,
            folder: folder.to_owned(),
        })
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

/// Every certificate needs a name of its own: OpenSSL takes one with its issuer's name for self-signed.
fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// A cluster in which only clients, the HTTP API and the admin ports are without TLS.
struct Secured {
    connects: Vec<String>,
    grpc: String,
    redis_port: u16,
    /// The redis URL of connect.
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

        let redis = unused_port()?;
        let sentinel = unused_port()?;
        let etcd = unused_port()?;
        let [certificate, key, authority] = certificates.issue("redis")?;
        // As the operator configures redis, including connect's user and its few rights.
        let secret = redis_secret("im", "tests", RedisMode::Sentinel, REDIS_PASSWORD);
        let tls = format!(
            "tls-cert-file {certificate}\ntls-key-file {key}\ntls-ca-cert-file {authority}\ntls-auth-clients yes\ntls-replication yes\n"
        );
        let common = format!("bind 127.0.0.1\nport 0\ndir {}\n{tls}", folder.display());
        let redis_conf = format!(
            "{common}tls-port {redis}\nappendonly yes\n{}",
            secret["redis.conf"]
        );
        let sentinel_conf = format!(
            "{common}tls-port {sentinel}\nsentinel monitor im 127.0.0.1 {redis} 1\nsentinel auth-pass im {REDIS_PASSWORD}\n{}",
            secret["sentinel.conf"]
        );
        for (program, text, users) in [
            ("redis-server", redis_conf, &secret["redis-users.acl"]),
            (
                "redis-sentinel",
                sentinel_conf,
                &secret["sentinel-users.acl"],
            ),
        ] {
            let file = folder.join(format!("{program}.conf"));
            let own = folder.join(format!("{program}.acl"));
            std::fs::write(&own, users)?;
            std::fs::write(
                &file,
                text.replace("/etc/imcluster/redis/users.acl", &own.to_string_lossy()),
            )?;
            let mut command = Command::new(program);
            command.arg(file);
            processes.push(Process::start(program, command, folder)?);
        }

        let [certificate, key, authority] = certificates.issue("etcd")?;
        let url = format!("https://127.0.0.1:{etcd}");
        let peers = format!("http://{}", free_address()?);
        let mut command = Command::new("etcd");
        command.args([
            "--name",
            "one",
            "--initial-cluster",
            &format!("one={peers}"),
            "--client-cert-auth",
        ]);
        command.args([
            "--data-dir",
            &folder.join("etcd").to_string_lossy(),
            "--listen-client-urls",
            &url,
            "--advertise-client-urls",
            &url,
        ]);
        command.args([
            "--listen-peer-urls",
            &peers,
            "--initial-advertise-peer-urls",
            &peers,
        ]);
        command.args([
            "--cert-file",
            &certificate,
            "--key-file",
            &key,
            "--trusted-ca-file",
            &authority,
        ]);
        processes.push(Process::start("etcd", command, folder)?);

        let mut secured = Self {
            connects: Vec::new(),
            grpc: String::new(),
            redis_port: redis,
            connect_url: secret["connect-url"].clone(),
            processes,
            folder: own,
        };
        for tier in ["im-logic", "im-connect", "im-connect"] {
            let [certificate, key, authority] = certificates.issue(tier)?;
            let grpc = free_address()?;
            let admin = free_address()?;
            let http = free_address()?;
            let tcp = free_address()?;
            let ws = free_address()?;
            let mut command = Command::new(program(tier)?);
            command
                .env("IM_TLS_CERT_FILE", certificate)
                .env("IM_TLS_KEY_FILE", key)
                .env("IM_TLS_CA_FILE", authority);
            let redis_url = if tier == "im-connect" {
                &secret["connect-url"]
            } else {
                &secret["url"]
            };
            command
                .env("IM_REDIS_URL", with_sentinel(redis_url, sentinel))
                .env("IM_ETCD_ENDPOINTS", &url);
            command
                .env("IM_GRPC_LISTEN", &grpc)
                .env("IM_ADVERTISE", &grpc)
                .env("IM_ADMIN_LISTEN", &admin);
            if tier == "im-logic" {
                command
                    .env("IM_HTTP_LISTEN", http)
                    .env("IM_AUTH_HS256_SECRET", SECRET);
                secured.grpc = grpc;
            } else {
                command.env("IM_TCP_LISTEN", tcp).env("IM_WS_LISTEN", &ws);
                secured.connects.push(ws);
            }
            let process = Process::start(
                &format!("{tier}-{}", secured.connects.len()),
                command,
                secured.folder.path(),
            )?;
            ready(&process, &admin).await?;
            secured.processes.push(process);
        }
        Ok(secured)
    }
}

/// The operator's redis URL with this Sentinel as its only one.
fn with_sentinel(url: &str, sentinel: u16) -> String {
    let (credentials, rest) = url.split_once('@').unwrap_or_default();
    let (_, service) = rest.split_once('/').unwrap_or_default();
    format!("{credentials}@127.0.0.1:{sentinel}/{service}")
}

impl Secured {
    /// The response of redis to a command of connect's user.
    fn redis_as_connect(&self, command: &[&str]) -> Result<String> {
        let (user, password) = self
            .connect_url
            .trim_start_matches("rediss+sentinel://")
            .split_once('@')
            .unwrap_or_default()
            .0
            .split_once(':')
            .context("user:password")?;
        let file = |name: &str| self.folder.path().join(name);
        let mut cli = Command::new("redis-cli");
        cli.args([
            "-p",
            &self.redis_port.to_string(),
            "--no-auth-warning",
            "--user",
            user,
            "--pass",
            password,
            "--tls",
        ]);
        cli.arg("--cert")
            .arg(file("im-connect.crt"))
            .arg("--key")
            .arg(file("im-connect.key"));
        let output = cli
            .arg("--cacert")
            .arg(file("ca.crt"))
            .args(command)
            .output()?;
        Ok(
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat())
                .trim()
                .to_owned(),
        )
    }

    /// Whether logic accepts calls with the certificate of this tier.
    async fn logic_accepts(&self, tier: &str) -> bool {
        let file = |name: String| self.folder.path().join(name);
        let files = Files {
            certificate: file(format!("{tier}.crt")),
            key: file(format!("{tier}.key")),
            authority: file("ca.crt".to_owned()),
        };
        let Ok(tls) = Tls::load(files) else {
            return false;
        };
        let Ok(name) = ServerName::try_from("im-logic") else {
            return false;
        };
        let Ok(mut stream) = tls.connect(&self.grpc, name).await else {
            return false;
        };
        // The HTTP/2 preface and empty settings, which the server answers with its own.
        let sent = stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await;
        let received = tokio::time::timeout(TIMEOUT, stream.read_exact(&mut [0; 9])).await;
        sent.is_ok() && matches!(received, Ok(Ok(_)))
    }

    /// The end of every process's output.
    fn tails(&self) -> String {
        self.processes
            .iter()
            .map(|process| format!("{}:\n{}\n", process.name(), process.tail(12)))
            .collect()
    }
}

#[tokio::test]
async fn clients_chat_while_every_internal_link_shows_certificates() -> Result<()> {
    let cluster = Secured::start().await?;
    let mut clients = Vec::new();
    for (user, address) in ["alice", "bob"].iter().zip(&cluster.connects) {
        let token = token(user, "", &["lobby"])?;
        let open = until("a connection is accepted", TIMEOUT, async || {
            JsonClient::open(address, &token).await.ok()
        });
        let mut client = open.await.with_context(|| cluster.tails())?;
        let subscribed = client
            .request(serde_json::json!({"op": "subscribe", "rooms": [{"room": "lobby"}]}))
            .await?;
        ensure!(subscribed["op"] == "subscribed", "{subscribed}");
        clients.push(client);
    }
    for number in 1..=20_u64 {
        let sender = usize::from(number % 2 == 0);
        let answer = clients[sender].send("lobby", &format!("c{number}")).await?;
        ensure!(answer["seq"] == number, "{answer}");
        clients[1 - sender].receive_message("lobby", number).await?;
    }

    // gRPC without TLS gets an alert (21) and a close, or a close at once.
    let mut plain = tokio::net::TcpStream::connect(&cluster.grpc).await?;
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(TIMEOUT, plain.read_to_end(&mut answer)).await?;
    ensure!(
        answer.first().is_none_or(|first| *first == 21),
        "{answer:?}"
    );

    // A certificate of the cluster is not enough.
    ensure!(
        cluster.logic_accepts("im-connect").await,
        "{}",
        cluster.tails()
    );
    for tier in ["redis", "etcd", "im-logic"] {
        ensure!(!cluster.logic_accepts(tier).await, "{tier} may call logic");
    }
    ensure!(
        cluster.redis_as_connect(&["ROLE"])?.starts_with("master"),
        "{}",
        cluster.redis_as_connect(&["ROLE"])?
    );
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
        let answer = cluster.redis_as_connect(beyond)?;
        ensure!(answer.starts_with("NOPERM"), "{beyond:?}: {answer}");
    }
    Ok(())
}
