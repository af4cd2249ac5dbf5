//! The texts of the packaged QEMUs and libvirts, and the messages of the kernels that the tests boot, about IOMMUs,
//! VFIO, iommufd, PASID, ATS or locked memory: `viommu explain` explains each of them, or
//! `tests/data/strings.txt` lists it with the reason why it has no page.
//!
//! `VIOMMU_REGENERATE=1` appends unknown texts to that list, to be sorted by hand.

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "tests do I/O")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic fails the test")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
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

/// Words of the subject in libvirt only, for the driver of a device; in the kernel they have other meanings.
const WORDS_OF_LIBVIRT: [&str; 3] = ["pci driver", "stub driver", "driver_override"];

/// Words of the subject in the kernel only: its tables, and the queues of SMMUs.
const WORDS_OF_THE_KERNEL: [&str; 14] = [
    "dmar",
    "amd-vi",
    "ivrs",
    "viot",
    "rmrr",
    "irq remapping",
    "x2apic mode",
    "deferred probe",
    "fault from ep",
    "granule",
    "evtq",
    "cmdq",
    "context fault",
    "global fault",
];

/// The prefixes of the kernel's device messages; the format string does not contain them.
const DEVICES: [&str; 6] = [
    "",
    "vfio-pci 0000:01:00.0: ",
    "pci 0000:01:00.0: ",
    "virtio_iommu virtio0: ",
    "arm-smmu-v3 arm-smmu-v3.0.auto: ",
    "arm-smmu 5000000.smmu: ",
];

mod release {
    use super::*;

    #[test]
    fn bookworm() {
        texts_are_known(Suite::Bookworm);
    }

    #[test]
    fn trixie() {
        texts_are_known(Suite::Trixie);
    }

    #[test]
    fn sid() {
        texts_are_known(Suite::Sid);
    }

    #[test]
    fn backports() {
        texts_are_known(Suite::Backports);
    }
}

mod kernel {
    use super::*;

    #[test]
    fn debian_13() {
        messages_are_known("boot/debian-13", 330);
    }

    #[test]
    #[ignore = "needs a kernel that is built by hand: tests/lab/boot/guest.sh debian-13-arm64"]
    fn debian_13_arm64() {
        messages_are_known("boot/debian-13-arm64", 60);
    }

    #[test]
    fn debian_12_with_its_vfio_modules() {
        messages_are_known("nested/kit", 330);
    }

    #[test]
    #[ignore = "needs a kernel that is built by hand: tests/lab/boot/guest.sh debian-unstable"]
    fn debian_unstable() {
        messages_are_known("boot/debian-unstable", 330);
    }
}

fn texts_are_known(suite: Suite) {
    let Some(root) = suite.root() else {
        // tests/run lists a suite that cannot be installed on that day.
        println!("SKIPPED: no root of {}; tests/lab/root.sh makes it", suite.name());
        return;
    };
    let output =
        Command::new("strings").args(["-n", "8"]).args(PROGRAMS.map(|name| root.join("usr").join(name))).output();
    let output = output.unwrap_or_else(|error| panic!("strings, of the package binutils: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let about: BTreeSet<&str> = text.lines().map(str::trim).filter(|line| is_about(line)).collect();
    assert!(about.len() > 200, "{}", about.len());
    let unknown = unknown(suite.name(), &about, &[""]);
    suite.judge(&unknown.iter().map(|line| format!("not in docs/messages.md: {line}")).collect::<Vec<_>>());
}

/// Checks a kernel of the lab, and the VFIO modules beside it.
fn messages_are_known(place: &str, at_least: usize) {
    let lab = std::env::var_os("VIOMMU_LAB").map_or_else(|| PathBuf::from("target/lab"), PathBuf::from).join(place);
    let Ok(image) = fs::read(lab.join("vmlinuz")) else {
        println!(
            "SKIPPED: no kernel in {}; tests/lab/boot/guest.sh and tests/lab/nested/kit.sh make them",
            lab.display()
        );
        return;
    };
    let image = uncompressed(image, &place.replace('/', "-"));
    let mut about: BTreeSet<&str> = messages(&image).filter(|line| is_about_iommus(line)).collect();
    let modules: Vec<Vec<u8>> = modules(&lab.join("lib/modules")).iter().map(|file| fs::read(file).unwrap()).collect();
    about.extend(modules.iter().flat_map(|module| messages(module)));
    assert!(about.len() >= at_least, "{}", about.len());
    let unknown = unknown(place, &about, &DEVICES);
    for text in &unknown {
        println!("DIFFERS in {place}: not in docs/messages.md: {text}");
    }
    // A later kernel of the release can have a few new messages.
    assert!(unknown.len() <= 10, "{unknown:#?}");
}

/// The texts without a page or a list entry, each after one of these prefixes.
fn unknown<'a>(whose: &str, texts: &BTreeSet<&'a str>, beginnings: &[&str]) -> Vec<&'a str> {
    let listed = fs::read_to_string(LIST).unwrap();
    let known: BTreeSet<&str> = listed.lines().filter(|line| !line.starts_with('#')).collect();
    let explained = |text: &str| beginnings.iter().any(|beginning| is_explained(&format!("{beginning}{text}")));
    let unknown: Vec<&str> = texts.iter().copied().filter(|text| !known.contains(text) && !explained(text)).collect();
    println!("{whose}: {} texts, {} unknown", texts.len(), unknown.len());
    if std::env::var_os("VIOMMU_REGENERATE").is_some_and(|value| value == "1") {
        fs::write(LIST, listed + &unknown.join("\n") + "\n").unwrap();
        return Vec::new();
    }
    unknown
}

