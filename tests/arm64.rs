//! AArch64 with real VFIO: a host ("L1") in pure software emulation with an SMMUv3, libvirt 11.3.0 and QEMU 10.0.
//!
//! The test works like `tests/nested.rs`, with the host and the scenarios of `tests/lab/arm64/` and the cross-built
//! binary.

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
use results::{GIB, RAM, Results};

static HOST: Suite = Suite::trixie_on_aarch64();

/// A started guest has locked RAM once for each container, and its limit is the one that viommu computes. RAM has no
/// holes on this machine, unlike on a PC: the number is exact.
#[track_caller]
fn assert_locked(results: &Results, name: &str, containers: u64, viommus: &str) {
    let started = results.of(name);
    started.assert_started();
    started.assert_value("viommus", viommus);
    started.assert_value("vmlck_kb", &(containers * RAM / 1024).to_string());
    started.assert_limit(containers * RAM + GIB);
    if viommus == "1" {
        results.of(&format!("{name}-plan")).assert_value("required", started.get("limit"));
    }
}

#[test]
fn devices_without_a_viommu_lock_ram_once() {
    let Some(results) = HOST.run("plain", 8) else { return };
    assert_locked(&results, "plain", 1, "0");
}

#[test]
fn rewritten_xml_gets_a_virtio_iommu_and_libvirts_limit() {
    let Some(results) = HOST.run("native", 16) else { return };
    for devices in [2, 4] {
        assert_locked(&results, &format!("native-{devices}"), devices, "1");
    }
}

#[test]
fn wrapper_adds_a_virtio_iommu_and_the_guard_raises_the_limit() {
    let Some(results) = HOST.run("wrapper", 16) else { return };
    for devices in [2, 4] {
        assert_locked(&results, &format!("wrapper-{devices}"), devices, "1");
    }
}

#[test]
fn guest_fails_without_viommu_and_starts_with_it() {
    let Some(results) = HOST.run("hidden", 16) else { return };
    let without = results.of("hidden-without");
    without.assert_value("status", "1");
    without.assert_value("exceeded", &(RAM + GIB).to_string());
    without.assert_message("Cannot allocate memory");
    let hidden = results.of("hidden");
    hidden.assert_started();
    hidden.assert_value("viommus", "1");
    hidden.assert_value("vmlck_kb", &(4 * RAM / 1024).to_string());
    hidden.assert_limit(4 * RAM + GIB);
}

#[test]
fn smmuv3_with_passed_through_devices_is_refused_before_qemu_starts() {
    let Some(results) = HOST.run("smmuv3", 16) else { return };
    let late = results.of("smmuv3-late");
    late.assert_value("status", "1");
    late.assert_message("requires iommu MAP notifier which is not currently supported");
    for route in ["smmuv3-written", "smmuv3-native", "smmuv3-wrapper"] {
        let refused = results.of(route);
        refused.assert_value("status", "1");
        refused.assert_message("prepare begin");
        refused.assert_message("viommu: error[smmuv3-with-vfio]");
        refused.assert_clean();
    }
}

#[test]
#[ignore = "1.5 to 3 minutes: cargo test --test arm64 -- --ignored"]
fn linux_guest_uses_the_viommu() {
    let Some(results) = HOST.run("os", 180) else { return };
    let os = results.linux_guest("os");
    os.assert_value("viommu", "1");
    os.assert_value("peak_kb", "524288");
}
