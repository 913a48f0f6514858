//! The way to redis: a handle that knows which master owns which slot, sends commands there, and says what became of them.
//! Its background task (`topology_refresher`) finds masters, opens connections, and finds them again when they are lost.
//!
//! The redis crate's own Sentinel and cluster clients are not used: when they retry, the caller does not learn whether a write
//! may have happened, and `WAIT` must follow on the connection of the write it is about. Nor do they tell when pub/sub may have
//! lost something, or ask a majority of Sentinels for the newest `config-epoch`.

mod calls;
mod checks;
mod dial;
mod error;
mod sentinels;
mod topology;
mod topology_refresher;

use std::sync::Arc;
use std::time::Duration;

use im_runtime::tls::Tls;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::address::{Address, BadAddress};
use crate::keys::{BadPrefix, Keys};

pub use calls::Call;
pub(crate) use checks::{Role, role, run_id};
pub(crate) use dial::dial;
pub use error::Error;
pub use topology::{Lane, Master, Topology};

/// How to reach redis.
#[derive(Debug, Clone)]
pub struct Options {
    /// `redis://`, `rediss://`, `redis+sentinel://` or `redis+cluster://`: see [`Address::parse`].
    pub url: String,
    /// What is shown to a redis that speaks TLS, and believed of it; `None`: no certificate, and what the system trusts.
    pub tls: Option<Arc<Tls>>,
    /// What every key and channel begins with.
    pub prefix: String,
    /// Connections to each master that all commands share.
    pub connections: usize,
    /// Further connections to each master for commands that block (`WAIT`), one for each that may block at once.
    pub blocking: usize,
    /// How long redis may take to answer a command; a blocking one takes its own time on top.
    pub command_timeout: Duration,
    /// How long a blocking command may block.
    pub blocking_timeout: Duration,
    /// How long opening a connection may take.
    pub connect_timeout: Duration,
    /// How often the masters are asked whether they still are, and Sentinels who is.
    pub check_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            url: "redis://127.0.0.1:6379".to_owned(),
            tls: None,
            prefix: "im".to_owned(),
            connections: 2,
            blocking: 0,
            command_timeout: Duration::from_secs(2),
            blocking_timeout: Duration::ZERO,
            connect_timeout: Duration::from_secs(1),
            check_interval: Duration::from_secs(1),
        }
    }
}

/// Why a client was not started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The URL.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// The prefix.
    #[error(transparent)]
    Prefix(#[from] BadPrefix),
}

/// A handle on redis; clones share everything. The background task ends with the last of them.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    /// Ends the background task when the last client is gone.
    _alive: Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct Shared {
    address: Address,
    keys: Keys,
    options: Options,
    topology: watch::Sender<Arc<Topology>>,
    sentinels: sentinels::Sentinels,
    /// Something was wrong with a master: look again, now.
    refresh_soon: Notify,
}

#[derive(Debug)]
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// Begins to look for redis, in the background of the current tokio runtime. Does not wait for it: commands wait for
    /// a moment, and fail while there is none.
    ///
    /// # Errors
    /// [`StartError`]: URL or prefix cannot be used.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let address = Address::parse(&options.url)?;
        let keys = Keys::new(&options.prefix)?;
        if address.is_tls() {
            // Whoever was first has chosen; here it only matters that somebody has.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let (topology, _) = watch::channel(Arc::new(Topology::none(None)));
        let shared = Arc::new(Shared {
            address,
            keys,
            options,
            topology,
            sentinels: sentinels::Sentinels::default(),
            refresh_soon: Notify::new(),
        });
        let refresher = tokio::spawn(topology_refresher::run(Arc::clone(&shared))).abort_handle();
        Ok(Self {
            shared,
            _alive: Arc::new(AbortOnDrop(refresher)),
        })
    }

    /// Which redis; shows no passwords.
    pub fn address(&self) -> &Address {
        &self.shared.address
    }

    /// The names of keys and channels.
    pub fn keys(&self) -> &Keys {
        &self.shared.keys
    }

    /// Which master has which slot, and every change of that.
    pub fn topology(&self) -> watch::Receiver<Arc<Topology>> {
        self.shared.topology.subscribe()
    }

    /// Waits until there is a master for every slot.
    ///
    /// # Errors
    /// [`Error::Down`] says what is missing.
    pub async fn ready(&self, within: Duration) -> Result<Arc<Topology>, Error> {
        let deadline = Instant::now() + within;
        let mut topology = self.topology();
        let complete =
            tokio::time::timeout_at(deadline, topology.wait_for(|now| now.is_complete())).await;
        match complete {
            Ok(Ok(found)) => return Ok(Arc::clone(&found)),
            Ok(Err(_)) => return Err(Error::Down("the client has ended".to_owned())),
            Err(_) => {}
        }
        Err(Error::Down(self.shared.topology.borrow().trouble()))
    }

    /// Whether every master answers.
    ///
    /// # Errors
    /// The first master's error.
    pub async fn ping(&self, topology: &Topology) -> Result<(), Error> {
        let pings = topology.masters().iter().map(async |master| {
            let answer = redis::cmd("PING")
                .exec_async(&mut master.connection(Lane::Any))
                .await;
            answer.map_err(|error| Error::of_connection(&error))
        });
        futures::future::try_join_all(pings).await.map(drop)
    }

    /// Something is wrong with the topology in use: look again, now.
    pub(crate) fn refresh_soon(&self) {
        self.shared.refresh_soon.notify_one();
    }

    pub(crate) fn options(&self) -> &Options {
        &self.shared.options
    }
}
