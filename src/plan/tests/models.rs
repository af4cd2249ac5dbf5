//! Machine, model, `auto`, and existing vIOMMUs.

use super::*;

#[test]
fn x86_needs_q35() {
    for machine in ["q35", "pc-q35-2.4", "pc-q35-rhel9.4.0", "ubuntu-q35"] {
        let os = format!("<type arch='x86_64' machine='{machine}'>hvm</type>").leak();
        assert_eq!(q35().os(os).requests("intel").model(), "intel", "{machine}");
    }
    for os in [
        "<type arch='x86_64' machine='pc-i440fx-8.2'>hvm</type>",
        "<type arch='x86_64' machine='microvm'>hvm</type>",
        "<type arch='x86_64'>hvm</type>",
        "",
    ] {
        let message = q35().os(os).requests("auto").refused(Code::MachineUnsupported);
        assert!(message.ends_with("use machine type 'q35'"), "{message}");
    }
    let default = q35().os("").requests("intel").refused(Code::MachineUnsupported);
    assert!(default.contains("'pc' (x86_64)"), "libvirt's default: {default}");
}

#[test]
fn a_32_bit_x86_guest_is_an_x86_guest() {
    let os = "<type arch='i686' machine='pc-q35-7.2'>hvm</type>";
    assert_eq!(q35().os(os).requests("intel").model(), "intel");
    q35().os("<type arch='i686' machine='pc'>hvm</type>").requests("intel").refused(Code::MachineUnsupported);
}

#[test]
fn arm_needs_virt() {
    for machine in ["virt", "virt-2.6", "virt-rhel9.4.0"] {
        let os = format!("<type arch='aarch64' machine='{machine}'>hvm</type>").leak();
        assert_eq!(arm().os(os).requests("smmuv3").model(), "smmuv3", "{machine}");
    }
    assert_eq!(arm().os("<type arch='aarch64'>hvm</type>").requests("smmuv3").model(), "smmuv3", "libvirt's default");
    for os in ["<type arch='aarch64' machine='sbsa-ref'/>", "<type arch='aarch64' machine='virtual'/>"] {
        assert!(arm().os(os).requests("auto").refused(Code::MachineUnsupported).ends_with("use machine type 'virt'"));
    }
}

#[test]
fn a_domain_without_an_architecture_has_the_hosts() {
    assert_eq!(arm().os("<loader type='pflash'>/x</loader>").requests("smmuv3").model(), "smmuv3");
    let mut unknown = q35().os("<type machine='q35'>hvm</type>").requests("intel");
    unknown.host.arch = None;
    assert_eq!(unknown.model(), "intel");
    unknown.host.arch = Some("aarch64".to_owned());
    unknown.refused(Code::MachineUnsupported);
}

#[test]
fn other_architectures_have_none() {
    for arch in ["ppc64le", "s390x", "armv7l", "riscv64"] {
        let os = format!("<type arch='{arch}' machine='virt'>hvm</type>").leak();
        let message = q35().os(os).requests("auto").refused(Code::ArchUnsupported);
        assert!(
            message.contains(arch)
                && message.contains("libvirt has no vIOMMU")
                && message.contains("remove the request from the domain metadata"),
            "{message}"
        );
        assert_eq!(q35().os(os).refusal(), None, "there is no request");
    }
}

#[test]
fn a_model_belongs_to_its_architecture() {
    assert!(q35().requests("smmuv3").refused(Code::ModelArchMismatch).ends_with("use intel, virtio, amd or auto"));
    assert!(arm().requests("intel").refused(Code::ModelArchMismatch).ends_with("use smmuv3, virtio or auto"));
    // A hand-written one that libvirt has not completed yet.
    q35().device("<iommu model='smmuv3'/>").requests("auto").refused(Code::ModelArchMismatch);
    arm().device("<iommu model='intel'/>").requests("intel").refused(Code::ModelArchMismatch);
}

