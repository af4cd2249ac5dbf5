//! What the host itself brings: versions, its IOMMU, VFIO, KVM.

use crate::note::Code;
use crate::version::{NEWEST_LIBVIRT, NEWEST_QEMU, OLDEST_LIBVIRT, OLDEST_QEMU, Version};

use super::Check;
use super::facts::Facts;

/// The first kernel with KVM_CAP_SPLIT_IRQCHIP. Asking KVM itself takes an ioctl, which needs unsafe code; every x86 kernel
/// from this one on answers yes, whatever its configuration and processor (`kvm_vm_ioctl_check_extension`).
const SPLIT_IRQCHIP: Version = Version::new(4, 4);

pub(super) fn versions(facts: &Facts) -> Vec<Check> {
    let libvirt = match facts.host.libvirt {
        Some(version) => supported("libvirt", "libvirt", version, OLDEST_LIBVIRT, NEWEST_LIBVIRT),
        None => Check::unknown("libvirt", "its version is not known", "as root: virsh domcapabilities, then again"),
    };
    let emulators = facts.host.emulators.iter().filter_map(|emulator| {
        let what = format!("{}: QEMU", emulator.path);
        Some(supported("QEMU", &what, emulator.version?, OLDEST_QEMU, NEWEST_QEMU))
    });
    // One line speaks for all: the worst, and among equals the first.
    let qemu = emulators.min_by_key(|check| std::cmp::Reverse(check.state));
    [Some(libvirt), qemu].into_iter().flatten().collect()
}

fn supported(name: &'static str, what: &str, version: Version, oldest: Version, newest: Version) -> Check {
    if version < oldest {
        let message = format!("{what} {version} is older than what is supported, {oldest}");
        Check::broken(name, Code::VersionUnsupported, message, "upgrade it")
    } else if (version.major, version.minor) > (newest.major, newest.minor) {
        let message = format!("{what} {version} is newer than what was tested, {newest}");
        Check::warning(name, Code::VersionUnsupported, message, "look for a newer viommu")
    } else {
        Check::ok(name, format!("{what} {version}"))
    }
}

pub(super) fn iommu(facts: &Facts) -> Check {
    const NAME: &str = "iommu";
    let remedy = "turn it on in the firmware (VT-d, AMD-Vi, SMMU), and on Intel boot with intel_iommu=on";
    match facts.host.iommu {
        None => Check::unknown(NAME, "whether the host's IOMMU is on is not known", "mount /sys"),
        Some(false) => Check::broken(NAME, Code::HostIommuOff, "the host's IOMMU is off", remedy),
        Some(true) if facts.iommu_groups == 0 => {
            Check::broken(NAME, Code::HostIommuOff, "the host's IOMMU has made no groups of devices", remedy)
        }
        Some(true) => {
            let width = facts.host.aw_bits.map(|bits| format!(", {bits} bits wide")).unwrap_or_default();
            let groups = if facts.iommu_groups == 1 { "group" } else { "groups" };
            Check::ok(NAME, format!("on, {} {groups} of devices{width}", facts.iommu_groups))
        }
    }
}

pub(super) fn vfio(facts: &Facts) -> Check {
    match facts.missing_modules.as_slice() {
        [] => Check::ok("vfio", "the modules are there"),
        missing => {
            let message = format!("this kernel has no {}", missing.join(", "));
            let remedy = "boot the kernel that is installed, or install its modules (modprobe vfio-pci)";
            Check::broken("vfio", Code::VfioMissing, message, remedy)
        }
    }
}

pub(super) fn interrupts(facts: &Facts) -> Check {
    if facts.host.allow_unsafe_interrupts == Some(true) {
        let message = "vfio_iommu_type1.allow_unsafe_interrupts is on: a guest can send the host any interrupt";
        let remedy = "remove it from /etc/modprobe.d and the kernel's arguments, unless the hardware has nothing else";
        Check::warning("interrupts", Code::UnsafeInterrupts, message, remedy)
    } else {
        Check::ok("interrupts", "those of passed-through devices are isolated")
    }
}

pub(super) fn kvm(facts: &Facts) -> Check {
    const NAME: &str = "kvm";
    if facts.host.arch.as_deref() == Some("x86_64") && facts.kernel.is_some_and(|kernel| kernel < SPLIT_IRQCHIP) {
        let kernel = facts.kernel.map(|kernel| kernel.to_string()).unwrap_or_default();
        let message = format!("KVM of Linux {kernel} has no split irqchip, which interrupt remapping needs");
        let remedy = format!("a kernel from {}.{} on", SPLIT_IRQCHIP.major, SPLIT_IRQCHIP.minor);
        Check::broken(NAME, Code::SplitIrqchipMissing, message, remedy)
    } else if facts.kvm {
        Check::ok(NAME, "there, with the split irqchip where the architecture has one")
    } else {
        let message = "there is no /dev/kvm: guests of type kvm do not start";
        Check::warning(NAME, Code::SplitIrqchipMissing, message, "modprobe kvm_intel or kvm_amd, firmware settings")
    }
}
