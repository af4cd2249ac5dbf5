//! `viommu explain`: the right page explains each known line of QEMU, libvirt and the kernel, and no page explains
//! another line. The binaries of these programs are the second source: they contain the lines.

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "tests do I/O")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic fails the test")]

#[path = "support/program.rs"]
mod program;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use program::{Ran, VIOMMU, run};
use support::libvirt::Suite;
use viommu::explain::{Findings, messages};

/// A line with the program that prints it.
struct Printed {
    page: &'static str,
    line: &'static str,
    /// `QEMU 5.2 7.2: a piece of it as it stands in the binary`, or only the program's name.
    by: &'static str,
}

fn printed() -> Vec<Printed> {
    let mut page = "";
    let mut last = "";
    let mut found = Vec::new();
    for line in include_str!("data/messages.txt").split("\n\n").skip(2).flat_map(str::lines) {
        match (line.strip_prefix("# "), line.strip_prefix("    ")) {
            (Some(title), _) => page = title,
            (_, Some(by)) => found.push(Printed { page, line: last, by }),
            _ => last = line,
        }
    }
    found
}

/// The titles of the findings in a log.
fn explained(log: &str) -> Vec<&'static str> {
    Findings::read(log.as_bytes(), Vec::new).unwrap().found.iter().map(|finding| finding.page.title).collect()
}

#[test]
fn every_known_line_is_explained_by_its_page() {
    let printed = printed();
    for Printed { page, line, .. } in &printed {
        assert_eq!(explained(line), [*page], "{line}");
        let in_a_log =
            format!("2026-11-22 10:00:00.000+0000: starting up\n{line}\n2026-11-22: shutting down, reason=failed\n");
        assert_eq!(explained(&in_a_log), [*page], "{line}");
    }
    println!("{} lines", printed.len());
    assert!(printed.len() >= 150);
}

/// Each line of a page has a known source.
#[test]
fn every_line_of_a_page_is_in_a_program_or_a_public_report() {
    let printed = printed();
    let lower = |text: &str| text.to_ascii_lowercase();
    let text = fs::read_to_string("docs/messages.md").unwrap();
    for section in text.split("\n### ").skip(1) {
        let (title, body) = section.split_once("\n\n```text\n").unwrap();
        for pattern in body.split("\n```").next().unwrap().lines() {
            let of_it = |known: &&Printed| {
                known.page == title && pattern.split('…').all(|part| lower(known.line).contains(&lower(part)))
            };
            assert!(printed.iter().any(|known| of_it(&known)), "{title}: no source prints {pattern:?}");
        }
    }
    assert!(messages().iter().all(|page| printed.iter().any(|known| known.page == page.title)));
}

