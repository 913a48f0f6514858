//! The operator: see the library.

fn main() {}
