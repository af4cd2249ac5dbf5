//! How much memory a guest's QEMU has to lock, and how much libvirt lets it.
//!
//! QEMU opens one VFIO container for each guest address space that has a VFIO device, and the kernel accounts all of guest
//! memory again for each of them (QEMU hw/vfio/container.c `vfio_container_connect`, kernel `vfio_pin_pages_remote`).

use serde::Serialize;

use crate::domain::{Domain, IommufdOpener};
use crate::host::Host;
use crate::limit::Limit;
use crate::note::{Code, Note};
use crate::text::bytes;
use crate::version::{NEWEST_LIBVIRT, Version};

use super::Route;
use super::guest::Guest;
use super::result::{DomainEdit, Origin, Plan};
use super::spaces::{AddressSpace, address_spaces};

const KIB: u64 = 1024;
const GIB: u64 = 1024 * 1024 * KIB;

/// The locked-memory part of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Memlock {
    /// Guest address spaces with VFIO devices.
    pub address_spaces: Vec<AddressSpace>,
    /// Images of NVMe disks, each with a container of its own.
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
    /// Computes the limit for a guest with this plan.
    pub(super) fn of(guest: &Guest<'_>, plan: &Plan) -> Memlock {
        let (domain, host) = (guest.domain, guest.host);
        let (viommu, locked) = (plan.viommu(), plan.locked(domain));
        let address_spaces = address_spaces(domain, viommu != Presence::Absent, host);
        // Each function to come gets an address space of its own.
        let coming = if viommu == Presence::Absent { 0 } else { guest.request.coming_vfio as usize };
        let devices = needed_bytes(domain, address_spaces.len() + coming).map(Limit::Bytes);
        let required = without_devices(domain, locked != Presence::Absent).or(devices);
        // An unknown version counts as the newest; if the guest starts now, as the oldest, which sets the lowest limit.
        let version = host.libvirt.or((!host.cautious).then_some(NEWEST_LIBVIRT));
        let libvirt = without_devices(domain, locked == Presence::Known)
            .or_else(|| libvirt_limit(domain, viommu == Presence::Known, version));
        let managed = guest.request.asks() || plan.iommu.is_some();
        Memlock {
            nvme_disks: domain.nvme(),
            vdpa_devices: domain.vdpa(),
            required_bytes: required,
            libvirt_bytes: libvirt,
            raise: managed && required > libvirt,
            managed,
            address_spaces,
        }
    }

    /// The limit that has to be set; none where libvirt's own is high enough, or the limit does not concern this program.
    #[must_use]
    pub fn to_set(&self) -> Option<Limit> {
        self.required_bytes.filter(|_| self.raise)
    }
}

/// Whether the guest has something, and whether libvirt counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// The guest does not have it.
    Absent,
    /// The guest has it, and libvirt does not know.
    Hidden,
    /// The guest has it, and libvirt knows.
    Known,
}

impl Plan {
    pub(super) fn viommu(&self) -> Presence {
        match self.iommu.as_ref().map(|iommu| iommu.origin) {
            Some(Origin::Existing | Origin::Completed) => Presence::Known,
            Some(Origin::Added) if self.route == Route::Native => Presence::Known,
            Some(Origin::Added | Origin::Commandline) => Presence::Hidden,
            None => Presence::Absent,
        }
    }

    pub(super) fn locked(&self, domain: &Domain) -> Presence {
        let added = self.changes.iter().any(|change| change.edit == DomainEdit::LockMemory);
        if domain.memory.locked || added && self.route == Route::Native {
            Presence::Known
        } else if self.qemu.lock_memory {
            Presence::Hidden
        } else {
            Presence::Absent
        }
    }
}

/// The guest's memory, bytes: everything that can be plugged counts, because a memory hot-plug that exceeds the limit kills the
/// guest (QEMU: "vfio: DMA mapping failed, unable to continue").
pub(super) fn guest_memory(domain: &Domain) -> u64 {
    domain.memory.total.max(domain.memory.maximum.unwrap_or(0))
}

/// What a container accounts, bytes: the guest's memory, and that of devices which QEMU maps beside it.
#[must_use]
pub fn accounted_memory(domain: &Domain) -> u64 {
    guest_memory(domain).saturating_add(domain.device_memory.extra)
}

