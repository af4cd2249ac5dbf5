//! The rules of an intel vIOMMU: its `<driver>` attributes.

use crate::model::Model;
use crate::note::{Code, Note};
use crate::qemu::FoundIommu;
use crate::version::Version;

use super::decision::Decision;
use super::guest::Guest;
use super::written::Written;
use super::{purpose, scalable, virtio_devices};

/// Decides about every attribute, and keeps what the user wrote.
pub(super) fn decide(guest: &Guest<'_>) -> Result<Decision, Note> {
    super::supported(guest, Model::Intel, "use another QEMU")?;
    super::only_own_attributes(guest, Model::Intel, true)?;
    let written = Written::of(guest);
    check(guest, &written)?;
    let intremap = written.will_be_on("intremap");
    let on = |name, wanted: bool| wanted.then(|| (name, "on".to_owned()));
    let wanted = [
        on("intremap", true),
        // A network that is not known may hand out VFs after this.
        on("caching_mode", needs_caching_mode(guest) || guest.unknown_networks().next().is_some()),
        on("eim", intremap && has_eim(guest)),
        on("iotlb", guest.domain.virtio_ats || virtio_devices::needs_device_iotlb(guest)),
        Some(("aw_bits", aw_bits(guest, &written)?.to_string())),
        purpose::is_interrupts_only(guest).then(|| ("dma_translation", "off".to_owned())),
    ];
    let decision = Decision::with(guest, Model::Intel, wanted.into_iter().flatten().collect());
    Ok(Decision { reproducible: is_reproducible(guest), ..decision.with_split_irqchip(intremap) })
}

/// Whether every host decides alike: the width depends on the host's IOMMU, and without KVM eim depends on QEMU's version.
fn is_reproducible(guest: &Guest<'_>) -> bool {
    let width = guest.request.aw_bits.is_some() || (!guest.request.hotplug && guest.domain.vfio.is_empty());
    width && guest.domain.uses_kvm() && purpose::is_reproducible(guest)
}

/// Refuses a vIOMMU in `<qemu:commandline>` that does not work.
pub(super) fn check_hidden(guest: &Guest<'_>, hidden: &FoundIommu) -> Result<(), Note> {
    let written = Written::hidden(hidden, "intel-iommu in <qemu:commandline>");
    check(guest, &written)?;
    scalable::check(guest, hidden)?;
    if written.get("aw_bits").is_some() { aw_bits(guest, &written).map(|_| ()) } else { super::no_width(guest) }
}

/// Refuses what the user wrote where it contradicts what the guest needs.
fn check(guest: &Guest<'_>, written: &Written<'_>) -> Result<(), Note> {
    written.fits_irqchip(guest)?;
    purpose::translation_is_on(guest, written)?;
    if guest.needs_eim() && !(written.will_be_on("intremap") && has_eim(guest) && written.will_be_on("eim")) {
        return Err(eim_impossible(guest));
    }
    if written.get("eim") == Some("on") && !has_eim(guest) {
        let message = format!(
            "the {} has eim='on', which QEMU {} gives with KVM only: remove the attribute, or use type='kvm' or QEMU 9.0 (QEMU: \
             \"eim=on requires accel=kvm,kernel-irqchip=split\")",
            written.place, guest.qemu
        );
        return Err(Note::error(Code::IommuConflict, message));
    }
    if needs_caching_mode(guest) && !written.will_be_on("caching_mode") {
        let message = format!(
            "the {} has no caching mode, and the guest has or expects VFIO or vDPA devices: set {} (QEMU: \"We need to set \
             caching-mode=on for intel-iommu to enable device assignment with IOMMU protection.\")",
            written.place,
            if written.in_xml { "caching_mode='on'" } else { "caching-mode=on" }
        );
        return Err(Note::error(Code::IommuConflict, message));
    }
    Ok(())
}

/// Extended interrupt mode costs nothing, so it is on wherever QEMU can: with KVM always, under TCG from 9.0 on (before:
/// "eim=on requires accel=kvm,kernel-irqchip=split").
fn has_eim(guest: &Guest<'_>) -> bool {
    guest.domain.uses_kvm() || guest.qemu >= Version::new(9, 0)
}

fn eim_impossible(guest: &Guest<'_>) -> Note {
    let remedy = if has_eim(guest) {
        let error = guest.error_for_many_vcpus();
        format!("let the <iommu> have intremap='on' and eim='on', or leave both out (libvirt: \"{error}\")")
    } else {
        format!(
            "QEMU {} can do that with KVM only, so use type='kvm', fewer vCPUs or QEMU 9.0 (QEMU: \"eim=on requires \
             accel=kvm,kernel-irqchip=split\")",
            guest.qemu
        )
    };
    guest.too_many_vcpus(&format!("eim='on': {remedy}"))
}