/// The kernel in an image: compressed on x86, at the place that the boot protocol's header gives; uncompressed on
/// `AArch64`.
fn uncompressed(image: Vec<u8>, name: &str) -> Vec<u8> {
    if image.get(0x202..0x206) != Some(b"HdrS") {
        return image;
    }
    let number = |at: usize| u32::from_le_bytes(image.get(at..at + 4).unwrap().try_into().unwrap()) as usize;
    let begin = (usize::from(*image.get(0x1f1).unwrap()) + 1) * 512 + number(0x248);
    // The last four bytes are the size of the uncompressed data.
    let kernel = image.get(begin..begin + number(0x24c) - 4).unwrap();
    let program = if kernel.starts_with(b"\xfd7zXZ") { "xz" } else { "zstd" };
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.{program}"));
    fs::write(&file, kernel).unwrap();
    let output = Command::new(program).arg("-dc").arg(&file).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::remove_file(file).unwrap();
    output.stdout
}

/// VFIO's modules below this directory.
fn modules(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(modules(&path));
        } else if path.extension().is_some_and(|end| end == "ko") && path.iter().any(|part| part == "vfio") {
            found.push(path);
        }
    }
    found
}

/// The message lines in a kernel or module: strings that begin with a level (byte 1 and a digit), or that end with a
/// line feed, as device messages do.
fn messages(image: &[u8]) -> impl Iterator<Item = &str> {
    image
        .split(|byte| *byte == 0)
        .filter_map(message)
        .flat_map(str::lines)
        .map(str::trim)
        .filter(|line| !line.is_empty())
}

fn message(string: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(string).ok().filter(|text| text.len() > 8)?;
    let text = match text.strip_prefix('\u{1}') {
        Some(message) => message.get(1..)?,
        None => Some(text).filter(|text| text.ends_with('\n'))?,
    };
    Some(text).filter(|text| text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\t')))
}

/// Whether a string is a sentence about the subject, and not the format of a trace event (`event_name arguments`).
fn is_about(text: &str) -> bool {
    let first = text.split(' ').next().unwrap_or_default();
    // QEMU before 10.1 prints trace events with the time.
    let is_event = first.starts_with("%d@%zu.%06zu:")
        || first.contains('_') && first.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    text.contains(' ') && !is_event && (has(text, &WORDS) || has(text, &WORDS_OF_LIBVIRT))
}

fn is_about_iommus(text: &str) -> bool {
    text.contains(' ') && (has(text, &WORDS) || has(text, &WORDS_OF_THE_KERNEL))
}

fn has(text: &str, words: &[&str]) -> bool {
    let lower = text.to_lowercase();
    words.iter().any(|word| lower.contains(word))
}

/// Whether a page explains a line of this format.
fn is_explained(format: &str) -> bool {
    // The system's error text is at the end.
    let reasons = ["", ": Operation not permitted", ": Cannot allocate memory", " (Cannot allocate memory)"];
    let line = printed(format);
    reasons.iter().any(|why| !Findings::read(format!("{line}{why}").as_bytes(), Vec::new).unwrap().found.is_empty())
}

/// A format with 7 for each value.
fn printed(format: &str) -> String {
    let mut pieces = format.split('%');
    let mut line = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let flags = |c: char| c.is_ascii_digit() || matches!(c, '$' | '-' | '#' | '.' | '*' | 'l' | 'L' | 'z' | 'h');
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
    assert!(!is_about("%d@%zu.%06zu:vfio_msi_disable  (%s)"));
}

#[test]
fn messages_are_distinguished_from_other_strings() {
    let image = b"\0\x013DMAR: a\nb\0DMAR: a name\0DMAR: of a device\n\0\xff\n\0\x016\x02\0";
    assert_eq!(messages(image).collect::<Vec<_>>(), ["DMAR: a", "b", "DMAR: of a device"]);
}
