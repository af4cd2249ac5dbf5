//! Notes that are not refusals.

use super::*;

#[track_caller]
fn warns(case: &Case, code: Code, words: &str) {
    let (level, message) = case.note(code).unwrap_or_else(|| panic!("no {code}"));
    assert_eq!(level, Level::Warning);
    assert!(message.contains(words), "{message}");
}

#[track_caller]
fn assert_note(case: &Case, code: Code, words: &str) {
    let (level, message) = case.note(code).unwrap_or_else(|| panic!("no {code}"));
    assert_eq!(level, Level::Info);
    assert!(message.contains(words), "{message}");
}

#[track_caller]
fn assert_no_note(case: &Case, code: Code) {
    assert_eq!(case.note(code), None);
}

#[test]
fn assumed_facts_give_a_note() {
    let code = Code::HostFactAssumed;
    let mut case = q35().requests("intel");
    assert_no_note(&case, code);
    case.host = Host::default();
    assert_note(&case, code, "libvirt 12.9.0 (--libvirt-version), QEMU 11.1.0 (--qemu-version)");
    case.request = Request::default();
    assert_no_note(&case, code);
    let mut locked = q35().locks().child("<memoryBacking><locked/></memoryBacking>");
    locked.host.libvirt = None;
    assert_note(&locked, code, "libvirt");
    assert!(!locked.note(code).unwrap().1.contains("QEMU"));
}

#[test]
fn versions_that_are_not_supported_are_named() {
    let code = Code::VersionUnsupported;
    warns(
        &q35().libvirt("6.9.0").requests("intel"),
        code,
        "libvirt 6.9.0 is older than 7.0.0, the oldest supported version: upgrade",
    );
    warns(&q35().qemu("99.0.0").requests("intel"), code, "QEMU 99.0.0 is newer than");
    assert_no_note(&q35().libvirt("6.9.0"), code);
    assert_no_note(&q35().requests("intel"), code);
}

#[test]
fn large_pages_of_the_host_bind_the_guest() {
    let code = Code::HostPageSize;
    let on = |pages: u64, mut case: Case| {
        case.host.page_bytes = Some(pages);
        case
    };
    for pages in [16384, 65536] {
        let kib = format!("kernel with pages of {} KiB", pages / 1024);
        warns(&on(pages, arm().vfio(1).requests("auto")), code, &kib);
        warns(&on(pages, arm().hotplug().requests("virtio")), code, &kib);
        warns(&on(pages, arm().device("<iommu model='virtio'/>").vfio(1)), code, &kib);
        assert_no_note(&on(pages, arm().requests("virtio")), code);
        assert_no_note(&on(pages, arm().vfio(1)), code);
    }
    assert_no_note(&on(4096, arm().vfio(1).requests("auto")), code);
    assert_no_note(&arm().vfio(1).requests("auto"), code);
    warns(&on(65536, arm().vfio(1).requests("auto").qemu("8.2.9")), code, "hot-plug no VFIO device");
    assert!(!on(65536, arm().vfio(1).requests("auto").qemu("9.0.0")).note(code).unwrap().1.contains("hot-plug"));
}

#[test]
fn pinned_memory_must_fit_into_the_host() {
    const MEMORY: u64 = 384 << 20;
    let code = Code::PinnedExceedsHostMemory;
    let nvme = "<disk type='nvme'><source><address domain='0' bus='1' slot='0' function='0'/></source></disk>";
    for case in [
        q35().vfio(1),
        q35().vfio(1).vfio(2).requests("intel"),
        q35().device(nvme),
        q35().device("<interface type='vdpa'/>"),
        q35().child("<memoryBacking><locked/></memoryBacking>"),
        q35().locks(),
    ] {
        warns(&case.clone().host_memory(MEMORY - 1), code, "384 MiB");
        assert_no_note(&case.clone().host_memory(MEMORY), code);
        assert_no_note(&case, code);
    }
    assert_no_note(&q35().requests("intel").host_memory(1), code);
    let pluggable = q35().vfio(1).child("<maxMemory slots='1' unit='TiB'>1</maxMemory>").host_memory(MEMORY);
    assert_no_note(&pluggable, code);
}

