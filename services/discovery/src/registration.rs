//! A process's own entry: put under a lease, kept alive, put again after any loss, taken away at the end.

use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, LeaseKeepAliveStream, LeaseKeeper, PutOptions, Txn, TxnOp,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::etcd::{Error, Options};
use crate::metrics::{ERRORS, REGISTERED};
use crate::{Kind, Node};

/// Keeps one entry in etcd until it is revoked or dropped. etcd may come and go meanwhile.
#[derive(Debug)]
pub struct Registration {
    wanted: watch::Sender<Node>,
    registered: watch::Receiver<bool>,
    end: CancellationToken,
    task: JoinHandle<()>,
    timeout: Duration,
}

impl Registration {
    /// Begins to register; does not wait for etcd.
    pub fn start(options: Options, kind: Kind, node: Node) -> Self {
        let (wanted, wanted_seen) = watch::channel(node);
        let (registered_told, registered) = watch::channel(false);
        let end = CancellationToken::new();
        let timeout = options.timeout;
        let registrar = Registrar {
            options,
            kind,
            wanted: wanted_seen,
            registered: registered_told,
            end: end.clone(),
        };
        Self {
            wanted,
            registered,
            end,
            task: tokio::spawn(registrar.run()),
            timeout,
        }
    }

    /// Changes the entry; written as soon as etcd can be reached, if it is another one.
    pub fn update(&self, change: impl FnOnce(&mut Node)) {
        self.wanted.send_if_modified(|node| {
            let before = node.clone();
            change(node);
            *node != before
        });
    }

    /// Whether the entry is in etcd, as far as is known.
    pub fn registered(&self) -> bool {
        *self.registered.borrow()
    }

    /// Returns once the entry is in etcd.
    pub async fn standing(&self) {
        // The sender lives as long as the task, which ends only with `self`.
        let _ = self
            .registered
            .clone()
            .wait_for(|registered| *registered)
            .await;
    }

    /// Takes the entry away. etcd being away, it is left to the lease.
    pub async fn revoke(mut self) {
        self.end.cancel();
        if tokio::time::timeout(2 * self.timeout, &mut self.task)
            .await
            .is_err()
        {
            tracing::warn!(
                "failed to remove the entry from etcd in time; it expires with its lease"
            );
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.task.abort();
        REGISTERED.set(0);
    }
}

struct Registrar {
    options: Options,
    kind: Kind,
    wanted: watch::Receiver<Node>,
    registered: watch::Sender<bool>,
    end: CancellationToken,
}

/// One lease's life.
struct Session {
    client: Client,
    key: String,
    lease: i64,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl Registrar {
    async fn run(mut self) {
        let mut pauses = self.options.pauses();
        while !self.end.is_cancelled() {
            let ended = Box::pin(self.session()).await;
            let was_registered = self.registered.send_replace(false);
            REGISTERED.set(0);
            let Err(error) = ended else { break };
            ERRORS.with_label_values(&["register"]).inc();
            if was_registered {
                tracing::warn!(%error, "entry in etcd may be lost, registering again");
                pauses = self.options.pauses();
            } else {
                tracing::debug!(%error, "not registered in etcd yet, will retry");
            }
            tokio::select! {
                () = tokio::time::sleep(pauses.next().unwrap_or(self.options.pause_max)) => {}
                () = self.end.cancelled() => {}
            }
        }
    }

    /// Returns without error when the entry has been taken away on demand.
    async fn session(&mut self) -> Result<(), Error> {
        let end = self.end.clone();
        let mut session = tokio::select! {
            session = self.open() => session?,
            () = end.cancelled() => return Ok(()),
        };
        let kept = self.keep(&mut session).await;
        if kept.is_ok() {
            self.options
                .within(session.client.lease_revoke(session.lease))
                .await?;
        }
        kept
    }

    async fn open(&mut self) -> Result<Session, Error> {
        let mut client = self.options.client().await?;
        let ttl = i64::try_from(self.options.lease.as_secs().max(2)).unwrap_or(i64::MAX);
        let lease = self
            .options
            .within(client.lease_grant(ttl, None))
            .await?
            .id();
        let key = format!(
            "{}{}",
            self.options.folder(self.kind),
            self.wanted.borrow().id
        );
        let (keeper, answers) = self.options.within(client.lease_keep_alive(lease)).await?;
        let mut session = Session {
            client,
            key,
            lease,
            keeper,
            answers,
        };
        self.put(&mut session).await?;
        self.registered.send_replace(true);
        REGISTERED.set(1);
        tracing::info!(key = session.key, "registered in etcd");
        Ok(session)
    }

    async fn keep(&mut self, session: &mut Session) -> Result<(), Error> {
        // Thrice within a lease, so that one answer may be lost.
        let mut beat = tokio::time::interval(self.options.lease / 3);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let end = self.end.clone();
        loop {
            tokio::select! {
                () = end.cancelled() => return Ok(()),
                _ = beat.tick() => self.beat(session).await?,
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.put(session).await?,
                    Err(_) => return Ok(()),
                },
            }
        }
    }

    async fn put(&mut self, session: &mut Session) -> Result<(), Error> {
        let value = json(&self.wanted.borrow_and_update());
        let options = PutOptions::new().with_lease(session.lease);
        self.options
            .within(
                session
                    .client
                    .put(session.key.clone(), value, Some(options)),
            )
            .await?;
        Ok(())
    }

    /// Prolongs the lease, and puts the entry again should somebody have deleted it.
    async fn beat(&mut self, session: &mut Session) -> Result<(), Error> {
        self.options.within(session.keeper.keep_alive()).await?;
        match self.options.within(session.answers.message()).await? {
            Some(answer) if answer.ttl() > 0 => {}
            Some(_) | None => return Err(Error::LeaseLost),
        }
        let gone = Compare::version(session.key.clone(), CompareOp::Equal, 0);
        let value = json(&self.wanted.borrow());
        let put = TxnOp::put(
            session.key.clone(),
            value,
            Some(PutOptions::new().with_lease(session.lease)),
        );
        self.options
            .within(session.client.txn(Txn::new().when([gone]).and_then([put])))
            .await?;
        Ok(())
    }
}

fn json(node: &Node) -> String {
    serde_json::to_string(node)
        .unwrap_or_else(|_| unreachable!("strings, numbers and a map of strings are always JSON"))
}
