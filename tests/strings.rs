//! Every text of the newest packaged QEMUs and libvirts that speaks of IOMMUs, VFIO, iommufd, PASID, ATS or locked memory is
//! explained by `viommu explain`, or is listed in `tests/data/strings.txt`, which says why it has no page.
//!
//! `VIOMMU_REGENERATE=1` writes the unknown ones to the end of that list, for a person to sort.

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "tests have effects")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use support::libvirt::Suite;
use viommu::explain::Findings;

const LIST: &str = "tests/data/strings.txt";

const PROGRAMS: [&str; 4] = [
    "bin/qemu-system-x86_64",
    "bin/qemu-system-aarch64",
    "lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
    "lib/x86_64-linux-gnu/libvirt.so.0",
];

/// Words of the subject, in lower case.
const WORDS: [&str; 15] = [
    "iommu",
    "vfio",
    "memlock",
    "locked memory",
    "pasid",
    "iova",
    "smmu",
    "xtsup",
    "intremap",
    "interrupt remapping",
    "dma map",
    "dma_map",
    "dma remap",
    "vt-d",
    "eim=",
];

mod newest {
    use super::*;

    #[test]
    fn sid() {
        texts_are_known(Suite::Sid);
    }

    #[test]
    fn backports() {
        texts_are_known(Suite::Backports);
    }
}

fn texts_are_known(suite: Suite) {
    let Some(root) = suite.root() else {
        // tests/run names a suite that cannot be installed that day.
        println!("SKIPPED: no root of {}; tests/lab/root.sh makes it", suite.name());
        return;
    };
    let output =
        Command::new("strings").args(["-n", "8"]).args(PROGRAMS.map(|name| root.join("usr").join(name))).output();
    let output = output.unwrap_or_else(|error| panic!("strings, of the package binutils: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let about: BTreeSet<&str> = text.lines().map(str::trim).filter(|line| is_about(line)).collect();
    assert!(about.len() > 300, "{}", about.len());
    let listed = fs::read_to_string(LIST).unwrap();
    let listed: BTreeSet<&str> = listed.lines().filter(|line| !line.starts_with('#')).collect();
    let unknown: Vec<&str> =
        about.iter().copied().filter(|line| !listed.contains(line) && !is_explained(line)).collect();
    println!("{}: {} texts, {} unknown", suite.name(), about.len(), unknown.len());
    if std::env::var_os("VIOMMU_REGENERATE").is_some_and(|value| value == "1") {
        let old = fs::read_to_string(LIST).unwrap();
        fs::write(LIST, old + &unknown.join("\n") + "\n").unwrap();
    } else {
        suite.judge(&unknown.iter().map(|line| format!("not in docs/messages.md: {line}")).collect::<Vec<_>>());
    }
}

/// Whether a string is a sentence about the subject, and not the format of a trace point (`event_name arguments`).
fn is_about(text: &str) -> bool {
    let lower = text.to_lowercase();
    let first = text.split(' ').next().unwrap_or_default();
    let is_event =
        first.contains('_') && first.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    text.contains(' ') && !is_event && WORDS.iter().any(|word| lower.contains(word))
}

/// Whether a page explains the line that a format gives with some value in it.
fn is_explained(format: &str) -> bool {
    // An error number of the system comes last.
    let reasons = ["", ": Operation not permitted", ": Cannot allocate memory", " (Cannot allocate memory)"];
    let line = printed(format);
    reasons.iter().any(|why| Findings::read(format!("{line}{why}").as_bytes()).unwrap().iter().next().is_some())
}

/// A format with 7 for each value.
fn printed(format: &str) -> String {
    let mut pieces = format.split('%');
    let mut line = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let flags = |c: char| c.is_ascii_digit() || matches!(c, '$' | '-' | '#' | '.' | '*' | 'l' | 'z' | 'h');
        let rest = piece.trim_start_matches(flags);
        line.push('7');
        line.extend(rest.chars().skip(1));
    }
    line
}

#[test]
fn formats_become_lines() {
    assert_eq!(printed("vfio_dma_map(%p, 0x%lx) = %d (%1$s)"), "vfio_dma_map(7, 0x7) = 7 (7)");
    assert!(is_about("Property 'x' needs an IOMMU") && !is_about("vfio_msi_disable (%s)") && !is_about("vfio"));
}