#[test]
fn domains_without_a_request_are_not_changed() {
    for case in [q35(), q35().requests("none"), q35().requests("auto").kind("xen"), q35().requests("intel").kind("hvf")]
    {
        let plan = case.plan();
        assert_eq!((plan.iommu, plan.ioapic, plan.changes.len(), plan.notes.len()), (None, None, 0, 0));
        assert!(plan.qemu.is_empty());
    }
    assert!(q35().requests("intel").kind("qemu").plan().iommu.is_some());
}

#[test]
fn none_never_removes_a_viommu_of_the_user() {
    let plan = q35().device("<iommu model='intel'/>").vfio(1).requests("none").plan();
    assert_eq!(plan.iommu.map(|iommu| (iommu.name, iommu.origin)), Some(("intel".to_owned(), Origin::Existing)));
    assert!(plan.changes.is_empty(), "and never completes it");
}

#[test]
fn auto_is_virtio_without_a_reason_against_it() {
    assert_eq!(q35().requests("auto").model(), "virtio");
    assert_eq!(arm().requests("auto").model(), "virtio");
    assert_eq!(q35().vfio(1).vfio(2).hotplug().requests("auto").model(), "virtio");
    let (level, reason) = q35().requests("auto").note(Code::AutoModel).unwrap();
    assert_eq!(level, Level::Info);
    assert!(reason.starts_with("auto is virtio: "), "{reason}");
    // An unknown version may be an old one; with the same request the guest keeps its earlier model.
    for unknown in [Case::libvirt_unknown, Case::qemu_unknown] {
        assert_eq!(unknown(q35()).requests("auto").model(), "intel");
        assert_eq!(unknown(arm()).requests("auto").model(), "smmuv3");
        assert_eq!(unknown(q35()).requests("virtio").model(), "virtio", "by name");
        let kept = unknown(q35()).ran_with(Model::Virtio).requests("auto");
        assert_eq!(kept.model(), "virtio");
        assert!(kept.note(Code::HostFactAssumed).unwrap().1.ends_with("; auto keeps virtio, with which the guest ran"));
        assert_eq!(unknown(q35()).ran_with(Model::Virtio).vcpus(256).requests("auto").model(), "intel", "known anew");
        assert_eq!(unknown(q35()).ran_with(Model::Intel).requests("auto").model(), "intel");
    }
    assert_eq!(q35().ran_with(Model::Intel).requests("auto").model(), "virtio", "all facts are known");
    assert_eq!(q35().requests("virtio").note(Code::AutoModel), None, "a named model needs no reason");
}

#[track_caller]
fn auto_is_intel(case: &Case, because: &str) {
    let case = case.clone().requests("auto");
    assert_eq!(case.model(), "intel");
    let reasons: Vec<_> = case.plan().notes.into_iter().filter(|note| note.code == Code::AutoModel).collect();
    assert!(reasons.iter().any(|note| note.message.contains(because)), "{reasons:?}");
}

#[test]
fn auto_is_intel_for_many_vcpus() {
    auto_is_intel(&q35().vcpus(256), "many vCPUs");
    assert_eq!(q35().vcpus(255).requests("auto").model(), "virtio", "APIC ids 0 to 254");
}

#[test]
fn auto_is_intel_for_high_apic_ids() {
    // Three threads take two bits: 63 << 2 | 2 = 254, and 64 << 2 | 2 = 258.
    assert_eq!(q35().topology(64, 1, 3).requests("auto").model(), "virtio");
    auto_is_intel(&q35().topology(65, 1, 3), "many vCPUs");
    assert_eq!(arm().topology(65, 1, 3).requests("auto").model(), "virtio", "Arm has no APIC");
}

#[test]
fn auto_is_intel_for_windows() {
    auto_is_intel(&q35().windows(), "Windows");
}

