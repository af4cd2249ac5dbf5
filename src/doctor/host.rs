//! The host: versions, its IOMMU, VFIO, KVM.

use std::path::Path;

use crate::capability;
use crate::domain::Domain;
use crate::host::Emulator;
use crate::note::Code;
use crate::sys::fs;
use crate::text::count;
use crate::version::{NEWEST_LIBVIRT, NEWEST_QEMU, OLDEST_LIBVIRT, OLDEST_QEMU, Version, unsupported};

use super::{Check, SharedFacts};

/// The first kernel with KVM_CAP_SPLIT_IRQCHIP. A query to KVM itself is an ioctl, which needs unsafe code; every x86 kernel
/// from this one on supports it, with any configuration and processor (`kvm_vm_ioctl_check_extension`).
const SPLIT_IRQCHIP: Version = Version::new(4, 4);

/// libvirt, and each QEMU that a guest uses; without guests those of the host's architecture.
pub(super) fn versions(known: &SharedFacts) -> Vec<Check> {
    let host = &known.host;
    let libvirt = match host.libvirt {
        Some(version) => supported("libvirt", "libvirt", version, OLDEST_LIBVIRT, NEWEST_LIBVIRT),
        None => Check::unknown(
            "libvirt",
            "its version is not known",
            "run 'virsh capabilities' and then 'viommu doctor' as root",
        ),
    };
    let is_used = |emulator: &Emulator| known.domains().any(|domain| domain.emulator.as_ref() == Some(&emulator.path));
    let any_used = host.emulators.iter().any(is_used);
    let concerned = |emulator: &Emulator| if any_used { is_used(emulator) } else { emulator.arch == host.arch };
    let emulators = host.emulators.iter().filter(|emulator| concerned(emulator)).filter_map(|emulator| {
        let what = format!("{}: QEMU", emulator.path);
        Some(supported("QEMU", &what, emulator.version?, OLDEST_QEMU, NEWEST_QEMU))
    });
    let checks = [libvirt].into_iter().chain(emulators);
    checks.map(|check| check.concerning(known.asked())).collect()
}

fn supported(name: &'static str, what: &str, version: Version, oldest: Version, newest: Version) -> Check {
    let what = format!("{what} {version}");
    match unsupported(version, oldest, newest) {
        Some((why, remedy)) => {
            let check = Check::broken(name, Code::VersionUnsupported, format!("{what} {why}"), remedy);
            check.concerning(version < oldest)
        }
        None => Check::ok(name, what),
    }
}

/// IOMMU, VFIO, interrupts and KVM.
pub(super) fn checks(known: &SharedFacts) -> Vec<Check> {
    let release = fs::head(Path::new("/proc/sys/kernel/osrelease"), 128).unwrap_or_default();
    let release = release.trim();
    vec![iommu(known), vfio(known, release), interrupts(known), kvm(known, release)]
}

/// A problem of passthrough: broken for guests with VFIO devices, else in order.
fn passthrough(known: &SharedFacts, name: &'static str, code: Code, message: String, remedy: &str) -> Check {
    if known.domains().any(|domain| !domain.vfio.is_empty() || domain.nvme() > 0) {
        Check::broken(name, code, message, remedy)
    } else if known.root {
        Check::ok(name, format!("{message}; no guest has passed-through devices"))
    } else {
        Check::warning(name, code, message, remedy)
    }
}

fn iommu(known: &SharedFacts) -> Check {
    const NAME: &str = "iommu";
    let groups = fs::names(Path::new("/sys/kernel/iommu_groups")).len();
    let remedy = "turn it on in the firmware (VT-d, AMD-Vi, SMMU), and on Intel boot with intel_iommu=on";
    let off = |message: &str| passthrough(known, NAME, Code::HostIommuOff, message.to_owned(), remedy);
    match known.host.iommu {
        None => Check::unknown(NAME, "whether the host's IOMMU is on is not known", "mount /sys"),
        Some(false) => off("the host's IOMMU is off"),
        Some(true) if groups == 0 => off("the host's IOMMU has no groups of devices"),
        Some(true) => {
            let width = known.host.aw_bits.map(|bits| format!(", {bits} bits wide")).unwrap_or_default();
            Check::ok(NAME, format!("on, {} of devices{width}", count(groups, "group")))
        }
    }
}

