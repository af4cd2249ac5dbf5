//! The binary: picks the personality and nothing else.

fn main() {}
