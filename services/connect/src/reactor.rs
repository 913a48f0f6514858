//! A shard's loop: everything that has arrived is taken in before anything is written, so batches form by themselves under
//! load and an idle room waits for nothing.

pub(crate) mod thread;

use std::rc::Rc;
use std::sync::atomic::Ordering;

use tokio::time::timeout_at;

use crate::hub::Next;
use crate::metrics;
use crate::shard::Shard;
use crate::shard::mailbox::{Inbox, Order};

/// How many orders are taken at once.
const BATCH: usize = 1024;

impl Inbox {
    /// Runs as long as the process has orders.
    pub(crate) async fn run(mut self, shard: Rc<Shard>) {
        let number = shard.number.to_string();
        let gauge = metrics::SHARD_QUEUE.with_label_values(&[&number]);
        let bytes_gauge = metrics::SHARD_QUEUE_BYTES.with_label_values(&[&number]);
        let mut batch = Vec::with_capacity(BATCH);
        let mut next = Next::Arrival;
        while self.next(&shard, &mut batch, next).await {
            #[cfg(test)]
            crate::planted::pass(&shard.options.node, shard.number, "inbox");
            gauge.set(self.orders.len() as i64);
            bytes_gauge.set(self.orders.bytes() as i64);
            for order in batch.drain(..) {
                shard.take(order);
            }
            if self.disturbed.swap(false, Ordering::AcqRel) {
                shard.disturbed();
            }
            next = shard.deliver_some();
            if shard.go_on_with_many() {
                next = Next::Now;
            }
        }
    }

    /// Takes what has arrived. Waits for it, but not where something is to be delivered before: then the sessions have their
    /// turn and it goes on. `false`: nothing will come any more.
    async fn next(&mut self, shard: &Shard, batch: &mut Vec<Order>, next: Next) -> bool {
        match next {
            Next::Arrival => return self.arrival(shard, batch).await,
            Next::At(due) => return timeout_at(due, self.arrival(shard, batch)).await.unwrap_or(true),
            Next::Now => {
                // Where another thread waits for this core, be it logic or redis, it waits no longer than a turn.
                std::thread::yield_now();
                tokio::task::yield_now().await;
            }
        }
        while batch.len() < BATCH
            && let Ok(order) = self.orders.try_recv()
        {
            batch.push(order);
        }
        true
    }

    /// Waits for orders, or for something to deliver that came another way.
    async fn arrival(&mut self, shard: &Shard, batch: &mut Vec<Order>) -> bool {
        tokio::select! {
            biased;
            count = self.orders.recv_many(batch, BATCH) => count > 0,
            () = shard.stirred.notified() => true,
        }
    }
}

impl Shard {
    fn take(self: &Rc<Self>, order: Order) {
        match order {
            Order::Logged(message) => self.logged(message),
            Order::Signal { room, signal, to_user } => self.signal(&room, signal, &to_user),
            Order::Heard(room) => self.heard(&room),
            Order::Push { target, signal, done } => self.push(target, signal, done),
            Order::Kick { which, code, text, done } => self.kick(which, code, text, done),
            Order::RoomsChanged { change, done } => {
                let _caller_gone = done.send(self.rooms_changed(&change));
            }
            Order::Compare => self.disturbed(),
            Order::Bans => self.look_for_banned(),
            Order::Drain(pace) => self.begin_drain(pace),
        }
    }
}
