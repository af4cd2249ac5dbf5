//! Codes, levels and notes: everything that `viommu` has to say about a domain, with a stable name for each.
//!
//! A code never changes its meaning and is never reused. Whether a note refuses the start is its [`Level`]'s business.

use std::fmt;

use serde::{Serialize, Serializer};

/// How grave a note is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Worth knowing; nothing needs to be done.
    Info,
    /// The guest starts, and something about it will surprise somebody.
    Warning,
    /// The request cannot be met: the start is refused.
    Error,
}

impl Level {
    /// The word that stands in JSON and in front of the sentence.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// A stable name for each thing that can be said.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[doc = $doc])+ $variant,)+ }

        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &[Code] = &[$(Code::$variant,)+];

            /// The name as users, scripts and the documentation know it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $name,)+ }
            }
        }
    };
}

codes! {
    // Refusals: the request cannot be met.
    /// The guest's architecture has no vIOMMU that libvirt can give.
    ArchUnsupported = "arch-unsupported",
    /// The machine type has no vIOMMU that libvirt can give (i440fx, microvm, sbsa-ref …).
    MachineUnsupported = "machine-unsupported",
    /// The requested model is not one of the five accepted values.
    ModelUnknown = "model-unknown",
    /// The requested model belongs to another architecture.
    ModelArchMismatch = "model-arch-mismatch",
    /// This libvirt does not know the requested model.
    ModelUnsupportedByLibvirt = "model-unsupported-by-libvirt",
    /// This QEMU does not have the requested model.
    ModelUnsupportedByQemu = "model-unsupported-by-qemu",
    /// Two sources of equal right, or two keys of one request, contradict each other.
    RequestConflict = "request-conflict",
    /// The domain already has another vIOMMU, or one whose attributes contradict what the guest needs.
    IommuConflict = "iommu-conflict",
    /// Interrupt remapping needs the split irqchip, and the domain asks for the kernel's.
    IrqchipConflict = "irqchip-conflict",
    /// More than 255 vCPUs need interrupt remapping with extended interrupt mode.
    VcpusNeedEim = "vcpus-need-eim",
    /// virtio-iommu is described to the guest by ACPI only.
    VirtioWithoutAcpi = "virtio-without-acpi",
    /// virtio-iommu cannot tell two passed-through devices behind one conventional PCI bridge apart.
    VirtioAliasedDevices = "virtio-aliased-devices",
    /// QEMU's SMMUv3 cannot serve a passed-through device.
    Smmuv3WithVfio = "smmuv3-with-vfio",
    /// The address width asked for is wider than the host IOMMU's.
    AwBitsExceedHost = "aw-bits-exceed-host",
    /// Guest memory reaches beyond the address width.
    AwBitsTooSmall = "aw-bits-too-small",
    /// Devices of one host IOMMU group have several guest requester ids.
    IommuGroupSplit = "iommu-group-split",
    /// Locked memory was asked for without saying of which pages.
    LockedMemoryWithoutPageSize = "locked-memory-without-page-size",
    /// The locked-memory limit has to be raised and this process may not.
    MemlockNoPrivilege = "memlock-no-privilege",
    /// The request needs the wrapper as the emulator, or a rewritten domain.
    WrapperMissing = "wrapper-missing",
    /// The wrapper was started for a guest that the hook did not prepare.
    StateMissing = "state-missing",
    /// The run-time state of a guest cannot be trusted or understood.
    StateInvalid = "state-invalid",
    /// The state of a guest cannot be written.
    StateUnwritable = "state-unwritable",
    /// The locked-memory limit was not raised in time.
    MemlockTimeout = "memlock-timeout",
    /// A running guest has a lower locked-memory limit than it needs.
    MemlockTooLow = "memlock-too-low",
    /// The real QEMU behind the wrapper cannot be executed.
    EmulatorMissing = "emulator-missing",
    /// The vIOMMU of a saved or migrated guest cannot be reproduced here.
    MigrationMismatch = "migration-mismatch",
    /// The configuration file cannot be used.
    ConfigInvalid = "config-invalid",
    /// The input is not well-formed XML.
    XmlMalformed = "xml-malformed",
    /// The input is larger than any domain.
    XmlTooLarge = "xml-too-large",
    /// The input is nested deeper, or has more attributes or namespaces, than any domain.
    XmlTooComplex = "xml-too-complex",
    /// The input carries a document type declaration.
    XmlDoctype = "xml-doctype",
    /// The document is not a libvirt domain.
    XmlNotADomain = "xml-not-a-domain",
    /// The domain has a memory size or a number of vCPUs that libvirt does not accept.
    DomainInvalid = "domain-invalid",
    /// QEMU's command line has no room or an unexpected shape for the vIOMMU.
    CommandLineUnsupported = "command-line-unsupported",
    /// Somebody else has changed the domain between reading and defining it.
    DomainChanged = "domain-changed",
    /// The domain is in no store, so there is nothing that could be defined anew.
    DomainTransient = "domain-transient",
    /// libvirt does not take the changed domain.
    DefineRefused = "define-refused",
    /// Nobody has said yes to the change.
    NotConfirmed = "not-confirmed",
    /// A recorded host lacks what the guest needs.
    HostUnsuitable = "host-unsuitable",

    // Warnings and remarks.
    /// The pinned guest memory exceeds what the host has.
    PinnedExceedsHostMemory = "pinned-exceeds-host-memory",
    /// Interrupts of passed-through devices are not isolated.
    UnsafeInterrupts = "unsafe-interrupts",
    /// The guest cannot be migrated or saved.
    MigrationBlocked = "migration-blocked",
    /// The number of DMA mappings of a VFIO container is limited.
    DmaEntryLimit = "dma-entry-limit",
    /// A VFIO hot-plug needs the limit raised first.
    HotplugMemlock = "hotplug-memlock",
    /// The flavor's wish won over the image's.
    ImageOverridden = "image-overridden",
    /// An image's wish was ignored, because the configuration does not allow image requests.
    ImageIgnored = "image-ignored",
    /// virtio-iommu before QEMU 9.0 tells the guest neither the host's address width nor its reserved ranges.
    VirtioVfioOldQemu = "virtio-vfio-old-qemu",
    /// The host's pages are larger than 4 KiB, and VFIO maps nothing smaller.
    HostPageSize = "host-page-size",
    /// Windows has no driver for this model.
    WindowsWithoutDriver = "windows-without-driver",
    /// vDPA devices bypass the vIOMMU with this QEMU.
    VdpaBypassesIommu = "vdpa-bypasses-iommu",
    /// `<memtune><hard_limit>` is lower than what the guest needs to lock.
    HardLimitTooLow = "hard-limit-too-low",
    /// An `<iommu>` lacks attributes that would be added to a rewritten domain.
    IommuIncomplete = "iommu-incomplete",
    /// A fact about the host is unknown and was assumed.
    HostFactAssumed = "host-fact-assumed",
    /// Why `auto` became the model it became.
    AutoModel = "auto-model",
    /// The limit is raised by a race that is normally won.
    MemlockRace = "memlock-race",

    // The host, as `viommu doctor` finds it.
    /// libvirt has no hook that is viommu, or cannot execute it.
    HookUnusable = "hook-unusable",
    /// The daemon has not looked for hooks since there is one.
    HookNotLoaded = "hook-not-loaded",
    /// libvirt has not probed the QEMU behind the wrapper since it was installed.
    EmulatorStale = "emulator-stale",
    /// AppArmor or SELinux keeps the hook or the wrapper from its work.
    Confined = "confined",
    /// libvirt or QEMU is older than what is supported, or newer than what was tested.
    VersionUnsupported = "version-unsupported",
    /// The host has no IOMMU at work.
    HostIommuOff = "host-iommu-off",
    /// The kernel's VFIO modules are missing.
    VfioMissing = "vfio-missing",
    /// KVM cannot leave the I/O APIC to QEMU.
    SplitIrqchipMissing = "split-irqchip-missing",
    /// The daemon's own locked-memory limit is not what guests get.
    DaemonMemlock = "daemon-memlock",
    /// A guest runs without what it asks for.
    RequestUnmet = "request-unmet",
    /// Run-time state of guests that are gone.
    StateLeftover = "state-leftover",
}

impl Code {
    /// The code of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Code> {
        Self::ALL.iter().copied().find(|code| code.as_str() == name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One sentence about a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// How grave it is.
    pub level: Level,
    /// Its stable name.
    pub code: Code,
    /// One sentence that says what is the matter and what to do. May hold tenant-given strings: escape before printing.
    pub message: String,
}

impl Note {
    /// A refusal.
    pub fn error(code: Code, message: impl Into<String>) -> Note {
        Note { level: Level::Error, code, message: message.into() }
    }

    /// A warning.
    pub fn warning(code: Code, message: impl Into<String>) -> Note {
        Note { level: Level::Warning, code, message: message.into() }
    }

    /// A remark.
    pub fn info(code: Code, message: impl Into<String>) -> Note {
        Note { level: Level::Info, code, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_kebab_case() {
        for (index, code) in Code::ALL.iter().enumerate() {
            let name = code.as_str();
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
            assert_eq!(Code::ALL.iter().position(|other| other.as_str() == name), Some(index), "{name} stands twice");
            assert_eq!(Code::from_name(name), Some(*code));
        }
        assert_eq!(Code::from_name("no-such-code"), None);
    }
}