/// Each line alone: pages explain at least 95 of 100 lines, always the right page, and other lines have harmless
/// findings only.
fn are_explained(lines: &str, at_least: (usize, usize)) {
    let (mut known, mut unknown, mut others, mut wrong) = (0, Vec::new(), 0, Vec::new());
    for line in lines.split_once("\n\n").unwrap().1.lines() {
        let [line, _source, page] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        let found = explained(line);
        others += usize::from(page == "none");
        match found.as_slice() {
            [] | ["Harmless lines"] if page == "none" => {}
            [] => unknown.push(line),
            [title] if *title == page => known += 1,
            _ => wrong.push((line, page, found)),
        }
    }
    println!("{known} lines explained, {others} others, not explained: {unknown:#?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(known >= at_least.0 && others >= at_least.1 && unknown.len() * 20 <= known + unknown.len(), "{unknown:#?}");
}

#[test]
fn lines_of_real_logs() {
    are_explained(include_str!("data/lines.txt"), (120, 60));
}

#[test]
fn later_lines_of_real_logs() {
    are_explained(include_str!("data/later_lines.txt"), (120, 60));
}

#[test]
fn held_out_lines() {
    are_explained(include_str!("data/kept_lines.txt"), (38, 0));
}

#[test]
fn last_lines_of_real_logs() {
    are_explained(include_str!("data/last_lines.txt"), (45, 12));
}

#[test]
fn lines_about_passed_through_devices() {
    are_explained(include_str!("data/passthrough_lines.txt"), (400, 170));
}

#[test]
fn lines_from_public_reports() {
    are_explained(include_str!("data/report_lines.txt"), (220, 130));
}

#[test]
fn other_lines_are_not_explained() {
    for line in [
        "",
        "2026-11-22 10:00:00.000+0000: starting up libvirt version: 11.3.0, qemu version: 10.0.2, kernel: 6.12",
        "-device '{\"driver\":\"intel-iommu\",\"id\":\"iommu0\",\"intremap\":\"on\",\"caching-mode\":true}' \\",
        "-name guest=Interrupt Remapping cannot work with kernel-irqchip=on,debug-threads=on \\",
        "char device redirected to /dev/pts/1 (label charserial0)",
        "qemu-system-x86_64: terminating on signal 15 from pid 812 (/usr/sbin/libvirtd)",
        "error: internal error: Child process (/usr/bin/true) unexpected exit status 1: ",
        "Device 'e1000e' does not support hotplugging",
        "Property 'virtio-net-pci.mac2' not found",
        "Duplicate ID 'net0' for device",
        "PCI: slot 1 function 0 not available for e1000e, in use by virtio-net-pci,id=net0",
        "Parameter 'cache-size' expects a power of two",
        "qemu-system-x86_64: vfio_listener_region_add received unaligned region",
        "Unknown savevm section or instance '0000:00:03.0/virtio-net' 0.",
        "cannot migrate domain: domain has CPU feature: invtsc",
        "error: XML error: Invalid value for attribute 'model' in element 'video': 'x'.",
        "The 'gic' feature is not supported for architecture 'x86_64' or machine type 'pc-q35-10.0'",
        "vfio_dma_map(0x1, 0x0, 0x1000, 0x7f) = 0",
        "audit: apparmor=\"DENIED\" operation=\"open\" profile=\"libvirt-3a21c2ee\" name=\"/etc/passwd\"",
        "avc:  denied  { read } for  pid=436 comm=\"qemu-system-x86\" name=\"disk.img\" tclass=file",
        "DMAR: IOMMU enabled",
        "viommu: raised the locked-memory limit of dpdk to 9 GiB",
        "error[no-such-code] and [auto-model]",
    ] {
        assert_eq!(explained(line), [""; 0], "{line}");
    }
}

/// The strings of a program, one on a line.
fn strings(root: &Path, programs: &[&str]) -> Option<String> {
    let files: Vec<PathBuf> = programs.iter().map(|name| root.join("usr").join(name)).collect();
    if !files.iter().all(|file| file.exists()) {
        return None;
    }
    let output = Command::new("strings").args(["-n", "6"]).args(&files).output();
    let output = output.unwrap_or_else(|error| panic!("strings, of the package binutils: {error}"));
    assert!(output.status.success());
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The version of a package in a Debian root.
fn version(root: &Path, package: &str) -> String {
    let status = fs::read_to_string(root.join("var/lib/dpkg/status")).unwrap();
    let stanza = status.split("\n\n").find(|stanza| stanza.starts_with(&format!("Package: {package}\n"))).unwrap();
    let version = stanza.lines().find_map(|line| line.strip_prefix("Version: ")).unwrap();
    version.split_once(':').map_or(version, |(_epoch, version)| version).to_owned()
}

const QEMU: [&str; 2] = ["bin/qemu-system-x86_64", "bin/qemu-system-aarch64"];
const LIBVIRT: [&str; 2] =
    ["lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so", "lib/x86_64-linux-gnu/libvirt.so.0"];

/// Each release contains the wordings that are listed for it, and none of the others.
#[test]
fn binaries_of_each_release_have_these_words() {
    let lab = std::env::var_os("VIOMMU_LAB").map_or_else(|| PathBuf::from("target/lab"), PathBuf::from);
    let printed = printed();
    let mut complaints = Vec::new();
    for suite in Suite::ALL.into_iter().chain(Suite::OTHERS) {
        let root = lab.join("roots").join(suite.name());
        let (Some(qemu), Some(libvirt)) = (strings(&root, &QEMU), strings(&root, &LIBVIRT)) else {
            let required = std::env::var_os("VIOMMU_REQUIRE_LAB").is_some() && Suite::ALL.contains(&suite);
            assert!(!required, "{} has no QEMU and libvirt", root.display());
            // tests/run builds no root of Debian 11.
            if suite != Suite::Bullseye {
                println!("SKIPPED: no root of {}; tests/lab/root.sh makes it", suite.name());
            }
            continue;
        };
        let [has_qemu, has_libvirt] = ["qemu-system-x86", "libvirt0"].map(|package| version(&root, package));
        let gone_on = !(has_qemu.starts_with(suite.qemu()) && has_libvirt.starts_with(suite.libvirt()));
        if gone_on {
            let moves = matches!(suite, Suite::Sid | Suite::Backports);
            assert!(moves, "{}: QEMU {has_qemu}, libvirt {has_libvirt}", suite.name());
            println!("{} now has QEMU {has_qemu} and libvirt {has_libvirt}", suite.name());
        }
        let mut differences = Vec::new();
        let mut looked = 0;
        for Printed { line, by, .. } in &printed {
            let Some((releases, words)) = by.split_once(": ") else { continue };
            let (program, releases) = releases.split_once(' ').unwrap();
            let (text, release) = match program {
                "QEMU" => (&qemu, suite.qemu()),
                "libvirt" => (&libvirt, suite.libvirt()),
                other => panic!("{line}: unknown program {other}"),
            };
            looked += 1;
            if text.contains(words) != releases.split(' ').any(|named| named == release) {
                differences.push(format!("{program} {release} and {words:?}: {by}"));
            }
        }
        if gone_on {
            suite.judge(&differences);
        } else {
            complaints.append(&mut differences);
        }
        println!("{}: {looked} lines", suite.name());
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

fn explain(arguments: &[&str], stdin: &str) -> Ran {
    run(VIOMMU, &[&["explain"], arguments].concat(), stdin.as_bytes())
}

#[test]
fn a_code_a_log_or_stdin() {
    let page = explain(&["irqchip-conflict"], "");
    assert!(page.status == 0 && page.stderr.is_empty(), "{page:?}");
    assert!(page.stdout.starts_with("irqchip-conflict\n\n  Interrupt remapping needs"), "{page:?}");
    for label in ["  - Why: ", "  - Do: ", "  - Source: QEMU, x86_iommu_realize"] {
        assert!(page.stdout.contains(label), "{page:?}");
    }
    let log = "x: group 11 used in multiple address spaces\nviommu: error[config-invalid]: no\n";
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("explain.log");
    fs::write(&file, log).unwrap();
    let from_file = explain(&[file.to_str().unwrap()], "");
    assert!(from_file.status == 0 && from_file.stderr.is_empty(), "{from_file:?}");
    let code = from_file.stdout.find("config-invalid\n  1 line: viommu: error[config-invalid]: no\n\n  /etc").unwrap();
    assert!(
        from_file.stdout[code..].contains("\n\nOne host IOMMU group, several guest address spaces\n"),
        "newest first"
    );
    assert!(from_file.stdout.ends_with("\n  more: viommu explain iommu-group-split\n"), "{from_file:?}");
    assert_eq!(explain(&[], log).stdout, from_file.stdout);
    assert_eq!(explain(&["-"], log).stdout, from_file.stdout);
}

#[test]
fn a_code_in_brackets_and_the_list_of_codes() {
    let page = explain(&["irqchip-conflict"], "");
    for form in ["error[irqchip-conflict]", "error[irqchip-conflict]:", "warning[irqchip-conflict]"] {
        assert_eq!(explain(&[form], "").stdout, page.stdout, "{form}");
    }
    let list = explain(&["--list"], "");
    let codes: Vec<&str> = list.stdout.lines().filter(|line| !line.starts_with(' ')).collect();
    assert!(codes.len() > 60 && codes.contains(&"irqchip-conflict"), "{list:?}");
}

#[test]
fn unknown_lines_and_arguments_are_reported() {
    let unknown = explain(&[], "one\ntwo\n");
    assert!(unknown.status == 0 && unknown.stderr.is_empty(), "{unknown:?}");
    assert!(unknown.stdout.starts_with("nothing known in 2 lines"), "{unknown:?}");
    for (argument, words) in [
        ("no-such-code", "no-such-code is neither a code nor a file; list the codes"),
        ("irqchip-conflikt", "similar codes: irqchip-conflict"),
        ("error[irqchip-conflikt]", "similar codes: irqchip-conflict"),
        ("./nowhere.log", "cannot read ./nowhere.log"),
        ("tests", "cannot read tests"),
    ] {
        let ran = explain(&[argument], "");
        assert!(ran.status == 2 && ran.stdout.is_empty() && ran.stderr.contains(words), "{ran:?}");
    }
}

#[test]
fn text_of_a_tenant_is_escaped() {
    let ran = explain(&[], "a\x1b]0;x\x07b: group 1 used in multiple address spaces\u{202e}\n");
    assert!(ran.stdout.contains("a\\u{1b}]0;x\\u{7}b: group 1"), "{ran:?}");
    assert!(!ran.stdout.contains(['\x1b', '\x07', '\u{202e}']), "{ran:?}");
}
