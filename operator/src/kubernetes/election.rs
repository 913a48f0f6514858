//! Leader election on a Lease, by client-go's rules: only locally observed time counts, so clocks may differ between
//! replicas. Whoever leads renews; whoever could not renew in time must stop at once.
//!
//! The crates that do this for kube elect a leader and leave it to the caller to stop. Here every write passes a [`Gate`] that
//! closes by itself when the Lease runs out.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout};

use crate::kubernetes::calls::Gate;
use crate::metrics;

/// How the leader is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// The Lease's namespace: the operator's own.
    pub(crate) namespace: String,
    /// The Lease's name.
    pub(crate) name: String,
    /// This replica's name; no two may have the same.
    pub(crate) identity: String,
    /// How long others wait for a leader that is not heard before one takes its place.
    pub(crate) duration: Duration,
    /// How long a leader tries to renew before it gives up. Shorter than `duration`.
    pub(crate) renew_deadline: Duration,
    /// The pause between attempts.
    pub(crate) retry: Duration,
}

/// The leader could not renew its Lease in time, or another has it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("lost the lease {lease}: {why}")]
pub(crate) struct Lost {
    lease: String,
    why: String,
}

/// One replica's part in the election.
#[derive(Debug)]
pub(crate) struct Candidate {
    leases: Api<Lease>,
    options: Options,
    gate: Gate,
    observed: Option<Observed>,
}

/// The Lease as it was last seen to change, and when that was by our own clock.
#[derive(Debug, Clone)]
struct Observed {
    lease: Lease,
    at: Instant,
}

impl Candidate {
    /// A replica that does not lead yet. Its `gate` lets writes pass only while it leads.
    pub(crate) fn new(client: Client, options: Options, gate: Gate) -> Self {
        gate.close();
        Self {
            leases: Api::namespaced(client, &options.namespace),
            options,
            gate,
            observed: None,
        }
    }