fn vfio(known: &SharedFacts, release: &str) -> Check {
    const NAME: &str = "vfio";
    let uses_iommufd = |domain: &Domain| domain.vfio.iter().any(|device| device.iommufd && !device.hidden);
    let missing = missing_modules(release);
    if !missing.is_empty() {
        let message = format!("this kernel has no {}", missing.join(", "));
        let remedy = "boot the installed kernel, or install its modules (modprobe vfio-pci)";
        return passthrough(known, NAME, Code::VfioMissing, message, remedy);
    }
    match capability::iommufd(&known.host) {
        Some(Err(why)) if known.domains().any(uses_iommufd) => {
            let message = format!("a guest has <driver iommufd='yes'/>, and {why}");
            Check::broken(NAME, Code::VfioMissing, message, "remove iommufd='yes' from its devices")
        }
        Some(Err(why)) => Check::ok(NAME, format!("the kernel has the modules; no iommufd: {why}")),
        Some(Ok(())) => Check::ok(NAME, "the kernel has the modules, and iommufd"),
        None => Check::ok(NAME, "the kernel has the modules"),
    }
}

/// VFIO modules that are neither built in, nor loaded, nor available for libvirt to load.
fn missing_modules(release: &str) -> Vec<&'static str> {
    let files = ["modules.builtin", "modules.dep"]
        .map(|name| fs::head(&Path::new("/lib/modules").join(release).join(name), 16 << 20).unwrap_or_default());
    let available = |module: &str| {
        let names = [module.to_owned(), module.replace('_', "-")].map(|name| format!("/{name}.ko"));
        Path::new("/sys/module").join(module).exists()
            || files.iter().any(|file| names.iter().any(|name| file.contains(name.as_str())))
    };
    // iommufd replaces the older container.
    let container = ["vfio_iommu_type1"].into_iter().filter(|_| !available("iommufd"));
    ["vfio_pci"].into_iter().chain(container).filter(|module| !available(module)).collect()
}

fn interrupts(known: &SharedFacts) -> Check {
    if known.host.allow_unsafe_interrupts == Some(true) {
        let message = "vfio_iommu_type1.allow_unsafe_interrupts is on: a guest can send any interrupt to the host";
        let remedy = "remove it from /etc/modprobe.d and the kernel's arguments, unless the hardware requires it";
        Check::warning("interrupts", Code::UnsafeInterrupts, message, remedy)
    } else {
        Check::ok("interrupts", "the interrupts of passed-through devices are isolated")
    }
}

fn kvm(known: &SharedFacts, release: &str) -> Check {
    const NAME: &str = "kvm";
    let used = !known.root || known.domains().any(Domain::uses_kvm);
    let old = version(release).filter(|kernel| *kernel < SPLIT_IRQCHIP);
    if let Some(kernel) = old.filter(|_| known.host.arch.as_deref() == Some("x86_64")) {
        let message = format!("KVM of Linux {kernel} has no split irqchip, which interrupt remapping needs");
        let remedy = format!("boot a kernel from {}.{} on", SPLIT_IRQCHIP.major, SPLIT_IRQCHIP.minor);
        Check::broken(NAME, Code::SplitIrqchipMissing, message, remedy).concerning(used && known.asked())
    } else if Path::new("/dev/kvm").exists() {
        Check::ok(NAME, "available, with the split irqchip where the architecture has one")
    } else if used {
        let message = "/dev/kvm does not exist: guests of type kvm do not start";
        let remedy = "modprobe kvm_intel or kvm_amd, and turn virtualization on in the firmware";
        Check::warning(NAME, Code::SplitIrqchipMissing, message, remedy)
    } else {
        Check::ok(NAME, "/dev/kvm does not exist; no guest has type kvm")
    }
}

/// `6.1.0-56-amd64` is 6.1.0.
fn version(release: &str) -> Option<Version> {
    let numbers: String = release.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    numbers.trim_end_matches('.').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_version() {
        assert_eq!(version("6.1.0-56-amd64"), Some(Version::new(6, 1)));
        assert_eq!(version("4.3.0-rc1+"), Some(Version::new(4, 3)));
    }
}
