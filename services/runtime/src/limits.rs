//! What connect and logic bound in the same way: whom a limit per address means, how often something may happen, how many
//! of something each may hold, and how long those wait who go on with bad tokens. Whatever is remembered is bounded itself.

pub mod address;
pub mod attempts;
pub mod rate;
pub mod shares;
