//! The rules of a virtio-iommu.

use crate::domain::Driver;
use crate::model::Model;
use crate::note::{Code, Note};
use crate::qemu;
use crate::version::Version;

use super::decision::Decision;
use super::guest::Guest;

/// What makes a guest boot behind a virtio-iommu.
const INTO_INITRAMFS: &str = "add virtio_iommu to /etc/initramfs-tools/modules in the guest and run update-initramfs -u (dracut: add_drivers+=\" virtio_iommu \" \
     in /etc/dracut.conf.d, and dracut -f), then set virtio-iommu-driver=yes in the request; or use the model intel, on AArch64 smmuv3";

/// Decides about a virtio-iommu.
pub(super) fn decide(guest: &Guest<'_>) -> Result<Decision, Note> {
    super::supported(guest, Model::Virtio, other_model(guest))?;
    check(guest)?;
    // An unknown libvirt counts as a new one here.
    let takes_width = guest.host.libvirt.is_none() || takes_aw_bits(guest);
    super::only_own_attributes(guest, Model::Virtio, takes_width)?;
    width(guest)?;
    let width = guest.request.aw_bits.map(|bits| ("aw_bits", bits.to_string()));
    let split = !guest.is_arm() && guest.needs_eim();
    Ok(Decision::with(guest, Model::Virtio, width.into_iter().collect()).with_split_irqchip(split))
}

/// Refuses what holds also for one in `<qemu:commandline>`.
pub(super) fn check(guest: &Guest<'_>) -> Result<(), Note> {
    acpi(guest)?;
    no_eim(guest)?;
    no_aliases(guest)
}

/// libvirt takes `aw_bits` for virtio from 12.2.0 on, where QEMU has the property: from 9.0 on.
pub(super) fn takes_aw_bits(guest: &Guest<'_>) -> bool {
    guest.libvirt >= Version::new(12, 2)
        && guest.emulator_has("virtio-iommu.aw-bits").unwrap_or(guest.qemu >= Version::new(9, 0))
}

/// What to do where there is no virtio-iommu.
fn other_model(guest: &Guest<'_>) -> &'static str {
    match guest.is_arm() {
        false => "use the model intel",
        true if guest.has_or_expects_vfio() => "update it, because SMMUv3 cannot serve a VFIO device",
        true => "use the model smmuv3",
    }
}

fn acpi(guest: &Guest<'_>) -> Result<(), Note> {
    if guest.has_acpi() {
        return Ok(());
    }
    let remedy = if qemu::acpi(&guest.domain.commandline) == Some(false) {
        ", and <qemu:commandline> turns it off: remove that option"
    } else {
        ": add <features><acpi/></features>, on AArch64 with UEFI firmware (libvirt: \"IOMMU device: 'virtio' requires ACPI\")"
    };
    let message = format!("a virtio-iommu is described to the guest by ACPI only{remedy}");
    Err(Note::error(Code::VirtioWithoutAcpi, message))
}

fn no_eim(guest: &Guest<'_>) -> Result<(), Note> {
    if guest.is_arm() || !guest.needs_eim() || guest.has_extended_destinations() {
        return Ok(());
    }
    let error = guest.error_for_many_vcpus();
    Err(guest
        .too_many_vcpus(&format!("eim, which virtio-iommu does not have: use the model intel (libvirt: \"{error}\")")))
}

fn no_aliases(guest: &Guest<'_>) -> Result<(), Note> {
    let Some((first, second)) = guest.aliased() else { return Ok(()) };
    let message = format!(
        "{first} and {second} share a conventional PCI bridge: give each a pcie-root-port{} (QEMU: \"virtio-iommu does not support \
         aliased BDF\")",
        or_intel(guest)
    );
    Err(Note::error(Code::VirtioAliasedDevices, message))
}

/// The guest must get the requested width.
fn width(guest: &Guest<'_>) -> Result<(), Note> {
    let Some(bits) = guest.request.aw_bits else { return Ok(()) };
    let Some(existing) = guest.domain.iommus.first() else {
        if takes_aw_bits(guest) {
            return Ok(());
        }
        let message = format!(
            "aw-bits={bits} is asked for, and a virtio-iommu takes an address width only from libvirt 12.2 and QEMU 9.0 on: leave \
             it out{}",
            or_intel(guest)
        );
        return Err(Note::error(Code::RequestConflict, message));
    };
    let written = existing.driver("aw_bits");
    if written == Some(bits.to_string().as_str()) {
        return Ok(());
    }
    let has = written.map_or_else(|| "no aw_bits".to_owned(), |width| format!("aw_bits='{width}'"));
    let message = format!(
        "aw-bits={bits} is asked for, and the <iommu model='virtio'> has {has}: write the width into its <driver>, or leave it out \
         of the request"
    );
    Err(Note::error(Code::IommuConflict, message))
}

fn or_intel(guest: &Guest<'_>) -> &'static str {
    if guest.is_arm() { "" } else { ", or use the model intel" }
}

pub(super) fn old_qemu(guest: &Guest<'_>) -> Option<Note> {
    let message = format!(
        "QEMU {} tells the guest neither the host IOMMU's address width nor its reserved ranges: DMA can fail at addresses the host \
         cannot map (9.0 does, and so does the model intel on x86)",
        guest.qemu
    );
    (guest.has_or_expects_vfio() && guest.qemu < Version::new(9, 0))
        .then(|| Note::warning(Code::VirtioVfioOldQemu, message))
}

/// The guest may map in any unit that the vIOMMU offers, VFIO only in units of the host's page (`virtio_iommu_set_page_size_mask`
/// in QEMU's hw/virtio/virtio-iommu.c).
pub(super) fn host_page_size(guest: &Guest<'_>) -> Option<Note> {
    let pages = guest.host.page_bytes.filter(|bytes| *bytes > 4096)?;
    let kib = pages / 1024;
    let hotplug = if guest.qemu < Version::new(9, 0) {
        format!(", and hot-plug no VFIO device, which QEMU {} refuses there (9.0 does not)", guest.qemu)
    } else {
        String::new()
    };
    let message = format!(
        "the host has pages of {kib} KiB, and VFIO maps no smaller ones: give the guest a kernel with pages of {kib} KiB{hotplug}"
    );
    guest.has_or_expects_vfio().then(|| Note::warning(Code::HostPageSize, message))
}

pub(super) fn driver(guest: &Guest<'_>) -> Option<Note> {
    if guest.is_windows() {
        return None;
    }
    let known = guest.virtio_driver();
    let remedy = match known.driver {
        Some(Driver::BuiltIn) => return None,
        Some(Driver::Absent) => "the guest does not use this vIOMMU: use the model intel, on AArch64 smmuv3".to_owned(),
        Some(Driver::Module) => {
            format!(
                "the guest does not find its root disk, or finds it late and runs without a vIOMMU: {INTO_INITRAMFS}"
            )
        }
        None => format!(
            "if it is a module outside the initramfs, the guest does not find its root disk, or finds it late and runs without a vIOMMU: \
             {INTO_INITRAMFS}"
        ),
    };
    Some(Note::warning(Code::VirtioDriver, format!("{}; {remedy}", known.why)))
}
