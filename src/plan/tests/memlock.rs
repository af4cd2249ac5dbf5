//! Locked memory. The numbers are libvirt's own (tests/qemumemlocktest.c), or measured with real libvirts and guests of
//! 384 MiB.

use crate::limit::Limit;

use super::*;

fn limits(case: &Case) -> (Option<Limit>, Option<Limit>, bool) {
    let memlock = case.plan().memlock;
    (memlock.required_bytes, memlock.libvirt_bytes, memlock.raise)
}

#[expect(clippy::unnecessary_wraps, reason = "read beside None and UNLIMITED")]
fn bytes(bytes: u64) -> Option<Limit> {
    Some(Limit::Bytes(bytes))
}

#[track_caller]
fn enough(case: &Case, limit: u64) {
    assert_eq!(limits(case), (bytes(limit), bytes(limit), false));
}

#[track_caller]
fn too_low(case: &Case, required: u64, libvirt: u64) {
    assert_eq!(limits(case), (bytes(required), bytes(libvirt), true));
}

const NVME: &str = "<disk type='nvme'><source><address domain='0' bus='9' slot='0' function='0'/></source></disk>";
const UNLIMITED: Option<Limit> = Some(Limit::Unlimited);

fn devices(case: Case, number: u8) -> Case {
    (1..=number).fold(case, Case::vfio)
}

#[test]
fn libvirts_own_cases() {
    let pc = || q35().memory("<memory unit='KiB'>1048576</memory>");
    let limit = "<memtune><hard_limit unit='KiB'>2097152</hard_limit></memtune>";
    let locked = "<memoryBacking><locked/></memoryBacking>";
    let device = |case: Case| case.vfio_at(1, "");
    let libvirt = |case: Case| limits(&case).1;
    assert_eq!(libvirt(pc()), None);
    assert_eq!(libvirt(pc().kind("qemu")), None);
    assert_eq!(libvirt(device(pc())), bytes(2_147_483_648));
    assert_eq!(libvirt(device(pc()).device(NVME)), bytes(3_221_225_472));
    assert_eq!(libvirt(device(pc()).device(NVME).libvirt("9.2.0")), bytes(2_147_483_648));
    for case in [pc(), pc().child(locked), device(pc()), device(pc()).child(locked)] {
        assert_eq!(libvirt(case.child(limit)), bytes(2_147_483_648));
    }
    assert_eq!(libvirt(pc().child(locked)), UNLIMITED);
    assert_eq!(libvirt(device(pc()).child(locked)), UNLIMITED);

    let pseries = || pc().os("<type arch='ppc64' machine='pseries'>hvm</type>");
    assert_eq!(libvirt(pseries()), bytes(20_971_520));
    assert_eq!(libvirt(pseries().kind("qemu")), None);
    // libvirt adds a separate host bridge for the host device; the guest's XML contains it after the definition.
    let root = |index| format!("<controller type='pci' index='{index}' model='pci-root'/>");
    let passthrough = || device(pseries()).device(&root(0)).device(&root(1));
    assert_eq!(libvirt(passthrough()), bytes(4_320_133_120));
    assert_eq!(libvirt(passthrough().child(limit)), bytes(2_147_483_648));
    assert_eq!(libvirt(passthrough().child(locked)), UNLIMITED);
    assert!(!passthrough().plan().memlock.raise);
    // getPPC64MemLockLimitBytes computed by hand: 8 GiB and two bridges, for which memory itself (d, e) exceeds 2 GiB
    // per bridge (c).
    let large = |more: &str| libvirt(passthrough().memory("<memory unit='GiB'>8</memory>").child(more));
    assert_eq!(large(""), bytes(((65_536 + 8_192 + 8_192) + (8_388_608 + 32_768 + 8_192)) * 1024));
    let pluggable = large("<maxMemory slots='4' unit='GiB'>16</maxMemory>");
    assert_eq!(pluggable, bytes(((131_072 + 8_192 + 8_192) + (8_388_608 + 32_768 + 8_192)) * 1024));
}

