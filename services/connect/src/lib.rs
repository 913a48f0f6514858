//! Holds client sockets: accept, authenticate through logic, forward up, fan out down, drain.

pub mod downlink;
pub mod uplink;
