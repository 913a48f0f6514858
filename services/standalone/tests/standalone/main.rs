//! The whole program from outside: real sockets, real files, real signals.

mod bans;
mod chat;
mod console;
mod deleting;
mod frames;
mod identity;
mod life;
mod limits;
mod page;
mod server;