/// Without caching mode QEMU cannot follow the guest's mappings into a VFIO container (hw/i386/intel_iommu.c
/// `vtd_iommu_notify_flag_changed`); vDPA needs the same MAP notifier, and reports no error without it. QEMU requires it for
/// every VFIO device, also for one on a bus that bypasses the vIOMMU (`vtd_machine_done_notify_one`).
pub(super) fn needs_caching_mode(guest: &Guest<'_>) -> bool {
    guest.opens_or_expects_vfio() || guest.domain.vdpa() > 0
}

/// 48 bits, or 39 where VFIO devices are behind a host IOMMU that is narrower than 48. Always written: QEMU's default depends
/// on binary and machine type, and a migration does not check it.
fn aw_bits(guest: &Guest<'_>, written: &Written<'_>) -> Result<u8, Note> {
    // Only VFIO devices go through the host's IOMMU.
    let host = guest.host.aw_bits.filter(|_| guest.has_or_expects_vfio());
    let fitting = host.map_or(48, |host| if host >= 48 { 48 } else { 39 });
    let bits = match (written.get("aw_bits"), guest.request.aw_bits) {
        (Some(text), asked) => written_width(text, asked)?,
        (None, asked) => asked.unwrap_or(fitting),
    };
    if let Some(host) = host.filter(|host| bits > *host) {
        let remedy = if host >= 39 { "leave the width out, or make it 39" } else { "use a host with a wider IOMMU" };
        let message = format!(
            "a vIOMMU of {bits} bits is wider than the host IOMMU's {host}: {remedy} (QEMU: \"Failed to set vIOMMU: aw-bits \
             {bits} > host aw-bits {host}\")"
        );
        return Err(Note::error(Code::AwBitsExceedHost, message));
    }
    let top = guest_memory_top(guest);
    if top > 1 << bits {
        let gib = |bytes: u64| bytes.div_ceil(1 << 30);
        let wider = if bits < 48 { "use 48 bits on a host whose IOMMU has as many, or " } else { "" };
        let message = format!(
            "guest memory reaches {} GiB, beyond the {} GiB that a vIOMMU of {bits} bits can address: {wider}give the guest less \
             memory",
            gib(top),
            gib(1 << bits)
        );
        return Err(Note::error(Code::AwBitsTooSmall, message));
    }
    Ok(bits)
}

/// The width in the `<iommu>`: libvirt takes any number there, and QEMU two.
fn written_width(text: &str, asked: Option<u8>) -> Result<u8, Note> {
    let Some(bits) = text.parse().ok().filter(|bits| matches!(bits, 39 | 48)) else {
        let message = format!(
            "the <iommu> has aw_bits='{text}': make it 39 or 48, or leave it out (QEMU: \"supported values for aw-bits are: 39, \
             48\")"
        );
        return Err(Note::error(Code::IommuConflict, message));
    };
    match asked.filter(|asked| *asked != bits) {
        Some(asked) => {
            let message = format!(
                "aw-bits={asked} is asked for, and the <iommu> already has aw_bits='{bits}': remove one of the two"
            );
            Err(Note::error(Code::IommuConflict, message))
        }
        None => Ok(bits),
    }
}

/// The guest physical address where memory ends, bytes: RAM is split around the PCI hole (hw/i386/pc_q35.c: 2 GiB below it
/// once there are 2.75), pluggable memory follows, aligned to 1 GiB a slot (`pc_get_device_memory_range`), and on AMD CPU
/// models everything above 4 GiB moves beyond 1 TiB when it would touch the HyperTransport range (hw/i386/pc.c).
pub(super) fn guest_memory_top(guest: &Guest<'_>) -> u64 {
    const GIB: u64 = 1 << 30;
    let memory = &guest.domain.memory;
    // At least 2 GiB below the largest number, so rounding it up to a GiB cannot overflow.
    let above = if memory.total < 0xb000_0000 { 0 } else { memory.total - 2 * GIB };
    let size = match memory.maximum {
        Some(maximum) => {
            let pluggable = maximum.saturating_sub(memory.total).saturating_add(u64::from(memory.slots) * GIB);
            above.next_multiple_of(GIB).saturating_add(pluggable)
        }
        None => above,
    };
    if size == 0 {
        return memory.total;
    }
    let start = if guest.domain.amd_cpu && size.saturating_add(4 * GIB) >= 0xfd_0000_0000 { 1 << 40 } else { 4 * GIB };
    size.saturating_add(start)
}
