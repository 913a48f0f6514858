//! How a client is made.

use std::sync::Arc;

use im_wire::native::Position;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::address::{Address, BadAddress};
use crate::answer::State;
use crate::client::Client;
use crate::codec::Encoding;
use crate::core::{Core, Setup};
use crate::driver::Driver;
use crate::event::{Events, Heard};
use crate::options::Options;
use crate::stats::Counters;
use crate::token::TokenSource;

/// Why a client cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An address cannot be read.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// No address was given.
    #[error("no address: give at least one, like tcp://localhost:3101")]
    NoAddress,
    /// No token was given.
    #[error("no token: give a string or a token source")]
    NoToken,
    /// JSON cannot travel over this address.
    #[error("address {0} cannot carry JSON: use ws:// or the binary encoding")]
    JsonNeedsWebSocket(Address),
    /// There is no tokio runtime to run on.
    #[error("must be built within a tokio runtime")]
    NoRuntime,
}

/// Collects what a [`Client`] needs.
#[derive(Default)]
pub struct Builder {
    addresses: Vec<Result<Address, BadAddress>>,
    token: Option<Arc<dyn TokenSource>>,
    device: Option<String>,
    agent: Option<String>,
    follow_all: bool,
    positions: Vec<Position>,
    encoding: Encoding,
    options: Options,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = (
            &self.addresses,
            &self.device,
            self.follow_all,
            self.encoding,
        );
        f.debug_tuple("Builder")
            .field(&shown)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Begins a client.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Builder {
    /// An address, `tcp://host[:port]` or `ws://host[:port][/path]`. May be called several times: the client begins with
    /// a random one and goes on to the next when one fails.
    #[must_use]
    pub fn address(mut self, address: impl AsRef<str>) -> Self {
        self.addresses.push(address.as_ref().parse());
        self
    }

    /// Several addresses at once.
    #[must_use]
    pub fn addresses<I: IntoIterator<Item: AsRef<str>>>(self, addresses: I) -> Self {
        addresses.into_iter().fold(self, Self::address)
    }

    /// The signed token, or a source of tokens that is asked before each connect and before the current one ends.
    #[must_use]
    pub fn token(mut self, source: impl TokenSource) -> Self {
        self.token = Some(Arc::new(source));
        self
    }

    /// The name of this installation. May be left out where the token has a `dev` claim.
    #[must_use]
    pub fn device(mut self, device: impl Into<String>) -> Self {
        self.device = Some(device.into());
        self
    }

    /// Name and version of the application, for the server's log.
    #[must_use]
    pub fn agent(mut self, agent: impl Into<String>) -> Self {
        self.agent = Some(agent.into());
        self
    }

    /// Whether to hear every room that the user is a member of, now and later.
    #[must_use]
    pub fn follow_all(mut self, follow: bool) -> Self {
        self.follow_all = follow;
        self
    }

    /// Rooms to hear, each from a position: those kept from [`Client::positions`], or new ones.
    #[must_use]
    pub fn subscribe(mut self, positions: impl IntoIterator<Item = Position>) -> Self {
        self.positions.extend(positions);
        self
    }

    /// Binary or JSON.
    #[must_use]
    pub fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// Times, bounds and sizes.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Starts the client: one task on the current tokio runtime, which connects at once.
    ///
    /// # Errors
    /// [`BuildError`] where something is missing or cannot work.
    pub fn build(self) -> Result<(Client, Events), BuildError> {
        let addresses = self.addresses.into_iter().collect::<Result<Vec<_>, _>>()?;
        if addresses.is_empty() {
            return Err(BuildError::NoAddress);
        }
        if let Some(tcp) = addresses.iter().find(|address| !address.is_websocket())
            && self.encoding == Encoding::Json
        {
            return Err(BuildError::JsonNeedsWebSocket(tcp.clone()));
        }
        let tokens = self.token.ok_or(BuildError::NoToken)?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| BuildError::NoRuntime)?;

        let options = Arc::new(self.options);
        let counters = Arc::new(Counters::default());
        let heard = Arc::new(Heard::new(&self.positions));
        let (state, watched) = watch::channel(State::Connecting { last_failure: None });
        let (commands, inbox) = mpsc::channel(64);
        let (events, queue) = mpsc::channel(options.event_queue.max(1));
        let core = Core::new(Setup {
            options: Arc::clone(&options),
            addresses,
            device: self.device,
            agent: self
                .agent
                .or_else(|| Some(format!("im-client/{}", env!("CARGO_PKG_VERSION")))),
            positions: self.positions,
            follow_all: self.follow_all,
            renewable: tokens.renewable(),
            counters: Arc::clone(&counters),
            seed: rand::random(),
        });
        let driver = Driver::new(
            core,
            Arc::clone(&options),
            tokens,
            self.encoding,
            inbox,
            events,
            state,
        );
        runtime.spawn(driver.run());
        let permits = Arc::new(Semaphore::new(options.max_pending.max(1)));
        let client = Client::new(
            commands,
            permits,
            options,
            counters,
            Arc::clone(&heard),
            watched,
        );
        Ok((client, Events::new(queue, heard)))
    }
}