/// QEMU opens a container for each image, and libvirt counts neither (block/nvme.c, `qemuDomainGetMemLockLimitBytes`).
#[test]
fn nvme_images_that_libvirt_does_not_count() {
    let store = "<disk type='file'><source file='/a'><dataStore type='nvme'><source/></dataStore></source></disk>";
    let guest = || q35().memory("<memory unit='GiB'>4</memory>").requests("intel");
    let drive = guest().argument("-drive", "file=nvme://0000:44:00.0/1,if=none,id=d0");
    for case in [guest().device(store), drive] {
        assert_eq!(limits(&case), (bytes(5 << 30), None, true));
        assert_eq!(case.plan().memlock.nvme_disks, 1);
    }
}

/// QEMU 7.2 with eight devices of a VFIO that enforces the limit, each behind an intel-iommu, 512 MiB of RAM and a qxl display:
/// it aborts at 5120 MiB and runs with 5122 MiB.
#[test]
fn many_displays_and_firmware_exceed_the_gibibyte() {
    let needed = |number, displays: &str| {
        let case = devices(q35().memory("<memory unit='MiB'>512</memory>"), number).device(displays).requests("intel");
        let Some(Limit::Bytes(required)) = limits(&case).0 else { panic!("a number") };
        required >> 20
    };
    let qxl = "<video><model type='qxl'/></video>";
    assert_eq!(needed(8, qxl), 8 * (512 + 128 + 8));
    assert_eq!(needed(7, qxl), 7 * 512 + 1024);
    assert_eq!(needed(8, "<video><model type='vga'/></video>"), 8 * 512 + 1024);
    assert_eq!(needed(4, &[qxl; 2].concat()), 4 * (512 + 256 + 8));
}

#[test]
fn without_a_viommu_all_devices_share_one_address_space() {
    for number in [1, 2, 4] {
        enough(&devices(q35(), number), 1_476_395_008);
    }
    assert_eq!(devices(q35(), 2).plan().memlock.address_spaces.len(), 1);
    assert_eq!(limits(&q35().requests("intel")), (None, None, false), "nothing to lock");
}

#[test]
fn with_a_viommu_every_device_has_its_own() {
    for (number, limit) in [(2, 1_879_048_192), (3, 2_281_701_376), (4, 2_684_354_560)] {
        for model in ["intel", "virtio"] {
            enough(&devices(q35(), number).requests(model), limit);
            let amd = devices(q35(), number).device("<iommu model='amd'/>");
            enough(&amd, limit);
        }
    }
    let spaces = devices(q35(), 2).group(1, 11).requests("intel").plan().memlock.address_spaces;
    let space = |device: &str, groups: &[u32]| AddressSpace {
        devices: vec![device.to_owned()],
        iommu_groups: groups.to_vec(),
        backend: Backend::Container,
    };
    assert_eq!(spaces, [space("0000:01:00.0", &[11]), space("0000:02:00.0", &[])]);
}

#[test]
fn libvirt_counts_the_viommu_from_8_7_on() {
    let four = || devices(q35(), 4).requests("intel");
    enough(&four().libvirt("8.7.0"), 2_684_354_560);
    too_low(&four().libvirt("8.6.9"), 2_684_354_560, 1_476_395_008);
    let mut unknown = four();
    unknown.host.libvirt = None;
    enough(&unknown, 2_684_354_560);
    too_low(&four().libvirt_unknown(), 2_684_354_560, 1_476_395_008);
    enough(&devices(q35(), 1).requests("intel").libvirt("7.0.0"), 1_476_395_008);
}

#[test]
fn libvirt_never_counts_one_that_it_does_not_know() {
    let four = || devices(q35(), 4);
    too_low(&four().requests("intel").wrapped(), 2_684_354_560, 1_476_395_008);
    too_low(&four().argument("-device", "intel-iommu,caching-mode=on"), 2_684_354_560, 1_476_395_008);
    enough(&four().requests("intel").wrapped().device("<iommu model='intel'/>"), 2_684_354_560);
    let other = four().requests("intel").device("<emulator>/usr/local/bin/viommu-test</emulator>");
    assert_eq!(other.plan().route, Route::Native, "not a name of the wrapper");
    enough(&other, 2_684_354_560);
}

