//! Guest address spaces of VFIO devices, and the host IOMMU groups behind them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::domain::{Domain, Requester, VfioDevice, VfioSource};
use crate::host::Host;
use crate::model::Machine;
use crate::note::{Code, Note};

use super::guest::Guest;

/// One VFIO container: devices that share a guest address space.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AddressSpace {
    /// The devices, by host address or mediated device UUID.
    pub devices: Vec<String>,
    /// Their host IOMMU groups, as far as they are known.
    pub iommu_groups: Vec<u32>,
}

/// Without a vIOMMU all devices are in the one address space of system memory.
pub(super) fn address_spaces(domain: &Domain, viommu: bool, host: &Host) -> Vec<AddressSpace> {
    let mut index: BTreeMap<Requester, usize> = BTreeMap::new();
    let mut spaces: Vec<AddressSpace> = Vec::new();
    for device in &domain.vfio {
        let key = if viommu { address_space_of(device) } else { Some(Requester::Bypass) };
        let position = match key {
            // No address yet: libvirt gives the device a root port, hence an address space, of its own.
            None => spaces.len(),
            Some(key) => *index.entry(key).or_insert(spaces.len()),
        };
        if position == spaces.len() {
            spaces.push(AddressSpace::default());
        }
        let Some(space) = spaces.get_mut(position) else { continue };
        space.devices.push(device.source.name().to_owned());
        let group = group_of(device, host).filter(|group| !space.iommu_groups.contains(group));
        space.iommu_groups.extend(group);
    }
    spaces
}

/// The requester that decides a device's address space under a vIOMMU; none where it has no address yet.
fn address_space_of(device: &VfioDevice) -> Option<Requester> {
    match &device.requester {
        Requester::Unassigned => None,
        Requester::Bypass | Requester::None => Some(Requester::Bypass),
        requester => Some(requester.clone()),
    }
}

/// The host IOMMU group of a device, where it is known.
fn group_of(device: &VfioDevice, host: &Host) -> Option<u32> {
    match &device.source {
        VfioSource::Pci(address) => host.iommu_groups.get(address).copied(),
        VfioSource::Mdev(_) => None,
    }
}

/// All devices of one host IOMMU group must share one guest address space (hw/vfio/container.c).
pub(super) fn groups_are_whole(guest: &Guest<'_>, machine: Machine) -> Result<(), Note> {
    let remedy = match machine {
        Machine::Q35 => "put both behind one pcie-to-pci-bridge with the model intel, or pass only one through",
        Machine::ArmVirt => "pass only one through",
    };
    let mut seen = BTreeMap::new();
    for device in &guest.domain.vfio {
        let (name, Some(group)) = (device.source.name(), group_of(device, guest.host)) else { continue };
        // A device without an address gets a root port, hence a requester id, of its own.
        let space = address_space_of(device).ok_or(name);
        let (known, first) = seen.entry(group).or_insert_with(|| (space.clone(), name));
        if *known != space {
            let message = format!(
                "{first} and {name} are in the host's IOMMU group {group}, but the vIOMMU would see them under different requester \
                 ids: {remedy} (QEMU: \"group {group} used in multiple address spaces\")"
            );
            return Err(Note::error(Code::IommuGroupSplit, message));
        }
    }
    Ok(())
}
