//! The vIOMMU of AMD, according to libvirt 12.9.0 and QEMU 11.1.3.

use super::*;

const IOMMU: &str = "<iommu model='amd'/>";

/// A guest on Debian 13's backports.
fn new() -> Case {
    q35().libvirt("12.9.0").qemu("11.1.3")
}

fn with(driver: &str) -> Case {
    new().device(&format!("<iommu model='amd'><driver {driver}/></iommu>"))
}

#[test]
fn natively_it_remaps_interrupts_and_translates_nothing() {
    let case = new().requests("amd");
    assert_eq!((case.driver().as_str(), case.plan().ioapic.unwrap().origin), ("intremap=on xtsup=on", Origin::Added));
    let words = |case: &Case| case.note(Code::AmdWithoutDmaRemap).map(|(level, _)| level);
    assert_eq!(words(&case), Some(Level::Warning));
    assert_eq!(words(&new().device(IOMMU)), Some(Level::Warning), "also without a request");
    assert_eq!(words(&with("").qemu("10.1.0")), None, "it translates for emulated devices");
    assert_eq!(words(&new().argument("-device", "amd-iommu,dma-remap=on")), None);
    assert_eq!(new().requests("auto").model(), "virtio");
    new().libvirt("11.4.0").requests("amd").refused(Code::ModelUnsupportedByLibvirt);
    // QEMU 10.0 has no pci-id.
    new().qemu("10.0.13").requests("amd").refused(Code::ModelUnsupportedByQemu);
}

#[test]
fn the_wrapper_makes_it_translate() {
    let case = new().wrapped().vfio(1).vfio(2).requests("amd");
    let plan = case.plan();
    assert_eq!(
        plan.qemu.devices,
        ["AMDVI-PCI,id=ua-viommu0,bus=pcie.0", "amd-iommu,pci-id=ua-viommu0,dma-remap=on,intremap=on,xtsup=on"]
    );
    assert_eq!(plan.qemu.machine["kernel_irqchip"], "split");
    assert_eq!(plan.memlock.address_spaces.len(), 2);
    assert!(plan.memlock.raise && !plan.notes.iter().any(|note| note.code == Code::AmdWithoutDmaRemap));
    assert_eq!(case.clone().libvirt("7.0.0").model(), "amd", "libvirt does not see it");
    let message = case.clone().qemu("10.1.0").refused(Code::ModelUnsupportedByQemu);
    assert!(message.contains("Property 'amd-iommu.dma-remap' not found"), "{message}");
    // A named model of an unknown QEMU is not refused, like virtio. A QEMU before 10.2 refuses the property, and
    // therefore the start.
    let unknown = case.clone().qemu_unknown().plan();
    assert_eq!(unknown.qemu.devices, plan.qemu.devices);
    assert!(unknown.notes.iter().any(|note| (note.level, note.code) == (Level::Warning, Code::HostFactAssumed)));
    case.clone().host_aw_bits(39).refused(Code::AwBitsExceedHost);
    assert_eq!(case.clone().host_aw_bits(48).refusal(), None);
    assert_eq!(new().wrapped().requests("amd").host_aw_bits(39).refusal(), None, "no device behind it needs the host");
    // libvirt writes the vIOMMU of the XML, without dma-remap.
    let message = case.device(IOMMU).refused(Code::IommuConflict);
    assert!(message.contains("a request for amd and without an <iommu>"), "{message}");
    assert_eq!(
        new().requests("amd").plan().qemu.devices[1],
        "amd-iommu,pci-id=ua-viommu0,intremap=on,xtsup=on",
        "libvirt's own"
    );
    let hidden = new().argument("-device", "amd-iommu,dma-remap=yes").vfio(1);
    assert_eq!(hidden.requests("auto").refusal(), None);
}

#[test]
fn requests_that_libvirt_or_qemu_refuses_are_refused() {
    for driver in ["aw_bits='48'", "dma_translation='off'", "caching_mode='on'", "eim='on'"] {
        let message = with(driver).requests("auto").refused(Code::IommuConflict);
        assert!(message.contains("iommu model 'amd' doesn't support some additional attributes"), "{message}");
        assert_eq!(with(driver).plan().flaw.unwrap().code, Code::IommuConflict);
    }
    for value in ["on", "off"] {
        let passthrough = with(&format!("passthrough='{value}'"));
        let flaw = passthrough.plan().flaw.unwrap();
        assert!(flaw.message.contains("Property 'amd-iommu.pt' not found"), "{}", flaw.message);
        assert_eq!(passthrough.qemu("10.2.2").plan().flaw, None);
    }
    with("intremap='on'").features("<acpi/><ioapic driver='kvm'/>").requests("amd").refused(Code::IrqchipConflict);
    let other = new().device("<iommu model='intel'><driver xtsup='on'/></iommu>");
    other.clone().requests("intel").refused(Code::IommuConflict);
    assert_eq!(other.libvirt("11.3.0").requests("intel").refusal(), None, "libvirt ignores it there");
    arm().requests("amd").refused(Code::ModelArchMismatch);
}

#[test]
fn many_vcpus_need_xtsup() {
    let many = new().vcpus(300);
    assert_eq!(many.clone().requests("amd").driver(), "intremap=on xtsup=on");
    let message = many.clone().libvirt("12.1.0").requests("amd").refused(Code::VcpusNeedEim);
    assert!(message.contains("use the model intel, or libvirt 12.2"), "{message}");
    for off in ["intremap='off'", "xtsup='off'"] {
        let case = with(off).vcpus(300).requests("amd");
        assert!(case.refused(Code::VcpusNeedEim).contains("IOAPIC in QEMU"));
        assert_eq!(with(off).requests("amd").refusal(), None);
    }
}