/// Refuses a `<hard_limit>` below what the containers account before any memory is plugged in, because it becomes the
/// locked-memory limit. One that is too low for memory to be plugged in is a warning.
pub(super) fn hard_limit_holds(guest: &Guest<'_>, plan: &Plan) -> Result<(), Note> {
    let (domain, spaces) = (guest.domain, plan.memlock.address_spaces.len());
    let there = domain.memory.total.saturating_add(domain.device_memory.extra);
    let pinned = containers(domain, spaces).saturating_mul(there);
    let Some(limit) = domain.memory.hard_limit.filter(|&limit| limit < pinned && guest.request.asks()) else {
        return Ok(());
    };
    let message = format!(
        "<memtune><hard_limit> is {limit} bytes and becomes the locked-memory limit, and QEMU pins {pinned}: set {} or remove it \
         (QEMU: \"vfio_container_dma_map(...) = -12 (Cannot allocate memory)\")",
        needed_bytes(domain, spaces).unwrap_or(pinned)
    );
    Err(Note::error(Code::HardLimitTooLow, message))
}

/// What is wrong with a host that has less memory than the guest pins. Pinned memory cannot be overcommitted; every container
/// pins the same pages, so guest memory counts once.
pub(super) fn exceeds_host(domain: &Domain, plan: &Plan, host: &Host) -> Option<String> {
    let (memory, own) = (domain.memory.total, host.memory_bytes?);
    let locks = plan.locked(domain) != Presence::Absent;
    let pinned = locks || needed_bytes(domain, plan.memlock.address_spaces.len()).is_some();
    let message = || format!("all of the guest's {} are pinned, and the host has {}", bytes(memory), bytes(own));
    (pinned && memory > own).then(message)
}

/// The limit where the number of devices does not decide it. A pseries guest has no vIOMMU, so libvirt's own formula is the
/// need.
fn without_devices(domain: &Domain, locked: bool) -> Option<Limit> {
    match domain.memory.hard_limit {
        Some(limit) => Some(Limit::Bytes(limit)),
        None if locked => Some(Limit::Unlimited),
        None => is_pseries(domain).then(|| pseries_limit(domain)),
    }
}

/// `containers × memory + 1 GiB`, where containers are address spaces, NVMe images and vDPA devices; none where there is nothing to
/// lock. The 1 GiB is more where firmware and displays need more.
#[must_use]
pub fn needed_bytes(domain: &Domain, address_spaces: usize) -> Option<u64> {
    let containers = containers(domain, address_spaces);
    let reserve = GIB.max(usual_of_all(domain, address_spaces));
    (containers > 0).then(|| containers.saturating_mul(accounted_memory(domain)).saturating_add(reserve))
}

/// What a container accounts for firmware, option ROMs and displays of QEMU's default size, bytes.
fn usual_memory(domain: &Domain) -> u64 {
    const FIRMWARE: u64 = 8 << 20;
    domain.device_memory.usual.saturating_add(FIRMWARE)
}

/// The same for all containers.
fn usual_of_all(domain: &Domain, address_spaces: usize) -> u64 {
    containers(domain, address_spaces).saturating_mul(usual_memory(domain))
}

/// What each container accounts for firmware and displays, bytes, where that of all exceeds the 1 GiB for it.
#[must_use]
pub fn beyond_reserve(domain: &Domain, address_spaces: usize) -> Option<u64> {
    (usual_of_all(domain, address_spaces) > GIB).then(|| usual_memory(domain))
}

fn containers(domain: &Domain, address_spaces: usize) -> u64 {
    address_spaces as u64 + u64::from(domain.nvme()) + u64::from(domain.vdpa())
}

/// What libvirt sets for the devices (`qemuDomainGetMemLockLimitBytes`); without a version it is the oldest.
fn libvirt_limit(domain: &Domain, knows_viommu: bool, libvirt: Option<Version>) -> Option<Limit> {
    let since = |major, minor| libvirt.is_some_and(|version| version >= Version::new(major, minor));
    let nvme = u64::from(domain.nvme_disks);
    // libvirt counts a <hostdev> even where its address says that the guest does not get it.
    let seen = domain.vfio.iter().filter(|device| !device.hidden).count();
    let vfio = seen as u64 + u64::from(domain.unassigned);
    let vdpa_disks = if since(9, 3) { u64::from(domain.vdpa_images) } else { 0 };
    let vdpa = if since(7, 2) { u64::from(domain.vdpa_interfaces) + vdpa_disks } else { 0 };
    let multiplied = |devices: u64| if devices > 0 && !knows_viommu { 1 } else { devices };
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
    domain.uses_kvm() && matches!(domain.arch.as_deref(), Some("ppc64" | "ppc64le"))
}

