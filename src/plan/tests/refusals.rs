//! Refusals that depend on a model or a device.

use super::*;

#[test]
fn virtio_needs_libvirt_8_3() {
    let message = q35().libvirt("8.2.9").requests("virtio").refused(Code::ModelUnsupportedByLibvirt);
    assert!(message.contains("use the model intel") && message.contains("unknown IOMMU model: virtio"), "{message}");
    assert!(
        arm()
            .libvirt("8.2.9")
            .requests("virtio")
            .refused(Code::ModelUnsupportedByLibvirt)
            .contains("use the model smmuv3")
    );
    let vfio = arm().libvirt("8.2.9").vfio(1).requests("virtio").refused(Code::ModelUnsupportedByLibvirt);
    assert!(vfio.contains("update it") && !vfio.contains("use the model"), "{vfio}");
    assert_eq!(q35().libvirt("8.3.0").requests("virtio").model(), "virtio");
}

#[test]
fn virtio_needs_qemu_7_0() {
    let message = q35().qemu("6.2.9").requests("virtio").refused(Code::ModelUnsupportedByQemu);
    assert!(message.contains("IOMMU device: 'virtio' is not supported with this QEMU binary"), "{message}");
    assert_eq!(q35().qemu("7.0.0").requests("virtio").model(), "virtio");
}

#[test]
fn a_model_that_qemu_was_built_without() {
    q35().flags(&["virtio-iommu-pci"]).requests("intel").refused(Code::ModelUnsupportedByQemu);
    assert_eq!(q35().flags(&["intel-iommu"]).requests("intel").model(), "intel");
    arm().flags(&["virtio-iommu-pci"]).requests("smmuv3").refused(Code::ModelUnsupportedByQemu);
    assert_eq!(arm().flags(&["machine.virt.iommu"]).requests("smmuv3").model(), "smmuv3");
    // The flags are unknown, or an untested libvirt no longer probes them.
    assert_eq!(q35().requests("intel").model(), "intel");
    assert_eq!(q35().libvirt("12.10.0").flags(&[]).requests("intel").model(), "intel");
    q35().libvirt("12.9.0").flags(&[]).requests("intel").refused(Code::ModelUnsupportedByQemu);
}

#[test]
fn virtio_needs_acpi() {
    let message = q35().features("").requests("virtio").refused(Code::VirtioWithoutAcpi);
    assert!(message.contains("IOMMU device: 'virtio' requires ACPI"), "{message}");
    assert_eq!(q35().requests("virtio").model(), "virtio");
    arm().features("").requests("virtio").refused(Code::VirtioWithoutAcpi);
    // libvirt: "ACPI requires UEFI on this architecture".
    arm().os("<type arch='aarch64' machine='virt'>hvm</type>").requests("virtio").refused(Code::VirtioWithoutAcpi);
    arm().os("").requests("virtio").refused(Code::VirtioWithoutAcpi);
    assert_eq!(arm().requests("virtio").model(), "virtio");
    assert_eq!(q35().features("").requests("intel").model(), "intel");
}

#[test]
fn virtio_cannot_serve_many_vcpus() {
    for case in [q35().requests("virtio"), q35().device("<iommu model='virtio'/>").requests("auto")] {
        let message = case.clone().vcpus(256).refused(Code::VcpusNeedEim);
        assert!(message.contains("use the model intel"), "{message}");
        assert!(message.contains("more than 255 vCPUs require extended interrupt mode"), "{message}");
        assert_eq!(case.clone().vcpus(255).model(), "virtio");
        // APIC ids 254 and 258.
        assert_eq!(case.clone().topology(64, 1, 3).model(), "virtio");
        case.kind("qemu").topology(65, 1, 3).refused(Code::VcpusNeedEim);
    }
    assert_eq!(arm().vcpus(256).requests("virtio").model(), "virtio");
    for case in [q35().vcpus(255), arm().vcpus(256)] {
        assert_eq!(case.requests("virtio").note(Code::VcpusNeedEim), None);
    }
}

