//! libvirt, QEMU, VFIO and the kernel's locked-memory limit for real, on hosts ("L1") in pure software emulation.
//!
//! `tests/lab/nested/` builds and boots the hosts and holds the scenarios; here their results are checked. Needs root
//! and mmdebstrap, else each test says SKIPPED and passes, unless `VIOMMU_REQUIRE_LAB=1`. What is built stays in
//! `VIOMMU_LAB` (default `target/lab`).

#![expect(clippy::disallowed_methods, reason = "a test harness starts programs and reads the environment")]
#![expect(clippy::panic, reason = "the helpers of the tests are tests, too")]

#[path = "lab/nested/host.rs"]
#[allow(dead_code, reason = "tests/arm64.rs has another host")]
mod host;
#[path = "lab/nested/results.rs"]
mod results;

use host::{Security, Suite};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// RAM of a scenario's guest: the least with which four times as much does not fit under a limit for one (`lib.sh`).
const RAM: u64 = 384 * MIB;
/// The user `libvirt-qemu` of every Debian.
const LIBVIRT_QEMU: &str = "64055";

static BOOKWORM: Suite = Suite::bookworm(Security::None);
static TRIXIE: Suite = Suite::trixie(Security::None);
static CONFINED_BOOKWORM: Suite = Suite::bookworm(Security::AppArmor);
static CONFINED_TRIXIE: Suite = Suite::trixie(Security::AppArmor);

