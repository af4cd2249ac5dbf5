//! More vCPUs than 8-bit APIC ids can address: how interrupts reach them.

use crate::note::{Code, Note};
use crate::qemu::FoundIommu;
use crate::version::Version;

use super::guest::Guest;

/// The first libvirt seen to take `<ioapic driver='qemu'/>` for more than 255 vCPUs, where earlier ones want an `<iommu>` with eim.
const IOAPIC_FOR_MANY_VCPUS: Version = Version::new(12, 8);

impl Guest<'_> {
    /// More vCPUs than 8-bit APIC ids can address: 255 is the broadcast id. QEMU counts ids, which leave gaps in an uneven
    /// topology; libvirt counts vCPUs (`qemuValidateDomainVCpuTopology`: 255). More than 255 vCPUs always have an id above 254.
    pub(super) fn needs_eim(&self) -> bool {
        self.domain.vcpus.highest_apic_id() > 254
    }

    /// libvirt's error for more vCPUs than it takes (`qemuValidateDomainVCpuTopology`).
    pub(super) fn error_for_many_vcpus(&self) -> &'static str {
        if self.libvirt >= IOAPIC_FOR_MANY_VCPUS {
            "more than 255 vCPUs require either IOAPIC in QEMU or an iommu device with EIM or XTSup mode enabled"
        } else {
            "more than 255 vCPUs require extended interrupt mode enabled on the iommu device"
        }
    }

    /// Whether interrupts reach every vCPU without interrupt remapping: with KVM and the split irqchip QEMU offers the guest
    /// destination ids of 15 bits (`kvm_arch_fixup_msi_route`; kvm-msi-ext-dest-id, off for machine types before 5.2).
    pub(super) fn has_extended_destinations(&self) -> bool {
        let domain = self.domain;
        domain.uses_kvm()
            && domain.ioapic.as_deref() != Some("kvm")
            && self.q35_version().is_none_or(|version| version >= Version::new(5, 2))
            && (domain.vcpus.maximum <= 255 || self.libvirt >= IOAPIC_FOR_MANY_VCPUS)
            && !self.is_windows()
    }

    /// The refusal of a vIOMMU that does not remap the interrupts of all vCPUs; `what` is missing, and what to do.
    pub(super) fn too_many_vcpus(&self, what: &str) -> Note {
        let (vcpus, highest) = (self.domain.vcpus.maximum, self.domain.vcpus.highest_apic_id());
        let message = format!("{vcpus} vCPUs (highest APIC id {highest}) need interrupt remapping with {what}");
        Note::error(Code::VcpusNeedEim, message)
    }
}

/// libvirt adds the vIOMMU by itself from 10.10 on (`qemuValidateDomainVCpuTopology`).
pub(super) fn without_viommu(guest: &Guest<'_>) -> Option<Note> {
    let vcpus = guest.domain.vcpus.maximum;
    let refuses = guest.host.libvirt.is_some_and(|version| version < Version::new(10, 10));
    let x86 = matches!(guest.arch(), "x86_64" | "i686");
    let message = format!(
        "libvirt {} refuses {vcpus} vCPUs without an <iommu> with eim='on': ask for the vIOMMU model intel (libvirt: \"more than 255 \
         vCPUs require extended interrupt mode enabled on the iommu device\")",
        guest.libvirt
    );
    (x86 && !super::has_viommu(guest.domain) && refuses && vcpus > 255)
        .then(|| Note::warning(Code::VcpusNeedEim, message))
}

/// libvirt wants the eim of more than 255 vCPUs in an `<iommu>`, which it adds itself from 10.10 on: a second vIOMMU.
pub(super) fn none_hidden(guest: &Guest<'_>, hidden: &FoundIommu) -> Result<(), Note> {
    let vcpus = guest.domain.vcpus.maximum;
    if guest.is_arm() || vcpus <= 255 {
        return Ok(());
    }
    let message = format!(
        "libvirt wants an <iommu> with eim='on' for {vcpus} vCPUs: remove '{}' from <qemu:commandline>, and use an <iommu> in <devices>",
        hidden.driver
    );
    Err(Note::error(Code::VcpusNeedEim, message))
}

/// Linux uses the extended destination ids of KVM from 5.11 on (arch/x86/kernel/kvm.c, `kvm_msi_ext_dest_id`).
pub(super) fn extended_destinations(guest: &Guest<'_>) -> Option<Note> {
    let message = format!(
        "virtio-iommu does not remap interrupts, so a device reaches the vCPUs with an APIC id above 254 (up to {}) only with KVM's \
         extended destination ids, which Linux has from 5.11 on: for another guest use the model intel",
        guest.domain.vcpus.highest_apic_id()
    );
    (!guest.is_arm() && guest.needs_eim()).then(|| Note::warning(Code::VcpusNeedEim, message))
}
