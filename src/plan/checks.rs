//! What cannot work, said before QEMU says it late, obscurely or not at all; and what works with a surprise.

use std::collections::BTreeMap;

use crate::note::{Code, Note};
use crate::version::Version;

use super::memlock::{self, Limit};
use super::model::{self, Kind, Machine};
use super::{Guest, Origin, Plan, Route};

/// Refuses a model that this guest cannot have. The order is that of helpfulness: what is wrong with the model itself
/// comes before what is wrong with a device.
pub(super) fn check(guest: &Guest<'_>, machine: Machine, model: Kind) -> Result<(), Note> {
    match model {
        Kind::Virtio => {
            virtio_supported(guest)?;
            virtio_has_acpi(guest)?;
            virtio_has_no_eim(guest, machine)?;
            virtio_has_no_aliases(guest)?;
            only_intel_takes_aw_bits(guest)?;
        }
        Kind::Smmuv3 => {
            smmuv3_supported(guest)?;
            smmuv3_has_no_vfio(guest)?;
            only_intel_takes_aw_bits(guest)?;
        }
        Kind::Intel => intel_supported(guest)?,
        Kind::Foreign => {}
    }
    groups_are_whole(guest)
}

fn virtio_supported(guest: &Guest<'_>) -> Result<(), Note> {
    model::virtio_unsupported(guest).map_or(Ok(()), Err)
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
        "{} vCPUs (highest APIC id {}) need interrupt remapping with eim, which virtio-iommu does not have: use intel or auto \
         (libvirt: \"more than 255 vCPUs require extended interrupt mode enabled on the iommu device\")",
        guest.domain.vcpus.maximum,
        guest.domain.vcpus.highest_apic_id()
    );
    Err(Note::error(Code::VcpusNeedEim, message))
}

fn virtio_has_no_aliases(guest: &Guest<'_>) -> Result<(), Note> {
    let Some((first, second)) = model::aliased(guest) else { return Ok(()) };
    let message = format!(
        "{first} and {second} share a conventional PCI bridge: give each a pcie-root-port, or use intel (QEMU: \"virtio-iommu \
         does not support aliased BDF\")"
    );
    Err(Note::error(Code::VirtioAliasedDevices, message))
}

fn only_intel_takes_aw_bits(guest: &Guest<'_>) -> Result<(), Note> {
    match guest.request.aw_bits {
        Some(bits) => {
            let message = format!(
                "aw-bits={bits} is asked for, and only the model intel takes an address width: use intel or auto"
            );
            Err(Note::error(Code::RequestConflict, message))
        }
        None => Ok(()),
    }
}

fn smmuv3_supported(guest: &Guest<'_>) -> Result<(), Note> {
    if guest.emulator_has("machine.virt.iommu") == Some(false) {
        let message = format!("QEMU {} has no SMMUv3 that libvirt accepts", guest.qemu);
        return Err(Note::error(Code::ModelUnsupportedByQemu, message));
    }
    Ok(())
}

/// No QEMU before 11.0 gives SMMUv3 a MAP notifier, and 11.0 only with iommufd and accel=on, which the user then writes.
fn smmuv3_has_no_vfio(guest: &Guest<'_>) -> Result<(), Note> {
    let accelerated = guest.domain.iommus.iter().any(|iommu| iommu.driver("accel") == Some("on"));
    if accelerated || !model::has_or_expects_vfio(guest) {
        return Ok(());
    }
    let message = "SMMUv3 cannot serve a VFIO device: use virtio or auto (QEMU: \"requires iommu MAP notifier which is not \
                   currently supported\")";
    Err(Note::error(Code::Smmuv3WithVfio, message))
}

fn intel_supported(guest: &Guest<'_>) -> Result<(), Note> {
    if guest.emulator_has("intel-iommu") == Some(false) {
        let message = format!("QEMU {} has no intel-iommu", guest.qemu);
        return Err(Note::error(Code::ModelUnsupportedByQemu, message));
    }
    Ok(())
}

/// All devices of one host IOMMU group must share one guest address space (hw/vfio/container.c).
fn groups_are_whole(guest: &Guest<'_>) -> Result<(), Note> {
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
                     ids: put both behind one pcie-to-pci-bridge (model intel), or leave one out (QEMU: \"group {group} used in \
                     multiple address spaces\")",
                    device.source.name()
                );
                return Err(Note::error(Code::IommuGroupSplit, message));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

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
    let memory = memlock::accounted_memory(guest.domain);
    let pinned = !plan.memlock.address_spaces.is_empty() || guest.domain.memory.locked || guest.request.locked_memory;
    let message = format!("all of the guest's {memory} bytes are pinned, and the host has {host}");
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

fn windows_without_driver(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let intel = plan.iommu.as_ref().is_some_and(|iommu| iommu.model.starts_with("intel"));
    (guest.domain.windows && !intel).then(|| {
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
    if guest.domain.vfio.is_empty() {
        return None;
    }
    if guest.host.allow_unsafe_interrupts == Some(true) {
        let message =
            "the host's vfio_iommu_type1.allow_unsafe_interrupts is on: a guest can send any interrupt to the host";
        return Some(Note::warning(Code::UnsafeInterrupts, message));
    }
    let virtio = plan.iommu.as_ref().is_some_and(|iommu| iommu.model.starts_with("virtio"));
    let x86 = guest.domain.arch.as_deref() != Some("aarch64");
    (virtio && x86).then(|| {
        let message =
            "virtio-iommu does not remap interrupts: VFIO inside the guest needs allow_unsafe_interrupts there";
        Note::info(Code::UnsafeInterrupts, message)
    })
}

fn migration_blocked(guest: &Guest<'_>) -> Option<Note> {
    let message = "a guest with VFIO devices behind a vIOMMU cannot be saved or migrated before QEMU 11.0";
    (!guest.domain.vfio.is_empty() && guest.qemu < Version::new(11, 0))
        .then(|| Note::warning(Code::MigrationBlocked, message))
}

fn dma_entry_limit(guest: &Guest<'_>) -> Option<Note> {
    let message = "each VFIO container holds 65535 mappings (vfio_iommu_type1.dma_entry_limit): a guest that maps many small \
                   buffers needs huge pages or a higher limit";
    (!guest.domain.vfio.is_empty()).then(|| Note::info(Code::DmaEntryLimit, message))
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
    let known =
        plan.route == Route::Native && !plan.iommu.as_ref().is_some_and(|iommu| iommu.origin == Origin::Commandline);
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
