//! Calls: each goes to the master of its slot, those of one master in one pipeline; what certainly did not happen is tried
//! once more on the right server (into a slot on its way to another master: again and again for half of the call's time),
//! what may have happened only where the caller says that a repeat does no harm.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, Value};
use tokio::time::Instant;

use super::error::checked;
use super::topology::{Lane, Master};
use super::{Client, Error};
use crate::backoff::Backoff;
use crate::scripts::Script;
use crate::slot::Slot;

/// How long a call that met the wrong server waits for the right one to be found.
const CHANGEOVER: Duration = Duration::from_millis(300);
/// How long a call into a slot that is on its way to another master waits before it asks again, at first.
const ARRIVAL: Duration = Duration::from_millis(20);

/// One command for one slot.
#[derive(Debug, Clone)]
pub struct Call {
    slot: Slot,
    command: Cmd,
    script: Option<&'static Script>,
    wait: Option<(usize, u64)>,
    repeatable: bool,
}

impl Call {
    /// A command on keys of this slot.
    pub fn new(slot: Slot, command: Cmd) -> Self {
        Self {
            slot,
            command,
            script: None,
            wait: None,
            repeatable: false,
        }
    }

    /// A script's call, begun with [`Script::call`].
    pub fn script(slot: Slot, script: &'static Script, command: Cmd) -> Self {
        Self {
            script: Some(script),
            ..Self::new(slot, command)
        }
    }

    /// Done twice it does no harm: it is tried again also where it may have happened.
    pub fn repeatable(self) -> Self {
        Self {
            repeatable: true,
            ..self
        }
    }

    /// Followed by `WAIT replicas milliseconds` on the same connection (one for all calls made together): the reply becomes
    /// `[reply, confirmed]`. To be sent over [`Lane::Blocking`].
    pub fn wait(self, replicas: usize, milliseconds: u64) -> Self {
        Self {
            wait: Some((replicas, milliseconds)),
            ..self
        }
    }
}

type Outcome = Result<Value, Error>;

impl Client {
    /// One call.
    ///
    /// # Errors
    /// [`Error`] tells whether it may have happened.
    pub async fn call(&self, lane: Lane, call: Call) -> Outcome {
        let mut outcomes = self.calls(lane, vec![call]).await;
        outcomes
            .pop()
            .unwrap_or_else(|| Err(Error::Down("no call was made".to_owned())))
    }

