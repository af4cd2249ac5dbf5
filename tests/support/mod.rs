//! What the integration tests share. Each test program compiles its own copy and uses a part of it.
#![allow(dead_code, unused_imports, unused_macros, reason = "no test program uses everything")]

pub(crate) mod corpus;
pub(crate) mod libvirt;
pub(crate) mod packages;

/// Makes each of the functions two tests, one per suite.
macro_rules! on_both_suites {
    ($($test:ident)*) => {
        mod bookworm { $(#[test] fn $test() { super::$test($crate::support::libvirt::Suite::Bookworm); })* }
        mod trixie { $(#[test] fn $test() { super::$test($crate::support::libvirt::Suite::Trixie); })* }
    };
}
pub(crate) use on_both_suites;