#[test]
fn kvm_reaches_many_vcpus_without_interrupt_remapping() {
    // libvirt 12.8.0 and 12.9.0 define virtio with 300 vCPUs, and add the I/O APIC as a default.
    let new = q35().libvirt("12.9.0").qemu("11.1.3").vcpus(300).requests("virtio");
    for case in [new.clone(), new.clone().features("<acpi/><ioapic driver='qemu'/>")] {
        assert_eq!((case.model(), case.driver()), ("virtio".to_owned(), String::new()));
        assert_eq!(case.plan().ioapic.unwrap().driver, "qemu");
        let (level, message) = case.note(Code::VcpusNeedEim).unwrap();
        assert!(level == Level::Warning && message.contains("5.11") && message.contains("299"), "{message}");
    }
    let late = "more than 255 vCPUs require either IOAPIC in QEMU or an iommu device with EIM or XTSup mode enabled";
    for case in [
        new.clone().kind("qemu"),
        new.clone().features("<acpi/><ioapic driver='kvm'/>"),
        new.clone().os("<type arch='x86_64' machine='pc-q35-5.1'>hvm</type>"),
        new.clone().windows(),
    ] {
        assert!(case.refused(Code::VcpusNeedEim).contains(late));
    }
    assert!(new.clone().libvirt("12.7.0").refused(Code::VcpusNeedEim).contains("extended interrupt mode enabled"));
    assert_eq!(new.requests("auto").model(), "intel");
}

#[test]
fn virtio_cannot_serve_aliased_devices() {
    let message = q35().aliased().requests("virtio").refused(Code::VirtioAliasedDevices);
    assert!(
        message.contains("does not support aliased BDF") && message.contains("or use the model intel"),
        "{message}"
    );
    let message = arm().aliased().requests("auto").refused(Code::VirtioAliasedDevices);
    assert!(!message.contains("intel"), "{message}");
    assert_eq!(q35().aliased().requests("intel").model(), "intel");
    assert_eq!(q35().vfio(1).vfio(2).requests("virtio").model(), "virtio");
}

#[test]
fn smmuv3_cannot_serve_vfio() {
    for case in [arm().vfio(1).requests("smmuv3"), arm().hotplug().requests("smmuv3")] {
        let message = case.refused(Code::Smmuv3WithVfio);
        assert!(
            message.contains("requires iommu MAP notifier") && message.contains("use the model virtio"),
            "{message}"
        );
    }
    arm().device("<iommu model='smmuv3'/>").vfio(1).requests("auto").refused(Code::Smmuv3WithVfio);
    assert_eq!(arm().requests("smmuv3").model(), "smmuv3");
    let bypassed = arm().vfio(1).argument("-machine", "default_bus_bypass_iommu=on").requests("smmuv3");
    assert_eq!(bypassed.model(), "smmuv3");
    // QEMU 10.2 has one for each host bridge; that of another host bridge does not serve the device.
    let elsewhere = "<controller type='pci' index='7' model='pcie-expander-bus'/>
        <iommu model='smmuv3'><driver pciBus='7'/></iommu>";
    assert_eq!(arm().device(elsewhere).vfio(1).requests("smmuv3").model(), "smmuv3");
    let here = "<iommu model='smmuv3'><driver pciBus='0'/></iommu>";
    arm().device(here).vfio(1).requests("smmuv3").refused(Code::Smmuv3WithVfio);
}

#[test]
fn only_some_models_take_a_width() {
    let old = q35().aw_bits(39);
    let message = old.clone().requests("virtio").refused(Code::RequestConflict);
    assert!(message.contains("libvirt 12.2") && message.ends_with("leave it out, or use the model intel"), "{message}");
    let message = arm().aw_bits(39).requests("auto").refused(Code::RequestConflict);
    assert!(message.ends_with("leave it out"), "{message}");
    for libvirt in ["11.5.0", "12.8.0"] {
        let amd = old.clone().libvirt(libvirt).qemu("11.1.3").device("<iommu model='amd'/>");
        amd.requests("auto").refused(Code::RequestConflict);
        arm().aw_bits(39).libvirt(libvirt).requests("smmuv3").refused(Code::RequestConflict);
    }
    old.clone().libvirt("12.1.9").requests("virtio").refused(Code::RequestConflict);
    old.clone().libvirt("12.2.0").qemu("8.2.9").requests("virtio").refused(Code::RequestConflict);
    let new = old.libvirt("12.2.0").qemu("9.0.0").requests("virtio");
    assert_eq!(new.driver(), "aw_bits=39");
    assert_eq!(new.plan().qemu.devices, ["virtio-iommu,id=ua-viommu0,bus=pcie.0,aw-bits=39"]);
    assert_eq!(q35().libvirt("12.8.0").requests("virtio").driver(), "", "only with a request");
}

