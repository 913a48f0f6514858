//! What every main needs: settings, logs and traces, the admin server with readiness latches, signals and drain.
//!
//! A main is [`run`]: settings are read and checked, logs begin, the admin server is bound, then the program's own body
//! builds, serves, waits for [`Shutdown`] and drains. [`limits`] are those that connect and logic have alike; [`http`],
//! [`metrics!`], [`Backoff`], [`Secret`] and [`clock`] are what every program would else write for itself.

pub mod admin;
mod backoff;
pub mod clock;
mod descriptors;
pub mod documentation;
pub mod http;
pub mod limits;
pub mod logs;
mod memory;
pub mod metrics;
mod panics;
pub mod peer;
mod ports;
pub mod private;
mod process;
mod secret;
pub mod settings;
pub mod shutdown;
pub mod tasks;
pub mod tls;
pub mod version;

#[doc(hidden)]
pub use prometheus;

pub use backoff::Backoff;
pub use descriptors::{descriptor_limit, raise_descriptor_limit};
pub use memory::give_back;
pub use ports::unused_port;
pub use process::{Defaults, Options, Process, own_address, run, run_with};
pub use secret::{Secret, same};
pub use shutdown::Shutdown;
pub use tasks::Tasks;
