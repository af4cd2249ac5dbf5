//! Codes, levels and notes: every message about a domain, with a stable name.
//!
//! A code never changes its meaning and is never reused. The [`Level`] says whether a note refuses the start.

use serde::Serialize;

use crate::text::{cut, words};

words! {
    /// The severity of a note.
    pub enum Level {
        /// For information; there is nothing to do.
        Info = "info",
        /// The guest starts, and something will not work as the user may expect.
        Warning = "warning",
        /// The request cannot be met: the start is refused.
        Error = "error",
    }
}

words! {
    /// The stable name of a message, as users, scripts and the documentation know it, in the order of the documentation.
    pub enum Code {
        // Refusals: the request cannot be met.
        /// libvirt has no vIOMMU for the guest's architecture.
        ArchUnsupported = "arch-unsupported",
        /// libvirt has no vIOMMU for the machine type (i440fx, microvm, sbsa-ref …).
        MachineUnsupported = "machine-unsupported",
        /// The requested model is not an accepted value.
        ModelUnknown = "model-unknown",
        /// The requested model belongs to another architecture.
        ModelArchMismatch = "model-arch-mismatch",
        /// This libvirt does not know the requested model.
        ModelUnsupportedByLibvirt = "model-unsupported-by-libvirt",
        /// This QEMU does not have the requested model.
        ModelUnsupportedByQemu = "model-unsupported-by-qemu",
        /// A request has an unknown key or an invalid value, or contradicts another of equal rank.
        RequestConflict = "request-conflict",
        /// The domain already has another vIOMMU, or one whose attributes contradict what the guest needs.
        IommuConflict = "iommu-conflict",
        /// Interrupt remapping needs the split irqchip, and the domain has the kernel's.
        IrqchipConflict = "irqchip-conflict",
        /// More than 255 vCPUs need interrupt remapping with extended interrupt mode.
        VcpusNeedEim = "vcpus-need-eim",
        /// virtio-iommu is described to the guest by ACPI only.
        VirtioWithoutAcpi = "virtio-without-acpi",
        /// virtio-iommu does not distinguish two passed-through devices behind one conventional PCI bridge.
        VirtioAliasedDevices = "virtio-aliased-devices",
        /// QEMU's SMMUv3 cannot serve a passed-through device.
        Smmuv3WithVfio = "smmuv3-with-vfio",
        /// AMD's vIOMMU serves a passed-through device with QEMU's dma-remap only.
        AmdWithoutDmaRemap = "amd-without-dma-remap",
        /// The address width asked for is wider than the host IOMMU's.
        AwBitsExceedHost = "aw-bits-exceed-host",
        /// Guest memory reaches beyond the address width.
        AwBitsTooSmall = "aw-bits-too-small",
        /// Devices of one host IOMMU group have several guest requester ids.
        IommuGroupSplit = "iommu-group-split",
        /// Devices of one guest address space use iommufd and VFIO containers.
        IommufdMixed = "iommufd-mixed",
        /// Locked memory was asked for without a page size.
        LockedMemoryWithoutPageSize = "locked-memory-without-page-size",
        /// The locked-memory limit has to be raised, and this process has no privilege for it.
        MemlockNoPrivilege = "memlock-no-privilege",
        /// The request needs the wrapper as the emulator, or a rewritten domain.
        WrapperMissing = "wrapper-missing",
        /// The wrapper was started for a guest that the hook did not prepare.
        StateMissing = "state-missing",
        /// The run-time state of a guest is untrusted or invalid.
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
        /// The configuration file is invalid.
        ConfigInvalid = "config-invalid",
        /// The input is not well-formed XML.
        XmlMalformed = "xml-malformed",
        /// The input exceeds the size limit of a domain.
        XmlTooLarge = "xml-too-large",
        /// The input exceeds the limits of a domain for nesting, attributes or namespaces.
        XmlTooComplex = "xml-too-complex",
        /// The input carries a document type declaration.
        XmlDoctype = "xml-doctype",
        /// The document is not a libvirt domain.
        XmlNotADomain = "xml-not-a-domain",
        /// The domain has a memory size, a number of vCPUs or a size of a display that libvirt does not accept.
        DomainInvalid = "domain-invalid",
        /// QEMU's command line has no room or an unexpected shape for the vIOMMU.
        CommandLineUnsupported = "command-line-unsupported",
        /// The domain has changed between reading and defining it.
        DomainChanged = "domain-changed",
        /// The domain is not persistent, so it cannot be redefined.
        DomainTransient = "domain-transient",
        /// libvirt refuses the changed domain.
        DefineRefused = "define-refused",
        /// The user has not confirmed the change.
        NotConfirmed = "not-confirmed",
        /// A recorded host lacks what the guest needs.
        HostUnsuitable = "host-unsuitable",

        // Warnings and information.
        /// The pinned guest memory exceeds what the host has.
        PinnedExceedsHostMemory = "pinned-exceeds-host-memory",
        /// Interrupts of passed-through devices are not isolated.
        UnsafeInterrupts = "unsafe-interrupts",
        /// The guest cannot be migrated or saved.
        MigrationBlocked = "migration-blocked",
        /// The kernel counts the locked memory of an iommufd for QEMU's user over all guests.
        IommufdPerUser = "iommufd-per-user",
        /// The number of DMA mappings of a VFIO container is limited.
        DmaEntryLimit = "dma-entry-limit",
        /// A kernel that counts the BARs of passed-through devices needs a higher limit.
        DeviceBars = "device-bars",
        /// A VFIO hot-plug needs the limit raised first.
        HotplugMemlock = "hotplug-memlock",
        /// The flavor's model won over the image's.
        ImageOverridden = "image-overridden",
        /// An image's request was ignored, because the configuration does not allow it.
        ImageIgnored = "image-ignored",
        /// virtio-iommu before QEMU 9.0 tells the guest neither the host's address width nor its reserved ranges.
        VirtioVfioOldQemu = "virtio-vfio-old-qemu",
        /// The host's pages are larger than 4 KiB, and VFIO maps nothing smaller.
        HostPageSize = "host-page-size",
        /// Devices that may be one host IOMMU group have several guest requester ids.
        IommuGroupUnknown = "iommu-group-unknown",
        /// A host IOMMU group has a member that is not passed through.
        GroupCompanions = "group-companions",
        /// A network may give the guest a host PCI function when it starts.
        NetworkPool = "network-pool",
        /// Guest memory is encrypted, and an emulated IOMMU has to read its tables there.
        ConfidentialGuest = "confidential-guest",
        /// A guest of the wrapper ran with another model or other attributes before.
        ModelChanged = "model-changed",
        /// The guest has no driver for a virtio-iommu where its boot needs it, or that is not known.
        VirtioDriver = "virtio-driver",
        /// Virtio devices bypass the vIOMMU.
        VirtioBypassesIommu = "virtio-bypasses-iommu",
        /// The vIOMMU translates DMA, although it is asked for interrupts only.
        PurposeIgnored = "purpose-ignored",
        /// Windows has no driver for this model.
        WindowsWithoutDriver = "windows-without-driver",
        /// An element looks like a request or a vIOMMU, but is in another namespace or place.
        RequestIgnored = "request-ignored",
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
        /// The limit is raised in a race that is normally won.
        MemlockRace = "memlock-race",
        /// In a pod of KubeVirt only virt-handler can set the limit that the guest needs.
        MemlockInPod = "memlock-in-pod",

        // The host, in `viommu doctor`.
        /// libvirt's hook is not viommu, or cannot be executed.
        HookUnusable = "hook-unusable",
        /// The hook, or a file that it needs, belongs to the image of a container.
        HookInImage = "hook-in-image",
        /// The daemon has not been reloaded since the hook was installed.
        HookNotLoaded = "hook-not-loaded",
        /// libvirt has not probed the QEMU behind the wrapper since it was installed.
        EmulatorStale = "emulator-stale",
        /// AppArmor or SELinux denies the hook or the wrapper something that it needs.
        Confined = "confined",
        /// libvirt or QEMU is older than what is supported, or newer than what was tested.
        VersionUnsupported = "version-unsupported",
        /// The host's IOMMU is off.
        HostIommuOff = "host-iommu-off",
        /// The kernel's VFIO modules are missing.
        VfioMissing = "vfio-missing",
        /// KVM does not support the split irqchip.
        SplitIrqchipMissing = "split-irqchip-missing",
        /// The daemon has a locked-memory limit of its own, which guests do not get.
        DaemonMemlock = "daemon-memlock",
        /// A guest runs without the vIOMMU that it asks for.
        RequestUnmet = "request-unmet",
        /// Run-time state of guests that no longer run.
        StateLeftover = "state-leftover",
    }
}

/// One message about a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// Its severity.
    pub level: Level,
    /// Its stable name.
    pub code: Code,
    /// One sentence: what is wrong, then what to do. It may quote strings that tenants choose: escape before printing.
    pub message: String,
}

/// The longest message, bytes: a tenant can choose parts of it, and a datagram to the host's log must hold it.
const MAX_MESSAGE: usize = 16 << 10;

impl Note {
    fn new(level: Level, code: Code, message: impl Into<String>) -> Note {
        Note { level, code, message: cut(&message.into(), MAX_MESSAGE).into_owned() }
    }

    /// A refusal.
    pub fn error(code: Code, message: impl Into<String>) -> Note {
        Note::new(Level::Error, code, message)
    }

    /// A warning.
    pub fn warning(code: Code, message: impl Into<String>) -> Note {
        Note::new(Level::Warning, code, message)
    }

    /// Information.
    pub fn info(code: Code, message: impl Into<String>) -> Note {
        Note::new(Level::Info, code, message)
    }
}

#[cfg(test)]
mod tests;