#[test]
fn auto_is_intel_for_vfio_and_an_old_qemu() {
    auto_is_intel(&q35().vfio(1).qemu("8.2.9"), "8.2.9");
    auto_is_intel(&q35().hotplug().qemu("8.2.9"), "8.2.9");
    assert_eq!(q35().vfio(1).qemu("9.0.0").requests("auto").model(), "virtio");
    assert_eq!(q35().qemu("8.2.9").requests("auto").model(), "virtio");
    let bypassed = q35().vfio(1).argument("-machine", "default_bus_bypass_iommu=on").qemu("8.2.9");
    assert_eq!(bypassed.requests("auto").model(), "virtio", "the device bypasses the vIOMMU");
    assert_eq!(arm().vfio(1).qemu("8.2.9").requests("auto").model(), "virtio", "there it is a warning");
}

#[test]
fn auto_is_intel_for_aliased_devices() {
    auto_is_intel(&q35().aliased(), "0000:01:00.0 and 0000:02:00.0");
    let one = q35().device("<controller type='pci' index='5' model='pcie-to-pci-bridge'/>");
    assert_eq!(one.vfio_at(1, "<address type='pci' bus='5' slot='1'/>").requests("auto").model(), "virtio");
    let two_bridges = q35()
        .device("<controller type='pci' index='5' model='pcie-to-pci-bridge'/>")
        .device("<controller type='pci' index='6' model='pcie-to-pci-bridge'/>")
        .vfio_at(1, "<address type='pci' bus='5' slot='1'/>")
        .vfio_at(2, "<address type='pci' bus='6' slot='1'/>");
    assert_eq!(two_bridges.requests("auto").model(), "virtio");
}

#[test]
fn auto_is_intel_without_acpi() {
    auto_is_intel(&q35().features(""), "ACPI");
}

#[test]
fn auto_is_intel_where_virtio_is_unknown() {
    auto_is_intel(&q35().libvirt("8.2.9"), "libvirt 8.2.9");
    assert_eq!(q35().libvirt("8.3.0").requests("auto").model(), "virtio");
    auto_is_intel(&q35().qemu("6.2.9"), "QEMU 6.2.9");
    assert_eq!(q35().qemu("7.0.0").requests("auto").model(), "virtio");
}

#[test]
fn auto_is_virtio_only_for_a_guest_that_has_the_driver() {
    let system = |id| q35().driver_unknown().system(id).requests("auto");
    assert_eq!(system("ubuntu.com/ubuntu/24.04").model(), "virtio");
    auto_is_intel(
        &system("debian.org/debian/13"),
        "Debian 13 has the driver for a virtio-iommu as a module that its initramfs lacks",
    );
    auto_is_intel(&system("debian.org/debian/13"), "virtio-iommu-driver=yes");
    auto_is_intel(
        &system("debian.org/debian/12"),
        "Debian 12 has no driver for a virtio-iommu (libosinfo's id in the metadata)",
    );
    auto_is_intel(
        &system("archlinux.org/archlinux/rolling"),
        "it is not known where http://archlinux.org/archlinux/rolling has",
    );
    auto_is_intel(&q35().driver_unknown(), "nothing in the domain says which system the guest runs");
    let hint = |case: &Case| case.plan().notes.iter().any(|note| note.message.contains("driver=yes in the request"));
    assert!(hint(&q35().driver_unknown().requests("auto")));
    assert!(!hint(&q35().driver_unknown().vcpus(300).requests("auto")), "the driver alone changes nothing");
    let mut denied = system("ubuntu.com/ubuntu/24.04");
    denied.request.virtio_iommu_driver = Some(false);
    auto_is_intel(&denied, "virtio-iommu-driver=no");
    assert_eq!(q35().system("debian.org/debian/13").requests("auto").model(), "virtio", "the operator's setting wins");
    let existing = q35().driver_unknown().device("<iommu model='virtio'/>").requests("auto");
    assert_eq!(existing.model(), "virtio", "an existing vIOMMU stays");
}

