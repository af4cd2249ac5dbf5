//! A vIOMMU that the guest already has: a working one stays, any other is refused with a request, and gives a note
//! without one.

use super::*;

/// With a request the guest is refused; without a request the same code and message is a note.
#[track_caller]
fn does_not_work(case: &Case, model: &str, code: Code, words: &str) {
    let message = case.clone().requests(model).refused(code);
    assert!(message.contains(words), "{message}");
    flawed(case, code, words);
}

#[track_caller]
fn flawed(case: &Case, code: Code, words: &str) {
    let plan = case.plan();
    let flaw = plan.flaw.as_ref().expect("a flaw");
    assert_eq!((flaw.code, flaw.level), (code, Level::Warning), "{}", flaw.message);
    assert!(flaw.message.contains(words) && plan.notes.contains(flaw), "{}", flaw.message);
    assert!(plan.changes.is_empty(), "{:?}", plan.changes);
}

#[track_caller]
fn works(case: &Case, model: &str) {
    assert_eq!(case.clone().requests(model).refusal(), None);
    assert_eq!(case.plan().flaw, None);
}

fn hidden(device: &str) -> Case {
    q35().argument("-device", device)
}

const CACHING: &str = "We need to set caching-mode=on for intel-iommu";

#[test]
fn hidden_intel_needs_caching_mode_for_vfio() {
    for device in ["intel-iommu", "intel-iommu,caching-mode=off", "intel-iommu,aw-bits=48"] {
        does_not_work(&hidden(device).vfio(1), "intel", Code::IommuConflict, CACHING);
        does_not_work(&hidden(device).vfio(1), "auto", Code::IommuConflict, "set caching-mode=on");
        works(&hidden(device), "intel");
    }
    does_not_work(&hidden("intel-iommu").device("<interface type='vdpa'/>"), "auto", Code::IommuConflict, CACHING);
    // QEMU 5.2, 7.2 and 10.0 start with each of them.
    for yes in ["on", "yes", "true", "y"] {
        works(&hidden(&format!("intel-iommu,caching-mode={yes}")).vfio(1), "intel");
    }
    works(
        &q35().argument("-global", "intel-iommu.caching-mode=on").argument("-device", "intel-iommu").vfio(1),
        "intel",
    );
    hidden("intel-iommu").hotplug().requests("intel").refused(Code::IommuConflict);
}

/// The default width of an intel-iommu is 48 bits from this machine type on, and 39 before.
const OF_9_2: &str = "<type arch='x86_64' machine='pc-q35-9.2'>hvm</type>";
const OF_9_1: &str = "<type arch='x86_64' machine='pc-q35-9.1'>hvm</type>";

