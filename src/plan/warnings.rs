//! What works otherwise than the user may expect.

use crate::domain::{Driver, Iommu, IommufdOpener, Requester, VfioDevice};
use crate::limit::Limit;
use crate::model::Model;
use crate::note::{Code, Note};
use crate::request::RequestedModel;
use crate::text::bytes;
use crate::version::{self, NEWEST_LIBVIRT, NEWEST_QEMU, OLDEST_LIBVIRT, OLDEST_QEMU, Version};

use super::amd::DMA_REMAP;
use super::guest::Guest;
use super::memlock::{self, Presence};
use super::result::Plan;
use super::{Route, purpose, spaces, virtio_devices};

/// What makes a guest boot behind a virtio-iommu.
const INTO_INITRAMFS: &str = "add virtio_iommu to /etc/initramfs-tools/modules in the guest and run update-initramfs -u (dracut: add_drivers+=\" virtio_iommu \" \
     in /etc/dracut.conf.d, and dracut -f), then set virtio-iommu-driver=yes in the request; or use the model intel, on AArch64 smmuv3";

/// The notes about a guest that may start.
pub(super) fn all(guest: &Guest<'_>, plan: &Plan) -> Vec<Note> {
    let mut notes = of_any_guest(guest, plan);
    if plan.iommu.is_some() {
        let of_viommu = [
            virtio_vfio_old_qemu(guest, plan),
            host_page_size(guest, plan),
            windows_without_driver(guest, plan),
            virtio_driver(guest, plan),
            virtio_devices::note(guest),
            purpose::note(guest, plan),
            confidential_guest(guest, plan),
            network_pool(guest, plan),
            spaces::slot_split(guest),
            spaces::group_companions(guest),
            vdpa_bypasses(guest),
            unsafe_interrupts(guest, plan),
            amd_translates_nothing(guest, plan),
            extended_destinations(guest, plan),
            migration_blocked(guest),
            dma_entry_limit(guest),
            device_bars(guest, plan),
            hotplug_memlock(guest, plan),
            memlock_race(plan),
        ];
        notes.extend(of_viommu.into_iter().flatten());
    }
    notes
}

/// The notes that hold also where the request is refused.
pub(super) fn of_any_guest(guest: &Guest<'_>, plan: &Plan) -> Vec<Note> {
    let notes = [
        assumed(guest),
        unsupported_version(guest, plan),
        ignored_request(guest),
        pinned_exceeds_memory(guest, plan),
        hard_limit_too_low(guest, plan),
        iommufd_per_user(guest, plan),
    ];
    notes.into_iter().flatten().collect()
}

fn is(plan: &Plan, model: Model) -> bool {
    plan.iommu.as_ref().is_some_and(|iommu| iommu.model == Some(model))
}

fn assumed(guest: &Guest<'_>) -> Option<Note> {
    let unknown = guest.unknown_versions();
    if unknown.is_empty() || !guest.request.asks() {
        return None;
    }
    if guest.host.cautious {
        let kept = match guest.host.recorded {
            Some(model) if guest.request.model == RequestedModel::Auto => {
                format!("; auto keeps {model}, with which the guest ran")
            }
            _ => String::new(),
        };
        let unknown = unknown.join(" and of ");
        let message = format!("the version of {unknown} is unknown and taken as the less favourable{kept}");
        return Some(Note::warning(Code::HostFactAssumed, message));
    }
    let assumed = |program: &&str| match *program {
        "libvirt" => format!("libvirt {} (--libvirt-version)", guest.libvirt),
        _ => format!("QEMU {} (--qemu-version)", guest.qemu),
    };
    let assumed: Vec<_> = unknown.iter().map(assumed).collect();
    Some(Note::info(Code::HostFactAssumed, format!("unknown and therefore assumed: {}", assumed.join(", "))))
}

/// Versions for which the rules are not tested.
fn unsupported_version(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let supported = [(OLDEST_LIBVIRT, NEWEST_LIBVIRT), (OLDEST_QEMU, NEWEST_QEMU)];
    let versions = guest.versions().into_iter().zip(supported);
    let problems = versions.filter_map(|((program, version), (oldest, newest))| {
        let version = version?;
        let (why, remedy) = version::unsupported(version, oldest, newest)?;
        Some(format!("{program} {version} {why}: {remedy}"))
    });
    let problems = problems.collect::<Vec<_>>().join("; ");
    let concerned = guest.request.asks() || plan.iommu.is_some();
    (concerned && !problems.is_empty()).then(|| Note::warning(Code::VersionUnsupported, problems))
}

/// A request with an error in its namespace or place has no effect, which the user does not expect.
fn ignored_request(guest: &Guest<'_>) -> Option<Note> {
    let ignored = &guest.domain.ignored;
    let message = format!("{} has no effect: correct it", ignored.join(", and "));
    (!ignored.is_empty()).then(|| Note::warning(Code::RequestIgnored, message))
}

