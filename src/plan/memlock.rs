//! How much memory a guest's QEMU has to lock, and how much libvirt lets it.
//!
//! QEMU opens one VFIO container for each guest address space that has a VFIO device, and the kernel accounts all of guest
//! memory again for each of them (QEMU hw/vfio/container.c `vfio_container_connect`, kernel `vfio_pin_pages_remote`).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::domain::{Domain, Requester, VfioDevice, VfioSource};
use crate::host::Host;
use crate::limit::Limit;
use crate::version::Version;

const KIB: u64 = 1024;
const GIB: u64 = 1024 * 1024 * KIB;

/// One VFIO container: devices that share a guest address space.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AddressSpace {
    /// The devices, by host address or mediated device UUID.
    pub devices: Vec<String>,
    /// Their host IOMMU groups, as far as they are known.
    pub iommu_groups: Vec<u32>,
}

/// The locked-memory part of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Memlock {
    /// Guest address spaces with VFIO devices.
    pub address_spaces: Vec<AddressSpace>,
    /// NVMe disks, each with a container of its own.
    pub nvme_disks: u32,
    /// vDPA devices, each of which maps all of guest memory.
    pub vdpa_devices: u32,
    /// What the guest needs; none where nothing is locked.
    pub required_bytes: Option<Limit>,
    /// What libvirt sets by itself; none where it sets nothing.
    pub libvirt_bytes: Option<Limit>,
    /// Whether the limit has to be raised.
    pub raise: bool,
    /// Whether the limit concerns this program: the guest has a vIOMMU or a request. Else it is libvirt's alone.
    #[serde(skip)]
    pub managed: bool,
}

impl Memlock {
    /// The limit that has to be set; none where libvirt's own is high enough, or the limit does not concern this program.
    #[must_use]
    pub fn to_set(&self) -> Option<Limit> {
        self.required_bytes.filter(|_| self.raise)
    }
}

/// Whether the guest has something, and whether libvirt knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// The guest does not have it.
    Absent,
    /// The guest has it behind libvirt's back.
    Hidden,
    /// The guest has it, and libvirt knows.
    Known,
}

/// What the guest will be, as far as the limit depends on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// A vIOMMU.
    pub(super) viommu: Presence,
    /// All of its memory locked.
    pub(super) locked: Presence,
}

/// Computes the locked-memory part of a plan.
pub(super) fn memlock(domain: &Domain, shape: Shape, managed: bool, host: &Host) -> Memlock {
    let address_spaces = address_spaces(domain, shape.viommu != Presence::Absent, host);
    let required = required(domain, shape, &address_spaces);
    let libvirt = libvirt_limit(domain, shape, host.libvirt);
    Memlock {
        nvme_disks: domain.nvme_disks.len().try_into().unwrap_or(u32::MAX),
        vdpa_devices: vdpa(domain),
        required_bytes: required,
        libvirt_bytes: libvirt,
        raise: managed && required > libvirt,
        managed,
        address_spaces,
    }
}

/// Guest memory that a container accounts, bytes: everything that can be plugged counts, because a memory hot-plug that
/// exceeds the limit kills the guest (QEMU: "vfio: DMA mapping failed, unable to continue").
#[must_use]
pub fn accounted_memory(domain: &Domain) -> u64 {
    domain.memory.total.max(domain.memory.maximum.unwrap_or(0))
}

fn required(domain: &Domain, shape: Shape, address_spaces: &[AddressSpace]) -> Option<Limit> {
    if let Some(limit) = domain.memory.hard_limit {
        return Some(Limit::Bytes(limit));
    }
    if shape.locked != Presence::Absent {
        return Some(Limit::Unlimited);
    }
    if is_pseries(domain) {
        // No vIOMMU of ours; libvirt's own formula is the need.
        return Some(pseries_limit(domain));
    }
    needed_bytes(domain, address_spaces.len()).map(Limit::Bytes)
}

/// `(address spaces + NVMe disks + vDPA devices) × memory + 1 GiB`; none where there is nothing to lock.
#[must_use]
pub fn needed_bytes(domain: &Domain, address_spaces: usize) -> Option<u64> {
    let containers = address_spaces as u64 + domain.nvme_disks.len() as u64 + u64::from(vdpa(domain));
    (containers > 0).then(|| containers.saturating_mul(accounted_memory(domain)).saturating_add(GIB))
}

