//! What clients do while things break.

pub mod membership;
pub mod messages;
