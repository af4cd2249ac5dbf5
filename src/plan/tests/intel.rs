//! The attributes of an intel vIOMMU, and the I/O APIC beside it.

use super::*;

const INTEL: &str = "<iommu model='intel'/>";

fn existing(driver: &str) -> Case {
    q35().device(&format!("<iommu model='intel'><driver {driver}/></iommu>")).requests("intel")
}

#[test]
fn a_plain_guest_gets_the_plain_attributes() {
    assert_eq!(q35().requests("intel").driver(), "intremap=on eim=on aw_bits=48");
}

#[test]
fn caching_mode_is_for_devices_that_follow_mappings() {
    let mdev = "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='u'/></source></hostdev>";
    for case in [
        q35().vfio(1),
        q35().hotplug(),
        q35().device(mdev),
        q35().device("<interface type='vdpa'/>"),
        q35().device("<disk type='vhostvdpa'><source/></disk>"),
    ] {
        assert_eq!(case.requests("intel").driver(), "intremap=on caching_mode=on eim=on aw_bits=48");
    }
    let nvme = "<disk type='nvme'><source><address domain='0' bus='1' slot='0' function='0'/></source></disk>";
    assert_eq!(q35().device(nvme).requests("intel").driver(), "intremap=on eim=on aw_bits=48", "the host drives it");
    let bypassed = q35().vfio(1).argument("-machine", "default_bus_bypass_iommu=on").requests("intel");
    let driver = "intremap=on caching_mode=on eim=on aw_bits=48";
    assert_eq!(bypassed.driver(), driver, "the device bypasses the vIOMMU, and QEMU still requires caching mode");
}

#[test]
fn iotlb_is_for_virtio_devices_with_ats() {
    let net = "<interface type='user'><driver ats='on'/></interface>";
    assert_eq!(q35().device(net).requests("intel").driver(), "intremap=on eim=on iotlb=on aw_bits=48");
}

#[test]
fn eim_under_tcg_needs_qemu_9() {
    assert_eq!(q35().kind("qemu").qemu("8.2.9").requests("intel").driver(), "intremap=on aw_bits=48");
    assert_eq!(q35().kind("qemu").qemu("9.0.0").requests("intel").driver(), "intremap=on eim=on aw_bits=48");
    assert_eq!(q35().kind("kvm").qemu("5.2.0").requests("intel").driver(), "intremap=on eim=on aw_bits=48");
}

#[test]
fn many_vcpus_under_tcg_need_qemu_9() {
    let case = q35().kind("qemu").vcpus(256).requests("auto");
    let message = case.clone().qemu("8.2.9").refused(Code::VcpusNeedEim);
    assert!(message.contains("256 vCPUs (highest APIC id 255)") && message.contains("type='kvm'"), "{message}");
    assert_eq!(case.clone().qemu("9.0.0").model(), "intel");
    assert_eq!(case.qemu("8.2.9").vcpus(255).model(), "virtio");
}

#[test]
fn novas_eim_is_refused_under_tcg() {
    // Nova writes eim='on' on every q35 guest, with virt_type=qemu too.
    let message = existing("eim='on'").kind("qemu").qemu("7.2.0").refused(Code::IommuConflict);
    assert!(message.contains("eim=on requires accel=kvm,kernel-irqchip=split"), "{message}");
    assert_eq!(existing("eim='on'").kind("qemu").qemu("9.0.0").refusal(), None);
    assert_eq!(existing("eim='on'").qemu("7.2.0").refusal(), None);
    assert_eq!(existing("eim='off'").kind("qemu").qemu("7.2.0").refusal(), None);
}

#[test]
fn the_width_is_that_of_the_host_where_a_device_needs_it() {
    let width = |case: Case| case.requests("intel").driver().rsplit('=').next().unwrap().to_owned();
    for (host, bits) in [(39, "39"), (47, "39"), (48, "48"), (57, "48")] {
        assert_eq!(width(q35().vfio(1).host_aw_bits(host)), bits, "{host}");
        assert_eq!(width(q35().hotplug().host_aw_bits(host)), bits, "{host}");
        assert_eq!(width(q35().host_aw_bits(host)), "48", "no device goes through the host's IOMMU");
    }
    assert_eq!(width(q35().vfio(1)), "48", "an unknown width counts as 48 bits");
}

#[test]
fn a_width_can_be_requested() {
    assert_eq!(q35().aw_bits(39).requests("intel").driver(), "intremap=on eim=on aw_bits=39");
    assert_eq!(q35().aw_bits(39).vfio(1).host_aw_bits(48).requests("intel").refusal(), None);
}