fn vdpa(domain: &Domain) -> u32 {
    domain.vdpa_interfaces.saturating_add(domain.vdpa_disks)
}

/// Without a vIOMMU all devices are in the one address space of system memory.
fn address_spaces(domain: &Domain, viommu: bool, host: &Host) -> Vec<AddressSpace> {
    let mut index: BTreeMap<Requester, usize> = BTreeMap::new();
    let mut spaces: Vec<AddressSpace> = Vec::new();
    for device in &domain.vfio {
        let key = if viommu { address_space_of(device) } else { Some(Requester::Bypass) };
        let position = match key {
            // No address yet: libvirt will give the device a root port, hence an address space, of its own.
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

/// The requester that decides a device's address space under a vIOMMU; none where it is not assigned yet.
pub(super) fn address_space_of(device: &VfioDevice) -> Option<Requester> {
    match &device.requester {
        Requester::Unassigned => None,
        Requester::Bypass | Requester::None => Some(Requester::Bypass),
        requester => Some(requester.clone()),
    }
}

/// The host IOMMU group of a device, where it is known.
pub(super) fn group_of(device: &VfioDevice, host: &Host) -> Option<u32> {
    match &device.source {
        VfioSource::Pci(address) => host.iommu_groups.get(address).copied(),
        VfioSource::Mdev(_) => None,
    }
}

/// What libvirt of the host's version sets by itself (`qemuDomainGetMemLockLimitBytes`). A version that is not known counts
/// as a new one.
fn libvirt_limit(domain: &Domain, shape: Shape, libvirt: Option<Version>) -> Option<Limit> {
    if let Some(limit) = domain.memory.hard_limit {
        return Some(Limit::Bytes(limit));
    }
    if shape.locked == Presence::Known {
        return Some(Limit::Unlimited);
    }
    if is_pseries(domain) {
        return Some(pseries_limit(domain));
    }
    let since = |major, minor| libvirt.is_none_or(|version| version >= Version::new(major, minor));
    let nvme = domain.nvme_disks.len() as u64;
    // libvirt counts a <hostdev> even where its address says that the guest does not get it.
    let seen = domain.vfio.iter().filter(|device| !device.hidden).count();
    let vfio = seen as u64 + u64::from(domain.unassigned);
    let vdpa_disks = if since(9, 3) { u64::from(domain.vdpa_disks) } else { 0 };
    let vdpa = if since(7, 2) { u64::from(domain.vdpa_interfaces) + vdpa_disks } else { 0 };
    let multiplied = |devices: u64| if devices > 0 && shape.viommu != Presence::Known { 1 } else { devices };
    let factor = if since(9, 3) {
        vdpa + nvme + multiplied(vfio)
    } else if since(8, 7) {
        // NVMe disks were counted among the VFIO devices.
        vdpa + multiplied(vfio + nvme)
    } else {
        u64::from(vdpa + vfio + nvme > 0)
    };
    (factor > 0).then(|| Limit::Bytes(factor.saturating_mul(domain.memory.total).saturating_add(GIB)))
}

fn is_pseries(domain: &Domain) -> bool {
    domain.virt_type == "kvm" && matches!(domain.arch.as_deref(), Some("ppc64" | "ppc64le"))
}

/// `getPPC64MemLockLimitBytes`, which is explained there at length: page tables, TCE tables, and memory itself for VFIO.
fn pseries_limit(domain: &Domain) -> Limit {
    let roots = u64::from(domain.pci_roots.max(1));
    let memory = domain.memory.total / KIB;
    let maximum = domain.memory.maximum.map_or(memory, |bytes| bytes / KIB);
    let base = maximum / 128 + 4096 * roots + 8192;
    let passthrough = if domain.vfio.is_empty() && domain.nvme_disks.is_empty() && vdpa(domain) == 0 {
        0
    } else {
        (2 * GIB / KIB * roots).max(memory + memory / 512 * roots + 8192)
    };
    Limit::Bytes((base + passthrough).saturating_mul(KIB))
}
