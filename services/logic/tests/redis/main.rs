//! The redis store and the bus against real servers, which the tests start and end themselves on free ports.

mod bus;
mod cluster;
mod edges;
mod endings;
mod failover;
mod forwarder;
mod rate;
mod replicas;
mod servers;
mod single;
mod stage;
