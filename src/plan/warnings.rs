//! What works with a surprise: said when the guest is planned, not when somebody stumbles over it.

use crate::limit::Limit;
use crate::note::{Code, Note};
use crate::version::Version;

use super::memlock::{self, Presence};
use super::{Guest, Plan, Route, model};

/// Adds what is worth knowing about a guest that will start.
pub(super) fn warn(guest: &Guest<'_>, plan: &mut Plan) {
    let has_viommu = plan.iommu.is_some();
    let mut notes = Vec::new();
    let mut add = |note: Option<Note>| notes.extend(note);
    if guest.request.asks() {
        add(assumed(guest));
    }
    add(pinned_exceeds_memory(guest, plan));
    add(hard_limit_too_low(guest, plan));
    if has_viommu && plan.refusal().is_none() {
        add(virtio_vfio_old_qemu(guest, plan));
        add(host_page_size(guest, plan));
        add(windows_without_driver(guest, plan));
        add(vdpa_bypasses(guest));
        add(unsafe_interrupts(guest, plan));
        add(migration_blocked(guest));
        add(dma_entry_limit(guest));
        add(hotplug_memlock(guest, plan));
        add(memlock_race(plan));
    }
    plan.notes.extend(notes);
}

fn assumed(guest: &Guest<'_>) -> Option<Note> {
    let mut unknown = Vec::new();
    if guest.host.libvirt.is_none() {
        unknown.push(format!("libvirt {} (--libvirt-version)", guest.libvirt));
    }
    if guest.host.emulator_of(guest.domain).and_then(|emulator| emulator.version).is_none() {
        unknown.push(format!("QEMU {} (--qemu-version)", guest.qemu));
    }
    let message = format!("not known and therefore assumed: {}", unknown.join(", "));
    (!unknown.is_empty()).then(|| Note::info(Code::HostFactAssumed, message))
}

/// The same pages are pinned in every container, so guest memory counts once here.
fn pinned_exceeds_memory(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let host = guest.host.memory_bytes?;
    let memory = guest.domain.memory.total;
    let locks = plan.locked(guest.domain) != Presence::Absent;
    let pinned = locks || memlock::needed_bytes(guest.domain, plan.memlock.address_spaces.len()).is_some();
    let message =
        format!("all of the guest's {memory} bytes are pinned, and the host has {host}: give the guest less memory");
    (pinned && memory > host).then(|| Note::warning(Code::PinnedExceedsHostMemory, message))
}

fn hard_limit_too_low(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let limit = guest.domain.memory.hard_limit?;
    let need = memlock::needed_bytes(guest.domain, plan.memlock.address_spaces.len())?;
    let message = format!(
        "<memtune><hard_limit> is {limit} bytes, becomes the locked-memory limit, and the guest needs {need}: raise it or leave it out"
    );
    (limit < need).then(|| Note::warning(Code::HardLimitTooLow, message))
}

fn virtio_vfio_old_qemu(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let virtio = plan.iommu.as_ref().is_some_and(|iommu| iommu.model.starts_with("virtio"));
    let message = format!(
        "QEMU {} tells the guest neither the host IOMMU's address width nor its reserved ranges: DMA can fail at addresses the host \
         cannot map (9.0 does, and so does the model intel on x86)",
        guest.qemu
    );
    (virtio && model::has_or_expects_vfio(guest) && guest.qemu < Version::new(9, 0))
        .then(|| Note::warning(Code::VirtioVfioOldQemu, message))
}

/// The guest may map in any unit that the vIOMMU offers, and VFIO in none below the host's page (`virtio_iommu_set_page_size_mask`
/// in QEMU's hw/virtio/virtio-iommu.c).
fn host_page_size(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let pages = guest.host.page_bytes.filter(|bytes| *bytes > 4096)?;
    let virtio = plan.iommu.as_ref().is_some_and(|iommu| iommu.model.starts_with("virtio"));
    let kib = pages / 1024;
    let hotplug = if guest.qemu < Version::new(9, 0) {
        format!(", and hot-plug no VFIO device, which QEMU {} refuses there (9.0 does not)", guest.qemu)
    } else {
        String::new()
    };
    let message = format!(
        "the host has pages of {kib} KiB, and VFIO maps nothing smaller: give the guest a kernel with pages of {kib} KiB{hotplug}"
    );
    (virtio && model::has_or_expects_vfio(guest)).then(|| Note::warning(Code::HostPageSize, message))
}

fn windows_without_driver(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let intel = plan.iommu.as_ref().is_some_and(|iommu| iommu.model.starts_with("intel"));
    (guest.is_windows() && !intel).then(|| {
        Note::warning(Code::WindowsWithoutDriver, "Windows has a driver for no vIOMMU but intel: use intel or auto")
    })
}

/// QEMU 7.2's vhost-vdpa listens to system memory, whatever the vIOMMU does (hw/virtio/vhost-vdpa.c).
fn vdpa_bypasses(guest: &Guest<'_>) -> Option<Note> {
    let vdpa = guest.domain.vdpa_interfaces + guest.domain.vdpa_disks > 0;
    let message = format!(
        "vDPA devices of QEMU {} bypass the vIOMMU: a guest that translates breaks them (8.1 does not)",
        guest.qemu
    );
    (vdpa && guest.qemu < Version::new(8, 1)).then(|| Note::warning(Code::VdpaBypassesIommu, message))
}

fn unsafe_interrupts(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    if !model::has_vfio(guest) {
        return None;
    }
    if guest.host.allow_unsafe_interrupts == Some(true) {
        let message =
            "the host's vfio_iommu_type1.allow_unsafe_interrupts is on: a guest can send any interrupt to the host";
        return Some(Note::warning(Code::UnsafeInterrupts, message));
    }
    let virtio = plan.iommu.as_ref().is_some_and(|iommu| iommu.model.starts_with("virtio"));
    let x86 = guest.arch() != "aarch64";
    (virtio && x86).then(|| {
        let message =
            "virtio-iommu does not remap interrupts: VFIO inside the guest needs allow_unsafe_interrupts there";
        Note::info(Code::UnsafeInterrupts, message)
    })
}

fn migration_blocked(guest: &Guest<'_>) -> Option<Note> {
    let message = "a guest with VFIO devices behind a vIOMMU cannot be saved or migrated before QEMU 11.0";
    (model::has_vfio(guest) && guest.qemu < Version::new(11, 0)).then(|| Note::warning(Code::MigrationBlocked, message))
}

fn dma_entry_limit(guest: &Guest<'_>) -> Option<Note> {
    let message = "each VFIO container holds 65535 mappings (vfio_iommu_type1.dma_entry_limit): a guest that maps many small \
                   buffers needs huge pages or a higher limit";
    model::has_vfio(guest).then(|| Note::info(Code::DmaEntryLimit, message))
}

/// libvirt follows a hot-plug by itself only where it knows the vIOMMU and counts it.
fn hotplug_memlock(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
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
    let known = plan.viommu() == Presence::Known;
    (!known || guest.libvirt < Version::new(8, 7)).then(|| {
        let message = "libvirt does not raise the locked-memory limit for a hot-plugged VFIO device of this guest: run `viommu \
                       memlock DOMAIN --raise` first";
        Note::warning(Code::HotplugMemlock, message)
    })
}

fn memlock_race(plan: &Plan) -> Option<Note> {
    let message = "the locked-memory limit is raised after QEMU is executed and before it maps memory, a race that is normally won: \
                   for certainty make the wrapper the emulator, or set <memtune><hard_limit>";
    (plan.memlock.raise && plan.route == Route::Native).then(|| Note::info(Code::MemlockRace, message))
}