/// Each text is the message of the named QEMU of Debian at a start with the device; those about VFIO devices are in its
/// source.
#[test]
fn hidden_intel_has_what_scalable_mode_needs() {
    let hidden = |properties: &str, qemu, os| Case { os, ..hidden(&format!("intel-iommu,{properties}")).qemu(qemu) };
    let newest = |properties: &str| hidden(properties, "11.1.3", OF_9_2);
    let stable = |properties: &str| hidden(properties, "10.0.13", OF_9_2);
    let older = |properties: &str, qemu| hidden(properties, qemu, OF_9_1);
    for (case, text) in [
        (newest("fsts=on"), "fsts is only available in scalable mode"),
        (newest("pasid-bits=20"), "Need to set scalable mode for PASID"),
        (newest("svm=on"), "Need to set device IOTLB for svm"),
        (newest("svm=on,scalable-mode=on,device-iotlb=on"), "Need to set fsts for svm"),
        (newest("svm=on,scalable-mode=on,device-iotlb=on,fsts=on"), "Need to set PASID support for svm"),
        (newest("scalable-mode=on,fsts=on,aw-bits=39"), "supported value for aw-bits is: 48"),
        (newest("x-scalable-mode=on"), "Property 'intel-iommu.x-scalable-mode' not found"),
        (newest("scalable-mode=on,x-flts=on"), "Property 'intel-iommu.x-flts' not found"),
        (newest("x-pasid-mode=on"), "Property 'intel-iommu.x-pasid-mode' not found"),
        (stable("x-flts=on"), "x-flts is only available in scalable mode"),
        (stable("x-pasid-mode=on"), "Need to set scalable mode for PASID"),
        (stable("x-scalable-mode=on,x-flts=on,aw-bits=39"), "supported value for aw-bits is: 48"),
        (stable("scalable-mode=on"), "Property 'intel-iommu.scalable-mode' not found"),
        (stable("fsts=on"), "Property 'intel-iommu.fsts' not found"),
        (stable("pasid-bits=20"), "Property 'intel-iommu.pasid-bits' not found"),
        (newest("caching-mode=on,scalable-mode=on,fsts=on").vfio(1), "Need IOMMUFD backend when fsts=on"),
        (older("scalable-mode=on,fsts=on", "11.1.3"), "supported value for aw-bits is: 48"),
        (older("x-scalable-mode=on,x-flts=on", "10.0.13"), "supported value for aw-bits is: 48"),
        (stable("x-scalable-mode=on,x-flts=on").qemu("7.2"), "Property 'intel-iommu.x-flts' not found"),
        (stable("scalable-mode=on").qemu("7.2"), "use x-scalable-mode"),
        (stable("fsts=on").qemu("7.2"), "remove fsts"),
        (
            stable("caching-mode=on,x-scalable-mode=on,x-flts=on").vfio(1),
            "host device is uncompatible with stage-1 translation",
        ),
    ] {
        does_not_work(&case, "intel", Code::IommuConflict, text);
    }
    for case in [
        newest("scalable-mode=on"),
        newest("scalable-mode=on,fsts=on"),
        older("scalable-mode=on,fsts=on,aw-bits=48", "11.1.3"),
        newest("scalable-mode=on,fsts=on"),
        newest("scalable-mode=on,pasid-bits=20"),
        newest("pasid-bits=0"),
        newest("scalable-mode=on,fsts=on,svm=on,device-iotlb=on,pasid-bits=20"),
        newest("scalable-mode=on,caching-mode=on").vfio(1),
        stable("x-scalable-mode=on,x-flts=on,x-pasid-mode=on"),
        stable("x-scalable-mode=on").qemu("10.2"),
        stable("scalable-mode=on").qemu("10.2"),
        newest("x-scalable-mode=on").qemu_unknown(),
    ] {
        works(&case, "intel");
    }
}

#[test]
fn written_intel_needs_caching_mode_for_vfio() {
    let with = |driver: &str| q35().device(&format!("<iommu model='intel'><driver {driver}/></iommu>"));
    let off = with("caching_mode='off'").vfio(1);
    does_not_work(&off, "intel", Code::IommuConflict, "set caching_mode='on'");
    // OpenNebula and oVirt write this. With a request viommu completes it.
    for driver in ["", "iotlb='on'"] {
        flawed(&with(driver).vfio(1), Code::IommuConflict, CACHING);
        assert_eq!(with(driver).vfio(1).requests("intel").refusal(), None);
        works(&with(driver), "intel");
    }
    works(&with("caching_mode='on'").vfio(1), "intel");
    let global =
        |value: &str, driver| with(driver).argument("-global", &format!("intel-iommu.caching-mode={value}")).vfio(1);
    assert_eq!(global("true", "intremap='off'").plan().flaw, None);
    flawed(&global("off", "intremap='off'"), Code::IommuConflict, CACHING);
    flawed(&global("on", "caching_mode='off'"), Code::IommuConflict, CACHING);
}