#[test]
fn a_hard_limit_must_hold_what_is_locked() {
    let code = Code::HardLimitTooLow;
    // Two devices behind a vIOMMU: measured, 2 × 384 MiB + 1 GiB.
    let limit = |kib: u64| {
        q35().vfio(1).vfio(2).requests("intel").child(&format!("<memtune><hard_limit>{kib}</hard_limit></memtune>"))
    };
    warns(&limit(1_879_048_192 / 1024 - 1), code, "needs 1.8 GiB");
    assert_no_note(&limit(1_879_048_192 / 1024), code);
    assert_no_note(&q35().requests("intel").child("<memtune><hard_limit>1</hard_limit></memtune>"), code);
}

#[test]
fn virtio_with_vfio_needs_qemu_9() {
    let code = Code::VirtioVfioOldQemu;
    warns(&q35().vfio(1).qemu("8.2.9").requests("virtio"), code, "8.2.9");
    warns(&arm().hotplug().qemu("8.2.9").requests("auto"), code, "8.2.9");
    assert_no_note(&q35().vfio(1).qemu("9.0.0").requests("virtio"), code);
    assert_no_note(&q35().qemu("8.2.9").requests("virtio"), code);
    assert_no_note(&q35().vfio(1).qemu("8.2.9").requests("intel"), code);
    warns(&q35().argument("-device", "virtio-iommu-pci").vfio(1).qemu("8.2.9"), code, "8.2.9");
}

#[test]
fn windows_has_a_driver_for_intel_only() {
    let code = Code::WindowsWithoutDriver;
    warns(&q35().windows().requests("virtio"), code, "intel");
    assert_no_note(&q35().windows().requests("auto"), code);
    assert_no_note(&q35().requests("virtio"), code);
    assert_no_note(&q35().windows(), code);
}

#[test]
fn a_request_in_the_wrong_namespace_or_place_is_noticed() {
    let misplaced = |ignored: &str| {
        let mut domain = q35().domain();
        domain.ignored = vec![ignored.to_owned()];
        plan(&domain, &Request::default(), &q35().host).unwrap().notes
    };
    let notes = misplaced("<iommu> in <features> instead of <devices>");
    let note = notes.iter().find(|note| note.code == Code::RequestIgnored).unwrap();
    assert!(note.message.starts_with("<iommu> in <features>") && note.message.contains(": correct it"), "{note:?}");
    assert_no_note(&q35(), Code::RequestIgnored);
}

#[test]
fn old_vdpa_bypasses_the_viommu() {
    let code = Code::VdpaBypassesIommu;
    for vdpa in ["<interface type='vdpa'/>", "<disk type='vhostvdpa'><source/></disk>"] {
        warns(&q35().device(vdpa).qemu("8.0.9").requests("intel"), code, "8.0.9");
        assert_no_note(&q35().device(vdpa).qemu("8.1.0").requests("intel"), code);
        assert_no_note(&q35().device(vdpa).qemu("8.0.9"), code);
    }
    assert_no_note(&q35().qemu("8.0.9").requests("intel"), code);
}

#[test]
fn interrupts_that_are_not_isolated() {
    let code = Code::UnsafeInterrupts;
    let allowed = |mut case: Case, allowed| {
        case.host.allow_unsafe_interrupts = Some(allowed);
        case
    };
    warns(&allowed(q35().vfio(1).requests("intel"), true), code, "vfio_iommu_type1");
    assert_no_note(&allowed(q35().vfio(1).requests("intel"), false), code);
    assert_no_note(&allowed(q35().requests("intel"), true), code);
    assert_note(&q35().vfio(1).requests("virtio"), code, "inside the guest");
    assert_no_note(&q35().requests("virtio"), code);
    assert_no_note(&arm().vfio(1).requests("virtio"), code);
    assert_no_note(&arm().os("<loader type='pflash'>/x</loader>").vfio(1).requests("virtio"), code);
}

