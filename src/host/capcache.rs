//! libvirt's capability cache, `/var/cache/libvirt/qemu/capabilities/*.xml` (`virQEMUCapsFormatCache`).
//!
//! The facts are in the first 16 KB of a file of up to 300 KB, so the head is scanned line by line instead of parsed as
//! XML. The file is root's and written by libvirt; anything unexpected in it only means that a fact is not known.

use super::Emulator;
use crate::version::Version;

/// The directory of the cache.
pub const DIRECTORY: &str = "/var/cache/libvirt/qemu/capabilities";

/// How much of a file holds every fact, bytes.
pub const CACHE_HEAD: usize = 32 * 1024;

/// What one cache file says: the emulator, and the libvirt that probed it.
#[must_use]
pub fn parse(head: &str) -> Option<(Emulator, Option<Version>)> {
    if !head.trim_start().starts_with("<qemuCaps>") {
        return None;
    }
    let mut emulator = Emulator::default();
    let (mut libvirt, mut flags) = (None, Vec::new());
    for line in head.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("<flag name='").and_then(|rest| rest.strip_suffix("'/>")) {
            flags.extend(name.contains("iommu").then(|| name.to_owned()));
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
    // A head that ended among the flags lacks the version: that flags are missing here does not mean that QEMU lacks them.
    emulator.flags = emulator.version.is_some().then_some(flags);
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

    /// The heads of the caches of Debian 11, 13 and unstable, shortened: the lines around the facts differ.
    #[test]
    fn reads_the_caches_of_real_hosts() {
        let bullseye = "<qemuCaps>\n  <emulator>/usr/bin/qemu-system-i386</emulator>\n  <qemuctime>1795344872</qemuctime>\n  \
            <selfctime>1795344872</selfctime>\n  <selfvers>7000000</selfvers>\n  <flag name='intel-iommu'/>\n  \
            <flag name='intel-iommu.aw-bits'/>\n  <version>5002000</version>\n  <kvmVersion>0</kvmVersion>\n  \
            <microcodeVersion>43100244</microcodeVersion>\n  <package>Debian 1:5.2+dfsg-11+deb11u3</package>\n  \
            <arch>i686</arch>\n  <cpu type='tcg' name='max'>\n  </cpu>\n</qemuCaps>\n";
        let trixie = bullseye
            .replace("<selfctime>", "<qemumoddirmtime>1795344871</qemumoddirmtime>\n  <selfctime>")
            .replace("7000000", "11003000")
            .replace("  <kvmVersion>0</kvmVersion>\n", "")
            .replace("5002000", "10000013")
            .replace(
                "  <version>",
                "  <flag name='virtio-iommu-pci'/>\n  <flag name='virtio-iommu.boot-bypass'/>\n  <version>",
            );
        let sid = trixie
            .replace("11003000", "12008000")
            .replace("10000013", "11001003")
            .replace("  <version>", "  <flag name='virtio-iommu.aw-bits'/>\n  <version>");
        let facts = |text: &str| {
            let (emulator, libvirt) = parse(text).unwrap();
            let virtio = emulator.has("virtio-iommu-pci") == Some(true);
            let width = emulator.has("virtio-iommu.aw-bits") == Some(true);
            assert_eq!(emulator.has("intel-iommu"), Some(true));
            assert_eq!(emulator.arch.as_deref(), Some("i686"));
            (libvirt.unwrap().to_string(), emulator.version.unwrap().to_string(), virtio, width)
        };
        assert_eq!(facts(bullseye), ("7.0.0".to_owned(), "5.2.0".to_owned(), false, false));
        assert_eq!(facts(&trixie), ("11.3.0".to_owned(), "10.0.13".to_owned(), true, false));
        assert_eq!(facts(&sid), ("12.8.0".to_owned(), "11.1.3".to_owned(), true, true));
    }

    #[test]
    fn an_invalid_value_is_an_unknown_fact() {
        let text = HEAD.replace("9000000", "99999999999").replace("7002022", "-1");
        let (emulator, libvirt) = parse(&text).unwrap();
        assert_eq!((libvirt, emulator.version, emulator.flags), (None, None, None));
        // Other flags are not stored.
        let (emulator, _) = parse(HEAD).unwrap();
        assert_eq!(emulator.flags.unwrap().len(), 2);
    }

    #[test]
    fn a_truncated_head_has_unknown_flags() {
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
