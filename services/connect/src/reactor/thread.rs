//! A shard's thread and the loops on it. None of them may end while the node serves: a shard that has lost one would keep
//! its clients and no longer do for them what that loop did. So it ends whole, its sockets with it, and the process learns
//! which loop it was.

use std::any::Any;
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use futures::FutureExt;
use im_runtime::admin::Pulse;
use im_runtime::limits::queue::{Receiver, Sender};
use tokio::runtime::LocalOptions;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::accept;
use crate::downlink::router::Router;
use crate::downlink::{Bus, BusNotification};
use crate::shard::Shard;
use crate::shard::mailbox::Mailbox;

/// What a thread works on.
pub(crate) struct Parts {
    pub(crate) mailbox: Mailbox,
    pub(crate) tcp: TcpListener,
    pub(crate) ws: TcpListener,
    /// Beaten as long as the thread turns.
    pub(crate) pulse: Pulse,
    /// The first shard hears the bus for the node: for its rooms no other thread has to be woken, and it never is so busy
    /// with others' that its own wait.
    pub(crate) bus: Option<Downlink>,
}

/// The bus, the router, and the queue between them.
pub(crate) struct Downlink {
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) into: Sender<BusNotification>,
    pub(crate) router: Arc<Router>,
    pub(crate) notifications: Receiver<BusNotification>,
}

/// Starts the thread; `make` is called on it. The future ends, always with a reason, when the thread does.
pub(crate) fn start(
    number: usize,
    parts: Parts,
    make: impl FnOnce() -> Rc<Shard> + Send + 'static,
) -> std::io::Result<impl Future<Output = Result<(), String>> + Send + 'static> {
    let (tell, ended) = oneshot::channel();
    let run = move || {
        let why = catch_unwind(AssertUnwindSafe(|| run(parts, make)));
        let why = why.unwrap_or_else(|panic| panicked("its thread", panic.as_ref()));
        let _nobody_supervises = tell.send(why);
    };
    std::thread::Builder::new()
        .name(format!("shard-{number}"))
        .spawn(run)?;
    Ok(async move {
        let why = ended
            .await
            .unwrap_or_else(|_| "its thread is gone".to_owned());
        Err(format!("number {number}: {why}"))
    })
}

/// Returns why it has ended.
fn run(parts: Parts, make: impl FnOnce() -> Rc<Shard>) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return format!("its runtime cannot be made: {error}"),
    };
    runtime.block_on(async move {
        let Parts { mailbox, tcp, ws, pulse, bus } = parts;
        let mut loops = Loops::default();
        if let Some(Downlink { bus, into, router, notifications }) = bus {
            loops.spawn("bus", async move { bus.run(into).await });
            loops.spawn("router", async move { router.run(notifications).await });
        }
        let shard = make();
        for (listener, name, tcp) in [(tcp, "accept of TCP", true), (ws, "accept of WebSocket", false)] {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    let accepting = shard.accepting.clone();
                    loops.spawn_until(&accepting, name, accept::accept(Rc::clone(&shard), listener, tcp));
                }
                Err(error) => return format!("its listeners cannot be used: {error}"),
            }
        }
        loops.spawn("housekeeping", Rc::clone(&shard).housekeeping(pulse));
        loops.spawn("relief of outboxes", Rc::clone(&shard).relieve());
        loops.spawn("flush of answers", Rc::clone(&shard).flush_answers());
        loops.spawn("telling of ends", Rc::clone(&shard).tell_ends());
        loops.spawn("assertion of presence", Rc::clone(&shard).assert_presence());
        tokio::select! {
            mailbox = AssertUnwindSafe(mailbox.run(shard)).catch_unwind() => ended("event loop", mailbox),
            why = loops.first_to_end() => why,
        }
    })
}

fn ended(name: &str, how: Result<(), Box<dyn Any + Send>>) -> String {
    match how {
        Ok(()) => format!("its {name} returned"),
        Err(panic) => panicked(&format!("its {name}"), panic.as_ref()),
    }
}

fn panicked(what: &str, panic: &(dyn Any + Send)) -> String {
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("{what} panicked: {}", message.unwrap_or("no message"))
}

/// The loops beside the event loop, as tasks of the thread. `None`: ended in order.
#[derive(Default)]
struct Loops(JoinSet<Option<String>>);

impl Loops {
    fn spawn(&mut self, name: &'static str, work: impl Future<Output = ()> + 'static) {
        self.spawn_until(&CancellationToken::new(), name, work);
    }

    /// One that may end once `end` is cancelled.
    fn spawn_until(
        &mut self,
        end: &CancellationToken,
        name: &'static str,
        work: impl Future<Output = ()> + 'static,
    ) {
        let end = end.clone();
        self.0.spawn_local(async move {
            let how = AssertUnwindSafe(work).catch_unwind().await;
            let in_order = how.is_ok() && end.is_cancelled();
            (!in_order).then(|| ended(name, how))
        });
    }

    /// Returns when one has ended that may not; why.
    async fn first_to_end(&mut self) -> String {
        loop {
            match self.0.join_next().await {
                Some(Ok(None)) => {}
                Some(Ok(Some(why))) => return why,
                Some(Err(error)) => return error.to_string(),
                None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests;