#[test]
fn a_hidden_viommu_behind_its_devices_is_bypassed() {
    let code = Code::IommuConflict;
    let words = "after the guest's VFIO devices";
    // Debian 11: libvirt 7.0 writes every device as key=value, and those of <qemu:commandline> last.
    let intel = hidden("intel-iommu,caching-mode=on").vfio(1);
    does_not_work(&intel.clone().libvirt("7.0.0").qemu("5.2.0"), "intel", code, words);
    does_not_work(&intel.clone().libvirt("9.0.0").qemu("6.2.0"), "intel", code, words);
    works(&intel.clone().libvirt("9.0.0").qemu("7.2.0"), "intel");
    // NEWS.rst of libvirt 8.0.0, "Fix device hot-unplug": 7.9 and 7.10 write JSON with QEMU 6.2, 8.0 does not.
    for libvirt in ["7.8.0", "8.0.0", "8.1.0"] {
        does_not_work(&intel.clone().libvirt(libvirt).qemu("6.2.0"), "intel", code, words);
    }
    works(&intel.clone().libvirt("7.9.0").qemu("6.2.0"), "intel");
    works(&intel.clone().libvirt("7.10.0").qemu("7.0.0"), "intel");
    works(&hidden("intel-iommu").libvirt("7.0.0").qemu("5.2.0"), "intel");
    // The same page: <qemu:del> makes libvirt write key=value.
    let without = |capability: &str| {
        let namespace = "http://libvirt.org/schemas/domain/qemu/1.0";
        let removed =
            format!("<q:capabilities xmlns:q='{namespace}'><q:del capability='{capability}'/></q:capabilities>");
        intel.clone().child(&removed)
    };
    does_not_work(&without("device.json+hotplug"), "intel", code, words);
    does_not_work(&without("device.json").libvirt("7.9.0").qemu("6.2.0"), "intel", code, words);
    works(&without("device.json"), "intel");
    // QEMU creates JSON devices in their order, after all others.
    let json = r#"{"driver":"intel-iommu","caching-mode":true}"#.replace('"', "&quot;");
    does_not_work(&hidden(&json).vfio(1), "intel", code, words);
    works(&hidden(&json), "intel");
    let late = |first: &str, second: &str| hidden(first).argument("-device", second);
    does_not_work(&late("vfio-pci,host=01:00.0", "intel-iommu,caching-mode=on"), "auto", code, words);
    works(&late("intel-iommu,caching-mode=on", "vfio-pci,host=01:00.0"), "auto");
    // A device on a bus that bypasses the vIOMMU is unaffected.
    works(&intel.libvirt("7.0.0").qemu("5.2.0").argument("-machine", "default_bus_bypass_iommu=on"), "intel");
    let machine = arm().argument("-machine", "iommu=smmuv3").libvirt("7.0.0").qemu("5.2.0");
    works(&machine, "smmuv3");
}

#[test]
fn smmuv3_with_vfio_does_not_work() {
    let code = Code::Smmuv3WithVfio;
    for case in [arm().argument("-machine", "iommu=smmuv3"), arm().device("<iommu model='smmuv3'/>")] {
        does_not_work(&case.clone().vfio(1), "smmuv3", code, "requires iommu MAP notifier");
        works(&case, "smmuv3");
    }
    works(&arm().argument("-device", "arm-smmuv3,primary-bus=pcie.0,accel=on").vfio(1), "smmuv3");
}

#[test]
fn virtio_without_acpi_does_not_work() {
    let code = Code::VirtioWithoutAcpi;
    for case in [hidden("virtio-iommu-pci"), q35().device("<iommu model='virtio'/>")] {
        does_not_work(&case.clone().features(""), "virtio", code, "requires ACPI");
        works(&case, "virtio");
    }
    let many = hidden("virtio-iommu-pci").vcpus(256);
    does_not_work(&many, "virtio", Code::VcpusNeedEim, "libvirt wants an <iommu>");
    does_not_work(&hidden("virtio-iommu-pci").aliased(), "virtio", Code::VirtioAliasedDevices, "aliased BDF");
}

