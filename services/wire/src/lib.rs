//! Client bytes to frames and back: the TLV frame, the three dialects, error and close codes, limits. No I/O, no clock,
//! no panic on any input, no allocation beyond the limit.

pub mod code;
pub mod dialect;
pub mod frame;
pub mod goim;
pub mod golang_im;
pub mod ids;
pub mod native;
pub mod websocket;
