//! libvirt, QEMU, VFIO and the kernel's locked-memory limit without stand-ins, on hosts ("L1") in pure software
//! emulation.
//!
//! `tests/lab/nested/` builds and boots the hosts and holds the scenarios; this file checks their results. Needs root
//! and mmdebstrap; without them each test prints SKIPPED and passes, unless `VIOMMU_REQUIRE_LAB=1`. Built files stay in
//! `VIOMMU_LAB` (default `target/lab`).

#![expect(clippy::disallowed_methods, reason = "a test harness starts programs and reads the environment")]
#![expect(clippy::panic, clippy::unwrap_used, reason = "a panic in a helper fails the test")]

#[path = "lab/nested/dpdk.rs"]
mod dpdk;
#[path = "lab/nested/host.rs"]
#[allow(dead_code, reason = "tests/arm64.rs uses the other host")]
mod host;
#[path = "lab/nested/page.rs"]
mod page;
#[path = "lab/nested/results.rs"]
mod results;
mod support;

use host::{Security, Suite};
use results::{GIB, MIB, RAM};

static BOOKWORM: Suite = Suite::bookworm(Security::None);
static TRIXIE: Suite = Suite::trixie(Security::None);
static CONFINED_BOOKWORM: Suite = Suite::bookworm(Security::AppArmor);
static CONFINED_TRIXIE: Suite = Suite::trixie(Security::AppArmor);

static ENFORCING_TRIXIE: Suite = Suite::trixie_with_selinux();

/// Every test on both suites, as `test::suite`: neighbours in the harness's order run on different hosts at a time.
macro_rules! on_both_suites {
    ($bookworm:ident $trixie:ident: $($test:ident;)+) => {
        $(mod $test {
            #[test] fn bookworm() { super::$test(&super::$bookworm); }
            #[test] fn trixie() { super::$test(&super::$trixie); }
        })+
    };
}

on_both_suites! { BOOKWORM TRIXIE:
    two_devices_without_a_viommu_lock_ram_once;
    two_devices_behind_a_native_viommu_lock_ram_twice;
    four_devices_behind_a_hidden_viommu_exceed_the_limit;
    wrapper_starts_the_guest_that_exceeded_the_limit;
    devices_behind_one_bridge_count_once;
    raised_limit_lets_a_fifth_device_be_plugged_in;
    rewritten_xml_has_the_limit_of_a_native_viommu;
    hidden_viommu_gets_its_limit_without_a_wrapper;
    a_restored_guest_has_its_viommu;
    twenty_guests_start_at_once;
    killed_libvirtd_leaves_no_guard_and_no_broken_guest;
    a_guest_destroyed_before_its_exec_leaves_no_file;
    a_start_without_space_for_the_state_is_refused;
    a_hanging_qemu_leaves_no_file;
    requests_that_cannot_be_met_are_refused;
    linux_guest_uses_the_viommu;
}

on_both_suites! { CONFINED_BOOKWORM CONFINED_TRIXIE:
    everything_works_with_apparmor;
    the_host_route_serves_guests_without_an_emulator;
    doctor_reports_each_fault_and_no_other;
}

fn two_devices_without_a_viommu_lock_ram_once(suite: &Suite) {
    let Some(results) = suite.run("s1", 10) else { return };
    let s1 = results.of("s1");
    s1.assert_started();
    s1.assert_locked(1, RAM);
    s1.assert_limit(RAM + GIB);
    s1.assert_value("viommus", "0");
}

fn two_devices_behind_a_native_viommu_lock_ram_twice(suite: &Suite) {
    let Some(results) = suite.run("s2", 10) else { return };
    let s2 = results.of("s2");
    s2.assert_started();
    s2.assert_locked(2, RAM);
    s2.assert_limit(2 * RAM + GIB);
    s2.assert_value("viommus", "1");
}

fn four_devices_behind_a_hidden_viommu_exceed_the_limit(suite: &Suite) {
    let Some(results) = suite.run("s3", 10) else { return };
    let s3 = results.of("s3");
    s3.assert_value("status", "1");
    s3.assert_value("exceeded", &(RAM + GIB).to_string());
    s3.assert_message("memory listener initialization failed");
    s3.assert_message("Cannot allocate memory");
}