/// `getPPC64MemLockLimitBytes`, explained there: page tables, TCE tables, and memory itself for VFIO.
fn pseries_limit(domain: &Domain) -> Limit {
    let roots = u64::from(domain.pci_roots.max(1));
    let memory = domain.memory.total / KIB;
    let maximum = domain.memory.maximum.map_or(memory, |bytes| bytes / KIB);
    let base = maximum / 128 + 4096 * roots + 8192;
    let passthrough =
        if domain.vfio.is_empty() && domain.nvme_disks == 0 && domain.vdpa_interfaces + domain.vdpa_images == 0 {
            0
        } else {
            (2 * GIB / KIB * roots).max(memory + memory / 512 * roots + 8192)
        };
    Limit::Bytes((base + passthrough).saturating_mul(KIB))
}

pub(super) fn pinned_exceeds_host(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let message = exceeds_host(guest.domain, plan, guest.host)?;
    Some(Note::warning(Code::PinnedExceedsHostMemory, format!("{message}: give the guest less memory")))
}

pub(super) fn hard_limit_too_low(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let limit = guest.domain.memory.hard_limit?;
    let need = needed_bytes(guest.domain, plan.memlock.address_spaces.len())?;
    let message = format!(
        "<memtune><hard_limit> is {}, becomes the locked-memory limit, and the guest needs {}: raise it or leave it out",
        bytes(limit),
        bytes(need)
    );
    (limit < need).then(|| Note::warning(Code::HardLimitTooLow, message))
}

/// libvirt sets `IOMMU_OPTION_RLIMIT_MODE` on the iommufd that it opens (`virIOMMUFDOpenDevice`); without it the kernel counts for
/// the user (include/uapi/linux/iommufd.h).
pub(super) fn iommufd_per_user(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let need = plan.memlock.required_bytes?;
    let (who, remedy) = match guest.domain.iommufd_opener.as_ref()? {
        IommufdOpener::Qemu => ("QEMU opens /dev/iommu itself (-object iommufd)", "use <driver iommufd='yes'/>"),
        IommufdOpener::Manager => {
            ("the domain's manager opens /dev/iommu (fdgroup)", "let the manager set IOMMU_OPTION_RLIMIT_MODE")
        }
    };
    let message = format!(
        "{who}, and the kernel then counts the locked memory of all guests of QEMU's user together against the limit of each, {need:#} \
         for this guest: {remedy}, or give every such guest a <memtune><hard_limit> of the sum"
    );
    Some(Note::warning(Code::IommufdPerUser, message))
}

/// Linux does not charge the BARs of a device, which each address space maps, but kernels of NVIDIA's do. What fits into the
/// 1 GiB for device memory gets no note.
pub(super) fn device_bars(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let (domain, spaces) = (guest.domain, plan.memlock.address_spaces.len());
    let bars = guest.host.bars.values().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
    let counted = bars.saturating_mul(spaces as u64);
    let Some(Limit::Bytes(required)) = plan.memlock.required_bytes else { return None };
    (counted > GIB && domain.memory.hard_limit.is_none()).then(|| {
        let usual = usual_of_all(domain, spaces);
        let limit = required.saturating_sub(usual.max(GIB)).saturating_add(usual).saturating_add(counted);
        let message = format!(
            "the passed-through devices have {} of memory BARs: where the host's kernel counts them (NVIDIA's kernels), QEMU reports \
             'Cannot allocate memory' unless <memtune><hard_limit> is {} or more",
            bytes(bars),
            bytes(limit),
        );
        Note::info(Code::DeviceBars, message)
    })
}

/// libvirt raises the limit at a hot-plug only where it knows the vIOMMU and counts it.
pub(super) fn hotplug(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    if !guest.request.hotplug
        || guest.domain.memory.hard_limit.is_some()
        || plan.memlock.required_bytes == Some(Limit::Unlimited)
    {
        return None;
    }
    if guest.libvirt < Version::new(7, 2) {
        let message = format!(
            "libvirt {} lowers the locked-memory limit again when a VFIO device is hot-plugged: set <memtune><hard_limit> for all \
             devices to come",
            guest.libvirt
        );
        return Some(Note::warning(Code::HotplugMemlock, message));
    }
    let follows = plan.viommu() == Presence::Known && guest.libvirt >= Version::new(8, 7);
    // The limit of a start counts what Nova plugs in after it.
    (!follows && guest.request.coming_vfio == 0).then(|| {
        let message = format!(
            "libvirt does not raise the locked-memory limit for a hot-plugged VFIO device of this guest: run 'viommu memlock {} \
             --raise' first",
            plan.domain.shell_name()
        );
        Note::warning(Code::HotplugMemlock, message)
    })
}

pub(super) fn race(plan: &Plan) -> Option<Note> {
    let message = "the locked-memory limit is raised after QEMU is executed and before it maps memory, a race that is normally won: \
                   for certainty set the wrapper as the emulator, or set <memtune><hard_limit>";
    (plan.memlock.raise && plan.route == Route::Native).then(|| Note::info(Code::MemlockRace, message))
}
