//! Guest address spaces of VFIO devices, and the host IOMMU groups behind them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::domain::{Domain, Requester, VfioDevice};
use crate::host::Host;
use crate::note::{Code, Note};
use crate::text::all_of;
use crate::version::Version;

use super::guest::Guest;

/// One VFIO container, or one IOAS of an iommufd: devices that share a guest address space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AddressSpace {
    /// The devices, by host address or mediated device UUID.
    pub devices: Vec<String>,
    /// Their host IOMMU groups, as far as they are known.
    pub iommu_groups: Vec<u32>,
    /// What QEMU maps guest memory with.
    pub backend: Backend,
}

/// The kernel interface that maps an address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// `/dev/vfio/vfio`.
    Container,
    /// `/dev/iommu`.
    Iommufd,
    /// Both, which QEMU cannot do in one address space.
    Mixed,
}

/// Without a vIOMMU all devices are in the one address space of system memory.
pub(super) fn address_spaces(domain: &Domain, viommu: bool, host: &Host) -> Vec<AddressSpace> {
    let mut index: BTreeMap<Requester, usize> = BTreeMap::new();
    let mut spaces: Vec<Vec<&VfioDevice>> = Vec::new();
    for device in &domain.vfio {
        let key = if viommu { address_space_of(device) } else { Some(Requester::Bypass) };
        let position = match key {
            // No address yet: libvirt gives the device a root port, hence an address space, of its own.
            None => spaces.len(),
            Some(key) => *index.entry(key).or_insert(spaces.len()),
        };
        match spaces.get_mut(position) {
            Some(space) => space.push(device),
            None => spaces.push(vec![device]),
        }
    }
    spaces.iter().map(|devices| AddressSpace::of(devices, host)).collect()
}

impl AddressSpace {
    fn of(devices: &[&VfioDevice], host: &Host) -> AddressSpace {
        let mut seen = BTreeSet::new();
        let groups = devices.iter().filter_map(|device| group_of(device, host));
        AddressSpace {
            devices: devices.iter().map(|device| device.source.name().to_owned()).collect(),
            iommu_groups: groups.filter(|group| seen.insert(*group)).collect(),
            backend: match devices.iter().filter(|device| device.iommufd).count() {
                0 => Backend::Container,
                all if all == devices.len() => Backend::Iommufd,
                _ => Backend::Mixed,
            },
        }
    }
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
    host.iommu_groups.get(device.source.pci()?).copied()
}

/// QEMU aborts where an address space has devices of both backends; seen with 11.1 (`VFIO_IOMMU_LEGACY`, `VFIO_IOMMU_IOMMUFD` in
/// hw/vfio/container.c).
pub(super) fn mixed_backends(guest: &Guest<'_>, spaces: &[AddressSpace]) -> Option<String> {
    let mixed = spaces.iter().find(|space| space.backend == Backend::Mixed)?;
    let names: Vec<&str> = mixed.devices.iter().map(String::as_str).collect();
    let message = format!(
        "{} share one address space, some by iommufd and some by a VFIO container, and QEMU {} aborts: give all of them <driver \
         iommufd='yes'/>, or none, or the guest a vIOMMU (QEMU: \"Object … is not an instance of type vfio-iommu-legacy\")",
        all_of(&names),
        guest.qemu
    );
    (guest.qemu >= Version::new(11, 1)).then_some(message)
}

/// The VFIO devices that have something in common on the host and do not share one guest address space; the first such group.
fn split<'a, K: Ord>(guest: &Guest<'a>, common: impl Fn(&VfioDevice) -> Option<K>) -> Option<(K, Vec<&'a str>)> {
    let mut groups: BTreeMap<K, Vec<&VfioDevice>> = BTreeMap::new();
    for device in &guest.domain.vfio {
        if let Some(key) = common(device) {
            groups.entry(key).or_default().push(device);
        }
    }
    let is_split = |devices: &[&VfioDevice]| {
        let mut spaces = devices.iter().map(|device| address_space_of(device));
        let first = spaces.next().flatten();
        // A device without an address gets a root port, hence a requester id, of its own.
        spaces.any(|space| space.is_none() || space != first)
    };
    let (key, devices) = groups.into_iter().find(|(_, devices)| is_split(devices))?;
    Some((key, devices.into_iter().map(|device| device.source.name()).collect()))
}

/// All devices of one host IOMMU group must share one guest address space (hw/vfio/container.c).
pub(super) fn groups_are_whole(guest: &Guest<'_>) -> Result<(), Note> {
    let Some((group, devices)) = split(guest, |device| group_of(device, guest.host)) else { return Ok(()) };
    let bridge = if guest.is_arm() {
        ""
    } else {
        "put all behind one pcie-to-pci-bridge, as conventional PCI devices and with the model intel, "
    };
    let message = format!(
        "{} are in the host's IOMMU group {group}, but the vIOMMU would see them under different requester ids: pass only one \
         through and keep the others bound to vfio-pci, {bridge}or put all behind a pcie-expander-bus with bypass_iommu, where the \
         guest has no vIOMMU for them (QEMU: \"group {group} used in multiple address spaces\")",
        all_of(&devices)
    );
    Err(Note::error(Code::IommuGroupSplit, message))
}

/// Functions of one host slot on different guest addresses, where their groups are not known: without ACS between them, as in
/// most graphics cards, they are one group. VFs are not.
pub(super) fn slot_split(guest: &Guest<'_>) -> Option<Note> {
    let (_, devices) = split(guest, |device| {
        let address = device.source.pci().filter(|_| group_of(device, guest.host).is_none())?;
        address.rsplit_once('.').map(|(slot, _)| slot.to_owned())
    })?;
    let message = format!(
        "{} are functions of one device on the host, and the vIOMMU sees them under different requester ids: if they are in one IOMMU \
         group there, QEMU refuses them (\"used in multiple address spaces\"); run `viommu plan` on that host, or with its facts \
         (--host)",
        all_of(&devices)
    );
    Some(Note::warning(Code::IommuGroupUnknown, message))
}

/// The rest of the groups: VFIO wants it bound to vfio-pci or to no driver, or the group is not viable.
pub(super) fn group_companions(guest: &Guest<'_>) -> Option<Note> {
    let passed: Vec<&str> = guest.domain.vfio.iter().map(|device| device.source.name()).collect();
    let groups: BTreeSet<u32> = guest.domain.vfio.iter().filter_map(|device| group_of(device, guest.host)).collect();
    let members = guest.host.iommu_groups.iter().filter(|(_, group)| groups.contains(group));
    let companions: Vec<&str> = members.map(|(name, _)| name.as_str()).filter(|name| !passed.contains(name)).collect();
    let message = format!(
        "in the same host IOMMU group as a passed-through device and not passed through: {}; keep it bound to vfio-pci or to no driver, \
         also after a reboot, or VFIO refuses the group (\"not viable\")",
        companions.join(", ")
    );
    (!companions.is_empty()).then(|| Note::info(Code::GroupCompanions, message))
}
