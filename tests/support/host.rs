//! A host's facts in the files that the hook reads. Only in a sandbox.

#![allow(dead_code, reason = "each test program uses a part")]
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "writes a file for a test")]

use std::fs;

/// The capabilities of QEMU 7.2 in the cache of this libvirt version, reduced to the parts that viommu reads.
pub(crate) fn write(libvirt: u32) {
    let directory = "/var/cache/libvirt/qemu/capabilities";
    fs::create_dir_all(directory).unwrap();
    let flags = ["intel-iommu", "intel-iommu.eim", "virtio-iommu-pci", "virtio-iommu.boot-bypass"];
    let flags = flags.map(|flag| format!("  <flag name='{flag}'/>\n")).concat();
    let cache = format!(
        "<qemuCaps>\n  <emulator>/usr/bin/qemu-system-x86_64</emulator>\n  <selfvers>{libvirt}</selfvers>\n{flags}  \
         <version>7002022</version>\n  <arch>x86_64</arch>\n</qemuCaps>\n"
    );
    fs::write(format!("{directory}/0123.xml"), cache).unwrap();
}
