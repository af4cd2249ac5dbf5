//! What works otherwise than the user may expect.

use crate::domain::{Iommu, Requester, VfioDevice};
use crate::model::Model;
use crate::note::{Code, Note};
use crate::request::RequestedModel;
use crate::version::{self, NEWEST_LIBVIRT, NEWEST_QEMU, OLDEST_LIBVIRT, OLDEST_QEMU, Version};

use super::guest::Guest;
use super::result::Plan;
use super::{amd, memlock, purpose, spaces, vcpus, virtio, virtio_devices};

/// The notes about a guest that may start.
pub(super) fn all(guest: &Guest<'_>, plan: &Plan) -> Vec<Note> {
    let mut notes = of_any_guest(guest, plan);
    if plan.iommu.is_some() {
        let of = |model, note: fn(&Guest<'_>) -> Option<Note>| is(plan, model).then(|| note(guest)).flatten();
        let of_viommu = [
            of(Model::Virtio, virtio::old_qemu),
            of(Model::Virtio, virtio::host_page_size),
            windows_without_driver(guest, plan),
            of(Model::Virtio, virtio::driver),
            virtio_devices::note(guest),
            purpose::note(guest, plan),
            confidential_guest(guest, plan),
            network_pool(guest, plan),
            spaces::slot_split(guest),
            spaces::group_companions(guest),
            vdpa_bypasses(guest),
            unsafe_interrupts(guest, plan),
            of(Model::Amd, amd::translates_nothing),
            of(Model::Virtio, vcpus::extended_destinations),
            migration_blocked(guest),
            dma_entry_limit(guest),
            memlock::device_bars(guest, plan),
            memlock::hotplug(guest, plan),
            memlock::race(plan),
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
        memlock::pinned_exceeds_host(guest, plan),
        memlock::hard_limit_too_low(guest, plan),
        memlock::iommufd_per_user(guest, plan),
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

fn windows_without_driver(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let message = "Windows has a driver for the vIOMMU model intel only: use intel or auto";
    (guest.is_windows() && !is(plan, Model::Intel)).then(|| Note::warning(Code::WindowsWithoutDriver, message))
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
    let (pools, unknown): (Vec<_>, Vec<_>) = (guest.pools().collect(), guest.unknown_networks().collect());
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
