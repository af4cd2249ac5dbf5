//! A vIOMMU that the guest has already, hand-written or in `<qemu:commandline>`: whether it works as it is.

use crate::domain::Requester;
use crate::note::{Code, Note};
use crate::qemu::{FoundIommu, Spelling};
use crate::request::{Request, RequestedModel};
use crate::version::Version;

use super::guest::Guest;
use super::vcpus;

/// Why the guest will not start or not work although nothing is asked for.
pub(super) fn flaw(guest: &Guest<'_>) -> Option<Note> {
    let without_request = guest.request.model == RequestedModel::None;
    without_request.then(|| own_viommu(guest).or_else(|| vcpus::without_viommu(guest))).flatten()
}

/// The refusal that the guest would get if it asked for the vIOMMU that it has.
fn own_viommu(guest: &Guest<'_>) -> Option<Note> {
    if !super::has_viommu(guest.domain) {
        return None;
    }
    let request = Request { model: RequestedModel::Auto, ..Request::default() };
    let guest = Guest { as_it_is: true, ..Guest::new(guest.domain, &request, guest.host) };
    let refusal = super::decide_model(&guest).err().filter(|note| note.code != Code::ArchUnsupported)?;
    Some(Note::warning(refusal.code, refusal.message))
}

/// QEMU gives a VFIO device its address space when it creates the device. A device that it creates before the vIOMMU stays outside
/// the vIOMMU, without an error.
/// libvirt puts `<qemu:commandline>` behind its own devices.
pub(super) fn created_before_vfio(guest: &Guest<'_>, hidden: &FoundIommu) -> Result<(), Note> {
    let libvirt_writes_json = libvirt_writes_json(guest);
    let after_libvirts_devices = match hidden.spelling {
        Spelling::Machine => false,
        Spelling::KeyValue => !libvirt_writes_json,
        Spelling::Json => true,
    };
    let translated = |requester: &Requester| !matches!(requester, Requester::Bypass | Requester::None);
    let of_libvirt = guest.domain.vfio.iter().any(|device| !device.hidden && translated(&device.requester));
    if !(hidden.after_vfio || after_libvirts_devices && of_libvirt) {
        return Ok(());
    }
    let message = format!(
        "QEMU creates '{}' of <qemu:commandline> after the guest's VFIO devices, which then bypass it: remove it there, and use an \
         <iommu> in <devices>",
        hidden.driver
    );
    Err(Note::error(Code::IommuConflict, message))
}

/// Whether libvirt writes its own devices in JSON: 7.9 and 7.10 with QEMU 6.2 and newer, 8.1 and newer with QEMU 7.0 and newer
/// (libvirt's NEWS.rst, 8.0.0), unless the domain removes that capability.
fn libvirt_writes_json(guest: &Guest<'_>) -> bool {
    let (libvirt, qemu) = (guest.libvirt, guest.qemu);
    let (capability, written) = if libvirt < Version::new(8, 0) {
        ("device.json", libvirt >= Version::new(7, 9) && qemu >= Version::new(6, 2))
    } else {
        ("device.json+hotplug", libvirt >= Version::new(8, 1) && qemu >= Version::new(7, 0))
    };
    written && !guest.domain.capabilities_removed.iter().any(|removed| removed == capability)
}