#[test]
fn nvme_disks_count_by_themselves_from_9_3_on() {
    let one = || q35().device(NVME);
    enough(&one(), 1_476_395_008);
    let both = || devices(q35(), 2).device(NVME);
    // 2 + 1 spaces behind a vIOMMU: in every version from 8.7 on.
    enough(&both().requests("intel"), 2_281_701_376);
    enough(&both().requests("intel").libvirt("9.2.9"), 2_281_701_376);
    // Without one: 1 + 1 needed.
    enough(&both().libvirt("9.3.0"), 1_879_048_192);
    assert_eq!(
        limits(&both().libvirt("9.2.9")),
        (bytes(1_879_048_192), bytes(1_476_395_008), false),
        "there is no request"
    );
    too_low(&both().libvirt("9.2.9").requests("intel").wrapped(), 2_281_701_376, 1_476_395_008);
    // Before 8.7 memory counts once, for any devices.
    for case in [one(), devices(q35(), 1).device(NVME), both()] {
        assert_eq!(limits(&case.libvirt("8.6.9")).1, bytes(1_476_395_008));
    }
}

#[test]
fn vdpa_devices_count_from_7_2_on() {
    let vdpa = || q35().device("<interface type='vdpa'/>").requests("intel");
    enough(&vdpa(), 1_476_395_008);
    enough(&vdpa().libvirt("7.2.0"), 1_476_395_008);
    assert_eq!(limits(&vdpa().libvirt("7.1.9")), (bytes(1_476_395_008), None, true));
    enough(&vdpa().device("<disk type='vhostvdpa'><source/></disk>"), 1_879_048_192);
    enough(&devices(vdpa(), 2), 2_281_701_376);
    // libvirt does not see the devices of <qemu:commandline>.
    let hidden = || q35().argument("-device", "vhost-vdpa-device-pci,vhostdev=/dev/vhost-vdpa-0").requests("intel");
    assert_eq!(limits(&hidden()), (bytes(1_476_395_008), None, true));
    too_low(&hidden().device("<interface type='vdpa'/>"), 1_879_048_192, 1_476_395_008);
    assert!(hidden().plan().iommu.unwrap().driver.iter().any(|(name, _)| name == "caching_mode"));
}

#[test]
fn memory_that_can_be_plugged_is_needed_and_not_counted() {
    let pluggable = || q35().vfio(1).child("<maxMemory slots='4' unit='GiB'>2</maxMemory>");
    too_low(&pluggable().requests("intel"), 3 << 30, 1_476_395_008);
    assert!(!pluggable().plan().memlock.raise, "viommu does not change the limit of a guest without a request");
    let smaller = q35().vfio(1).child("<maxMemory slots='4' unit='MiB'>100</maxMemory>");
    enough(&smaller.requests("intel"), 1_476_395_008);
}

#[test]
fn devices_behind_one_bridge_share_an_address_space() {
    // libvirt counts devices, which is more than necessary.
    let case = q35().aliased().requests("intel");
    assert_eq!(limits(&case), (bytes(1_476_395_008), bytes(1_879_048_192), false));
    let space = AddressSpace {
        devices: vec!["0000:01:00.0".to_owned(), "0000:02:00.0".to_owned()],
        iommu_groups: vec![11],
        backend: Backend::Container,
    };
    assert_eq!(case.group(1, 11).group(2, 11).plan().memlock.address_spaces, [space]);
}

#[test]
fn devices_that_bypass_share_the_common_address_space() {
    let case = devices(q35(), 3).argument("-machine", "default_bus_bypass_iommu=on").requests("intel");
    assert_eq!(limits(&case).0, bytes(1_476_395_008));
}

#[test]
fn devices_that_the_guest_never_gets_count_for_libvirt_only() {
    let case = q35().vfio(1).vfio_at(2, "<address type='unassigned'/>").requests("intel");
    assert_eq!(limits(&case), (bytes(1_476_395_008), bytes(1_879_048_192), false));
    let none = q35().vfio_at(2, "<address type='unassigned'/>").requests("intel");
    assert_eq!(limits(&none), (None, bytes(1_476_395_008), false));
}

#[test]
fn devices_without_an_address_get_one_of_their_own() {
    enough(&q35().vfio_at(1, "").vfio_at(2, "").requests("intel"), 1_879_048_192);
}