    /// Several calls; outcomes in their order. Calls to one slot happen in their order.
    pub async fn calls(&self, lane: Lane, calls: Vec<Call>) -> Vec<Outcome> {
        let deadline = Instant::now() + self.options().command_timeout;
        let mut outcomes: Vec<Option<Outcome>> = calls.iter().map(|_| None).collect();
        self.attempt(lane, &calls, &mut outcomes, deadline).await;
        let mut arrival = Backoff::new(ARRIVAL, CHANGEOVER);
        let arrived_by = Instant::now() + (deadline - Instant::now()) / 2;
        let mut topology = self.topology();
        // Which calls have been tried again; nothing is kept while all goes well.
        let mut repeated: Vec<bool> = Vec::new();
        loop {
            // A call that comes after one that is tried again, in the same slot, has passed it already: that cannot be
            // helped.
            let mut any = false;
            let mut elsewhere = false;
            let mut moving = false;
            for (number, (outcome, call)) in outcomes.iter_mut().zip(&calls).enumerate() {
                let Some(Err(error)) = outcome else { continue };
                repeated.resize(calls.len(), false);
                let is_moving = matches!(error, Error::Moving(_));
                let again = match error {
                    Error::Moving(_) => Instant::now() < arrived_by,
                    Error::Lost(_) => call.repeatable && !repeated[number],
                    _ => error.is_safe_to_repeat() && !repeated[number],
                };
                if again && Instant::now() < deadline {
                    elsewhere |= matches!(error, Error::Elsewhere(_));
                    moving |= is_moving;
                    repeated[number] |= !is_moving;
                    *outcome = None;
                    any = true;
                }
            }
            if !any {
                break;
            }
            if elsewhere || moving {
                // The server was the wrong one, or is not ready: a moment to find out who is. A slot on
                // its way is there soon.
                let pause = if elsewhere {
                    CHANGEOVER
                } else {
                    arrival.next()
                };
                topology.mark_unchanged();
                let _ = tokio::time::timeout_at(
                    deadline.min(Instant::now() + pause),
                    topology.changed(),
                )
                .await;
            }
            self.attempt(lane, &calls, &mut outcomes, deadline).await;
        }
        let unanswered = || Err(Error::Down("no call was made".to_owned()));
        outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(unanswered).map_err(outward))
            .collect()
    }

    /// Makes every call that has no outcome yet.
    async fn attempt(
        &self,
        lane: Lane,
        calls: &[Call],
        outcomes: &mut [Option<Outcome>],
        deadline: Instant,
    ) {
        let mut groups: Vec<(Arc<Master>, Vec<usize>)> = Vec::new();
        for (number, call) in calls.iter().enumerate() {
            if outcomes[number].is_some() {
                continue;
            }
            match self.owner(call.slot, deadline).await {
                Err(error) => outcomes[number] = Some(Err(error.counted())),
                Ok(master) => match groups
                    .iter_mut()
                    .find(|(other, _)| Arc::ptr_eq(other, &master))
                {
                    Some((_, numbers)) => numbers.push(number),
                    None => groups.push((master, vec![number])),
                },
            }
        }
        let exchanges = groups.into_iter().map(async |(master, numbers)| {
            let group: Vec<&Call> = numbers.iter().map(|number| &calls[*number]).collect();
            let replies = self.exchange(&master, lane, &group).await;
            numbers.into_iter().zip(replies).collect::<Vec<_>>()
        });
        for (number, outcome) in futures::future::join_all(exchanges)
            .await
            .into_iter()
            .flatten()
        {
            outcomes[number] = Some(outcome);
        }
    }

    /// Who owns the slot. While nobody does, waits a little; fails at once where that has lasted.
    async fn owner(&self, slot: Slot, deadline: Instant) -> Result<Arc<Master>, Error> {
        let mut topology = self.topology();
        loop {
            let until = {
                let now = topology.borrow_and_update();
                match now.owner(slot) {
                    Some(master) if !master.is_broken() => return Ok(Arc::clone(master)),
                    Some(master) => master.broken_at().unwrap_or(now.since()),
                    None => now.since(),
                }
            };
            let until = deadline.min(until + self.options().command_timeout);
            let waited = tokio::time::timeout_at(until, topology.changed()).await;
            if !matches!(waited, Ok(Ok(()))) {
                return Err(Error::Down(self.shared.topology.borrow().trouble()));
            }
        }
    }

    async fn exchange(&self, master: &Master, lane: Lane, calls: &[&Call]) -> Vec<Outcome> {
        let mut outcomes = self.send(master, lane, calls).await;
        self.load_scripts(master, lane, calls, &mut outcomes).await;
        for (outcome, call) in outcomes.iter_mut().zip(calls) {
            if let Err(Error::Ask(host)) = &outcome {
                let host = host.clone();
                *outcome = self.ask(&host, lane, call).await;
            }
        }
        let suspicious = outcomes
            .iter()
            .filter_map(|outcome| outcome.as_ref().err())
            .find(|error| error.is_suspicious());
        if let Some(error) = suspicious {
            tracing::debug!(master = %master.host, %error, "call failed, checking the redis topology");
            self.refresh_soon();
        }
        outcomes
            .into_iter()
            .map(|outcome| outcome.map_err(Error::counted))
            .collect()
    }

    /// Makes the master know the scripts it did not know, and calls them again, in their order.
    async fn load_scripts(
        &self,
        master: &Master,
        lane: Lane,
        calls: &[&Call],
        outcomes: &mut [Outcome],
    ) {
        let unknown = |number: &usize| matches!(outcomes[*number], Err(Error::NoScript));
        let again: Vec<usize> = (0..calls.len()).filter(unknown).collect();
        let mut scripts: Vec<&Script> = Vec::new();
        for script in again.iter().filter_map(|number| calls[*number].script) {
            if !scripts.iter().any(|other| std::ptr::eq(*other, script)) {
                scripts.push(script);
            }
        }
        for script in scripts {
            // Where this fails, so will the call.
            let _ = master
                .connection(lane)
                .req_packed_command(&script.load())
                .await;
        }
        if !again.is_empty() {
            let group: Vec<&Call> = again.iter().map(|number| calls[*number]).collect();
            for (number, outcome) in again.into_iter().zip(self.send(master, lane, &group).await) {
                outcomes[number] = outcome;
            }
        }
    }

    /// The slot is on its way to another master, which answers for what has arrived there if it is told so.
    async fn ask(&self, host: &str, lane: Lane, call: &Call) -> Outcome {
        let topology = Arc::clone(&self.shared.topology.borrow());
        let Some(master) = topology.by_name(host) else {
            self.refresh_soon();
            return Err(Error::Elsewhere(format!("the slot moves to {host}")));
        };
        if let Some(script) = call.script {
            let loaded = master
                .connection(lane)
                .req_packed_command(&script.load())
                .await;
            loaded
                .map_err(|error| Error::of_connection(&error))
                .and_then(checked)?;
        }
        let mut pipeline = Pipeline::with_capacity(3);
        pipeline.add_command(redis::cmd("ASKING"));
        add(&mut pipeline, &[call]);
        let mut replies = run(master, lane, &pipeline).await?;
        replies.remove(0);
        take(&[call], replies)
            .pop()
            .unwrap_or_else(|| Err(Error::Lost("no reply".to_owned())))
    }

    async fn send(&self, master: &Master, lane: Lane, calls: &[&Call]) -> Vec<Outcome> {
        let mut pipeline = Pipeline::with_capacity(calls.len() + 1);
        add(&mut pipeline, calls);
        match run(master, lane, &pipeline).await {
            Ok(replies) => take(calls, replies),
            Err(error) => {
                if matches!(error, Error::Lost(_)) {
                    master.give_up();
                }
                calls.iter().map(|_| Err(error.clone())).collect()
            }
        }
    }
}