/// Every test on both suites, as `test::suite`: neighbours in the harness's order run on different hosts at a time.
macro_rules! on_both_suites {
    ($bookworm:ident $trixie:ident: $($(#[$attribute:meta])* $test:ident;)+) => {
        $(mod $test {
            #[test] $(#[$attribute])* fn bookworm() { super::$test(&super::$bookworm); }
            #[test] $(#[$attribute])* fn trixie() { super::$test(&super::$trixie); }
        })+
    };
}

on_both_suites! { BOOKWORM TRIXIE:
    two_devices_without_a_viommu_lock_ram_once;
    two_devices_behind_a_native_viommu_lock_ram_twice;
    four_devices_behind_a_hidden_viommu_exceed_the_limit;
    wrapper_starts_what_exceeded_the_limit;
    devices_behind_one_bridge_count_once;
    raised_limit_lets_a_device_be_plugged_in;
    rewritten_xml_gets_what_a_native_viommu_gets;
    hidden_viommu_gets_its_limit_without_a_wrapper;
    #[ignore = "minutes on two cores: cargo test --test nested -- --ignored"]
    restored_guest_has_its_viommu_again;
    #[ignore = "minutes on two cores: cargo test --test nested -- --ignored"]
    twenty_guests_start_at_once;
    #[ignore = "minutes on two cores: cargo test --test nested -- --ignored"]
    killed_libvirtd_leaves_no_guard_and_no_broken_guest;
    #[ignore = "minutes on two cores: cargo test --test nested -- --ignored"]
    guest_destroyed_before_its_exec_leaves_nothing;
    #[ignore = "minutes on two cores: cargo test --test nested -- --ignored"]
    no_room_for_the_state_refuses_the_start;
    #[ignore = "minutes on two cores: cargo test --test nested -- --ignored"]
    what_cannot_be_met_is_refused;

    #[ignore = "minutes on two cores: cargo test --test nested -- --ignored"]
    linux_guest_uses_the_viommu;
}

on_both_suites! { CONFINED_BOOKWORM CONFINED_TRIXIE:
    #[ignore = "minutes on two cores: cargo test --test nested -- --ignored"]
    apparmor_lets_everything_work;
}

fn two_devices_without_a_viommu_lock_ram_once(suite: &Suite) {
    let Some(results) = suite.run("s1", 8) else { return };
    let s1 = results.of("s1");
    s1.assert_started();
    s1.assert_locked(1, RAM);
    s1.assert_limit(RAM + GIB);
    s1.assert_value("viommus", "0");
}

fn two_devices_behind_a_native_viommu_lock_ram_twice(suite: &Suite) {
    let Some(results) = suite.run("s2", 8) else { return };
    let s2 = results.of("s2");
    s2.assert_started();
    s2.assert_locked(2, RAM);
    s2.assert_limit(2 * RAM + GIB);
    s2.assert_value("viommus", "1");
}

fn four_devices_behind_a_hidden_viommu_exceed_the_limit(suite: &Suite) {
    let Some(results) = suite.run("s3", 8) else { return };
    let s3 = results.of("s3");
    s3.assert_value("status", "1");
    s3.assert_value("exceeded", &(RAM + GIB).to_string());
    s3.assert_message("memory listener initialization failed");
    s3.assert_message("Cannot allocate memory");
}

fn wrapper_starts_what_exceeded_the_limit(suite: &Suite) {
    let Some(results) = suite.run("w1", 15) else { return };
    let w1 = results.of("w1");
    w1.assert_started();
    w1.assert_value("viommus", "1");
    w1.assert_locked(4, RAM);
    w1.assert_limit(4 * RAM + GIB);
}

fn devices_behind_one_bridge_count_once(suite: &Suite) {
    let Some(results) = suite.run("w2", 12) else { return };
    let w2 = results.of("w2");
    w2.assert_started();
    w2.assert_value("viommus", "1");
    w2.assert_locked(2, RAM);
    w2.assert_limit(2 * RAM + GIB);
}

fn raised_limit_lets_a_device_be_plugged_in(suite: &Suite) {
    let Some(results) = suite.run("w3", 14) else { return };
    results.of("w3-start").assert_limit(RAM + GIB);
    for (event, devices) in [("w3-second", 2), ("w3-third", 3)] {
        results.of(event).assert_value("status", "0");
        results.of(event).assert_locked(devices, RAM);
    }
    let refused = results.of("w3-refused");
    refused.assert_value("status", "1");
    refused.assert_value("exceeded", &(RAM + GIB).to_string());
    refused.assert_message("Cannot allocate memory");
    results.of("w3-raise").assert_value("status", "0");
    results.of("w3-raise").assert_limit(4 * RAM + GIB);
    let fourth = results.of("w3-fourth");
    fourth.assert_value("status", "0");
    fourth.assert_locked(4, RAM);
    fourth.assert_limit(4 * RAM + GIB);
    results.of("w3-end").assert_clean();
}

fn rewritten_xml_gets_what_a_native_viommu_gets(suite: &Suite) {
    let Some(results) = suite.run("w4", 8) else { return };
    let w4 = results.of("w4");
    w4.assert_started();
    w4.assert_value("viommus", "1");
    w4.assert_locked(2, RAM);
    w4.assert_limit(2 * RAM + GIB);
}

fn hidden_viommu_gets_its_limit_without_a_wrapper(suite: &Suite) {
    let Some(results) = suite.run("w5", 10) else { return };
    let w5 = results.of("w5");
    w5.assert_started();
    w5.assert_value("viommus", "1");
    w5.assert_locked(4, RAM);
    w5.assert_limit(4 * RAM + GIB);
}

fn restored_guest_has_its_viommu_again(suite: &Suite) {
    let Some(results) = suite.run("w6", 12) else { return };
    results.of("w6-start").assert_value("viommus", "1");
    results.of("w6-save").assert_value("status", "0");
    results.of("w6-save").assert_clean();
    results.of("w6-restore").assert_value("status", "0");
    results.of("w6-restore").assert_value("viommus", "1");
    results.of("w6-end").assert_clean();
}

fn twenty_guests_start_at_once(suite: &Suite) {
    let Some(results) = suite.run("w7", 60) else { return };
    let w7 = results.of("w7");
    for key in ["started", "viommus", "states"] {
        w7.assert_value(key, "20");
    }
    w7.assert_value("message", "");
    w7.assert_clean();
}

fn killed_libvirtd_leaves_no_guard_and_no_broken_guest(suite: &Suite) {
    let Some(results) = suite.run("w8", 30) else { return };
    for moment in ["w8-hooked", "w8-forked"] {
        let killed = results.of(moment);
        killed.assert_message("End of file while reading data");
        killed.assert_value("state", "shut-off");
        killed.assert_value("qemus", "0");
        killed.assert_value("guards", "0");
    }
    let (start, running) = (results.of("w8-start"), results.of("w8-running"));
    start.assert_value("status", "0");
    running.assert_value("pid", start.get("pid"));
    running.assert_value("state", "paused");
    for values in [start, running] {
        values.assert_value("viommus", "1");
        values.assert_locked(2, RAM);
        values.assert_limit(2 * RAM + GIB);
    }
    results.of("w8-end").assert_clean();
}

fn guest_destroyed_before_its_exec_leaves_nothing(suite: &Suite) {
    let Some(results) = suite.run("w9", 10) else { return };
    let w9 = results.of("w9");
    w9.assert_value("exe", "/usr/sbin/libvirtd");
    w9.assert_value("destroyed", "0");
    w9.assert_value("started", "1");
    w9.assert_clean();
}

fn no_room_for_the_state_refuses_the_start(suite: &Suite) {
    let Some(results) = suite.run("w10", 15) else { return };
    let w10 = results.of("w10");
    w10.assert_value("status", "1");
    w10.assert_message("No space left on device");
    results.of("w10-refused").assert_clean();
    results.of("w10-after").assert_started();
    results.of("w10-after").assert_value("viommus", "1");
}

fn what_cannot_be_met_is_refused(suite: &Suite) {
    let Some(results) = suite.run("w11", 15) else { return };
    for (name, word) in [("w11-hook", "hook"), ("w11-wrapper", "wrapper-missing"), ("w11-model", "model-unknown")] {
        let refused = results.of(name);
        refused.assert_value("status", "1");
        refused.assert_message(word);
        refused.assert_clean();
    }
}

fn linux_guest_uses_the_viommu(suite: &Suite) {
    let Some(results) = suite.run("os", 200) else { return };
    let os = results.of("os");
    os.assert_value("status", "0");
    os.assert_value("done", "1");
    os.assert_value("dmar", "1");
    os.assert_value("remapping", "1");
    os.assert_value("leases", "2");
    assert!(os.number("peak_kb") > 1023 * 1024, "two address spaces of 512 MiB: {}", os.line);
    assert!(os.number("vmlck_kb") < 64 * 1024, "the guest maps what it needs and no more: {}", os.line);
    results.of("os-end").assert_clean();
}

fn apparmor_lets_everything_work(suite: &Suite) {
    let Some(results) = suite.run("apparmor", 65) else { return };
    results.of("apparmor-host").assert_value("libvirtd", "libvirtd-(enforce)");
    results.of("aa-plain").assert_value("denials", "0");
    let unprepared = results.of("aa-unprepared");
    unprepared.assert_value("status", "1");
    unprepared.assert_message("Permission denied");
    unprepared.assert_clean();
    let confined = results.of("aa");
    confined.assert_value("status", "0");
    confined.assert_value("denials", "0");
    confined.assert_value("confined", "libvirt-UUID-(enforce)");
    confined.assert_value("viommus", "1");
    confined.assert_locked(4, RAM);
    confined.assert_limit(4 * RAM + GIB);
    results.of("aa-end").assert_clean();
}