#[test]
fn locked_memory_is_unlimited() {
    let plan = q35().locks().plan();
    assert_eq!(
        (plan.memlock.required_bytes, plan.memlock.libvirt_bytes, plan.memlock.raise),
        (UNLIMITED, UNLIMITED, false)
    );
    assert_eq!(plan.changes.len(), 1);
    assert!(plan.qemu.lock_memory && plan.changes[0].essential);
    let hidden = q35().locks().wrapped().plan().memlock;
    assert_eq!((hidden.required_bytes, hidden.libvirt_bytes, hidden.raise), (UNLIMITED, None, true));
    let there = q35().locks().child("<memoryBacking><locked/></memoryBacking>").plan();
    assert!(there.changes.is_empty() && !there.qemu.lock_memory && !there.memlock.raise);
}

#[test]
fn a_hard_limit_wins() {
    let limit = "<memtune><hard_limit unit='MiB'>2560</hard_limit></memtune>";
    enough(&devices(q35(), 4).requests("intel").wrapped().child(limit), 2_684_354_560);
    enough(&q35().locks().wrapped().child(limit), 2_684_354_560);
}

#[test]
fn a_hard_limit_below_what_is_pinned_is_refused() {
    // 4 devices pin 4 × 384 MiB.
    let limit = |kib: u64| format!("<memtune><hard_limit unit='KiB'>{kib}</hard_limit></memtune>");
    let too_low = devices(q35(), 4).child(&limit(4 * 384 * 1024 - 1));
    let message = too_low.clone().requests("intel").refused(Code::HardLimitTooLow);
    assert!(message.contains("pins 1610612736: set 2684354560"), "{message}");
    too_low.clone().wrapped().requests("intel").refused(Code::HardLimitTooLow);
    assert!(
        too_low
            .device("<iommu model='intel'><driver caching_mode='on'/></iommu>")
            .plan()
            .notes
            .iter()
            .any(|note| { note.code == Code::HardLimitTooLow && note.level == Level::Warning })
    );
    let exact = devices(q35(), 4).child(&limit(4 * 384 * 1024)).requests("intel");
    exact.clone().plan();
    // Memory that may be plugged later is not pinned at the start.
    let later = exact.child("<maxMemory slots='1' unit='GiB'>4</maxMemory>").plan();
    assert!(later.notes.iter().any(|note| note.code == Code::HardLimitTooLow && note.level == Level::Warning));
}

#[test]
fn memory_that_nova_locks_implicitly_is_added_and_never_enforced() {
    let mut realtime = q35();
    realtime.request = Request { locked_memory: true, lock_implied: true, nosharepages: true, ..Request::default() };
    let plan = realtime.plan();
    let paths: Vec<_> = plan.changes.iter().map(|change| change.path).collect();
    assert_eq!(paths, ["/domain/memoryBacking/nosharepages", "/domain/memoryBacking/locked"]);
    assert_eq!(plan.refusal_unless_rewritten(), None);
    assert!(!plan.qemu.lock_memory && !plan.memlock.raise);
    let wrapped = realtime.wrapped().plan();
    assert_eq!((wrapped.memlock.required_bytes, wrapped.memlock.raise), (None, false));
}

#[test]
fn a_refused_guest_that_runs_keeps_its_count() {
    // An unsatisfiable request in the metadata of a running guest.
    let refused_plan = |case: Case| *case.decided().unwrap_err().unchanged;
    let plan = refused_plan(devices(q35(), 2).device("<iommu model='virtio'/>").requests("intel"));
    assert_eq!(plan.memlock.address_spaces.len(), 2);
    assert_eq!(plan.iommu.map(|iommu| iommu.origin), Some(Origin::Existing));
    let old = devices(q35(), 4).device("<iommu model='virtio'/>").libvirt("8.6.9");
    assert!(old.plan().memlock.raise && !refused_plan(old.requests("intel")).memlock.raise);
    let broken = Note::error(Code::ModelUnknown, "x: y");
    let domain = devices(q35(), 2).device("<iommu model='virtio'/>").domain();
    assert_eq!(refused(&domain, broken, &Host::default()).unchanged.memlock.address_spaces.len(), 2);
}

#[test]
fn sums_saturate() {
    let cell = "<cell memory='7' unit='EiB'/>";
    let memory = format!("<cpu><numa>{cell}{cell}{cell}</numa></cpu>");
    assert_eq!(limits(&devices(q35().memory(&memory), 3)).1, bytes(u64::MAX));
}
