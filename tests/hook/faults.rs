//! Faults of the host during a hook call: missing or unreadable files, a full disk, signals, failing system calls. The
//! exit status is the one of the table of events, and no partial file remains.
//!
//! strace makes system calls fail; without it a part of this is skipped, unless `VIOMMU_REQUIRE_LAB` is set.

#[path = "faults/sweep.rs"]
mod sweep;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use viommu::state::GuestState;
use viommu::sys::process;

use crate::program::{VIOMMU, feed, run};
use crate::{
    CONFIG, MIGRATE, NAME, OTHERS, PREPARE, RELEASE, START, STARTED, STOPPED, UUID, assert_event, guests, hook, sandbox,
};

const STATE: &str = "/run/viommu/8d6f2c4e-3b0a-4f7e-9a51-2f6f0c1d7e93.json";

/// Events that must not affect a guest, whatever fails.
const HARMLESS: [[&str; 3]; 3] = [STARTED, STOPPED, RELEASE];

fn traced() -> bool {
    let traced = Command::new("strace").arg("-V").output().is_ok();
    assert!(traced || std::env::var_os("VIOMMU_REQUIRE_LAB").is_none(), "strace is not installed");
    if !traced {
        println!("SKIPPED: strace is not installed");
    }
    traced
}

/// The hook with failing system calls, by an strace expression.
fn injected(fault: &str, event: [&str; 3], xml: &str) -> Output {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={fault}")]).arg(sandbox::hook());
    command.arg(NAME).args(event).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || drop(pipe.write_all(xml.as_bytes())));
        child.wait_with_output().unwrap()
    })
}

/// The guest's state, if there is one; a partial file fails.
fn state() -> Option<GuestState> {
    let text = fs::read_to_string(STATE).ok()?;
    Some(GuestState::parse(&text, UUID.parse().unwrap(), process::boot_clock().as_secs()).unwrap())
}

