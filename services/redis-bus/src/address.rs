//! The redis URL: which servers to ask, how they stand to each other, and with which credentials.

use std::fmt;

use redis::{
    ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo,
    io::tcp::TcpSettings,
};

/// Why a redis URL was refused; each text says what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// Another scheme, or none.
    #[error(
        "the redis URL begins with {0:?}: write redis://, rediss://, redis+sentinel:// or redis+cluster://"
    )]
    Scheme(String),
    /// No host is named.
    #[error("the redis URL names no host: write for example redis://127.0.0.1:6379")]
    NoHost,
    /// A port that is not one.
    #[error("{0:?} is not host:port with a port from 1 to 65535")]
    Host(String),
    /// Several hosts where one is meant.
    #[error(
        "the redis URL names {0} hosts: write redis+sentinel:// or redis+cluster:// for several"
    )]
    ManyHosts(usize),
    /// Sentinels without the name of what they watch.
    #[error("the redis URL names no Sentinel service: write redis+sentinel://host:port/SERVICE")]
    NoService,
    /// A database that is not a number, or one where there is only 0.
    #[error(
        "{0:?} is not a database: write a number (redis://host/2, ?db=2 with Sentinel; a cluster has none but 0)"
    )]
    Database(String),
    /// A parameter that is not known here.
    #[error(
        "{0:?} is not a parameter of this URL: db, sentinel_user and sentinel_password are, with Sentinel"
    )]
    Parameter(String),
    /// A path where none belongs.
    #[error("{0:?} after the hosts means nothing here: leave it out")]
    Path(String),
    /// A `%` that begins no escape.
    #[error(
        "user or password hold a % that begins no escape: write % as %25, @ as %40, : as %3A, / as %2F"
    )]
    Escape,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Host {
    /// Name or address, without brackets.
    pub name: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.contains(':') {
            true => write!(f, "[{}]:{}", self.name, self.port),
            false => write!(f, "{}:{}", self.name, self.port),
        }
    }
}

/// How the servers stand to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One server.
    Single,
    /// Sentinels that know the master of a service.
    Sentinel(String),
    /// A Redis Cluster, found through any of its nodes.
    Cluster,
}

#[derive(Clone, Default, PartialEq, Eq)]
struct Credentials {
    user: Option<String>,
    password: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// A redis URL, understood. Shows itself without passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    pub(crate) layout: Layout,
    pub(crate) hosts: Vec<Host>,
    tls: bool,
    server: Credentials,
    sentinel: Credentials,
    db: i64,
}

