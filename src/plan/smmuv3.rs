//! The rules of an SMMUv3. An accelerated one (libvirt 12.7, QEMU 11.0) is kept and checked, and never made.

use crate::domain::{Iommu, Requester, VfioDevice};
use crate::model::Model;
use crate::note::{Code, Note};
use crate::version::Version;

use super::decision::Decision;
use super::guest::Guest;

/// Decides about an SMMUv3.
pub(super) fn decide(guest: &Guest<'_>) -> Result<Decision, Note> {
    super::supported(guest, Model::Smmuv3, "use the model virtio")?;
    for iommu in &guest.domain.iommus {
        spelling(guest, iommu)?;
        if iommu.is_accelerated() {
            acceleration(guest, iommu)?;
        } else if served(guest, iommu).next().is_some() {
            return Err(no_notifier());
        }
    }
    check(guest, guest.domain.iommus.iter().any(Iommu::is_accelerated))?;
    super::only_own_attributes(guest, Model::Smmuv3, false)?;
    super::no_width(guest)?;
    Ok(Decision::with(guest, Model::Smmuv3, Vec::new()))
}

/// QEMU before 11.0 has no MAP notifier for SMMUv3, and 11.0 only with iommufd and `accel='on'`, which the user writes.
pub(super) fn check(guest: &Guest<'_>, accelerated: bool) -> Result<(), Note> {
    if accelerated || !guest.has_or_expects_vfio() { Ok(()) } else { Err(no_notifier()) }
}

/// The VFIO devices below the host bridge of an SMMUv3, or all of them where it has none of its own.
fn served<'a>(guest: &Guest<'a>, iommu: &Iommu) -> impl Iterator<Item = &'a VfioDevice> {
    let host_bridge: Option<u32> = iommu.driver("pciBus").and_then(|bus| bus.parse().ok());
    let below = move |device: &&VfioDevice| host_bridge.is_none_or(|bus| bus == device.host_bridge);
    guest.domain.vfio.iter().filter(|device| device.requester != Requester::Bypass).filter(below)
}

fn no_notifier() -> Note {
    let message = "SMMUv3 cannot serve a VFIO device, now or hot-plugged: use the model virtio (QEMU: \"requires iommu MAP \
                   notifier which is not currently supported\")";
    Note::error(Code::Smmuv3WithVfio, message)
}

/// libvirt drops an attribute that it does not know without a message; KubeVirt 1.9 writes `ssidSize`.
fn spelling(guest: &Guest<'_>, iommu: &Iommu) -> Result<(), Note> {
    if iommu.driver("ssidSize").is_none() {
        return Ok(());
    }
    let message = "the <driver> of <iommu model='smmuv3'> has ssidSize, which libvirt ignores: write ssidsize";
    Err(refusal(guest, message))
}

/// Refuses what libvirt drops or QEMU refuses at the start (hw/arm/smmuv3.c, hw/arm/smmuv3-accel.c).
fn acceleration(guest: &Guest<'_>, iommu: &Iommu) -> Result<(), Note> {
    let devices = || served(guest, iommu);
    let auto = |name: &&str| iommu.driver(name).is_none_or(|value| value == "auto");
    let without_iommufd = devices().find(|device| !device.iommufd).map(|device| device.source.name());
    let message = if guest.libvirt < Version::new(12, 7) {
        format!("libvirt {} ignores accel='on' of <iommu model='smmuv3'>: use libvirt 12.7", guest.libvirt)
    } else if iommu.driver("pciBus").is_none() {
        "libvirt ignores accel='on' of an <iommu model='smmuv3'> without pciBus: add the pciBus of its pcie-expander-bus".to_owned()
    } else if guest.qemu < Version::new(11, 0) {
        format!("QEMU {} cannot accelerate an SMMUv3: use QEMU 11.0, or the model virtio", guest.qemu)
    } else if !guest.domain.uses_kvm() {
        "an accelerated SMMUv3 needs KVM: use type='kvm', or leave accel out (QEMU: \"SMMUv3 accel=on requires KVM with \
         kernel-irqchip=on support\")"
            .to_owned()
    } else if !guest.has_acpi() {
        "an accelerated SMMUv3 needs ACPI: add <acpi/> and UEFI firmware (QEMU: \"SMMUv3 with accel=on not supported for DT\")"
            .to_owned()
    } else if let Some(name) = without_iommufd {
        format!(
            "an accelerated SMMUv3 serves iommufd devices only: give {name} <driver iommufd='yes'/> (QEMU: \"vfio-pci endpoint devices \
             without an iommufd backend not allowed when using arm-smmuv3,accel=on\")"
        )
    } else if devices().next().is_none() && ["ats", "ril", "ssidsize", "oas"].iter().any(auto) {
        "an accelerated SMMUv3 without a VFIO device at the start needs ats, ril, ssidsize and oas: write them (QEMU: \"arm-smmuv3 \
         accel=on with 'auto' properties requires at least one cold-plugged VFIO device\")"
            .to_owned()
    } else {
        return Ok(());
    };
    Err(refusal(guest, &message))
}

fn refusal(guest: &Guest<'_>, message: &str) -> Note {
    let code = if guest.has_or_expects_vfio() { Code::Smmuv3WithVfio } else { Code::IommuConflict };
    Note::error(code, message)
}
