//! Notes that refuse nothing.

use super::*;

#[track_caller]
fn warns(case: &Case, code: Code, words: &str) {
    let (level, message) = case.note(code).unwrap_or_else(|| panic!("no {code}"));
    assert_eq!(level, Level::Warning);
    assert!(message.contains(words), "{message}");
}

#[track_caller]
fn remarks(case: &Case, code: Code, words: &str) {
    let (level, message) = case.note(code).unwrap_or_else(|| panic!("no {code}"));
    assert_eq!(level, Level::Info);
    assert!(message.contains(words), "{message}");
}

#[track_caller]
fn says_nothing(case: &Case, code: Code) {
    assert_eq!(case.note(code), None);
}

#[test]
fn what_is_assumed_is_said() {
    let code = Code::HostFactAssumed;
    let mut case = q35().asks("intel");
    says_nothing(&case, code);
    case.host = Host::default();
    remarks(&case, code, "libvirt 12.8.0 (--libvirt-version), QEMU 11.1.0 (--qemu-version)");
    case.request = Request::default();
    says_nothing(&case, code);
    let mut locked = q35().locks().child("<memoryBacking><locked/></memoryBacking>");
    locked.host.libvirt = None;
    remarks(&locked, code, "libvirt");
    assert!(!locked.note(code).unwrap().1.contains("QEMU"));
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
        warns(&on(pages, arm().vfio(1).asks("auto")), code, &kib);
        warns(&on(pages, arm().hotplug().asks("virtio")), code, &kib);
        warns(&on(pages, arm().device("<iommu model='virtio'/>").vfio(1)), code, &kib);
        says_nothing(&on(pages, arm().asks("virtio")), code);
        says_nothing(&on(pages, arm().vfio(1)), code);
    }
    says_nothing(&on(4096, arm().vfio(1).asks("auto")), code);
    says_nothing(&arm().vfio(1).asks("auto"), code);
    warns(&on(65536, arm().vfio(1).asks("auto").qemu("8.2.9")), code, "hot-plug no VFIO device");
    assert!(!on(65536, arm().vfio(1).asks("auto").qemu("9.0.0")).note(code).unwrap().1.contains("hot-plug"));
}

#[test]
fn pinned_memory_must_be_there() {
    const MEMORY: u64 = 384 << 20;
    let code = Code::PinnedExceedsHostMemory;
    let nvme = "<disk type='nvme'><source><address domain='0' bus='1' slot='0' function='0'/></source></disk>";
    for case in [
        q35().vfio(1),
        q35().vfio(1).vfio(2).asks("intel"),
        q35().device(nvme),
        q35().device("<interface type='vdpa'/>"),
        q35().child("<memoryBacking><locked/></memoryBacking>"),
        q35().locks(),
    ] {
        warns(&case.clone().host_memory(MEMORY - 1), code, "384 MiB");
        says_nothing(&case.clone().host_memory(MEMORY), code);
        says_nothing(&case, code);
    }
    says_nothing(&q35().asks("intel").host_memory(1), code);
    let pluggable = q35().vfio(1).child("<maxMemory slots='1' unit='TiB'>1</maxMemory>").host_memory(MEMORY);
    says_nothing(&pluggable, code);
}

#[test]
fn a_hard_limit_must_hold_what_is_locked() {
    let code = Code::HardLimitTooLow;
    // Two devices behind a vIOMMU: measured, 2 × 384 MiB + 1 GiB.
    let limit = |kib: u64| {
        q35().vfio(1).vfio(2).asks("intel").child(&format!("<memtune><hard_limit>{kib}</hard_limit></memtune>"))
    };
    warns(&limit(1_879_048_192 / 1024 - 1), code, "needs 1.8 GiB");
    says_nothing(&limit(1_879_048_192 / 1024), code);
    says_nothing(&q35().asks("intel").child("<memtune><hard_limit>1</hard_limit></memtune>"), code);
}

#[test]
fn virtio_and_vfio_want_qemu_9() {
    let code = Code::VirtioVfioOldQemu;
    warns(&q35().vfio(1).qemu("8.2.9").asks("virtio"), code, "8.2.9");
    warns(&arm().hotplug().qemu("8.2.9").asks("auto"), code, "8.2.9");
    says_nothing(&q35().vfio(1).qemu("9.0.0").asks("virtio"), code);
    says_nothing(&q35().qemu("8.2.9").asks("virtio"), code);
    says_nothing(&q35().vfio(1).qemu("8.2.9").asks("intel"), code);
    warns(&q35().argument("-device", "virtio-iommu-pci").vfio(1).qemu("8.2.9"), code, "8.2.9");
}