#[test]
fn vfio_behind_a_viommu_cannot_migrate() {
    let code = Code::MigrationBlocked;
    warns(&q35().vfio(1).qemu("10.2.9").requests("intel"), code, "11.0");
    assert_no_note(&q35().vfio(1).qemu("11.0.0").requests("intel"), code);
    assert_no_note(&q35().qemu("10.2.9").requests("intel"), code);
    assert_no_note(&q35().vfio(1).qemu("10.2.9"), code);
}

// Two devices with 16 GiB of BARs in total, each in its own address space: 2 × 16 GiB instead of the 1 GiB that the
// limit includes.
#[test]
fn large_bars_give_a_note_with_the_needed_limit() {
    let with = |first: u64, second: u64| {
        let mut case = q35().vfio(1).vfio(2);
        let names = ["0000:01:00.0", "0000:02:00.0"].map(str::to_owned);
        case.host.bars = names.into_iter().zip([first, second]).collect();
        case
    };
    let (_, message) = with(12 << 30, 4 << 30).requests("intel").note(Code::DeviceBars).unwrap();
    let Some(crate::limit::Limit::Bytes(required)) = with(0, 0).requests("intel").plan().memlock.required_bytes else {
        panic!()
    };
    let limit = crate::text::bytes(required + (31 << 30));
    assert!(message.contains("16 GiB of memory BARs") && message.contains(&format!("is {limit} or more")), "{message}");
    assert_no_note(&with(256 << 20, 256 << 20).requests("intel"), Code::DeviceBars);
    assert_note(&with(512 << 20, 1 << 20).requests("intel"), Code::DeviceBars, "NVIDIA");
    assert_no_note(&with(12 << 30, 4 << 30), Code::DeviceBars);
}

#[test]
fn mappings_are_limited() {
    assert_note(&q35().vfio(1).requests("intel"), Code::DmaEntryLimit, "65535");
    assert_no_note(&q35().requests("intel"), Code::DmaEntryLimit);
    assert_no_note(&q35().vfio(1), Code::DmaEntryLimit);
}

#[test]
fn a_hot_plug_needs_a_limit() {
    let code = Code::HotplugMemlock;
    let expects = || q35().hotplug().requests("intel");
    assert_no_note(&expects().libvirt("8.7.0"), code);
    warns(&expects().libvirt("8.6.9"), code, "viommu memlock guest --raise");
    warns(&expects().libvirt("7.2.0"), code, "--raise");
    warns(&expects().libvirt("7.1.9"), code, "<memtune><hard_limit>");
    warns(&expects().wrapped(), code, "--raise");
    warns(&q35().hotplug().requests("auto").argument("-device", "intel-iommu,caching-mode=on"), code, "--raise");
    assert_no_note(&expects().wrapped().device("<iommu model='intel'/>"), code);
    assert_no_note(&expects().libvirt("7.1.9").child("<memtune><hard_limit>1</hard_limit></memtune>"), code);
    assert_no_note(&expects().libvirt("7.1.9").child("<memoryBacking><locked/></memoryBacking>"), code);
    assert_no_note(&q35().requests("intel").libvirt("7.1.9"), code);
}

#[test]
fn a_possible_memlock_race_gives_a_note() {
    let code = Code::MemlockRace;
    // Four devices, libvirt 7.0: measured, too low.
    let four = || q35().vfio(1).vfio(2).vfio(3).vfio(4).requests("intel");
    assert_note(&four().libvirt("8.6.9"), code, "<memtune><hard_limit>");
    assert_no_note(&four().libvirt("8.7.0"), code);
    assert_no_note(&four().libvirt("8.6.9").wrapped(), code);
}

#[test]
fn a_virtio_iommu_without_its_driver() {
    let code = Code::VirtioDriver;
    let virtio = |id: &str| q35().driver_unknown().system(id).requests("virtio");
    warns(&virtio("debian.org/debian/13"), code, "/etc/initramfs-tools/modules");
    warns(&virtio("debian.org/debian/12"), code, "the guest does not use this vIOMMU");
    warns(&q35().driver_unknown().requests("virtio"), code, "does not find its root disk");
    warns(&q35().driver_unknown().device("<iommu model='virtio'/>"), code, "does not find its root disk");
    assert_no_note(&virtio("ubuntu.com/ubuntu/24.04"), code);
    assert_no_note(&q35().requests("virtio"), code);
    assert_no_note(&virtio("microsoft.com/win/11"), code);
    assert_no_note(&q35().driver_unknown().requests("intel"), code);
}