#[test]
fn interrupted_calls_and_short_reads_change_nothing() {
    if !sandbox::inside("effects::faults::interrupted_calls_and_short_reads_change_nothing") {
        return;
    }
    let guests = guests();
    let whole = hook(PREPARE, &guests.wrapper);
    assert!(whole.status == 0 && whole.stdout.contains("<iommu model='virtio'"), "{whole:?}");
    if traced() {
        for fault in ["read:error=EINTR:when=1..8+2", "write:error=EINTR:when=1..3", "getdents64:error=EINTR:when=1"] {
            let interrupted = injected(fault, PREPARE, &guests.wrapper);
            assert_eq!(interrupted.status.code(), Some(0), "{fault}: {interrupted:?}");
            assert_eq!(String::from_utf8_lossy(&interrupted.stdout), whole.stdout, "{fault}");
        }
    }
    // A pipe that provides a few bytes at a time.
    let mut command = Command::new(sandbox::hook());
    command.arg(NAME).args(PREPARE).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    for piece in guests.wrapper.as_bytes().chunks(100) {
        pipe.write_all(piece).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    drop(pipe);
    assert_eq!(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap(), whole.stdout);
}

/// A hook that is killed at any step leaves the old state, the new one, or none.
#[test]
fn a_killed_hook_leaves_no_partial_file() {
    if !sandbox::inside("effects::faults::a_killed_hook_leaves_no_partial_file") || !traced() {
        return;
    }
    let guests = guests();
    for old in [false, true] {
        for call in ["mkdir", "fchmod", "write", "rename", "exit_group"] {
            if old {
                assert_event("start", &hook(START, &guests.wrapper), None);
                // An earlier version left this.
                fs::write(format!("/run/viommu/{UUID}.tmp"), "").unwrap();
            }
            let killed = injected(&format!("{call}:signal=KILL"), START, &guests.wrapper);
            assert!(killed.status.signal() == Some(9) || killed.status.code() == Some(137), "{call}: {killed:?}");
            assert_eq!(state().is_some(), old || call == "exit_group", "{call}");
            let files = || fs::read_dir("/run/viommu").map_or(0, Iterator::count);
            if old {
                assert_event("the next start", &hook(START, &guests.wrapper), None);
                assert!(state().is_some());
                assert_eq!(files(), 1, "{call}: the next start replaces what was left");
            }
            assert_event("release", &hook(RELEASE, &guests.wrapper), None);
            assert_eq!(files(), 0, "{call}: the end of the guest removes what was left");
        }
    }
}

#[test]
fn a_host_with_missing_or_read_only_directories() {
    if !sandbox::inside("effects::faults::a_host_with_missing_or_read_only_directories") {
        return;
    }
    let guests = guests();
    let unwritable = Some("state-unwritable");
    // An unknown libvirt may set too low a limit.
    let raise = (!process::may_raise_limits()).then_some("memlock-no-privilege");
    // The fault, the result at `start` for a guest with a request, and the repair.
    let faults = [
        ("no /proc", "mount -t tmpfs none /proc", None, "umount /proc"),
        ("no /sys", "umount /sys && mount -t tmpfs none /sys", None, "true"),
        ("no capability cache", "mv /var/cache/libvirt /var/cache/gone", None, "mv /var/cache/gone /var/cache/libvirt"),
        ("/run cannot be written", "mount -o remount,ro /run", unwritable, "mount -o remount,rw /run"),
        (
            "a full disk",
            "mkdir -p /run/viommu && mount -t tmpfs -o mode=755,nr_inodes=1 none /run/viommu",
            unwritable,
            "umount /run/viommu",
        ),
    ];
    for (what, fault, refusal, mend) in faults {
        let shell =
            |script: &str| assert!(Command::new("sh").args(["-c", script]).status().unwrap().success(), "{what}");
        shell(fault);
        assert_event(what, &hook(START, &guests.wrapper), refusal);
        assert_event(what, &hook(PREPARE, &guests.wrapper), None);
        for event in [PREPARE, START] {
            assert_event(what, &hook(event, &guests.plain), None);
            let raised = event == START && what == "no capability cache";
            assert_event(what, &hook(event, &guests.native), raise.filter(|_| raised));
        }
        for event in HARMLESS.into_iter().chain([MIGRATE]).chain(OTHERS) {
            assert_event(what, &hook(event, &guests.wrapper), None);
        }
        shell(mend);
    }
}

/// The reader of the log may be blocked; then the hook drops the line and the start continues.
#[test]
fn a_log_without_a_reader_does_not_block_the_hook() {
    if !sandbox::inside("effects::faults::a_log_without_a_reader_does_not_block_the_hook") {
        return;
    }
    let guests = guests();
    fs::create_dir_all("/run/systemd/journal").unwrap();
    let journal = "/run/systemd/journal/socket";
    let _nobody_reads = UnixDatagram::bind(journal).unwrap();
    let full = UnixDatagram::unbound().unwrap();
    full.set_nonblocking(true).unwrap();
    while full.send_to(b"x", journal).is_ok() {}
    fs::write(CONFIG, "no TOML, which is logged for a guest that does not ask").unwrap();
    let mut command = Command::new("timeout");
    command.arg("20").arg(sandbox::hook()).arg(NAME).args(START);
    assert_event("a full log", &feed(&mut command, guests.plain.as_bytes()), None);
}

/// The hook reads the monotonic clock only, which cannot be set; a time namespace changes it for this test.
#[test]
fn a_clock_that_jumps_makes_a_state_invalid() {
    if !sandbox::inside("effects::faults::a_clock_that_jumps_makes_a_state_invalid") {
        return;
    }
    let guests = guests();
    fs::write(CONFIG, "[emulators]\nx86_64 = '/bin/true'\n").unwrap();
    let wrapper = Path::new("/run/viommu-qemu-system-x86_64");
    std::os::unix::fs::symlink(VIOMMU, wrapper).unwrap();
    assert_event("start", &hook(START, &guests.wrapper), None);
    let start = ["-name", "guest=g", "-machine", "pc-q35-7.2", "-uuid", UUID];
    let at = |seconds: i64| {
        let mut command = Command::new("unshare");
        command.args(["--time", &format!("--boottime={seconds}"), "--fork"]).arg(wrapper).args(start);
        feed(&mut command, b"")
    };
    if at(0).status != 0 {
        println!("SKIPPED: no time namespaces on this machine");
        return;
    }
    assert_event("ten minutes later", &at(600), None);
    assert_event("an hour later", &at(3600), Some("state-invalid"));
    assert_event("before it was written", &at(-60), Some("state-invalid"));
}

#[test]
fn names_that_are_not_utf8() {
    if !sandbox::inside("effects::faults::names_that_are_not_utf8") {
        return;
    }
    let guests = guests();
    let bytes = |bytes: &'static [u8]| OsStr::from_bytes(bytes);
    let call = |arguments: [&OsStr; 4], xml: &str| feed(Command::new(sandbox::hook()).args(arguments), xml.as_bytes());
    for name in [bytes(b"\xff\xfe"), bytes(b"\xc3("), bytes(b"a\nb\x1b[31m")] {
        let event = |operation: &'static [u8], sub: &'static [u8]| [name, bytes(operation), bytes(sub), name];
        assert_event("start", &call(event(b"start", b"begin"), &guests.wrapper), None);
        assert_event("prepare", &call(event(b"prepare", b"begin"), &guests.requesting), Some("wrapper-missing"));
        assert_event("reconnect", &call(event(b"reconnect", b"begin"), &guests.requesting), None);
        assert_event("an operation", &call(event(b"\xff", b"\xff"), &guests.requesting), None);
    }
    // The name in the XML comes from libvirt and is always UTF-8; an invalid byte makes the document unreadable.
    let broken = [guests.requesting.as_bytes(), b"\xff"].concat();
    assert_event(
        "bytes in the XML",
        &run(sandbox::hook(), &[&[NAME][..], &START].concat(), &broken),
        Some("xml-malformed"),
    );
}

const SECRET: &str = "hunter2-of-a-tenant";

/// libvirt's XML at a migration contains passwords.
#[test]
fn no_secret_is_logged_or_stored() {
    if !sandbox::inside("effects::faults::no_secret_is_logged_or_stored") || !traced() {
        return;
    }
    let guests = guests();
    let trace = Path::new("/run/test/secret.trace");
    let graphics = format!("    <graphics type='vnc' passwd='{SECRET}'/>\n    <memballoon");
    for xml in [&guests.requesting, &guests.native, &guests.wrapper, &guests.plain, &guests.broken] {
        let xml = xml.replace("    <memballoon", &graphics).replace("<apic/>", &format!("<apic eoi='{SECRET}'/>"));
        for event in [PREPARE, START, STARTED, MIGRATE, STOPPED, RELEASE].into_iter().chain(OTHERS) {
            let mut command = Command::new("strace");
            command.args(["-f", "-qq", "-s", "100000", "-e", "trace=%net,write,writev,pwrite64", "-o"]).arg(trace);
            let ran = feed(command.arg(sandbox::hook()).arg(NAME).args(event), xml.as_bytes());
            assert!(!ran.stderr.contains(SECRET), "{event:?}: {ran:?}");
            let trace = fs::read_to_string(trace).unwrap();
            // stdout goes back to libvirt, the source of the XML.
            let leaked = trace.lines().find(|line| line.contains(SECRET) && !line.contains("write(1,"));
            assert_eq!(leaked, None, "{event:?}");
        }
    }
}
