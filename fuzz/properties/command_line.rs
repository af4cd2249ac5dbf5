//! Command line → wrapper: properties of every command line after the edits of a plan.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use viommu::note::Level;
use viommu::qemu::{self, Edits, Invocation, Translated};

const INTEL: &str = "intel-iommu,id=ua-viommu0,intremap=on,caching-mode=on,eim=on,aw-bits=48";
const VIRTIO: &str = "virtio-iommu-pci,id=ua-viommu0,bus=pcie.0";

/// One argument per line; the edits depend on the bytes.
pub(crate) fn check(data: &[u8]) {
    let arguments: Vec<OsString> =
        data.split(|byte| *byte == b'\n').map(|line| OsStr::from_bytes(line).into()).collect();
    let kind = qemu::classify(&arguments);
    let untouched = qemu::rewrite(&arguments, &Edits::default()).unwrap();
    assert_eq!(untouched, arguments);

    let edits =
        edits(data.iter().fold(0_usize, |sum, byte| (sum.wrapping_mul(31) % 1009).wrapping_add(usize::from(*byte))));
    let rewritten = match qemu::rewrite(&arguments, &edits) {
        Ok(rewritten) => rewritten,
        Err(note) => return assert!(note.level == Level::Error && !note.message.is_empty(), "{note:?}"),
    };
    let after = &rewritten;
    // The edits change neither the guest's identity, nor whether it is incoming, nor whether the command line is a
    // start.
    assert_eq!(qemu::classify(after), kind, "{after:?}");
    if let Some(wanted) = edits.devices.first() {
        let driver = wanted.split(',').next().unwrap();
        let found = qemu::find_iommu(after).unwrap_or_else(|| panic!("the vIOMMU is missing: {after:?}"));
        assert_eq!(found.driver, driver, "{after:?}");
        assert!(qemu::rewrite(after, &edits).is_err(), "a second vIOMMU: {after:?}");
        let placed = after.iter().any(|argument| {
            argument.as_bytes().starts_with(wanted.as_bytes()) && argument.to_string_lossy().contains(",addr=")
        });
        assert_eq!(placed, driver.starts_with("virtio"), "{after:?}");
    }
    // A later -accel with kernel-irqchip changes with the machine; so does every -overcommit.
    let repeated = |name: &[u8]| arguments.iter().filter(|argument| argument.as_bytes().ends_with(name)).count();
    let translated = if edits.virtio.is_some() { repeated(b"device") } else { 0 };
    let allowed =
        edits.machine.len() * (1 + repeated(b"accel")) + edits.existing.len() + repeated(b"overcommit") + translated;
    // Every argument keeps its place, except for inserted and appended arguments and the named values.
    let stay = |rest: &[OsString]| arguments.iter().zip(rest).filter(|(old, new)| old != new).count() <= allowed;
    let stays = match edits.devices.first() {
        None => stay(after),
        // The same text as the inserted device may also be a disk image or the value of another option.
        Some(wanted) => (1..after.len()).any(|at| {
            let there = after[at - 1] == "-device" && after[at].as_bytes().starts_with(wanted.as_bytes());
            there && stay(&[&after[..at - 1], &after[at + 1..]].concat())
        }),
    };
    assert!(stays, "{arguments:?} {after:?}");
    // A second application changes nothing.
    let again = Edits { devices: Vec::new(), ..edits };
    if !again.machine.contains_key("iommu") {
        assert_eq!(qemu::rewrite(after, &again).unwrap(), *after);
    }
    if let Invocation::Guest { uuid, .. } = kind {
        assert!(after.iter().any(|argument| argument.to_string_lossy() == uuid));
    }
}

/// Edits as plans have them.
fn edits(choice: usize) -> Edits {
    let one = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    let split = || one("kernel_irqchip", "split");
    let plain = match choice % 6 {
        0 => Edits { machine: split(), devices: vec![INTEL.to_owned()], ..Edits::default() },
        1 => Edits { devices: vec![VIRTIO.to_owned()], lock_memory: true, ..Edits::default() },
        2 => Edits { machine: one("iommu", "smmuv3"), ..Edits::default() },
        3 => Edits { machine: split(), existing: one("caching-mode", "on"), ..Edits::default() },
        4 => Edits { lock_memory: true, ..Edits::default() },
        _ => Edits { machine: split(), devices: vec![VIRTIO.to_owned()], ..Edits::default() },
    };
    let virtio = (choice % 5 < 2).then_some(Translated { all: choice % 5 == 0, ats: true, vdpa: false });
    Edits { virtio, ..plain }
}
