//! The runtime as programs use it.

mod admin;
mod metrics;
mod settings;
mod tls;
