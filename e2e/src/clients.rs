//! Plain clients without retries, for single requests and for dialects that the Rust client does not speak.

pub mod compat;
pub mod json;
