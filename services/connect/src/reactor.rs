//! A shard's loop: everything that has arrived is taken in before anything is written, so batches form by themselves under
//! load and an idle room waits for nothing.

pub(crate) mod thread;

use std::rc::Rc;
use std::sync::atomic::Ordering;

use tokio::time::timeout_at;

use crate::hub::Next;
use crate::metrics;
use crate::shard::Shard;
use crate::shard::mailbox::{Command, Mailbox};

/// How many commands are taken at once.
const BATCH: usize = 1024;

impl Mailbox {
    /// Runs as long as the process has commands.
    pub(crate) async fn run(mut self, shard: Rc<Shard>) {
        let number = shard.number.to_string();
        let gauge = metrics::SHARD_QUEUE.with_label_values(&[&number]);
        let bytes_gauge = metrics::SHARD_QUEUE_BYTES.with_label_values(&[&number]);
        let mut batch = Vec::with_capacity(BATCH);
        let mut next = Next::Arrival;
        while self.next(&shard, &mut batch, next).await {
            #[cfg(test)]
            crate::planted::pass(&shard.options.node, shard.number, "event loop");
            gauge.set(self.commands.len() as i64);
            bytes_gauge.set(self.commands.bytes() as i64);
            for command in batch.drain(..) {
                shard.handle(command);
            }
            if self.possibly_lost.swap(false, Ordering::AcqRel) {
                shard.compare_all();
            }
            next = shard.deliver_some();
            if shard.continue_broadcasts() {
                next = Next::Now;
            }
        }
    }

    /// Takes what has arrived. Waits for it, but not where something is to be delivered before: then the sessions have their
    /// turn and it goes on. `false`: nothing will come any more.
    async fn next(&mut self, shard: &Shard, batch: &mut Vec<Command>, next: Next) -> bool {
        match next {
            Next::Arrival => return self.arrival(shard, batch).await,
            Next::At(due) => {
                return timeout_at(due, self.arrival(shard, batch))
                    .await
                    .unwrap_or(true);
            }
            Next::Now => {
                // Where another thread waits for this core, be it logic or redis, it waits no longer than a turn.
                std::thread::yield_now();
                tokio::task::yield_now().await;
            }
        }
        while batch.len() < BATCH
            && let Ok(command) = self.commands.try_recv()
        {
            batch.push(command);
        }
        true
    }

    /// Waits for commands, or for something to deliver that came another way.
    async fn arrival(&mut self, shard: &Shard, batch: &mut Vec<Command>) -> bool {
        tokio::select! {
            biased;
            count = self.commands.recv_many(batch, BATCH) => count > 0,
            () = shard.has_work.notified() => true,
        }
    }
}

impl Shard {
    fn handle(self: &Rc<Self>, command: Command) {
        match command {
            Command::Logged(message) => self.logged(message),
            Command::Signal {
                room,
                signal,
                to_user,
            } => self.signal(&room, signal, &to_user),
            Command::Subscribed(room) => self.subscribed(&room),
            Command::Push {
                target,
                signal,
                done,
            } => self.push(target, signal, done),
            Command::Kick {
                which,
                code,
                text,
                done,
            } => self.kick(which, code, text, done),
            Command::RoomsChanged { change, done } => {
                let _caller_gone = done.send(self.rooms_changed(&change));
            }
            Command::Compare => self.compare_all(),
            Command::Bans => self.look_for_banned(),
            Command::Drain(plan) => self.begin_drain(plan),
        }
    }
}
