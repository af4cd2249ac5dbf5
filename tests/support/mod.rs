//! Shared code of the integration tests. Each test program compiles its own copy and uses a part of it.
#![allow(dead_code, unused_imports, unused_macros, reason = "each test program uses a part")]

pub(crate) mod corpus;
pub(crate) mod libvirt;
pub(crate) mod packages;

/// Makes two tests of each function, one per suite.
macro_rules! on_both_suites {
    ($($test:ident)*) => {
        mod bookworm { $(#[test] fn $test() { super::$test($crate::support::libvirt::Suite::Bookworm); })* }
        mod trixie { $(#[test] fn $test() { super::$test($crate::support::libvirt::Suite::Trixie); })* }
    };
}
pub(crate) use on_both_suites;
