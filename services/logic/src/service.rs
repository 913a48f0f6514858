//! Logic as a whole: made from options, a store and a way to the nodes; called through its [`Handle`].

use std::sync::Arc;

use im_runtime::tls::{ServerName, Tls};
use tokio::net::TcpListener;
use tokio::runtime;

use crate::auth::token::Verifier;
use crate::auth::{self, agreement, jwks, key};
use crate::bans;
use crate::call::Handle;
use crate::core::Core;
use crate::nodes::Nodes;
use crate::options::Options;
use crate::phase::Phase;
use crate::reminders;
use crate::serve;
use crate::store::Store;

/// Why logic cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The keys.
    #[error(transparent)]
    Key(#[from] key::Error),
    /// Work in the background needs one.
    #[error("logic must be made inside a tokio runtime")]
    NoRuntime,
}

/// Logic. Its owner serves its two listeners ([`Service::serve_grpc`], [`Service::serve_http`]) or calls its
/// [`Handle`] directly, and ends it with [`Service::drain`].
pub struct Service {
    core: Arc<Core>,
}

impl Service {
    /// Reads the keys; serves nothing yet. Work in the background runs on the runtime that this is called in.
    ///
    /// # Errors
    /// Keys that cannot be used, or no runtime.
    pub fn new(options: Options, store: Store, nodes: Arc<dyn Nodes>) -> Result<Self, StartError> {
        let verifier = Verifier::new(&options.auth)?;
        let key_set = jwks::Source::new(&options.auth)?;
        let runtime = runtime::Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        warn_about(&options.auth);
        declare_metrics();
        let core = Arc::new(Core::new(options, verifier, store, nodes, runtime.clone()));
        if let Some(source) = key_set {
            let verifier = Arc::clone(&core.verifier);
            let refresh = core.options.auth.jwks_refresh;
            runtime.spawn(jwks::keep_fetching(
                source,
                verifier,
                refresh,
                core.phase.subscribe(),
            ));
        }
        runtime.spawn(bans::follow(Arc::downgrade(&core)));
        runtime.spawn(agreement::run(Arc::downgrade(&core)));
        runtime.spawn(reminders::run(Arc::downgrade(&core)));
        Ok(Self { core })
    }

    /// For in-process callers.
    pub fn handle(&self) -> Handle {
        Handle {
            core: Arc::clone(&self.core),
        }
    }

    /// Serves connect processes on this listener, with `tls` only those that show a certificate with this name, until
    /// [`Service::drain`] has come to its end.
    ///
    /// # Errors
    /// The transport fails.
    pub async fn serve_grpc(
        &self,
        listener: TcpListener,
        tls: Option<(Arc<Tls>, ServerName<'static>)>,
    ) -> Result<(), tonic::transport::Error> {
        serve::grpc::serve(self.handle(), listener, tls).await
    }

    /// Serves the HTTP API on this listener. Returns once [`Service::drain`] ends things: connections that are open then
    /// finish what they are about.
    pub async fn serve_http(&self, listener: TcpListener) {
        serve::http::serve(self.handle(), serve::compat::routes(), listener).await;
    }

    /// So many logic processes, this one among them, serve the same users: each has its part of their bytes.
    pub fn shared_by(&self, processes: usize) {
        self.core.user_bytes.share(processes);
        self.core.room_bytes.share(processes);
        self.core.user_reads.share(processes);
    }

    /// Leaves: goes on for `drain.at_least`, then ends every stream and connection that has nothing in flight, and
    /// returns when none is left or `drain.at_most` is over: `false` then, and what is left is to be cut.
    pub async fn drain(&self) -> bool {
        let options = &self.core.options.drain;
        self.core.phase.send_replace(Phase::Leaving);
        tokio::time::sleep(options.at_least).await;
        self.core.phase.send_replace(Phase::Ending);
        self.core.under_way.close();
        let rest = options.at_most.saturating_sub(options.at_least);
        tokio::time::timeout(rest, self.core.under_way.wait())
            .await
            .is_ok()
    }
}

/// Every metric is visible from the start, with nothing counted yet.
fn declare_metrics() {
    crate::core::declare_metrics();
    crate::call::declare_metrics();
    crate::auth::metrics::declare_metrics();
    crate::message::declare_metrics();
    bans::list::declare_metrics();
    reminders::owed::declare_metrics();
    serve::declare_metrics();
}

fn warn_about(options: &auth::Options) {
    if options.allow_unsigned {
        tracing::warn!(
            "UNSIGNED IDENTITIES ARE BELIEVED: anybody can be anybody. This is a development switch; turn it off where \
             anyone else can connect"
        );
    }
}
