//! What the integration tests share. Each test program compiles its own copy and uses a part of it.
#![allow(dead_code, reason = "no test program uses everything")]

pub(crate) mod corpus;
pub(crate) mod libvirt;
