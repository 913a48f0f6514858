//! connect: how it rolls out and shrinks without dropping clients.

pub mod act;
pub mod decide;
pub mod drains;