fn wrapper_starts_the_guest_that_exceeded_the_limit(suite: &Suite) {
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

fn raised_limit_lets_a_fifth_device_be_plugged_in(suite: &Suite) {
    let Some(results) = suite.run("w3", 40) else { return };
    let ram = 1088 * MIB;
    let (four, five) = (4 * ram + GIB, 5 * ram + GIB);
    results.of("w3-start").assert_value("status", "0");
    results.of("w3-start").assert_limit(four);
    let refused = results.of("w3-refused");
    refused.assert_value("status", "1");
    refused.assert_value("exceeded", &four.to_string());
    refused.assert_message("Cannot allocate memory");
    refused.assert_locked(4, ram);
    results.of("w3-raise").assert_value("status", "0");
    results.of("w3-raise").assert_limit(five);
    let fifth = results.of("w3-fifth");
    fifth.assert_value("status", "0");
    fifth.assert_locked(5, ram);
    fifth.assert_limit(five);
    results.of("w3-end").assert_clean();
}

fn rewritten_xml_has_the_limit_of_a_native_viommu(suite: &Suite) {
    let Some(results) = suite.run("w4", 10) else { return };
    let w4 = results.of("w4");
    w4.assert_started();
    w4.assert_value("viommus", "1");
    w4.assert_locked(2, RAM);
    w4.assert_limit(2 * RAM + GIB);
}

fn hidden_viommu_gets_its_limit_without_a_wrapper(suite: &Suite) {
    let Some(results) = suite.run("w5", 15) else { return };
    let w5 = results.of("w5");
    w5.assert_value("status", "0");
    w5.assert_value("viommus", "1");
    w5.assert_locked(4, RAM);
    w5.assert_limit(4 * RAM + GIB);
    let low = results.of("w5-low");
    low.assert_value("status", "1");
    low.assert_message("memlock-too-low");
    low.assert_limit(RAM + GIB);
    results.of("w5-started").assert_value("status", "0");
    results.of("w5-started").assert_limit(4 * RAM + GIB);
    results.of("w5-end").assert_clean();
}

fn a_restored_guest_has_its_viommu(suite: &Suite) {
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
        killed.assert_clean();
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

fn a_guest_destroyed_before_its_exec_leaves_no_file(suite: &Suite) {
    let Some(results) = suite.run("w9", 10) else { return };
    let w9 = results.of("w9");
    w9.assert_value("exe", "/usr/sbin/libvirtd");
    w9.assert_value("destroyed", "0");
    w9.assert_value("started", "1");
    w9.assert_value("holders", "0");
    w9.assert_clean();
}

fn a_hanging_qemu_leaves_no_file(suite: &Suite) {
    let Some(results) = suite.run("w12", 20) else { return };
    let (stuck, w12) = (results.of("w12-stuck"), results.of("w12"));
    stuck.assert_limit(2 * RAM + GIB);
    stuck.assert_value("holders", "1");
    stuck.assert_value("guards", "0");
    w12.assert_value("destroyed", "0");
    w12.assert_value("status", "1");
    w12.assert_value("holders", "0");
    w12.assert_message("monitor");
    w12.assert_clean();
    results.of("w12-after").assert_started();
}

fn a_start_without_space_for_the_state_is_refused(suite: &Suite) {
    let Some(results) = suite.run("w10", 15) else { return };
    let w10 = results.of("w10");
    w10.assert_value("status", "1");
    w10.assert_message("No space left on device");
    results.of("w10-refused").assert_clean();
    results.of("w10-after").assert_started();
    results.of("w10-after").assert_value("viommus", "1");
}

fn requests_that_cannot_be_met_are_refused(suite: &Suite) {
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
    results.assert_linux_guest("os");
}

/// The same with more starts: `docs/proof/guard.md`.
#[test]
fn every_legitimate_start_gets_its_limit() {
    let Some(results) = TRIXIE.run("starts", 100) else { return };
    assert_all_raised(&results, &["idle", "load", "bare"]);
}

/// Process numbers inside the container differ from those outside.
#[test]
fn a_daemon_in_a_container_gives_each_start_its_limit() {
    let Some(results) = TRIXIE.run("container", 30) else { return };
    results.of("host").assert_value("container", "1");
    assert_all_raised(&results, &["idle", "bare"]);
}

#[track_caller]
fn assert_all_raised(results: &results::Results, kinds: &[&str]) {
    for kind in kinds {
        let starts = results.of(&format!("starts-{kind}"));
        starts.assert_value("refused", "0");
        starts.assert_value("failed", "0");
        starts.assert_value("raised", starts.get("wanted"));
        starts.assert_clean();
    }
}

/// The same with more attempts: `docs/proof/guard.md`.
#[test]
fn no_attacker_gets_a_raised_limit() {
    const KINDS: [&str; 4] = ["lock", "genuine", "fifo", "link"];
    let Some(mut results) = TRIXIE.run("attack", 60) else { return };
    // A start can also be slow because the machine is busy. A hook that hangs is slow twice.
    if KINDS.iter().any(|kind| results.of(&format!("attack-{kind}")).get("slow") != "0") {
        host::say("trixie: a start was slow during an attack, trying once more");
        let Some(again) = TRIXIE.run("attack", 60) else { return };
        results = again;
    }
    for kind in KINDS {
        let attack = results.of(&format!("attack-{kind}"));
        for key in ["stolen", "slow", "refused"] {
            attack.assert_value(key, "0");
        }
        attack.assert_clean();
    }
    let name = results.of("attack-name");
    name.assert_value("stolen", "0");
    name.assert_value("raised", "1");
    name.assert_clean();
}

/// A test of `tests/hook`, which needs a host where limits can be raised.
#[test]
fn the_guard_raises_the_limit_and_ends() {
    let Some(results) = TRIXIE.run("guard", 10) else { return };
    let guard = results.of("guard");
    guard.assert_value("status", "0");
    guard.assert_value("passed", "1");
}

fn everything_works_with_apparmor(suite: &Suite) {
    let Some(results) = suite.run("apparmor", 90) else { return };
    let host = results.of("aa-host");
    host.assert_value("libvirtd", "libvirtd-(enforce)");
    host.assert_value("denials", "0");
    let confined = results.of("aa");
    confined.assert_value("status", "0");
    confined.assert_value("confined", "libvirt-UUID-(enforce)");
    confined.assert_value("viommus", "1");
    confined.assert_locked(2, RAM);
    confined.assert_limit(2 * RAM + GIB);
    results.of("aa-raise").assert_limit(3 * RAM + GIB);
    let third = results.of("aa-third");
    third.assert_value("status", "0");
    third.assert_locked(3, RAM);
    let restored = results.of("aa-restored");
    restored.assert_value("status", "0");
    restored.assert_value("viommus", "1");
    for values in [third, restored] {
        values.assert_value("denials", "0");
    }
    assert_denied(results.of("aa-unprepared"));
}

#[test]
fn everything_works_with_selinux() {
    let Some(results) = ENFORCING_TRIXIE.run("selinux", 150) else { return };
    let host = results.of("se-host");
    host.assert_value("enforcing", "1");
    host.assert_value("libvirtd", "virtd_t");
    host.assert_value("module", "1");
    host.assert_value("denials", "0");
    results.of("se-doctor").assert_value("status", "0");
    let confined = results.of("se");
    confined.assert_value("status", "0");
    confined.assert_value("label", "svirt_t");
    confined.assert_value("state", "viommu_run_t");
    confined.assert_value("record", "viommu_var_lib_t");
    confined.assert_value("viommus", "1");
    confined.assert_locked(2, RAM);
    confined.assert_limit(2 * RAM + GIB);
    let third = results.of("se-third");
    third.assert_value("status", "0");
    third.assert_locked(3, RAM);
    let end = results.of("se-end");
    end.assert_value("denials", "0");
    end.assert_clean();
    results.of("se-again").assert_value("reloaded", "0");
    let purged = results.of("se-purged");
    purged.assert_value("status", "0");
    purged.assert_value("module", "0");
    purged.assert_value("left", "0");
    let unprepared = results.of("se-unprepared");
    unprepared.assert_value("module", "0");
    assert_denied(unprepared);
}

#[test]
fn the_host_route_works_with_selinux() {
    the_host_route_serves_guests_without_an_emulator(&ENFORCING_TRIXIE);
}

fn the_host_route_serves_guests_without_an_emulator(suite: &Suite) {
    let Some(results) = suite.run("route", 120) else { return };
    results.of("rt-on").assert_value("status", "0");
    let (requesting, plain) = (results.of("rt"), results.of("rt-plain"));
    for (guest, spaces) in [(requesting, 2), (plain, 1)] {
        guest.assert_value("status", "0");
        guest.assert_value("denials", "0");
        guest.assert_locked(spaces, RAM);
        guest.assert_limit(spaces * RAM + GIB);
        guest.assert_value("viommus", &(spaces - 1).to_string());
    }
    requesting.assert_value("emulator", "/usr/lib/libvirt-host-route/qemu-system-x86_64");
    requesting.assert_value("exe", "/usr/bin/qemu-system-x86_64");
    for refused in ["rt-unhooked", "rt-plain-unhooked"] {
        let refused = results.of(refused);
        refused.assert_value("status", "1");
        refused.assert_message("state-missing");
        refused.assert_clean();
    }
    results.of("rt-off").assert_value("emulator", "/usr/bin/qemu-system-x86_64");
}

/// Without viommu's rules, the security module must refuse the start.
#[track_caller]
fn assert_denied(start: &results::Values) {
    start.assert_value("status", "1");
    // On a busy machine libvirt 9.0 sometimes reports the monitor's socket instead.
    let reported = ["Permission denied", "failed to connect to monitor socket"];
    assert!(reported.iter().any(|words| start.line.contains(words)), "{}", start.line);
    assert!(start.number("denials") > 0, "{}", start.line);
    start.assert_clean();
}

fn doctor_reports_each_fault_and_no_other(suite: &Suite) {
    let Some(results) = suite.run("doctor", 15) else { return };
    for (step, status, fault) in [
        ("doctor-installed", "0", None),
        ("doctor-unprepared", "1", Some("broken:confined")),
        ("doctor-not-reloaded", "1", Some("broken:hook-not-loaded")),
        ("doctor-reloaded", "0", None),
    ] {
        let found = results.of(step);
        found.assert_value("status", status);
        found.assert_value("found", fault.unwrap_or("nothing"));
    }
}
