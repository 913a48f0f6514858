//! The operator's life: find the API server, be elected, watch, reconcile, and give the Lease back at the end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use im_runtime::{Process, Shutdown};
use kube::client::ClientBuilder;
use kube::{Client, Config};
use tokio::time::{sleep, timeout};

use crate::context::Context;
use crate::controller::{self, Controller};
use crate::kubernetes::calls::{Calls, Gate};
use crate::kubernetes::election::Candidate;
use crate::metrics;
use crate::settings::Settings;

/// How long the API server may take to be found at the start.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// The body of `im-operator run`.
///
/// # Errors
/// The API server's address is not known, or the Lease was lost: the process is to end at once.
pub async fn run(settings: Settings, process: Process) -> Result<()> {
    let Process {
        node,
        admin,
        shutdown,
        tasks,
    } = process;
    metrics::register();
    let gate = if settings.leader_election {
        Gate::shut()
    } else {
        Gate::open()
    };
    let config = timeout(CONNECT_TIMEOUT, Config::infer())
        .await
        .context("timed out reading the Kubernetes client configuration")?;
    let config = config.context("no API server is known: run in a pod, or set KUBECONFIG")?;
    let client = connect(config, &gate).context("the Kubernetes credentials cannot be used")?;
    let reachable = admin.readiness().latch("the API server has answered");
    tokio::select! {
        version = answered(&client) => tracing::info!(version, "connected to the API server"),
        () = shutdown.begun() => return Ok(()),
    }
    reachable.set();

    let mut candidate = settings.leader_election.then(|| {
        Candidate::new(
            client.clone(),
            settings.election(node.clone()),
            gate.clone(),
        )
    });
    if let Some(candidate) = &mut candidate {
        tokio::select! {
            () = candidate.acquire() => {}
            () = shutdown.begun() => return Ok(()),
        }
    } else {
        metrics::LEADER.set(1);
    }
    let controller = Arc::new(Controller::new(Arc::new(Context::new(
        client, gate, settings, &node,
    ))));
    for (name, work) in controller::work(&controller) {
        tasks.spawn(name, async move {
            work.await;
            Ok::<_, std::convert::Infallible>(())
        });
    }
    let ended = lead(&mut candidate, &shutdown).await;
    if ended.is_ok() {
        controller.finish(shutdown.remaining()).await;
        if let Some(candidate) = &mut candidate {
            candidate.release().await;
        }
    }
    ended
}

/// Leads until the end is asked for; an error where the Lease is lost before.
async fn lead(candidate: &mut Option<Candidate>, shutdown: &Shutdown) -> Result<()> {
    let Some(candidate) = candidate else {
        shutdown.begun().await;
        return Ok(());
    };
    tokio::select! {
        lost = candidate.renew_until_lost() => bail!(lost),
        () = shutdown.begun() => Ok(()),
    }
}

/// A client whose calls are counted, bounded and gated.
fn connect(config: Config, gate: &Gate) -> Result<Client, kube::Error> {
    Ok(ClientBuilder::try_from(config)?
        .with_layer(&Calls { gate: gate.clone() })
        .build())
}

/// Returns the API server's version once it answers.
async fn answered(client: &Client) -> String {
    let mut pause = Duration::from_millis(500);
    loop {
        match client.apiserver_version().await {
            Ok(version) => return version.git_version,
            Err(error) => tracing::warn!(%error, "API server unreachable, retrying"),
        }
        sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
        pause = (pause * 2).min(Duration::from_secs(15));
    }
}
