//! Decides who may say what where, stores it, publishes it.

pub mod store;