impl Address {
    /// Understands `redis://[user:password@]host[:port][/db]`, `rediss://…` (TLS),
    /// `redis+sentinel://[user:password@]host[:port],…/service[?db=…&sentinel_user=…&sentinel_password=…]` and
    /// `redis+cluster://[user:password@]host[:port],…`; `rediss+sentinel://` and `rediss+cluster://` speak TLS.
    /// User and password are for the servers that hold data; `%40` and the like are understood in them.
    ///
    /// # Errors
    /// [`BadAddress`] says what to write instead.
    pub fn parse(url: &str) -> Result<Self, BadAddress> {
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| BadAddress::Scheme(beginning(url)))?;
        let (kind, tls) = match scheme {
            "redis" => ("", false),
            "rediss" => ("", true),
            _ => match scheme.split_once('+') {
                Some((tls @ ("redis" | "rediss"), kind @ ("sentinel" | "cluster"))) => {
                    (kind, tls == "rediss")
                }
                _ => return Err(BadAddress::Scheme(beginning(url))),
            },
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (credentials, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let default_port = if kind == "sentinel" { 26379 } else { 6379 };
        let mut address = Self {
            layout: Layout::Single,
            hosts: parse_hosts(hosts, default_port)?,
            tls,
            server: parse_credentials(credentials)?,
            sentinel: Credentials::default(),
            db: 0,
        };
        match kind {
            "sentinel" => address.take_sentinel(path, query)?,
            "cluster" => address.take_cluster(path, query)?,
            _ => address.take_single(path, query)?,
        }
        Ok(address)
    }

    fn take_single(&mut self, path: &str, query: &str) -> Result<(), BadAddress> {
        if self.hosts.len() > 1 {
            return Err(BadAddress::ManyHosts(self.hosts.len()));
        }
        if let Some((name, _)) = parameters(query).next() {
            return Err(BadAddress::Parameter(name.to_owned()));
        }
        if !path.is_empty() {
            self.db = database(path)?;
        }
        Ok(())
    }

    fn take_sentinel(&mut self, service: &str, query: &str) -> Result<(), BadAddress> {
        if service.is_empty() {
            return Err(BadAddress::NoService);
        }
        self.layout = Layout::Sentinel(unescape(service)?);
        for (name, value) in parameters(query) {
            match name {
                "db" => self.db = database(value)?,
                "sentinel_user" => self.sentinel.user = Some(unescape(value)?),
                "sentinel_password" => self.sentinel.password = Some(unescape(value)?),
                other => return Err(BadAddress::Parameter(other.to_owned())),
            }
        }
        Ok(())
    }

    fn take_cluster(&mut self, path: &str, query: &str) -> Result<(), BadAddress> {
        self.layout = Layout::Cluster;
        if !path.is_empty() && path != "0" {
            return Err(BadAddress::Path(path.to_owned()));
        }
        match parameters(query).next() {
            Some((name, _)) => Err(BadAddress::Parameter(name.to_owned())),
            None => Ok(()),
        }
    }

    /// Whether several masters share the slots.
    pub fn is_cluster(&self) -> bool {
        self.layout == Layout::Cluster
    }

    /// How to reach a server that holds data.
    pub(crate) fn server(
        &self,
        host: &Host,
        protocol: ProtocolVersion,
    ) -> redis::RedisResult<ConnectionInfo> {
        self.info(host, &self.server, self.db, protocol)
    }

    /// How to reach a Sentinel.
    pub(crate) fn sentinel(&self, host: &Host) -> redis::RedisResult<ConnectionInfo> {
        self.info(host, &self.sentinel, 0, ProtocolVersion::RESP2)
    }

    fn info(
        &self,
        host: &Host,
        who: &Credentials,
        db: i64,
        protocol: ProtocolVersion,
    ) -> redis::RedisResult<ConnectionInfo> {
        let name = host.name.clone();
        let port = host.port;
        let place = match self.tls {
            true => ConnectionAddr::TcpTls {
                host: name,
                port,
                insecure: false,
                tls_params: None,
            },
            false => ConnectionAddr::Tcp(name, port),
        };
        let mut redis = RedisConnectionInfo::default()
            .set_db(db)
            .set_protocol(protocol);
        redis = redis.set_lib_name("imcluster", env!("CARGO_PKG_VERSION"));
        if let Some(user) = &who.user {
            redis = redis.set_username(user);
        }
        if let Some(password) = &who.password {
            redis = redis.set_password(password);
        }
        Ok(place
            .into_connection_info()?
            .set_tcp_settings(tcp_settings())
            .set_redis_settings(redis))
    }

    /// Whether TLS is spoken.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }
}

/// Small commands, answered at once; a peer that has vanished is noticed within seconds.
fn tcp_settings() -> TcpSettings {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(std::time::Duration::from_secs(5))
        .with_interval(std::time::Duration::from_secs(2));
    let settings = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(std::time::Duration::from_secs(10));
    settings
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = if self.tls { "s" } else { "" };
        let hosts: Vec<String> = self.hosts.iter().map(ToString::to_string).collect();
        let hosts = hosts.join(",");
        match &self.layout {
            Layout::Single if self.db == 0 => write!(f, "redis{tls}://{hosts}"),
            Layout::Single => write!(f, "redis{tls}://{hosts}/{}", self.db),
            Layout::Sentinel(service) => write!(f, "redis{tls}+sentinel://{hosts}/{service}"),
            Layout::Cluster => write!(f, "redis{tls}+cluster://{hosts}"),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// At most the scheme: what follows may hold a password.
fn beginning(url: &str) -> String {
    url.chars()
        .take_while(|c| *c != ':' && *c != '@')
        .take(24)
        .collect()
}

fn parse_hosts(hosts: &str, default_port: u16) -> Result<Vec<Host>, BadAddress> {
    if hosts.is_empty() {
        return Err(BadAddress::NoHost);
    }
    hosts
        .split(',')
        .map(|host| parse_host(host, default_port))
        .collect()
}

fn parse_host(host: &str, default_port: u16) -> Result<Host, BadAddress> {
    let bad = || BadAddress::Host(host.to_owned());
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (name, port) = rest.split_once(']').ok_or_else(bad)?;
            let port = if port.is_empty() {
                None
            } else {
                Some(port.strip_prefix(':').ok_or_else(bad)?)
            };
            (name, port)
        }
        None => host
            .split_once(':')
            .map_or((host, None), |(name, port)| (name, Some(port))),
    };
    let port = match port {
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(bad)?,
        None => default_port,
    };
    if name.is_empty() {
        Err(bad())
    } else {
        Ok(Host {
            name: name.to_owned(),
            port,
        })
    }
}

fn parse_credentials(text: &str) -> Result<Credentials, BadAddress> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let some = |part: &str| {
        if part.is_empty() {
            Ok(None)
        } else {
            unescape(part).map(Some)
        }
    };
    Ok(Credentials {
        user: some(user)?,
        password: some(password)?,
    })
}

fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .filter(|one| !one.is_empty())
        .map(|one| one.split_once('=').unwrap_or((one, "")))
}

fn database(text: &str) -> Result<i64, BadAddress> {
    text.parse()
        .ok()
        .filter(|db| *db >= 0)
        .ok_or_else(|| BadAddress::Database(text.to_owned()))
}

fn unescape(text: &str) -> Result<String, BadAddress> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let digits = tail
            .get(..2)
            .and_then(|two| std::str::from_utf8(two).ok())
            .ok_or(BadAddress::Escape)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| BadAddress::Escape)?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| BadAddress::Escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Address {
        Address::parse(url).expect(url)
    }

    #[test]
    fn a_single_server_with_everything() {
        let address = parse("redis://ann:p%40ss@db.local:7000/3");
        assert_eq!(
            address.hosts,
            [Host {
                name: "db.local".into(),
                port: 7000
            }]
        );
        assert_eq!(
            (address.db, address.tls, &address.layout),
            (3, false, &Layout::Single)
        );
        assert_eq!(
            address.server,
            Credentials {
                user: Some("ann".into()),
                password: Some("p@ss".into())
            }
        );
        assert_eq!(
            parse("rediss://:secret@h").server,
            Credentials {
                user: None,
                password: Some("secret".into())
            }
        );
    }

    #[test]
    fn ports_have_defaults() {
        assert_eq!(parse("redis://h").hosts[0].port, 6379);
        assert_eq!(parse("redis+sentinel://h/main").hosts[0].port, 26379);
        assert_eq!(
            parse("redis://[::1]:7000").hosts[0],
            Host {
                name: "::1".into(),
                port: 7000
            }
        );
        assert_eq!(parse("redis://[::1]").to_string(), "redis://[::1]:6379");
    }

    #[test]
    fn sentinels_with_a_service_and_their_own_credentials() {
        let address =
            parse("redis+sentinel://u:p@a:1,b:2/main?db=4&sentinel_user=s&sentinel_password=%20");
        assert_eq!(address.layout, Layout::Sentinel("main".into()));
        assert_eq!(address.hosts.len(), 2);
        assert_eq!(address.db, 4);
        assert_eq!(
            address.sentinel,
            Credentials {
                user: Some("s".into()),
                password: Some(" ".into())
            }
        );
    }

    #[test]
    fn a_cluster_over_tls() {
        let address = parse("rediss+cluster://a,b,c:7000");
        assert!(address.is_cluster() && address.is_tls());
        assert_eq!(address.hosts.len(), 3);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_to_write() {
        let refused = |url: &str| Address::parse(url).expect_err(url);
        assert_eq!(refused("http://h"), BadAddress::Scheme("http".into()));
        assert_eq!(
            refused("localhost:6379"),
            BadAddress::Scheme("localhost".into())
        );
        assert_eq!(refused("redis://"), BadAddress::NoHost);
        assert_eq!(refused("redis://h:0"), BadAddress::Host("h:0".into()));
        assert_eq!(
            refused("redis://h:70000"),
            BadAddress::Host("h:70000".into())
        );
        assert_eq!(refused("redis://a,b"), BadAddress::ManyHosts(2));
        assert_eq!(refused("redis://h/x"), BadAddress::Database("x".into()));
        assert_eq!(
            refused("redis://h?db=1"),
            BadAddress::Parameter("db".into())
        );
        assert_eq!(refused("redis+sentinel://h"), BadAddress::NoService);
        assert_eq!(
            refused("redis+sentinel://h/s?x=1"),
            BadAddress::Parameter("x".into())
        );
        assert_eq!(refused("redis+cluster://h/1"), BadAddress::Path("1".into()));
        assert_eq!(refused("redis://a:%zz@h"), BadAddress::Escape);
    }

    #[test]
    fn no_password_is_shown() {
        let address = parse("redis+sentinel://u:hidden@a/main?sentinel_password=hidden");
        assert!(!format!("{address} {address:?}").contains("hidden"));
        assert!(
            !Address::parse("u:hidden@h")
                .expect_err("bad")
                .to_string()
                .contains("hidden")
        );
    }
}