async fn run(master: &Master, lane: Lane, pipeline: &Pipeline) -> Result<Vec<Value>, Error> {
    let mut connection = master.connection(lane);
    connection
        .req_packed_commands(pipeline, 0, pipeline.len())
        .await
        .map_err(|error| Error::of_connection(&error))
}

/// One `WAIT` behind all of them: it counts for everything that was written before it.
fn add(pipeline: &mut Pipeline, calls: &[&Call]) {
    for call in calls {
        pipeline.add_command(call.command.clone());
    }
    if let Some((replicas, milliseconds)) = calls.iter().find_map(|call| call.wait) {
        pipeline.cmd("WAIT").arg(replicas).arg(milliseconds);
    }
}

fn take(calls: &[&Call], mut replies: Vec<Value>) -> Vec<Outcome> {
    let wanted = calls.len() + usize::from(calls.iter().any(|call| call.wait.is_some()));
    if replies.len() != wanted {
        let error = Error::Lost(format!("{} replies to {wanted} commands", replies.len()));
        return calls.iter().map(|_| Err(error.clone())).collect();
    }
    let confirmed = if wanted > calls.len() {
        replies.pop().map(checked)
    } else {
        None
    };
    let outcome = |(call, reply): (&&Call, Value)| match (&confirmed, call.wait) {
        // What was refused was not written, whatever WAIT said.
        (Some(confirmed), Some(_)) => Ok(Value::Array(vec![checked(reply)?, confirmed.clone()?])),
        _ => checked(reply),
    };
    calls.iter().zip(replies).map(outcome).collect()
}

/// What is an instruction to this module is "elsewhere" to everyone else.
fn outward(error: Error) -> Error {
    match error {
        Error::NoScript | Error::Ask(_) | Error::Moving(_) => Error::Elsewhere(error.to_string()),
        error => error,
    }
}