    /// Returns once this replica leads.
    pub(crate) async fn acquire(&mut self) {
        metrics::LEADER.set(0);
        loop {
            let asked = Instant::now();
            match timeout(self.options.renew_deadline, self.attempt()).await {
                Ok(Ok(true)) => break self.gate.allow_until(asked + self.options.duration),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, lease = %self.name(), "cannot acquire the lease, retrying")
                }
                Err(_) => {
                    tracing::warn!(lease = %self.name(), "timed out waiting for the API server to answer about the lease")
                }
            }
            sleep(self.pause()).await;
        }
        metrics::LEADER.set(1);
        tracing::info!(lease = %self.name(), identity = %self.options.identity, "acquired the lease, leading");
    }

    /// Renews for as long as this replica leads; returns when it does not any more. Nothing may be written after that.
    pub(crate) async fn renew_until_lost(&mut self) -> Lost {
        let why = loop {
            sleep(self.options.retry).await;
            match timeout(self.options.renew_deadline, self.renew()).await {
                Ok(Ok(())) => {}
                Ok(Err(other)) => break format!("held by {other}"),
                Err(_) => break format!("not renewed for {:?}", self.options.renew_deadline),
            }
        };
        self.gate.close();
        metrics::LEADER.set(0);
        Lost {
            lease: self.name(),
            why,
        }
    }

    /// Gives the Lease back, so that another need not wait for it to end. Without effect where this replica does not lead.
    pub(crate) async fn release(&mut self) {
        self.gate.close();
        metrics::LEADER.set(0);
        let Some(observed) = self
            .observed
            .clone()
            .filter(|observed| self.is_mine(&observed.lease))
        else {
            return;
        };
        let mut lease = observed.lease;
        let now = MicroTime(Timestamp::now());
        let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: transitions,
            ..LeaseSpec::default()
        });
        match timeout(self.options.retry, self.replace(lease)).await {
            Ok(Ok(())) => tracing::info!(lease = %self.name(), "released the lease"),
            Ok(Err(error)) => {
                tracing::warn!(%error, lease = %self.name(), "cannot release the lease, it will expire")
            }
            Err(_) => {
                tracing::warn!(lease = %self.name(), "timed out releasing the lease, it will expire")
            }
        }
    }

    /// Attempts until one succeeds; `Err` names another holder.
    async fn renew(&mut self) -> Result<(), String> {
        loop {
            let asked = Instant::now();
            match timeout(self.options.renew_deadline / 2, self.attempt()).await {
                Ok(Ok(true)) => {
                    self.gate.allow_until(asked + self.options.duration);
                    return Ok(());
                }
                Ok(Ok(false)) => return Err(self.holder().unwrap_or_default()),
                Ok(Err(error)) => {
                    tracing::warn!(%error, lease = %self.name(), "lease renewal failed, retrying")
                }
                Err(_) => {
                    tracing::warn!(lease = %self.name(), "timed out waiting for the API server to answer about the lease")
                }
            }
            sleep(self.options.retry).await;
        }
    }

    /// Whether this replica leads after one attempt to take or renew the Lease.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        if let Some(observed) = self.observed.clone()
            && self.is_mine(&observed.lease)
            && self.is_valid(&observed)
        {
            // What was seen last is most likely still so: one call instead of two.
            if self
                .replace(self.claimed(Some(&observed.lease)))
                .await
                .is_ok()
            {
                return Ok(true);
            }
        }
        let Some(found) = self.leases.get_opt(&self.options.name).await? else {
            let created = self
                .leases
                .create(&PostParams::default(), &self.claimed(None))
                .await;
            return self.settle(created);
        };
        let observed = self.see(found);
        if !self.is_mine(&observed.lease)
            && holder(&observed.lease).is_some()
            && self.is_valid(&observed)
        {
            return Ok(false);
        }
        let claimed = self.claimed(Some(&observed.lease));
        let written = self
            .leases
            .replace(&self.options.name, &PostParams::default(), &claimed)
            .await;
        self.settle(written)
    }

    /// Losing a race for a write is no error: another was first.
    fn settle(&mut self, written: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
        match written {
            Ok(lease) => {
                self.see(lease);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let mine = self
                    .observed
                    .as_ref()
                    .is_some_and(|observed| self.is_mine(&observed.lease));
                // A leader that lost a race does not know by whom: the next attempt reads it.
                if mine {
                    Err(kube::Error::Api(status))
                } else {
                    Ok(false)
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn replace(&mut self, lease: Lease) -> Result<(), kube::Error> {
        let written = self
            .leases
            .replace(&self.options.name, &PostParams::default(), &lease)
            .await?;
        self.see(written);
        Ok(())
    }

    /// Takes note of the Lease: the time counts anew only where what it says has changed.
    fn see(&mut self, lease: Lease) -> Observed {
        let at = match &self.observed {
            Some(observed) if observed.lease.spec == lease.spec => observed.at,
            before => {
                let (old, new) = (
                    before.as_ref().and_then(|b| holder(&b.lease)),
                    holder(&lease),
                );
                if old != new {
                    tracing::info!(lease = %self.name(), holder = new.unwrap_or("nobody"), "leader changed");
                }
                Instant::now()
            }
        };
        let observed = Observed { lease, at };
        self.observed = Some(observed.clone());
        observed
    }

    /// The Lease as this replica would have it.
    fn claimed(&self, before: Option<&Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let old = before
            .and_then(|lease| lease.spec.clone())
            .unwrap_or_default();
        let mine = before.is_some_and(|lease| self.is_mine(lease));
        let transitions = old.lease_transitions.unwrap_or(0) + i32::from(before.is_some() && !mine);
        let metadata = before.map_or_else(
            || ObjectMeta {
                name: Some(self.options.name.clone()),
                namespace: Some(self.options.namespace.clone()),
                ..ObjectMeta::default()
            },
            |lease| lease.metadata.clone(),
        );
        let spec = LeaseSpec {
            holder_identity: Some(self.options.identity.clone()),
            lease_duration_seconds: Some(
                i32::try_from(self.options.duration.as_secs()).unwrap_or(i32::MAX),
            ),
            acquire_time: if mine {
                old.acquire_time
            } else {
                Some(now.clone())
            },
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        };
        Lease {
            metadata,
            spec: Some(spec),
        }
    }

    fn is_mine(&self, lease: &Lease) -> bool {
        holder(lease) == Some(self.options.identity.as_str())
    }

    fn is_valid(&self, observed: &Observed) -> bool {
        let seconds = observed
            .lease
            .spec
            .as_ref()
            .and_then(|spec| spec.lease_duration_seconds);
        let duration = seconds
            .and_then(|s| u64::try_from(s).ok())
            .map_or(self.options.duration, Duration::from_secs);
        observed.at.elapsed() < duration
    }

    fn holder(&self) -> Option<String> {
        self.observed
            .as_ref()
            .and_then(|observed| holder(&observed.lease))
            .map(str::to_owned)
    }

    fn name(&self) -> String {
        format!("{}/{}", self.options.namespace, self.options.name)
    }

    fn pause(&self) -> Duration {
        self.options
            .retry
            .mul_f64(1.0 + rand::random_range(0.0..1.2))
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease
        .spec
        .as_ref()?
        .holder_identity
        .as_deref()
        .filter(|holder| !holder.is_empty())
}
