//! The embedded store: on its file, in memory, killed, on a full disk, and against a simple model.

mod crash;
mod disk;
mod edges;
mod model;
mod promises;
mod rate;
mod restart;
mod stage;