#[test]
fn functions_of_one_slot_whose_groups_are_not_known() {
    let code = Code::IommuGroupUnknown;
    let function = |case: Case, function: u8| {
        case.device(&format!(
            "<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='1' slot='0' function='{function}'/></source></hostdev>"
        ))
    };
    let card = (0..4).fold(q35().requests("intel"), function);
    let names = "0000:01:00.0, 0000:01:00.1, 0000:01:00.2 and 0000:01:00.3";
    warns(&card, code, names);
    let mut known = card.clone();
    known.host.iommu_groups = (0_u8..4).map(|function| (format!("0000:01:00.{function}"), 17)).collect();
    assert!(known.refused(Code::IommuGroupSplit).starts_with(names));
    assert_no_note(&function(q35().requests("intel"), 0).vfio(2), code);
    assert_no_note(&card.requests("none"), code);
}

#[test]
fn the_rest_of_a_group() {
    let code = Code::GroupCompanions;
    let case = q35().vfio(1).group(1, 11).group(2, 11).group(3, 12);
    assert_note(&case.clone().requests("intel"), code, "not passed through: 0000:02:00.0;");
    assert_no_note(&case.clone(), code);
    assert_no_note(&q35().vfio(1).group(1, 11).group(3, 12).requests("intel"), code);
}

#[test]
fn networks_that_may_be_pools() {
    let code = Code::NetworkPool;
    let on = |is_pool: Option<bool>| {
        let mut case = q35().device("<interface type='network'><source network='vfs'/></interface>");
        case.host.pools.extend(is_pool.map(|is_pool| ("vfs".to_owned(), is_pool)));
        case
    };
    assert_note(&on(None).requests("intel"), code, "vfs is not known here");
    assert!(on(None).requests("intel").driver().contains("caching_mode=on"));
    assert_eq!(on(None).requests("intel").plan().memlock.required_bytes, None);
    assert_no_note(&on(None).requests("virtio"), code);
    assert_eq!(on(None).qemu("8.2.9").requests("auto").model(), "virtio", "it chooses no model");
    on(None).device("<iommu model='intel'><driver caching_mode='off'/></iommu>").requests("intel").plan();

    assert_note(&on(Some(true)).requests("virtio"), code, "a host PCI function when it starts");
    assert!(on(Some(true)).requests("intel").driver().contains("caching_mode=on"));
    assert_eq!(on(Some(true)).qemu("8.2.9").requests("auto").model(), "intel");
    let off = on(Some(true)).device("<iommu model='intel'><driver caching_mode='off'/></iommu>");
    off.requests("intel").refused(Code::IommuConflict);

    assert_no_note(&on(Some(false)).requests("intel"), code);
    assert!(!on(Some(false)).requests("intel").driver().contains("caching_mode"));
}

#[test]
fn encrypted_guests() {
    let code = Code::ConfidentialGuest;
    let guest = |kind: &str| q35().child(&format!("<launchSecurity type='{kind}'/>"));
    for kind in ["sev", "sev-snp", "tdx"] {
        warns(&guest(kind).requests("intel"), code, "cannot decrypt them");
        warns(&guest(kind).requests("virtio"), code, "shared memory only");
        assert_no_note(&guest(kind), code);
    }
    assert_no_note(&guest("s390-pv").requests("intel"), code);
}

#[test]
fn functions_that_nova_plugs_in_after_a_resume() {
    let mut case = q35().requests("intel").libvirt("8.0.0").vfio(1);
    case.request.coming_vfio = 2;
    case.request.hotplug = true;
    let required = case.plan().memlock.required_bytes;
    assert_eq!(required, Some(crate::limit::Limit::Bytes(3 * (384 << 20) + (1 << 30))));
    assert!(case.plan().memlock.raise);
    assert_no_note(&case, Code::HotplugMemlock);
    case.request.coming_vfio = 0;
    warns(&case, Code::HotplugMemlock, "memlock");
}
