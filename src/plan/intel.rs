//! The `<driver>` attributes of an intel vIOMMU, and the I/O APIC beside it.

use crate::note::{Code, Note};
use crate::version::Version;

use super::{Decision, Guest, Ioapic, Iommu, Origin, model};

/// Decides about every attribute, and keeps what the user wrote.
pub(super) fn decide(guest: &Guest<'_>) -> Result<Decision, Note> {
    let existing = guest.domain.iommus.iter().find(|iommu| iommu.model == "intel");
    let written = |name: &str| existing.and_then(|iommu| iommu.driver(name));
    let intremap = written("intremap").unwrap_or("on") == "on";
    if intremap && guest.domain.ioapic.as_deref() == Some("kvm") {
        return Err(Note::error(
            Code::IrqchipConflict,
            "interrupt remapping needs the split irqchip, but the domain has <ioapic driver='kvm'/>: set driver='qemu' or remove \
             it (QEMU: \"Interrupt Remapping cannot work with kernel-irqchip=on, please use 'split|off'.\")",
        ));
    }
    if model::needs_eim(guest) && !(intremap && eim(guest) && written("eim") != Some("off")) {
        return Err(eim_impossible(guest));
    }
    if needs_caching_mode(guest) && written("caching_mode") == Some("off") && !guest.domain.vfio.is_empty() {
        return Err(Note::error(
            Code::IommuConflict,
            "the <iommu> has caching_mode='off' and the guest has VFIO devices: remove the attribute (QEMU: \"We need to set \
             caching-mode=on for intel-iommu to enable device assignment with IOMMU protection.\")",
        ));
    }
    let aw_bits = aw_bits(guest, written("aw_bits"))?;

    let on = |name, wanted: bool| wanted.then(|| (name, "on".to_owned()));
    let wanted = [
        on("intremap", true),
        on("caching_mode", needs_caching_mode(guest)),
        on("eim", intremap && eim(guest)),
        on("iotlb", guest.domain.virtio_ats),
        Some(("aw_bits", aw_bits.to_string())),
    ];
    let added: Vec<_> = wanted.into_iter().flatten().filter(|(name, _)| written(name).is_none()).collect();
    let mut driver: Vec<(String, String)> = existing.map(|iommu| iommu.driver.clone()).unwrap_or_default();
    driver.extend(added.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let origin = match (existing, added.is_empty()) {
        (None, _) => Origin::Added,
        (Some(_), true) => Origin::Existing,
        (Some(_), false) => Origin::Completed,
    };
    let ioapic = match &guest.domain.ioapic {
        Some(driver) => Some(Ioapic { driver: driver.clone(), origin: Origin::Existing }),
        None => intremap.then(|| Ioapic { driver: "qemu".to_owned(), origin: Origin::Added }),
    };
    let iommu = Iommu { model: "intel".to_owned(), origin, driver };
    Ok(Decision { iommu: Some(iommu), added, ioapic, reasons: Vec::new() })
}

/// Extended interrupt mode costs nothing, so it is on wherever QEMU can: with KVM always, under TCG from 9.0 on (before:
/// "eim=on requires accel=kvm,kernel-irqchip=split").
fn eim(guest: &Guest<'_>) -> bool {
    guest.domain.virt_type == "kvm" || guest.qemu >= Version::new(9, 0)
}

fn eim_impossible(guest: &Guest<'_>) -> Note {
    let vcpus = guest.domain.vcpus.maximum;
    let why = if eim(guest) {
        "let the <iommu> have intremap='on' and eim='on', or leave both out".to_owned()
    } else {
        format!(
            "QEMU {} has extended interrupt mode with KVM only: use type='kvm', fewer vCPUs, or QEMU 9.0",
            guest.qemu
        )
    };
    Note::error(Code::VcpusNeedEim, format!("{vcpus} vCPUs need interrupt remapping with eim='on': {why}"))
}

/// Without caching mode QEMU cannot follow the guest's mappings into a VFIO container (hw/i386/intel_iommu.c
/// `vtd_iommu_notify_flag_changed`); vDPA needs the same MAP notifier and swallows the error.
pub(super) fn needs_caching_mode(guest: &Guest<'_>) -> bool {
    let vdpa = guest.domain.vdpa_interfaces > 0 || guest.domain.vdpa_disks > 0;
    model::has_or_expects_vfio(guest) || vdpa
}

/// Whether the guest does not work without an attribute that its `<iommu>` lacks.
pub(super) fn is_essential(guest: &Guest<'_>, attribute: &str) -> bool {
    match attribute {
        "caching_mode" => !guest.domain.vfio.is_empty(),
        "intremap" | "eim" => model::needs_eim(guest),
        _ => false,
    }
}

/// 48 bits, or 39 where a VFIO device has to live with a host IOMMU that is narrower than 48. Always written: QEMU's
/// default depends on binary and machine type, and a migration does not notice a difference.
fn aw_bits(guest: &Guest<'_>, written: Option<&str>) -> Result<u8, Note> {
    let asked = written.and_then(|text| text.parse().ok()).or(guest.request.aw_bits);
    // Only VFIO devices go through the host's IOMMU.
    let host = guest.host.aw_bits.filter(|_| model::has_or_expects_vfio(guest));
    let fitting = host.map_or(48, |host| if host >= 48 { 48 } else { 39 });
    let bits: u8 = asked.unwrap_or(fitting);
    if let Some(host) = host.filter(|host| bits > *host) {
        let message = format!(
            "a vIOMMU of {bits} bits is wider than the host IOMMU's {host}: leave aw_bits out or set {} (QEMU: \"Failed to set \
             vIOMMU: aw-bits {bits} > host aw-bits {host}\")",
            if host >= 39 { "39" } else { "up a host with a wider IOMMU" }
        );
        return Err(Note::error(Code::AwBitsExceedHost, message));
    }
    let top = guest_memory_top(guest);
    if bits < 64 && top > 1 << bits {
        let gib = |bytes: u64| bytes.div_ceil(1 << 30);
        let message = format!(
            "guest memory reaches {} GiB, beyond the {} GiB that a vIOMMU of {bits} bits can address: use aw_bits='48' on a host \
             whose IOMMU has as many, or less memory",
            gib(top),
            gib(1 << bits)
        );
        return Err(Note::error(Code::AwBitsTooSmall, message));
    }
    Ok(bits)
}

/// The guest physical address where memory ends, bytes: RAM is split around the PCI hole (hw/i386/pc_q35.c: 2 GiB below it
/// once there are 2.75), pluggable memory follows, aligned to 1 GiB a slot (`pc_get_device_memory_range`), and on AMD CPU
/// models everything above 4 GiB moves beyond 1 TiB when it would touch the HyperTransport range (hw/i386/pc.c).
fn guest_memory_top(guest: &Guest<'_>) -> u64 {
    const GIB: u64 = 1 << 30;
    let memory = &guest.domain.memory;
    if memory.total < 0xb000_0000 && memory.maximum.is_none() {
        return memory.total;
    }
    let above = memory.total.saturating_sub(2 * GIB);
    let mut size = above;
    if let Some(maximum) = memory.maximum {
        let pluggable = maximum.saturating_sub(memory.total) + u64::from(memory.slots) * GIB;
        size = above.next_multiple_of(GIB).saturating_add(pluggable);
    }
    let start = if guest.domain.amd_cpu && size.saturating_add(4 * GIB) >= 0xfd_0000_0000 { 1 << 40 } else { 4 * GIB };
    size.saturating_add(start)
}

/// libvirt's attribute names in QEMU's words (`qemuBuildIOMMUCommandLine`).
pub(super) fn properties<'a>(driver: &'a [(&'static str, String)]) -> impl Iterator<Item = (String, String)> + use<'a> {
    driver.iter().map(|(name, value)| {
        let property = match *name {
            "caching_mode" => "caching-mode",
            "iotlb" => "device-iotlb",
            "aw_bits" => "aw-bits",
            other => other,
        };
        (property.to_owned(), value.clone())
    })
}
