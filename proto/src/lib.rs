//! What ImCluster's processes promise each other: the messages and services of `proto/imcluster/v1`, generated.
//! No behaviour lives here but what connect and logic must decide alike: whom a list of [`bans`] refuses.

pub mod bans;

/// Version 1 of the internal protocol. Fields are only added: neighbouring releases talk to each other.
#[allow(missing_docs, unreachable_pub, clippy::all)]
#[rustfmt::skip]
pub mod v1 {
    include!("generated/imcluster.v1.rs");
}
