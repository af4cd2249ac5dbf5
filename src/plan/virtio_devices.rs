//! Virtio devices behind the vIOMMU, as the request's key `virtio` asks for them.

use crate::domain::{VirtioBackend, VirtioDevice};
use crate::model::Model;
use crate::note::{Code, Note};
use crate::qemu::Translated;
use crate::request::{RequestedModel, VirtioScope};
use crate::text::count;
use crate::version::Version;

use super::guest::Guest;
use super::result::{Attributes, Change, DomainEdit, Plan};

/// The devices that the request names.
fn named<'a>(guest: &Guest<'a>) -> impl Iterator<Item = &'a VirtioDevice> {
    let scope = guest.request.virtio;
    guest.domain.virtio.iter().filter(move |device| scope == VirtioScope::All || scope == VirtioScope::On && device.nic)
}

/// Those of them that get, or have, the attribute.
fn fitting<'a>(guest: &Guest<'a>) -> impl Iterator<Item = &'a VirtioDevice> {
    named(guest).filter(|device| fits(guest, device))
}

fn fits(guest: &Guest<'_>, device: &VirtioDevice) -> bool {
    let backend = device.backend != VirtioBackend::Vdpa || can_be_vdpa(guest);
    device.translatable && backend && device.iommu.as_deref() != Some("off")
}

/// QEMU before 8.1 maps guest memory into a vDPA device whatever the vIOMMU does (hw/virtio/vhost-vdpa.c), and an SMMUv3 does
/// not tell it what the guest maps.
fn can_be_vdpa(guest: &Guest<'_>) -> bool {
    !guest.is_arm() && guest.qemu >= Version::new(8, 1)
}

/// Whether a device with a vhost backend is put behind an intel vIOMMU, the only one with a device IOTLB
/// (`vtd_iommu_notify_flag_changed`; "Virtio-iommu does not support dev-iotlb yet").
pub(super) fn needs_device_iotlb(guest: &Guest<'_>) -> bool {
    fitting(guest).any(|device| device.backend != VirtioBackend::Qemu)
}

/// Adds what the request asks for to a plan with a vIOMMU.
pub(super) fn enter(guest: &Guest<'_>, plan: &mut Plan) {
    let Some(iommu) = plan.iommu.as_ref().filter(|_| guest.request.model != RequestedModel::None) else { return };
    let ats = iommu.model == Some(Model::Intel);
    let edits = fitting(guest).map(|device| (device.at, lacks(device, ats)));
    let edits: Vec<_> = edits.filter(|(_, driver)| !driver.is_empty()).collect();
    if edits.is_empty() {
        return;
    }
    let scope = guest.request.virtio;
    plan.qemu.virtio = Some(Translated { all: scope == VirtioScope::All, ats, vdpa: can_be_vdpa(guest) });
    let reason = format!("the vIOMMU is to translate DMA of {} too", count(edits.len(), "virtio device"));
    plan.changes.push(Change::new(DomainEdit::TranslateVirtio(scope, edits), reason, true));
}

/// The attributes that a device lacks.
fn lacks(device: &VirtioDevice, ats: bool) -> Attributes {
    let ats = ats && device.backend != VirtioBackend::Qemu && device.ats.is_none();
    let wanted = [("iommu", device.iommu.is_none()), ("ats", ats)].into_iter().filter(|(_, wanted)| *wanted);
    wanted.map(|(name, _)| (name, "on".to_owned())).collect()
}

/// The note about virtio devices that bypass the vIOMMU.
pub(super) fn note(guest: &Guest<'_>) -> Option<Note> {
    let outside = |device: &&VirtioDevice| device.iommu.as_deref() != Some("on");
    let scope = guest.request.virtio;
    if scope == VirtioScope::Off {
        let nics = guest.domain.virtio.iter().filter(|device| device.nic).filter(outside).count();
        let message = "the guest's virtio network interfaces bypass the vIOMMU, so DPDK in the guest can drive them in the no-IOMMU \
                       mode of vfio-pci only: with virtio=on in the request the vIOMMU translates for them";
        return (nics > 0 && !guest.is_windows()).then(|| Note::info(Code::VirtioBypassesIommu, message));
    }
    let left = named(guest).filter(|device| outside(device) && !fits(guest, device)).count();
    let message = format!(
        "{} will bypass the vIOMMU, although virtio={scope} is asked for: QEMU translates only for a modern virtio device on a bus that \
         does not bypass the vIOMMU: put it behind a pcie-root-port, with <model type='virtio'/> and without iommu='off' in its \
         <driver>; a vDPA device needs x86 and QEMU 8.1",
        count(left, "virtio device")
    );
    (left > 0).then(|| Note::warning(Code::VirtioBypassesIommu, message))
}