#[test]
fn auto_in_the_order_of_the_specification() {
    for id in ["debian.org/debian/13", "debian.org/debian/12", "archlinux.org/archlinux/rolling"] {
        let case = q35().driver_unknown().system(id).specification_order().requests("auto");
        assert_eq!(case.model(), "virtio", "{id}");
        assert_eq!(case.note(Code::VirtioDriver).unwrap().0, Level::Warning, "{id}");
    }
    auto_is_intel(&q35().driver_unknown().windows().specification_order(), "Windows");
    assert_eq!(arm().driver_unknown().specification_order().requests("auto").model(), "virtio");
}

#[test]
fn auto_on_arm_is_smmuv3_where_the_driver_is_not_known() {
    let unknown_driver = || arm().driver_unknown().requests("auto");
    assert_eq!(unknown_driver().model(), "smmuv3");
    assert_eq!(unknown_driver().note(Code::VirtioDriver), None);
    // SMMUv3 cannot serve these devices.
    assert_eq!(unknown_driver().vfio(1).model(), "virtio");
    assert_eq!(unknown_driver().vfio(1).note(Code::VirtioDriver).unwrap().0, Level::Warning);
}

#[test]
fn probed_facts_count_more_than_a_version() {
    let both = ["intel-iommu", "virtio-iommu-pci", "virtio-iommu.boot-bypass"];
    // A release candidate of 7.0 has the version 6.2.92, and the device.
    assert_eq!(q35().qemu("6.2.92").flags(&both).requests("auto").model(), "virtio");
    auto_is_intel(&q35().flags(&["intel-iommu", "virtio-iommu-pci"]), "no virtio-iommu");
    auto_is_intel(&q35().flags(&["intel-iommu", "virtio-iommu.boot-bypass"]), "no virtio-iommu");
    // A future libvirt that does not probe it any more.
    assert_eq!(q35().libvirt("12.10.0").flags(&[]).requests("auto").model(), "virtio");
}

#[test]
fn auto_with_a_width_is_intel_where_virtio_takes_none() {
    auto_is_intel(&q35().aw_bits(39), "address width");
    auto_is_intel(&q35().aw_bits(39).libvirt("12.1.9"), "address width");
    auto_is_intel(&q35().aw_bits(39).libvirt("12.2.0").qemu("8.2.9"), "address width");
    auto_is_intel(&q35().aw_bits(39).libvirt("12.2.0").flags(&["intel-iommu"]), "address width");
    assert_eq!(q35().aw_bits(39).libvirt("12.2.0").qemu("9.0.0").requests("auto").model(), "virtio");
}

#[test]
fn auto_on_arm_is_smmuv3_where_virtio_cannot_be() {
    for (case, because) in [
        (arm().features(""), "ACPI"),
        (arm().os("<type arch='aarch64' machine='virt'>hvm</type>"), "UEFI"),
        (arm().libvirt("8.2.0"), "libvirt 8.2.0"),
        (arm().qemu("6.2.0"), "QEMU 6.2.0"),
    ] {
        let case = case.requests("auto");
        assert_eq!(case.model(), "smmuv3", "{because}");
        assert!(case.note(Code::AutoModel).unwrap().1.contains(because));
    }
}

#[test]
fn auto_on_arm_with_vfio_is_virtio_or_nothing() {
    arm().features("").vfio(1).requests("auto").refused(Code::VirtioWithoutAcpi);
    arm().libvirt("8.2.0").hotplug().requests("auto").refused(Code::ModelUnsupportedByLibvirt);
    arm().qemu("6.2.0").vfio(1).requests("auto").refused(Code::ModelUnsupportedByQemu);
    // A device behind a host bridge that bypasses the vIOMMU is unaffected (docs/bypass-iommu.txt).
    let bypassed = arm().features("").vfio(1).argument("-machine", "default_bus_bypass_iommu=on");
    assert_eq!(bypassed.requests("auto").model(), "smmuv3");
}