#[test]
fn a_width_of_an_existing_virtio_is_what_it_is() {
    let virtio = |driver: &str| {
        let iommu = format!("<iommu model='virtio'><driver {driver}><granule mode='host'/></driver></iommu>");
        q35().device(&iommu).libvirt("12.8.0").requests("auto")
    };
    let same = virtio("aw_bits='39'").aw_bits(39).plan();
    assert!(same.changes.is_empty());
    assert_eq!(virtio("aw_bits='64'").driver(), "aw_bits=64", "no width is requested");
    let message = virtio("aw_bits='48'").aw_bits(39).refused(Code::IommuConflict);
    assert!(message.contains("has aw_bits='48'"), "{message}");
    assert!(virtio("").aw_bits(39).refused(Code::IommuConflict).contains("has no aw_bits"));
}

/// Nova's XML, which libvirt's virDomainIOMMUDefValidate refuses ("doesn't support additional attributes").
#[test]
fn only_intel_has_attributes_of_intel() {
    let nova = "<driver intremap='on' caching_mode='on' eim='on' aw_bits='48' iotlb='on'/>";
    for (guest, model) in [(q35(), "virtio"), (arm(), "virtio"), (arm(), "smmuv3")] {
        let guest = guest.device(&format!("<iommu model='{model}'>{nova}</iommu>"));
        for asked in [model, "auto"] {
            let message = guest.clone().requests(asked).refused(Code::IommuConflict);
            assert!(message.contains("'intremap'") && message.contains("doesn't support additional"), "{message}");
        }
    }
    let later = q35().device("<iommu model='virtio'><driver aw_bits='48'/></iommu>").requests("virtio");
    later.clone().libvirt("12.1.9").refused(Code::IommuConflict);
    assert_eq!(later.libvirt("12.2.0").qemu("9.0.0").plan().changes, []);
}

#[test]
fn a_host_group_cannot_be_split() {
    let same = |case: Case| case.group(1, 11).group(2, 11);
    let two = q35().vfio(1).vfio(2);
    for model in ["intel", "virtio"] {
        let message = same(two.clone()).requests(model).refused(Code::IommuGroupSplit);
        assert!(message.contains("0000:01:00.0 and 0000:02:00.0"), "{message}");
        assert!(message.contains("group 11 used in multiple address spaces"), "{message}");
        assert_eq!(two.clone().group(1, 11).group(2, 12).requests(model).model(), model);
    }
    let message = same(arm().vfio(1).vfio(2)).requests("auto").refused(Code::IommuGroupSplit);
    assert!(!message.contains("intel"), "{message}");
    assert_eq!(two.requests("intel").model(), "intel", "unknown groups");
    assert_eq!(same(q35().vfio(1).vfio(2)).refusal(), None, "without a vIOMMU all share one address space");
}

#[test]
fn a_group_behind_one_bridge_is_whole() {
    assert_eq!(q35().aliased().group(1, 11).group(2, 11).requests("intel").model(), "intel");
    let bypassed = q35().vfio(1).vfio(2).argument("-machine", "default_bus_bypass_iommu=on");
    assert_eq!(bypassed.group(1, 11).group(2, 11).requests("intel").model(), "intel");
}

#[test]
fn functions_of_one_guest_slot_are_different_requesters() {
    let function = |host, function: u8| {
        let address = format!("<address type='pci' bus='5' slot='0' function='{function}' multifunction='on'/>");
        move |case: Case| case.vfio_at(host, &address)
    };
    let case = function(2, 1)(function(1, 0)(q35()));
    case.group(1, 11).group(2, 11).requests("intel").refused(Code::IommuGroupSplit);
}

#[test]
fn devices_without_an_address_get_root_ports() {
    let two = q35().vfio_at(1, "").vfio_at(2, "").group(1, 11).group(2, 11);
    two.requests("intel").refused(Code::IommuGroupSplit);
    // <address type='unassigned'/> removes a device from the guest.
    let one = q35().vfio_at(1, "").vfio_at(2, "<address type='unassigned'/>").group(1, 11).group(2, 11);
    assert_eq!(one.requests("intel").model(), "intel");
}

#[test]
fn devices_with_an_iommufd_are_no_exception() {
    let iommufd = q35().child("<iommufd enabled='yes'/>").vfio(1).vfio(2);
    iommufd.clone().group(1, 11).group(2, 11).requests("intel").refused(Code::IommuGroupSplit);
    assert_eq!(iommufd.requests("intel").plan().memlock.address_spaces.len(), 2);
    arm().child("<iommufd enabled='yes'/>").vfio(1).requests("smmuv3").refused(Code::Smmuv3WithVfio);
}