#[test]
fn a_width_beyond_the_host_is_refused() {
    let wide = |host| q35().aw_bits(48).vfio(1).host_aw_bits(host).requests("intel");
    let message = wide(47).refused(Code::AwBitsExceedHost);
    assert!(message.contains("aw-bits 48 > host aw-bits 47") && message.contains("make it 39"), "{message}");
    assert_eq!(wide(48).refusal(), None);
    let message = q35().vfio(1).host_aw_bits(38).requests("intel").refused(Code::AwBitsExceedHost);
    assert!(message.contains("use a host with a wider IOMMU"), "{message}");
    let mut expected = wide(39);
    expected.devices.clear();
    assert_eq!(expected.refusal(), None, "no VFIO device");
    expected.hotplug().refused(Code::AwBitsExceedHost);
    existing("aw_bits='48'").vfio(1).host_aw_bits(39).refused(Code::AwBitsExceedHost);
}

/// 39 bits are 512 GiB; q35 leaves 2 GiB of RAM below the hole, and the rest begins at 4 GiB.
#[test]
fn memory_beyond_the_width_is_refused() {
    let memory = |memory: &str| q35().aw_bits(39).memory(memory).requests("intel");
    assert_eq!(memory("<memory unit='GiB'>510</memory>").refusal(), None, "it ends at 512 GiB exactly");
    let message = memory("<memory unit='KiB'>534773761</memory>").refused(Code::AwBitsTooSmall);
    assert!(message.contains("513 GiB, beyond the 512 GiB") && message.contains("use 48 bits"), "{message}");
    assert_eq!(q35().memory("<memory unit='GiB'>511</memory>").requests("intel").refusal(), None, "48 bits");
}

#[test]
fn memory_that_can_be_plugged_counts() {
    let memory = |maximum: u32, slots: u32| {
        let memory =
            format!("<memory unit='GiB'>4</memory><maxMemory unit='GiB' slots='{slots}'>{maximum}</maxMemory>");
        q35().aw_bits(39).memory(&memory).requests("intel")
    };
    // 4 GiB + 2 GiB of RAM above the hole + the memory for hot-plug + an alignment of 1 GiB per slot.
    assert_eq!(memory(4 + 496, 10).refusal(), None);
    memory(4 + 497, 10).refused(Code::AwBitsTooSmall);
    memory(4 + 496, 11).refused(Code::AwBitsTooSmall);
    // The memory for hot-plug begins at a whole GiB after RAM.
    let uneven = |maximum: u32| {
        let memory = format!("<memory unit='MiB'>4097</memory><maxMemory unit='MiB' slots='0'>{maximum}</maxMemory>");
        q35().aw_bits(39).memory(&memory).requests("intel")
    };
    assert_eq!(uneven(4097 + 505 * 1024).refusal(), None);
    uneven(4097 + 505 * 1024 + 1).refused(Code::AwBitsTooSmall);
    // All RAM of a small guest is below the hole.
    let small = |maximum: u32| {
        let memory = format!("<memory unit='MiB'>2800</memory><maxMemory unit='MiB' slots='0'>{maximum}</maxMemory>");
        q35().aw_bits(39).memory(&memory).requests("intel")
    };
    assert_eq!(small(2800 + 508 * 1024).refusal(), None);
    small(2800 + 508 * 1024 + 1).refused(Code::AwBitsTooSmall);
}

#[test]
fn the_hole_begins_where_q35_puts_it() {
    let top = |kib: u64, cpu: &str| {
        let case = q35().memory(&format!("<memory unit='KiB'>{kib}</memory>{cpu}"));
        let domain = case.domain();
        super::super::intel::guest_memory_top(&Guest::new(&domain, &case.request, &case.host))
    };
    // hw/i386/pc_q35.c: from 0xb0000000 bytes on 2 GiB are below 4 GiB, otherwise all.
    assert_eq!(top(0xb000_0000 / 1024 - 1024, ""), 0xb000_0000 - (1 << 20));
    assert_eq!(top(0xb000_0000 / 1024, ""), (4 << 30) + 0x3000_0000);
    // Measured: 1100 GiB of an EPYC begin at 0x10000000000.
    let epyc = "<cpu><model>EPYC</model></cpu>";
    let gib: u64 = 1 << 20;
    assert_eq!(top(1100 * gib, epyc), (1 << 40) + (1098 << 30));
    assert_eq!(top(1100 * gib, ""), 1102 << 30);
    // 0xfd00000000 is 1012 GiB.
    assert_eq!(top(1010 * gib, epyc), (1 << 40) + (1008 << 30));
    assert_eq!(top(1010 * gib - 1024, epyc), (1012 << 30) - (1 << 20));
    assert_eq!(top(1010 * gib, ""), 1012 << 30);
}

#[test]
fn absurd_memory_is_refused_and_not_computed() {
    let cell = "<cell memory='7' unit='EiB'/>";
    let memory = format!("<cpu><numa>{cell}{cell}{cell}</numa></cpu><maxMemory slots='4294967295'>1</maxMemory>");
    let message = q35().memory(&memory).requests("intel").refused(Code::AwBitsTooSmall);
    assert!(message.ends_with("give the guest less memory") && !message.contains("48 bits on"), "{message}");
}

