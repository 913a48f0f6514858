//! The operator against an API server in memory: which calls it makes, which it does not, and what it makes of faults.

mod election;
mod failures;
mod kept;
mod server;
mod visits;
mod world;
