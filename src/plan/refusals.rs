//! What cannot work, said before QEMU or libvirt say it late, obscurely or not at all.
//!
//! What is wrong with an intel vIOMMU's attributes stands in `intel`, beside the attributes.

use std::collections::BTreeMap;

use crate::note::{Code, Note};

use super::model::{self, Kind, Machine};
use super::{Guest, memlock};

/// Refuses a model that this guest cannot have. The order is that of helpfulness: what is wrong with the model itself
/// comes before what is wrong with a device.
pub(super) fn check(guest: &Guest<'_>, machine: Machine, model: Kind) -> Result<(), Note> {
    match model {
        Kind::Virtio => {
            virtio_supported(guest, machine)?;
            virtio_has_acpi(guest)?;
            virtio_has_no_eim(guest, machine)?;
            virtio_has_no_aliases(guest, machine)?;
        }
        Kind::Smmuv3 => {
            smmuv3_supported(guest)?;
            smmuv3_has_no_vfio(guest)?;
        }
        Kind::Intel => intel_supported(guest)?,
        Kind::Foreign => {}
    }
    if model != Kind::Intel {
        attributes_are_not_intels(guest, model)?;
        width_can_be_set(guest, machine, model)?;
    }
    groups_are_whole(guest, machine)
}

fn virtio_supported(guest: &Guest<'_>, machine: Machine) -> Result<(), Note> {
    let Some(unsupported) = model::virtio_unsupported(guest) else { return Ok(()) };
    let remedy = match machine {
        Machine::Q35 => "use the model intel",
        Machine::ArmVirt if model::has_or_expects_vfio(guest) => "update it, because SMMUv3 cannot serve a VFIO device",
        Machine::ArmVirt => "use the model smmuv3",
    };
    let message = format!("{}: {remedy} (libvirt: \"{}\")", unsupported.why, unsupported.late);
    Err(Note::error(unsupported.code, message))
}

fn virtio_has_acpi(guest: &Guest<'_>) -> Result<(), Note> {
    if model::has_acpi(guest) {
        return Ok(());
    }
    let message = "a virtio-iommu is described to the guest by ACPI only: add <features><acpi/></features>, on AArch64 with UEFI \
                   firmware (libvirt: \"IOMMU device: 'virtio' requires ACPI\")";
    Err(Note::error(Code::VirtioWithoutAcpi, message))
}

fn virtio_has_no_eim(guest: &Guest<'_>, machine: Machine) -> Result<(), Note> {
    if machine != Machine::Q35 || !model::needs_eim(guest) {
        return Ok(());
    }
    let message = format!(
        "{} vCPUs (highest APIC id {}) need interrupt remapping with eim, which virtio-iommu does not have: use the model intel \
         (libvirt: \"more than 255 vCPUs require extended interrupt mode enabled on the iommu device\")",
        guest.domain.vcpus.maximum,
        guest.domain.vcpus.highest_apic_id()
    );
    Err(Note::error(Code::VcpusNeedEim, message))
}

fn virtio_has_no_aliases(guest: &Guest<'_>, machine: Machine) -> Result<(), Note> {
    let Some((first, second)) = model::aliased(guest) else { return Ok(()) };
    let or_intel = if machine == Machine::Q35 { ", or use the model intel" } else { "" };
    let message = format!(
        "{first} and {second} share a conventional PCI bridge: give each a pcie-root-port{or_intel} (QEMU: \"virtio-iommu does \
         not support aliased BDF\")"
    );
    Err(Note::error(Code::VirtioAliasedDevices, message))
}

/// libvirt refuses them at define (`virDomainIOMMUDefValidate`), the width until 12.2; Nova writes them all.
fn attributes_are_not_intels(guest: &Guest<'_>, model: Kind) -> Result<(), Note> {
    let Some(existing) = guest.domain.iommus.first().filter(|_| model != Kind::Foreign) else { return Ok(()) };
    // A libvirt that nobody knows is not held to an old one's rules.
    let takes_width = model == Kind::Virtio && (guest.host.libvirt.is_none() || model::virtio_takes_aw_bits(guest));
    let foreign = existing.driver.iter().map(|(name, _)| name.as_str()).find(|name| match *name {
        "intremap" | "caching_mode" | "eim" | "iotlb" => true,
        "aw_bits" => !takes_width,
        _ => false,
    });
    let Some(name) = foreign else { return Ok(()) };
    let model = model.as_str();
    let message = format!(
        "the <driver> of <iommu model='{model}'> has '{name}', which only intel takes: leave it out (libvirt: \"iommu model \
         '{model}' doesn't support additional attributes\")"
    );
    Err(Note::error(Code::IommuConflict, message))
}

