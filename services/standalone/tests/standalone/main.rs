//! The whole program from outside: real sockets, real files, real signals.

mod chat;
mod console;
mod frames;
mod identity;
mod life;
mod limits;
mod page;
mod server;
