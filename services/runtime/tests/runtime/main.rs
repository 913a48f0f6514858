//! The runtime as programs use it.

mod admin;
mod http;
mod metrics;
mod settings;
mod tls;
