//! The whole program from outside: real sockets, real files, real signals.

mod chat;
mod life;
mod page;
mod server;