#[test]
fn interrupt_remapping_needs_the_split_irqchip() {
    let code = Code::IrqchipConflict;
    let late = "Interrupt Remapping cannot work with kernel-irqchip=on";
    for (option, value) in [("-machine", "kernel_irqchip=on"), ("-accel", "kvm,kernel-irqchip=on")] {
        let case = q35().argument(option, value);
        assert!(case.clone().requests("intel").refused(code).contains(late));
        assert!(case.clone().wrapped().requests("intel").refused(code).contains("<qemu:commandline>"));
        let written = case.device("<iommu model='intel'><driver intremap='on'/></iommu>");
        does_not_work(&written, "intel", code, late);
    }
    assert_eq!(q35().argument("-machine", "kernel_irqchip=split").requests("intel").refusal(), None);
    assert_eq!(q35().argument("-machine", "kernel_irqchip=on").requests("virtio").refusal(), None);
    let remaps = hidden("intel-iommu,intremap=on");
    does_not_work(&remaps, "intel", code, "add <ioapic driver='qemu'/>");
    does_not_work(&remaps.clone().features("<acpi/><ioapic driver='kvm'/>"), "intel", code, late);
    works(&remaps.clone().features("<acpi/><ioapic driver='qemu'/>"), "intel");
    works(&remaps.clone().argument("-machine", "kernel_irqchip=split"), "intel");
    works(&remaps.kind("qemu"), "intel");
    // Without the attribute QEMU does not enable remapping.
    works(&hidden("intel-iommu").features("<acpi/><ioapic driver='kvm'/>"), "intel");
}

#[test]
fn amd_with_vfio_does_not_work() {
    let code = Code::IommuConflict;
    for case in [hidden("amd-iommu"), q35().device("<iommu model='amd'/>")] {
        let case = case.libvirt("12.9.0").qemu("10.1.0");
        does_not_work(&case.clone().vfio(1), "auto", code, "requires iommu notifier");
        does_not_work(&case.clone().vfio(1).qemu("10.2.0"), "auto", code, "requires dma-remap=1");
        works(&case, "auto");
    }
    works(&hidden("amd-iommu,dma-remap=on").vfio(1).qemu("10.2.0"), "auto");
    does_not_work(&hidden("amd-iommu,dma-remap=on").vfio(1).qemu("10.1.0"), "auto", code, "notifier");
}

#[test]
fn a_width_of_a_hidden_viommu_counts() {
    let narrow = hidden("intel-iommu,caching-mode=on,aw-bits=48").vfio(1).host_aw_bits(39);
    does_not_work(&narrow, "intel", Code::AwBitsExceedHost, "wider than the host IOMMU's 39");
    hidden("intel-iommu,aw-bits=48").aw_bits(39).requests("intel").refused(Code::IommuConflict);
    hidden("intel-iommu").aw_bits(39).requests("intel").refused(Code::RequestConflict);
}

#[test]
fn libvirt_refuses_many_vcpus_without_a_viommu() {
    let code = Code::VcpusNeedEim;
    flawed(&q35().vcpus(300).libvirt("10.5.0"), code, "libvirt 10.5.0 refuses 300 vCPUs");
    for case in
        [q35().vcpus(300).libvirt("10.10.0"), q35().vcpus(255).libvirt("10.5.0"), arm().vcpus(300).libvirt("10.5.0")]
    {
        assert_eq!(case.plan().flaw, None);
    }
    let mut unknown = q35().vcpus(300);
    unknown.host.libvirt = None;
    assert_eq!(unknown.plan().flaw, None);
    let written = q35().device("<iommu model='intel'/>").vcpus(300).libvirt("10.5.0");
    flawed(&written, code, "need interrupt remapping with eim='on'");
    assert_eq!(written.requests("intel").refusal(), None, "it is completed");
}

#[test]
fn hidden_options_turn_acpi_off() {
    let virtio = hidden("virtio-iommu-pci,bus=pcie.0,addr=0x1d");
    works(&virtio, "virtio");
    for case in [virtio.clone().argument("-machine", "acpi=off"), virtio.argument("-machine", "usb=off,acpi=no")] {
        does_not_work(&case, "virtio", Code::VirtioWithoutAcpi, "<qemu:commandline> turns it off");
    }
    q35().argument("-no-acpi", "-S").requests("virtio").refused(Code::VirtioWithoutAcpi);
    // libvirt reads the feature only.
    q35().features("<pae/>").argument("-machine", "acpi=on").requests("virtio").refused(Code::VirtioWithoutAcpi);
}