fn pinned_exceeds_memory(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let message = memlock::exceeds_host(guest.domain, plan, guest.host)?;
    Some(Note::warning(Code::PinnedExceedsHostMemory, format!("{message}: give the guest less memory")))
}

fn hard_limit_too_low(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let limit = guest.domain.memory.hard_limit?;
    let need = memlock::needed_bytes(guest.domain, plan.memlock.address_spaces.len())?;
    let message = format!(
        "<memtune><hard_limit> is {}, becomes the locked-memory limit, and the guest needs {}: raise it or leave it out",
        bytes(limit),
        bytes(need)
    );
    (limit < need).then(|| Note::warning(Code::HardLimitTooLow, message))
}

fn virtio_vfio_old_qemu(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let virtio = is(plan, Model::Virtio);
    let message = format!(
        "QEMU {} tells the guest neither the host IOMMU's address width nor its reserved ranges: DMA can fail at addresses the host \
         cannot map (9.0 does, and so does the model intel on x86)",
        guest.qemu
    );
    (virtio && guest.has_or_expects_vfio() && guest.qemu < Version::new(9, 0))
        .then(|| Note::warning(Code::VirtioVfioOldQemu, message))
}

/// The guest may map in any unit that the vIOMMU offers, VFIO only in units of the host's page (`virtio_iommu_set_page_size_mask`
/// in QEMU's hw/virtio/virtio-iommu.c).
fn host_page_size(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let pages = guest.host.page_bytes.filter(|bytes| *bytes > 4096)?;
    let virtio = is(plan, Model::Virtio);
    let kib = pages / 1024;
    let hotplug = if guest.qemu < Version::new(9, 0) {
        format!(", and hot-plug no VFIO device, which QEMU {} refuses there (9.0 does not)", guest.qemu)
    } else {
        String::new()
    };
    let message = format!(
        "the host has pages of {kib} KiB, and VFIO maps no smaller ones: give the guest a kernel with pages of {kib} KiB{hotplug}"
    );
    (virtio && guest.has_or_expects_vfio()).then(|| Note::warning(Code::HostPageSize, message))
}

fn windows_without_driver(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let intel = is(plan, Model::Intel);
    (guest.is_windows() && !intel).then(|| {
        Note::warning(
            Code::WindowsWithoutDriver,
            "Windows has a driver for the vIOMMU model intel only: use intel or auto",
        )
    })
}

/// QEMU emulates an IOMMU by reading its tables from guest memory, which is encrypted (hw/i386/intel_iommu.c `vtd_get_pte`,
/// `vtd_irte_get`); a virtio-iommu is told its mappings in requests, which a guest can share. VFIO maps no private memory of a
/// guest_memfd (`memory_get_xlat_addr`: "iommu map to discarded memory").
fn confidential_guest(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let kind = guest.domain.launch_security.as_deref().filter(|kind| matches!(*kind, "sev" | "sev-snp" | "tdx"))?;
    let reason = if is(plan, Model::Virtio) {
        "a virtio-iommu translates for shared memory only"
    } else {
        "QEMU reads the tables of an emulated IOMMU there and cannot decrypt them, so DMA and interrupts behind it fail once the \
         guest switches it on"
    };
    let message = format!(
        "the memory of the guest is encrypted (<launchSecurity type='{kind}'>): {reason}; the \
         encryption protects the memory already: leave the vIOMMU out"
    );
    Some(Note::warning(Code::ConfidentialGuest, message))
}

/// libvirt asks a network for its device after the hook's `prepare`.
fn network_pool(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let (pools, unknown): (Vec<_>, Vec<_>) = (guest.pools(Some(true)).collect(), guest.pools(None).collect());
    let message = if !pools.is_empty() {
        format!(
            "the network {} gives the guest a host PCI function when it starts: the limit of locked memory counts it from then on",
            pools.join(", ")
        )
    } else if !unknown.is_empty() && is(plan, Model::Intel) {
        format!(
            "the network {} is not known here and may give the guest a host PCI function when it starts: caching mode is on for that \
             case, and the limit of locked memory is known only then",
            unknown.join(", ")
        )
    } else {
        return None;
    };
    Some(Note::info(Code::NetworkPool, message))
}

