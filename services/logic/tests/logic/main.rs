//! Logic in one process: the real service over the real embedded store in memory, reached through real sockets.

mod access;
mod audit;
mod bans;
mod bounds;
mod compat;
mod deleting;
mod drain;
mod failures;
mod gated;
mod groups;
mod invitations;
mod messages;
mod mistakes;
mod people;
mod presence;
mod quotas;
mod site;
mod uplink;
