//! The cost that viommu adds to `virsh start` and `virsh destroy`: `cargo bench --bench libvirt`, as root. Writes the
//! figures into
//! `docs/proof/performance.md`.
//!
//! Four real libvirtds with real QEMUs run one after the other in each round, so that the load of the machine affects
//! all of them. The first has no viommu, and the guest's XML has the vIOMMU. The second has the same guest, and a hook
//! and an emulator that do nothing (C programs). The third has viommu and a guest with a request. The fourth has
//! neither viommu nor a vIOMMU; it shows QEMU's own work for the vIOMMU. `-- PAIRS` makes that many rounds instead of
//! 40, and prints the section without writing it.
#![expect(clippy::disallowed_methods, reason = "a benchmark does I/O")]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a panic fails the benchmark")]

#[path = "../../tests/support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::libvirt::{Libvirt, Suite, bare};

const PAIRS: usize = 40;
/// Number of guests that start at once, and number of rounds.
const GUESTS: usize = 20;
const BURSTS: usize = 8;

const BEGIN: &str = "<!-- generated: cargo bench --bench libvirt -->\n";
const END: &str = "<!-- end of the generated part for libvirt -->\n";

/// A hook that does nothing, and an emulator that executes QEMU.
const NO_HOOK: &str = "int main(void) { return 0; }";
const EXECUTE: &str =
    "#include <unistd.h>\nint main(int c, char **v) { return execv(\"/usr/bin/qemu-system-x86_64\", v); }";

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const WRAPPER: &str = "/usr/bin/viommu-qemu-system-x86_64";

/// One host.
struct Host {
    what: &'static str,
    libvirt: Libvirt,
    pairs: Vec<f64>,
    bursts: Vec<f64>,
}

fn main() {
    let few: Option<usize> = std::env::args().find_map(|argument| argument.parse().ok());
    let mut text = String::new();
    for suite in Suite::ALL {
        let Some(mut hosts) = hosts(suite) else { return };
        let pairs = few.unwrap_or(PAIRS);
        // The first round fills caches.
        for round in 0..=pairs {
            for host in alternating(&mut hosts, round) {
                let taken = host.milliseconds("virsh -q 'start bench-0; destroy bench-0'");
                if round > 0 {
                    host.pairs.push(taken);
                }
            }
        }
        for round in 0..few.unwrap_or(BURSTS) {
            for host in alternating(&mut hosts, round) {
                let taken = host.milliseconds(&each("virsh -q start bench-$number &"));
                host.bursts.push(taken);
                host.libvirt.run(&each("virsh -q destroy bench-$number &")).ok();
            }
        }
        text += &table(suite, &hosts);
    }
    if few.is_some() {
        println!("{text}");
    } else {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/proof/performance.md");
        let old = fs::read_to_string(&page).unwrap();
        let (head, rest) = old.split_once(BEGIN).unwrap();
        let (_, tail) = rest.split_once(END).unwrap();
        fs::write(page, format!("{head}{BEGIN}{text}{END}{tail}")).unwrap();
    }
}

/// The hosts of a suite, with their guests defined; `None` without a lab.
fn hosts(suite: Suite) -> Option<Vec<Host>> {
    let host = |what, domain: &dyn Fn(usize) -> String, prepare: &dyn Fn(&Libvirt)| {
        let libvirt = bare(suite)?;
        libvirt.run("mkdir -p /etc/libvirt/hooks/qemu.d").ok();
        prepare(&libvirt);
        libvirt.restart_libvirtd();
        for number in 0..GUESTS {
            fs::write(libvirt.share.join("guest.xml"), domain(number)).unwrap();
            libvirt.virsh(&["define", "/share/guest.xml"]).ok();
        }
        Some(Host { what, libvirt, pairs: Vec::new(), bursts: Vec::new() })
    };
    let floor = |libvirt: &Libvirt| {
        libvirt.put("/etc/libvirt/hooks/qemu.d/50-floor", compiled(NO_HOOK));
        libvirt.put(WRAPPER, compiled(EXECUTE));
    };
    let viommu = |libvirt: &Libvirt| {
        libvirt.put("/usr/bin/viommu", fs::read(env!("CARGO_BIN_EXE_viommu")).unwrap());
        let links = format!("ln -s viommu {WRAPPER}; ln -s /usr/bin/viommu /etc/libvirt/hooks/qemu.d/50-viommu");
        libvirt.run(&links).ok();
    };
    let nothing = |_: &Libvirt| {};
    let floor_guest = |number| rewritten(suite, number).replace(QEMU, WRAPPER);
    Some(vec![
        host("without viommu, the vIOMMU in the XML", &|number| rewritten(suite, number), &nothing)?,
        host("the same, a hook that does nothing, and an emulator that executes QEMU (C)", &floor_guest, &floor)?,
        host("viommu: hook, wrapper, and a request", &|number| domain(number, WRAPPER), &viommu)?,
        host("without viommu, and without a vIOMMU", &|number| domain(number, QEMU), &nothing)?,
    ])
}