fn virtio_driver(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    if !is(plan, Model::Virtio) || guest.is_windows() {
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

/// QEMU 7.2's vhost-vdpa listens to system memory, whatever the vIOMMU does (hw/virtio/vhost-vdpa.c).
fn vdpa_bypasses(guest: &Guest<'_>) -> Option<Note> {
    let message = format!(
        "vDPA devices of QEMU {} bypass the vIOMMU: a guest that translates breaks them (8.1 does not)",
        guest.qemu
    );
    (guest.domain.vdpa() > 0 && guest.qemu < Version::new(8, 1))
        .then(|| Note::warning(Code::VdpaBypassesIommu, message))
}

fn unsafe_interrupts(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    if !guest.has_vfio() {
        return None;
    }
    if guest.host.allow_unsafe_interrupts == Some(true) {
        let message =
            "the host's vfio_iommu_type1.allow_unsafe_interrupts is on: a guest can send any interrupt to the host";
        return Some(Note::warning(Code::UnsafeInterrupts, message));
    }
    (is(plan, Model::Virtio) && !guest.is_arm()).then(|| {
        let message =
            "virtio-iommu does not remap interrupts: VFIO inside the guest needs allow_unsafe_interrupts there";
        Note::info(Code::UnsafeInterrupts, message)
    })
}

/// QEMU's amd-iommu translates for no device without dma-remap, which libvirt does not write.
fn amd_translates_nothing(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let by_wrapper = plan.qemu.adds_iommu() && plan.route == Route::Wrapper;
    let written = guest.hidden.as_ref().is_some_and(|hidden| hidden.is_on("dma-remap"));
    let message = format!(
        "libvirt does not write dma-remap, without which QEMU {} translates nothing behind the vIOMMU of AMD: an emulated device does \
         not work in a guest that translates; use the model intel, or the wrapper with the model amd and without an <iommu>, or boot \
         the guest with iommu=pt",
        guest.qemu
    );
    let nothing = is(plan, Model::Amd) && guest.qemu >= DMA_REMAP && !by_wrapper && !written;
    (nothing && !guest.has_or_expects_vfio()).then(|| Note::warning(Code::AmdWithoutDmaRemap, message))
}

/// Linux uses the extended destination ids of KVM from 5.11 on (arch/x86/kernel/kvm.c, `kvm_msi_ext_dest_id`).
fn extended_destinations(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let message = format!(
        "virtio-iommu does not remap interrupts, so a device reaches the vCPUs with an APIC id above 254 (up to {}) only with KVM's \
         extended destination ids, which Linux has from 5.11 on: for another guest use the model intel",
        guest.domain.vcpus.highest_apic_id()
    );
    let relies = is(plan, Model::Virtio) && !guest.is_arm() && guest.needs_eim();
    relies.then(|| Note::warning(Code::VcpusNeedEim, message))
}

fn migration_blocked(guest: &Guest<'_>) -> Option<Note> {
    if guest.domain.iommus.iter().any(Iommu::is_accelerated) {
        let message = "a guest with an accelerated SMMUv3 cannot be saved or migrated (QEMU: \"Migration not supported with SMMUv3 \
                       accelerator mode enabled\")";
        return Some(Note::warning(Code::MigrationBlocked, message));
    }
    let message = "a guest with VFIO devices behind a vIOMMU cannot be saved or migrated before QEMU 11.0";
    (guest.has_vfio() && guest.qemu < Version::new(11, 0)).then(|| Note::warning(Code::MigrationBlocked, message))
}

fn dma_entry_limit(guest: &Guest<'_>) -> Option<Note> {
    // An iommufd has no such limit.
    let container = |device: &VfioDevice| device.requester != Requester::Bypass && !device.iommufd;
    let message = "each VFIO container holds 65535 mappings (vfio_iommu_type1.dma_entry_limit): a guest that maps many small \
                   buffers needs huge pages or a higher limit";
    guest.domain.vfio.iter().any(container).then(|| Note::info(Code::DmaEntryLimit, message))
}

/// libvirt sets `IOMMU_OPTION_RLIMIT_MODE` on the iommufd that it opens (`virIOMMUFDOpenDevice`); without it the kernel counts for
/// the user (include/uapi/linux/iommufd.h).
fn iommufd_per_user(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
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
fn device_bars(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    const INCLUDED: u64 = 1 << 30;
    let spaces = plan.memlock.address_spaces.len() as u64;
    let bars = guest.host.bars.values().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
    let counted = bars.saturating_mul(spaces);
    let Some(Limit::Bytes(required)) = plan.memlock.required_bytes else { return None };
    (counted > INCLUDED && guest.domain.memory.hard_limit.is_none()).then(|| {
        let limit = required.saturating_sub(INCLUDED).saturating_add(counted);
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

fn memlock_race(plan: &Plan) -> Option<Note> {
    let message = "the locked-memory limit is raised after QEMU is executed and before it maps memory, a race that is normally won: \
                   for certainty set the wrapper as the emulator, or set <memtune><hard_limit>";
    (plan.memlock.raise && plan.route == Route::Native).then(|| Note::info(Code::MemlockRace, message))
}