#[test]
fn an_existing_model_stays() {
    for model in ["intel", "virtio", "amd"] {
        let new = q35().libvirt("12.9.0").qemu("11.1.3");
        let case = new.device(&format!("<iommu model='{model}'/>")).requests("auto");
        assert_eq!(case.model(), model);
        assert!(case.note(Code::AutoModel).unwrap().1.contains("already has"));
    }
    let plan = q35().device("<iommu model='virtio'/>").requests("virtio").plan();
    assert_eq!(plan.iommu.unwrap().origin, Origin::Existing);
    assert!(plan.changes.is_empty() && plan.qemu.is_empty());
}

#[test]
fn another_model_than_the_existing_one_is_a_conflict() {
    for (existing, asked) in [("amd", "intel"), ("virtio", "intel"), ("intel", "virtio"), ("", "intel")] {
        let message =
            q35().device(&format!("<iommu model='{existing}'/>")).requests(asked).refused(Code::IommuConflict);
        assert!(message.contains(&format!("already has <iommu model='{existing}'>")), "{message}");
    }
    arm().device("<iommu model='virtio'/>").requests("smmuv3").refused(Code::IommuConflict);
}

#[test]
fn a_viommu_in_the_command_line_stays() {
    for (driver, asked) in [
        ("intel-iommu,caching-mode=on", "intel"),
        ("virtio-iommu-pci", "virtio"),
        ("virtio-iommu", "virtio"),
        ("amd-iommu", "auto"),
    ] {
        let vfio = if driver == "amd-iommu" { q35() } else { q35().vfio(1) };
        let plan = vfio.argument("-device", driver).requests(asked).plan();
        assert_eq!(plan.iommu.unwrap().origin, Origin::Commandline);
        assert!(plan.changes.is_empty() && plan.qemu.is_empty(), "only the limit is adjusted");
    }
    assert_eq!(arm().argument("-machine", "iommu=smmuv3").requests("smmuv3").model(), "arm-smmuv3");
}

#[test]
fn another_model_than_the_hidden_one_is_a_conflict() {
    for (driver, asked) in [("intel-iommu", "virtio"), ("virtio-iommu-pci", "intel"), ("amd-iommu", "intel")] {
        let message = q35().argument("-device", driver).requests(asked).refused(Code::IommuConflict);
        assert!(message.contains(&format!("'{driver}' in <qemu:commandline>")), "{message}");
    }
    arm().argument("-machine", "iommu=smmuv3").requests("virtio").refused(Code::IommuConflict);
}

#[test]
fn there_is_one_viommu_only() {
    let two = |case: Case| case.device("<iommu model='intel'/><iommu model='virtio'/>");
    let message = two(q35()).requests("intel").refused(Code::IommuConflict);
    assert!(message.contains("(intel, virtio)") && message.contains("multiple vIOMMUs for x86"), "{message}");
    let hidden = q35().device("<iommu model='intel'/>").argument("-device", "intel-iommu");
    hidden.requests("intel").refused(Code::IommuConflict);
    let hidden = q35().argument("-device", "intel-iommu").argument("-device", "virtio-iommu-pci,addr=0x1d");
    let message = hidden.requests("intel").refused(Code::IommuConflict);
    assert!(message.contains("(intel-iommu, virtio-iommu-pci)"), "{message}");
    let both = arm().argument("-machine", "iommu=smmuv3").argument("-device", "virtio-iommu-pci");
    both.requests("auto").refused(Code::IommuConflict);
    let message = arm().device("<iommu model='smmuv3'/><iommu model='virtio'/>").requests("auto");
    assert!(message.refused(Code::IommuConflict).contains("multiple IOMMUs"));
    assert!(two(q35()).decided().is_ok(), "there is no request");
    // KubeVirt's Grace guests have one for each host bridge.
    let of_buses =
        arm().argument("-device", "arm-smmuv3,primary-bus=pcie.0").argument("-device", "arm-smmuv3,primary-bus=b");
    assert_eq!(of_buses.requests("smmuv3").refusal(), None);
    let several = arm().device("<iommu model='smmuv3'/><iommu model='smmuv3'/>").requests("smmuv3").plan();
    assert!(several.changes.is_empty());
}
