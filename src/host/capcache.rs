//! libvirt's capability cache, `/var/cache/libvirt/qemu/capabilities/*.xml` (`virQEMUCapsFormatCache`).
//!
//! The facts stand in the first 16 KB of a file of up to 300 KB, so the head is scanned line by line instead of parsed as
//! XML. The file is root's and written by libvirt; anything unexpected in it only means that a fact is not known.

use super::Emulator;
use crate::version::Version;

/// How much of a file holds every fact, bytes.
pub const CACHE_HEAD: usize = 32 * 1024;

/// What one cache file says: the emulator, and the libvirt that probed it.
#[must_use]
pub fn parse(head: &str) -> Option<(Emulator, Option<Version>)> {
    if !head.trim_start().starts_with("<qemuCaps>") {
        return None;
    }
    let mut emulator = Emulator { flags: Some(Vec::new()), ..Emulator::default() };
    let mut libvirt = None;
    for line in head.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("<flag name='").and_then(|rest| rest.strip_suffix("'/>")) {
            if name.contains("iommu") {
                emulator.flags.get_or_insert_default().push(name.to_owned());
            }
        } else if let Some(path) = content(line, "emulator") {
            path.clone_into(&mut emulator.path);
        } else if let Some(number) = content(line, "selfvers") {
            libvirt = number.parse().ok().map(Version::from_libvirt_number);
        } else if let Some(number) = content(line, "version") {
            emulator.version = number.parse().ok().map(Version::from_libvirt_number);
        } else if let Some(arch) = content(line, "arch") {
            emulator.arch = Some(arch.to_owned());
            // Nothing of use follows: host CPU models, machine types.
            break;
        }
    }
    if emulator.version.is_none() {
        // The head ended among the flags: that some are missing here does not mean that QEMU lacks them.
        emulator.flags = None;
    }
    (!emulator.path.is_empty()).then_some((emulator, libvirt))
}

fn content<'a>(line: &'a str, element: &str) -> Option<&'a str> {
    line.strip_prefix('<')?
        .strip_prefix(element)?
        .strip_prefix('>')?
        .strip_suffix('>')?
        .strip_suffix(element)?
        .strip_suffix("</")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "<qemuCaps>\n  <emulator>/usr/bin/qemu-system-x86_64</emulator>\n  <selfvers>9000000</selfvers>\n  \
        <flag name='virtio-rng'/>\n  <flag name='intel-iommu.eim'/>\n  <flag name='virtio-iommu.boot-bypass'/>\n  \
        <version>7002022</version>\n  <package>Debian</package>\n  <arch>x86_64</arch>\n  <hostCPU type='kvm'/>\n";

    #[test]
    fn reads_what_libvirt_writes() {
        let (emulator, libvirt) = parse(HEAD).unwrap();
        assert_eq!(libvirt, Some(Version::new(9, 0)));
        assert_eq!(emulator.path, "/usr/bin/qemu-system-x86_64");
        assert_eq!(emulator.version, Some(Version { major: 7, minor: 2, micro: 22 }));
        assert_eq!(emulator.arch.as_deref(), Some("x86_64"));
        assert_eq!(emulator.has("intel-iommu.eim"), Some(true));
        assert_eq!(emulator.has("virtio-iommu-pci"), Some(false));
    }

    #[test]
    fn a_cut_head_claims_nothing_about_flags() {
        let cut = HEAD.split("<version>").next().unwrap();
        let (emulator, libvirt) = parse(cut).unwrap();
        assert_eq!((emulator.flags, emulator.version), (None, None));
        assert_eq!(libvirt, Some(Version::new(9, 0)));
    }

    #[test]
    fn other_files_are_no_cache() {
        for text in ["", "<domain/>", "<qemuCaps>\n</qemuCaps>", "<qemuCaps>\n<emulator>\n</emulator>"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
