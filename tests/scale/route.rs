//! The cost that the host route adds to the start of a guest without a request, alone and among two thousand others.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "starts processes for a test"
)]

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::kernel::{HOOK, begin, command};
use crate::sized::{UUID, plain};
use crate::{kernel, release, sandbox, two_thousand_states_and_records};

const LINK: &str = "/run/test/libvirt-host-route/qemu-system-x86_64";
/// Executed instead of QEMU.
const REAL: &str = "/usr/bin/true";

#[test]
fn the_host_route_costs_a_plain_guest_the_same_among_two_thousand() {
    let Some(binary) = release::release() else { return };
    if !sandbox::inside("route::the_host_route_costs_a_plain_guest_the_same_among_two_thousand") {
        return;
    }
    kernel::host(&binary, &[HOOK, LINK]);
    fs::write("/etc/viommu.toml", format!("[emulators]\nx86_64 = '{REAL}'\n")).unwrap();
    let plain = plain(20_000);
    let routed = plain.replace("/usr/bin/qemu-system-x86_64", LINK);
    println!("| | without the route | with it | |\n|---|---:|---:|---|");
    let alone = costs(&plain, &routed, "alone");
    two_thousand_states_and_records();
    for directory in ["/etc/libvirt/qemu", "/run/libvirt/qemu"] {
        fs::create_dir_all(directory).unwrap();
        for number in 0..2000 {
            fs::write(format!("{directory}/{number}.xml"), "{}").unwrap();
        }
    }
    assert_eq!(costs(&plain, &routed, "among two thousand"), alone);
}

/// The system calls of hook and wrapper; prints them with the shortest times.
fn costs(plain: &str, routed: &str, among: &str) -> Vec<(usize, usize)> {
    let mut counts = Vec::new();
    for event in ["prepare", "start"] {
        let [without, with] = [plain, routed]
            .map(|xml| (kernel::system_calls(event, xml), shortest(|| command(HOOK, &begin(event), xml))));
        println!("| hook, {event} | {} calls, {:?} | {} calls, {:?} | {among} |", without.0, without.1, with.0, with.1);
        counts.push((without.0, with.0));
    }
    let guest = ["-name", "guest=g", "-uuid", UUID, "-S"];
    let [without, with] =
        [REAL, LINK].map(|emulator| (until_qemu(emulator, &guest), shortest(|| command(emulator, &guest, ""))));
    println!("| emulator | {} calls, {:?} | {} calls, {:?} | {among} |", without.0, without.1, with.0, with.1);
    counts.push((without.0, with.0));
    counts
}

/// The shortest time of a process, from its spawn to its end.
fn shortest(make: impl Fn() -> Command) -> Duration {
    let once = || {
        let mut command = make();
        let begin = Instant::now();
        assert!(command.status().unwrap().success(), "{command:?}");
        begin.elapsed()
    };
    (0..300).map(|_| once()).min().unwrap()
}

/// The system calls up to the execution of QEMU, inclusive.
fn until_qemu(program: &str, arguments: &[&str]) -> usize {
    let trace = kernel::trace(program, arguments, "");
    1 + trace.iter().position(|line| line.starts_with(&format!("execve(\"{REAL}\""))).unwrap()
}