/// The order of the hosts: each round reverses it.
fn alternating(hosts: &mut [Host], round: usize) -> Box<dyn Iterator<Item = &mut Host> + '_> {
    if round % 2 == 0 { Box::new(hosts.iter_mut()) } else { Box::new(hosts.iter_mut().rev()) }
}

impl Host {
    /// The duration of a script that must succeed.
    fn milliseconds(&self, script: &str) -> f64 {
        let timed = format!("set -e; from=$(date +%s%N); {script}; to=$(date +%s%N); echo $((to - from)) >&3");
        let nanoseconds = self.libvirt.run(&format!("exec 3>&1 >/dev/null; {timed}")).ok();
        nanoseconds.trim().parse::<f64>().unwrap() / 1e6
    }
}

/// Runs a command for each guest at once; all must succeed.
fn each(command: &str) -> String {
    format!(
        "jobs=(); for number in {{0..{}}}; do {command} jobs+=($!); done; for job in \"${{jobs[@]}}\"; do wait \"$job\"; done",
        GUESTS - 1
    )
}

fn domain(number: usize, emulator: &str) -> String {
    format!(
        "<domain type='qemu' xmlns:viommu='urn:libvirt-viommu:1'>
           <name>bench-{number}</name>
           <metadata><viommu:viommu model='intel'/></metadata>
           <memory unit='MiB'>64</memory>
           <os><type arch='x86_64' machine='q35'>hvm</type></os>
           <features><acpi/></features>
           <devices><emulator>{emulator}</emulator><controller type='usb' model='none'/><memballoon model='none'/></devices>
         </domain>"
    )
}

/// A domain with the vIOMMU that it requests.
fn rewritten(suite: Suite, number: usize) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench.xml");
    fs::write(&path, domain(number, QEMU)).unwrap();
    let versions = [format!("--libvirt-version={}", suite.libvirt()), format!("--qemu-version={}", suite.qemu())];
    let made = Command::new(env!("CARGO_BIN_EXE_viommu")).arg("rewrite").args(versions).arg(path).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap()
}

/// Compiles a static C program.
fn compiled(source: &str) -> Vec<u8> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (text, program) = (directory.join("bench.c"), directory.join("bench"));
    fs::write(&text, source).unwrap();
    assert!(Command::new("gcc").args(["-O2", "-static", "-o"]).arg(&program).arg(text).status().unwrap().success());
    fs::read(program).unwrap()
}

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap()
}

/// The figures. The ratio is the median of the ratios of the rounds, so that a slow round does not change it.
fn table(suite: Suite, hosts: &[Host]) -> String {
    let [base, ..] = hosts else { return String::new() };
    let ratio = |these: &[f64], those: &[f64]| {
        median(&these.iter().zip(those).map(|(this, that)| this / that).collect::<Vec<_>>())
    };
    let rows = hosts.iter().map(|host| {
        format!(
            "| {} | {:.0} ms | {:.3} | {:.0} ms | {:.3} |\n",
            host.what,
            median(&host.pairs),
            ratio(&host.pairs, &base.pairs),
            median(&host.bursts),
            ratio(&host.bursts, &base.bursts)
        )
    });
    format!(
        "\nlibvirt {}, QEMU {}: {} starts with `destroy` each, and {} times {GUESTS} starts at once.\n\n\
         | host | start and destroy | times the first | {GUESTS} at once | times the first |\n|---|---:|---:|---:|---:|\n{}",
        suite.libvirt(),
        suite.qemu(),
        base.pairs.len(),
        base.bursts.len(),
        rows.collect::<String>()
    )
}
