//! What the programs for people share: exit codes, standard output, tokens, plain HTTP.

pub mod duration;
pub mod failure;
pub mod http;
pub mod metrics;
pub mod output;
pub mod token;