/// A width that was asked for must be what the guest gets.
fn width_can_be_set(guest: &Guest<'_>, machine: Machine, model: Kind) -> Result<(), Note> {
    let Some(bits) = guest.request.aw_bits else { return Ok(()) };
    if let Some(existing) = guest.domain.iommus.first().filter(|_| model == Kind::Virtio) {
        return match existing.driver("aw_bits") {
            Some(written) if written == bits.to_string() => Ok(()),
            written => {
                let has = written.map_or_else(|| "no aw_bits".to_owned(), |width| format!("aw_bits='{width}'"));
                let message = format!(
                    "aw-bits={bits} is asked for, and the <iommu model='virtio'> has {has}: write the width into its <driver>, or \
                     leave it out of the request"
                );
                Err(Note::error(Code::IommuConflict, message))
            }
        };
    }
    if model == Kind::Virtio && model::virtio_takes_aw_bits(guest) {
        return Ok(());
    }
    let why = match model {
        Kind::Virtio => "a virtio-iommu takes an address width only from libvirt 12.2 and QEMU 9.0 on",
        _ => "this vIOMMU model takes no address width",
    };
    let or_intel = if machine == Machine::Q35 && model == Kind::Virtio { ", or use the model intel" } else { "" };
    let message = format!("aw-bits={bits} is asked for, and {why}: leave it out{or_intel}");
    Err(Note::error(Code::RequestConflict, message))
}

fn smmuv3_supported(guest: &Guest<'_>) -> Result<(), Note> {
    if guest.emulator_has("machine.virt.iommu") != Some(false) {
        return Ok(());
    }
    let message = format!(
        "QEMU {} was built without SMMUv3: use the model virtio (libvirt: \"IOMMU device: 'smmuv3' is not supported with this \
         QEMU binary\")",
        guest.qemu
    );
    Err(Note::error(Code::ModelUnsupportedByQemu, message))
}

/// No QEMU before 11.0 gives SMMUv3 a MAP notifier, and 11.0 only with iommufd and accel=on, which the user then writes.
fn smmuv3_has_no_vfio(guest: &Guest<'_>) -> Result<(), Note> {
    let accelerated = guest.domain.iommus.iter().any(|iommu| iommu.driver("accel") == Some("on"));
    if accelerated || !model::has_or_expects_vfio(guest) {
        return Ok(());
    }
    let message = "SMMUv3 cannot serve a VFIO device, now or hot-plugged: use the model virtio (QEMU: \"requires iommu MAP \
                   notifier which is not currently supported\")";
    Err(Note::error(Code::Smmuv3WithVfio, message))
}

fn intel_supported(guest: &Guest<'_>) -> Result<(), Note> {
    if guest.emulator_has("intel-iommu") != Some(false) {
        return Ok(());
    }
    let message = format!(
        "QEMU {} was built without intel-iommu: use another QEMU (libvirt: \"IOMMU device: 'intel' is not supported with this \
         QEMU binary\")",
        guest.qemu
    );
    Err(Note::error(Code::ModelUnsupportedByQemu, message))
}

/// All devices of one host IOMMU group must share one guest address space (hw/vfio/container.c).
fn groups_are_whole(guest: &Guest<'_>, machine: Machine) -> Result<(), Note> {
    let remedy = match machine {
        Machine::Q35 => "put both behind one pcie-to-pci-bridge with the model intel, or pass only one through",
        Machine::ArmVirt => "pass only one through",
    };
    let mut seen = BTreeMap::new();
    for device in &guest.domain.vfio {
        let Some(group) = memlock::group_of(device, guest.host) else { continue };
        // A device without an address will get a root port, hence a requester id, of its own.
        let space = memlock::address_space_of(device).ok_or(device.source.name());
        match seen.get(&group) {
            None => {
                seen.insert(group, (space, device.source.name()));
            }
            Some((known, first)) if *known != space => {
                let message = format!(
                    "{first} and {} are in the host's IOMMU group {group}, but the vIOMMU would see them under different requester \
                     ids: {remedy} (QEMU: \"group {group} used in multiple address spaces\")",
                    device.source.name()
                );
                return Err(Note::error(Code::IommuGroupSplit, message));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
