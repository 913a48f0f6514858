//! What connect and logic bound in the same way: whom a limit per address means, how often something may happen, how many
//! of something each may hold, how much may wait between two parts, and how long those wait who go on with bad tokens.
//! Whatever is remembered is bounded itself.

pub mod address;
pub mod attempts;
pub mod queue;
pub mod rate;
pub mod shares;
