//! The cost of a guest's start in instructions: the hook at each event, the wrapper, and `rewrite`, as whole processes;
//! and the page faults and system calls.
//!
//! Each budget is 10 % above the measured value. A change that exceeds a budget needs a reason; a budget far above the
//! measured value is lowered.

#![expect(clippy::disallowed_methods, clippy::print_stdout, clippy::unwrap_used, reason = "a test program")]

#[path = "support/callgrind.rs"]
mod callgrind;
#[path = "support/host.rs"]
mod host;
#[path = "support/kernel.rs"]
mod kernel;
#[path = "support/release.rs"]
mod release;
#[path = "support/sandbox.rs"]
mod sandbox;
#[path = "support/sized.rs"]
mod sized;

use std::fs;
use std::path::Path;

use callgrind::instructions_alone;
use kernel::{HOOK, begin};
use sized::{UUID, plain, requesting, wrapped};

/// One invocation of the binary, and its limit in thousands of instructions.
struct Case<'a> {
    what: &'a str,
    program: &'a str,
    arguments: &'a [&'a str],
    stdin: &'a str,
    status: i32,
    budget: u64,
}

#[test]
fn instructions_stay_within_their_budgets() {
    let Some(binary) = release::release().filter(|_| callgrind::available()) else { return };
    if !sandbox::inside("instructions_stay_within_their_budgets") {
        return;
    }
    let (hook, wrapper, cli) = (HOOK, "/run/test/bin/viommu-qemu-system-x86_64", "/run/test/bin/viommu");
    kernel::host(&binary, &[hook, wrapper, cli]);
    // The wrapper executes this path, which does not exist: QEMU's own instructions do not count.
    fs::write("/etc/viommu.toml", "[emulators]\nx86_64 = '/nonexistent/qemu'\n").unwrap();
    let (requesting, plain, inside, large) =
        (requesting(20_000), plain(20_000), wrapped(20_000), requesting(1_000_000));
    let case =
        |what, program, arguments, stdin, status, budget| Case { what, program, arguments, stdin, status, budget };
    let guest = guest();
    let [prepare, start, started, migrate, reconnect] =
        ["prepare", "start", "started", "migrate", "reconnect"].map(begin);
    let cases = [
        case("prepare, a request", hook, &prepare[..], requesting.as_str(), 1, 2466),
        case("prepare, a request by the wrapper", hook, &prepare, &inside, 0, 2391),
        case("prepare, no request", hook, &prepare, &plain, 0, 263),
        case("start, a request by the wrapper", hook, &start, &inside, 0, 2456),
        // libvirt's arguments, thirty devices more, and the state that the start above has left.
        case("wrapper, a guest", wrapper, &guest, "", 1, 1247),
        case("wrapper, a probe", wrapper, &["-S", "-machine", "none", "-qmp", "unix:/x", "-daemonize"], "", 1, 158),
        // The search reads each process; there are two here.
        case("started, a request by the wrapper", hook, &started, &inside, 0, 2522),
        case("migrate, a request by the wrapper", hook, &migrate, &inside, 0, 2384),
        case("stopped", hook, &["g", "stopped", "end", "-"], &inside, 0, 165),
        case("release", hook, &["g", "release", "end", "-"], &inside, 0, 165),
        case("reconnect", hook, &reconnect, &requesting, 0, 133),
        case("viommu rewrite, 20 KB", cli, &["rewrite"], &requesting, 0, 2648),
        case("viommu rewrite, 1 MB", cli, &["rewrite"], &large, 0, 102_670),
    ];
    let mut over = Vec::new();
    for Case { what, program, arguments, stdin, status, budget } in cases {
        let (count, ended) = instructions_alone(Path::new(program), arguments, stdin.as_bytes());
        assert_eq!(ended, status, "{what}");
        println!("{what:35} {count:10} of {:10}", budget * 1000);
        if count > budget * 1000 {
            over.push(what);
        }
    }
    assert!(over.is_empty(), "over their budgets: {over:?}");
}

/// Page faults and system calls take about half of the time. The number of faults of the binary's own pages depends on
/// their place in memory, so that budget is 20 % above the measured value.
#[test]
fn system_calls_stay_within_their_budgets() {
    let Some(binary) = release::release() else { return };
    if !sandbox::inside("system_calls_stay_within_their_budgets") {
        return;
    }
    kernel::host(&binary, &[HOOK]);
    let (requesting, plain) = (requesting(20_000), plain(20_000));
    let mut over = Vec::new();
    for (event, xml, most) in
        [("prepare", &requesting, (145, 79)), ("prepare", &plain, (89, 42)), ("reconnect", &requesting, (73, 37))]
    {
        let found = (kernel::page_faults(event, xml), kernel::system_calls(event, xml));
        println!("{event:10} {found:?} of {most:?}");
        if found.0 > most.0 || found.1 > most.1 {
            over.push((event, found, most));
        }
    }
    assert!(over.is_empty(), "over their budgets: {over:?}");
}

/// A guest of thirty devices.
fn guest() -> Vec<&'static str> {
    let mut guest = vec!["-name", "guest=bench", "-machine", "pc-q35-7.2,usb=off", "-uuid", UUID];
    guest.extend(
        ["-device", r#"{"driver":"pcie-root-port","port":8,"chassis":1,"id":"pci.1","bus":"pcie.0"}"#].repeat(30),
    );
    guest
}
