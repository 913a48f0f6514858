//! connect: how it rolls out and shrinks without dropping clients.

pub(crate) mod act;
pub(crate) mod decide;
pub(crate) mod drains;
pub(crate) mod observe;