#[test]
fn an_existing_one_is_completed() {
    let plan = q35().device(INTEL).vfio(1).requests("intel").plan();
    let iommu = plan.iommu.unwrap();
    assert_eq!(iommu.origin, Origin::Completed);
    assert_eq!(iommu.driver.len(), 4);
    let existing: Vec<_> = plan.qemu.existing.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(existing, ["aw-bits=48", "caching-mode=on", "eim=on", "intremap=on"], "in QEMU's words");
    assert!(plan.qemu.devices.is_empty());
    assert_eq!(plan.changes[0].reason, "the <iommu> lacks intremap=on, caching_mode=on, eim=on, aw_bits=48");
    assert_eq!(plan.changes[1].path, "/domain/features/ioapic");
}

#[test]
fn attributes_of_the_user_stay() {
    let case = existing("aw_bits='39' eim='off' intremap='on' iotlb='on' dma_translation='off' caching_mode='on'");
    let plan = case.clone().features("<acpi/><ioapic driver='qemu'/>").plan();
    assert_eq!(plan.iommu.unwrap().origin, Origin::Existing);
    assert!(plan.changes.is_empty() && plan.qemu.is_empty());
    let plan = case.plan();
    assert_eq!(plan.iommu.unwrap().origin, Origin::Existing);
    assert_eq!(plan.ioapic.unwrap().origin, Origin::Added, "a forgotten I/O APIC");
}

#[test]
fn without_intremap_there_is_no_eim_and_no_split_irqchip() {
    let case = existing("intremap='off'");
    assert_eq!(case.driver(), "intremap=off aw_bits=48");
    assert_eq!(case.plan().ioapic, None);
    let kvm = case.features("<acpi/><ioapic driver='kvm'/>").plan();
    assert_eq!(kvm.ioapic.map(|ioapic| (ioapic.driver, ioapic.origin)), Some(("kvm".to_owned(), Origin::Existing)));
}

#[test]
fn many_vcpus_contradict_what_the_user_switched_off() {
    for driver in ["intremap='off'", "eim='off'", "intremap='off' eim='on'"] {
        let message = existing(driver).vcpus(256).refused(Code::VcpusNeedEim);
        assert!(message.contains("or leave both out"), "{message}");
    }
    assert_eq!(existing("eim='off'").vcpus(255).refusal(), None);
    assert_eq!(existing("intremap='on' eim='on'").vcpus(256).refusal(), None);
    let completed = q35().device(INTEL).vcpus(256).requests("auto");
    assert_eq!(completed.driver(), "intremap=on eim=on aw_bits=48");
}

#[test]
fn the_kernels_irqchip_cannot_remap() {
    let kvm = q35().features("<acpi/><ioapic driver='kvm'/>");
    let message = kvm.clone().requests("intel").refused(Code::IrqchipConflict);
    assert!(message.contains("please use 'split|off'"), "{message}");
    kvm.clone().device(INTEL).requests("auto").refused(Code::IrqchipConflict);
    kvm.clone().windows().requests("auto").refused(Code::IrqchipConflict);
    assert_eq!(kvm.requests("auto").model(), "virtio", "which remaps nothing");
    let split = q35().features("<acpi/><ioapic driver='qemu'/>").requests("intel").plan();
    assert_eq!(split.ioapic.map(|ioapic| ioapic.origin), Some(Origin::Existing));
    assert!(split.qemu.machine.is_empty());
}

#[test]
fn caching_mode_that_was_switched_off_contradicts_devices() {
    for case in [existing("caching_mode='off'").vfio(1), existing("caching_mode='off'").hotplug()] {
        let message = case.refused(Code::IommuConflict);
        assert!(message.contains("We need to set caching-mode=on"), "{message}");
    }
    existing("caching_mode='off'").device("<interface type='vdpa'/>").refused(Code::IommuConflict);
    assert_eq!(existing("caching_mode='off'").refusal(), None);
}

#[test]
fn a_width_that_contradicts_the_request_is_refused() {
    let message = existing("aw_bits='48'").aw_bits(39).refused(Code::IommuConflict);
    assert!(message.contains("aw-bits=39") && message.contains("aw_bits='48'"), "{message}");
    assert_eq!(existing("aw_bits='39'").aw_bits(39).refusal(), None);
    assert!(existing("").aw_bits(39).driver().ends_with("aw_bits=39"));
}

#[test]
fn a_width_that_qemu_does_not_have_is_refused() {
    for width in ["36", "57", "3423", "abc", ""] {
        let message = existing(&format!("aw_bits='{width}'")).refused(Code::IommuConflict);
        assert!(message.contains("supported values for aw-bits are: 39, 48"), "{message}");
    }
}
