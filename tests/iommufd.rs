//! iommufd: a host ("L1") in pure software emulation with libvirt 12.9 and QEMU 11.1 and a kernel with
//! `CONFIG_IOMMUFD`.
//!
//! The test works like `tests/nested.rs`, with the scenarios `f…`. The first run builds the kernel:
//! `tests/lab/nested/kernel.sh`.

#![expect(clippy::disallowed_methods, reason = "a test harness starts programs and reads the environment")]
#![expect(clippy::panic, reason = "a panic in a helper fails the test")]

#[path = "lab/nested/host.rs"]
#[allow(dead_code, reason = "tests/nested.rs uses the other hosts")]
mod host;
#[path = "lab/nested/results.rs"]
#[allow(dead_code, reason = "tests/nested.rs uses the rest")]
mod results;
mod support;

use host::Suite;
use results::{GIB, MIB, RAM, Results, Values};

static HOST: Suite = Suite::backports();

fn run(scenario: &str, seconds: u64) -> Option<Results> {
    HOST.run(scenario, seconds)
}

/// Locked memory under this limit: RAM once for each address space, of which an iommufd has pinned the given number.
#[track_caller]
fn assert_spaces(started: &Values, spaces: u64, pinned: u64) {
    started.assert_started();
    started.assert_locked(spaces, RAM);
    started.assert_limit(spaces * RAM + GIB);
    let bytes = started.number("vmpin_kb") * 1024;
    assert!((pinned * RAM..=pinned * (RAM + MIB)).contains(&bytes), "{}", started.line);
}

#[test]
#[ignore = "a kernel is built first, 10 minutes: cargo test --test iommufd -- --ignored"]
fn each_address_space_locks_ram_once_within_libvirts_limit() {
    let Some(results) = run("f1", 10) else { return };
    assert_spaces(results.of("f1"), 1, 1);
    let Some(results) = run("f2", 20) else { return };
    assert_spaces(results.of("f2-2"), 2, 2);
    assert_spaces(results.of("f2-4"), 4, 4);
}

#[test]
#[ignore = "a kernel is built first, 10 minutes: cargo test --test iommufd -- --ignored"]
fn the_wrapper_starts_the_guest_that_exceeded_the_limit() {
    let Some(results) = run("f3", 10) else { return };
    let without = results.of("f3");
    without.assert_value("status", "1");
    without.assert_message("hostdev3: memory listener initialization failed");
    without.assert_message("Cannot allocate memory");
    let Some(results) = run("f4", 15) else { return };
    results.of("f4").assert_value("viommus", "1");
    assert_spaces(results.of("f4"), 4, 4);
}

#[test]
#[ignore = "a kernel is built first, 10 minutes: cargo test --test iommufd -- --ignored"]
fn iommufd_and_a_container_mix_behind_a_viommu_only() {
    let Some(results) = run("f5", 40) else { return };
    results.of("f5-plan").assert_value("code", "iommufd-mixed");
    results.of("f5").assert_value("status", "1");
    let refused = results.of("f5-bypassed");
    refused.assert_value("status", "1");
    refused.assert_message("error[iommufd-mixed]");
    refused.assert_clean();
    assert_spaces(results.of("f5-native"), 2, 1);
    assert_spaces(results.of("f5-wrapper"), 2, 1);
}

#[test]
#[ignore = "a kernel is built first, 10 minutes: cargo test --test iommufd -- --ignored"]
fn memory_locked_by_qemus_own_iommufds_is_counted_together() {
    let Some(results) = run("f6", 60) else { return };
    let ram = 1088 * MIB;
    results.of("f6-plan").assert_value("code", "iommufd-per-user");
    let first = results.of("f6");
    first.assert_value("status", "0");
    first.assert_limit(ram + GIB);
    let second = results.of("f6-second");
    second.assert_value("status", "1");
    second.assert_message("Cannot allocate memory");
    let sum = results.of("f6-sum");
    sum.assert_value("status", "0");
    sum.assert_limit(2 * (ram + GIB));
    results.of("f6-end").assert_clean();
}

#[test]
#[ignore = "a kernel is built first, 10 minutes: cargo test --test iommufd -- --ignored"]
fn capabilities_and_plan_count_iommufds() {
    let Some(results) = run("f7", 10) else { return };
    results.of("f7-capabilities").assert_value("iommufd", "yes");
    results.of("f7-plan").assert_value("ioas", "2");
}

#[test]
#[ignore = "two guests boot, 4 to 12 minutes: cargo test --test iommufd -- --ignored"]
fn linux_guest_uses_the_viommu() {
    for name in ["f8", "f9"] {
        let Some(results) = run(name, 200) else { return };
        results.assert_linux_guest(name);
    }
}