#[test]
fn windows_has_no_driver_but_for_intel() {
    let code = Code::WindowsWithoutDriver;
    warns(&q35().windows().asks("virtio"), code, "intel");
    says_nothing(&q35().windows().asks("auto"), code);
    says_nothing(&q35().asks("virtio"), code);
    says_nothing(&q35().windows(), code);
}

#[test]
fn old_vdpa_bypasses_the_viommu() {
    let code = Code::VdpaBypassesIommu;
    for vdpa in ["<interface type='vdpa'/>", "<disk type='vhostvdpa'/>"] {
        warns(&q35().device(vdpa).qemu("8.0.9").asks("intel"), code, "8.0.9");
        says_nothing(&q35().device(vdpa).qemu("8.1.0").asks("intel"), code);
        says_nothing(&q35().device(vdpa).qemu("8.0.9"), code);
    }
    says_nothing(&q35().qemu("8.0.9").asks("intel"), code);
}

#[test]
fn interrupts_that_are_not_isolated() {
    let code = Code::UnsafeInterrupts;
    let allowed = |mut case: Case, allowed| {
        case.host.allow_unsafe_interrupts = Some(allowed);
        case
    };
    warns(&allowed(q35().vfio(1).asks("intel"), true), code, "vfio_iommu_type1");
    says_nothing(&allowed(q35().vfio(1).asks("intel"), false), code);
    says_nothing(&allowed(q35().asks("intel"), true), code);
    remarks(&q35().vfio(1).asks("virtio"), code, "inside the guest");
    says_nothing(&q35().asks("virtio"), code);
    says_nothing(&arm().vfio(1).asks("virtio"), code);
    says_nothing(&arm().os("<loader type='pflash'>/x</loader>").vfio(1).asks("virtio"), code);
}

#[test]
fn vfio_behind_a_viommu_cannot_migrate() {
    let code = Code::MigrationBlocked;
    warns(&q35().vfio(1).qemu("10.2.9").asks("intel"), code, "11.0");
    says_nothing(&q35().vfio(1).qemu("11.0.0").asks("intel"), code);
    says_nothing(&q35().qemu("10.2.9").asks("intel"), code);
    says_nothing(&q35().vfio(1).qemu("10.2.9"), code);
}

#[test]
fn mappings_are_limited() {
    remarks(&q35().vfio(1).asks("intel"), Code::DmaEntryLimit, "65535");
    says_nothing(&q35().asks("intel"), Code::DmaEntryLimit);
    says_nothing(&q35().vfio(1), Code::DmaEntryLimit);
}

#[test]
fn a_hot_plug_needs_a_limit() {
    let code = Code::HotplugMemlock;
    let expects = || q35().hotplug().asks("intel");
    says_nothing(&expects().libvirt("8.7.0"), code);
    warns(&expects().libvirt("8.6.9"), code, "viommu memlock guest --raise");
    warns(&expects().libvirt("7.2.0"), code, "--raise");
    warns(&expects().libvirt("7.1.9"), code, "<memtune><hard_limit>");
    warns(&expects().wrapped(), code, "--raise");
    warns(&q35().hotplug().asks("auto").argument("-device", "intel-iommu"), code, "--raise");
    says_nothing(&expects().wrapped().device("<iommu model='intel'/>"), code);
    says_nothing(&expects().libvirt("7.1.9").child("<memtune><hard_limit>1</hard_limit></memtune>"), code);
    says_nothing(&expects().libvirt("7.1.9").child("<memoryBacking><locked/></memoryBacking>"), code);
    says_nothing(&q35().asks("intel").libvirt("7.1.9"), code);
}

#[test]
fn a_race_is_named() {
    let code = Code::MemlockRace;
    // Four devices, libvirt 7.0: measured, too low.
    let four = || q35().vfio(1).vfio(2).vfio(3).vfio(4).asks("intel");
    remarks(&four().libvirt("8.6.9"), code, "<memtune><hard_limit>");
    says_nothing(&four().libvirt("8.7.0"), code);
    says_nothing(&four().libvirt("8.6.9").wrapped(), code);
}
