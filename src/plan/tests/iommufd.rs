//! Devices by iommufd, and the accelerated SMMUv3, which needs them.

use super::*;

impl Case {
    /// A passed-through function by iommufd, behind its own root port.
    fn iommufd(self, host: u8) -> Case {
        self.device(&format!(
            "<hostdev mode='subsystem' type='pci'><driver iommufd='yes'/>
               <source><address domain='0' bus='{host}' slot='0' function='0'/></source>
               <address type='pci' bus='{host}' slot='0' function='0'/></hostdev>"
        ))
    }
}

#[test]
fn backends_do_not_mix_in_one_address_space() {
    let mixed = q35().qemu("11.1.3").iommufd(1).vfio(2);
    let flaw = mixed.plan().flaw.unwrap();
    assert_eq!((flaw.code, flaw.level), (Code::IommufdMixed, Level::Warning));
    assert!(flaw.message.contains("0000:01:00.0 and 0000:02:00.0"), "{}", flaw.message);
    assert_eq!(mixed.plan().memlock.address_spaces[0].backend, Backend::Mixed);
    // Behind a vIOMMU each has an address space of its own.
    assert_eq!(mixed.clone().requests("intel").plan().memlock.address_spaces.len(), 2);
    let bypassed = mixed.clone().argument("-machine", "default_bus_bypass_iommu=on");
    bypassed.requests("intel").refused(Code::IommufdMixed);
    assert_eq!(mixed.qemu("10.2.2").plan().flaw, None, "not seen there");
    assert_eq!(q35().qemu("11.1.3").iommufd(1).iommufd(2).plan().flaw, None);
}

#[test]
fn first_stage_translation_serves_iommufd_devices() {
    let nested =
        q35().qemu("11.1.3").argument("-device", "intel-iommu,caching-mode=on,aw-bits=48,scalable-mode=on,fsts=on");
    assert_eq!(nested.clone().iommufd(1).plan().flaw, None);
    let message = nested.iommufd(1).vfio(2).plan().flaw.unwrap().message;
    assert!(message.contains("give 0000:02:00.0 <driver iommufd='yes'/>"), "{message}");
    // QEMU 10.0 does not support this backend.
    let stable = q35()
        .qemu("10.0.13")
        .argument("-device", "intel-iommu,caching-mode=on,aw-bits=48,x-scalable-mode=on,x-flts=on");
    let message = stable.iommufd(1).plan().flaw.unwrap().message;
    assert!(message.contains("remove x-flts") && message.contains("0000:01:00.0"), "{message}");
}

#[test]
fn an_iommufd_has_no_limit_of_mappings() {
    let limited = |case: Case| case.requests("intel").note(Code::DmaEntryLimit).is_some();
    assert!(!limited(q35().iommufd(1).iommufd(2)));
    assert!(limited(q35().iommufd(1).vfio(2)));
}

#[test]
fn locked_memory_of_an_iommufd_that_libvirt_does_not_open_is_counted_for_the_user() {
    let note = |case: Case| case.note(Code::IommufdPerUser).map(|(_, message)| message);
    let hidden = |object: &str| {
        q35().argument("-object", object).argument("-device", "vfio-pci,host=01:00.0,iommufd=fd0").requests("intel")
    };
    let message = note(hidden("iommufd,id=fd0")).unwrap();
    assert!(message.contains("-object iommufd") && message.contains("1476395008 bytes"), "{message}");
    assert_eq!(note(hidden("iommufd,id=fd0,fd=23")), None);
    assert_eq!(note(q35().argument("-object", "iommufd,id=fd0").vfio(1)), None, "no device uses it");
    assert!(note(q35().child("<iommufd enabled='yes' fdgroup='vms'/>").iommufd(1)).unwrap().contains("fdgroup"));
    assert_eq!(note(q35().child("<iommufd enabled='yes'/>").vfio(1)), None);
}

/// AArch64 with KVM on libvirt 12.9.0 and QEMU 11.1.3, and this SMMUv3.
fn smmuv3(driver: &str) -> Case {
    let smmu = format!("<iommu model='smmuv3'><driver {driver}/></iommu>");
    arm().libvirt("12.9.0").qemu("11.1.3").device(&smmu)
}

#[test]
fn an_accelerated_smmuv3_is_kept_and_checked() {
    let accelerated = || smmuv3("pciBus='0' accel='on'");
    let good = accelerated().iommufd(1);
    assert_eq!(good.clone().requests("smmuv3").driver(), "pciBus=0 accel=on");
    assert!(good.note(Code::MigrationBlocked).unwrap().1.contains("accelerator mode"));
    for (case, words) in [
        (smmuv3("accel='on'").iommufd(1), "without pciBus"),
        (smmuv3("pciBus='0' accel='on' ssidSize='8'").iommufd(1), "write ssidsize"),
        (good.clone().libvirt("12.6.0"), "libvirt 12.6.0 ignores"),
        (good.clone().qemu("10.2.2"), "QEMU 10.2.2 cannot"),
        (good.clone().kind("qemu"), "requires KVM with kernel-irqchip=on support"),
        (good.clone().features(""), "not supported for DT"),
        (accelerated().vfio(1), "without an iommufd backend"),
        (good.clone().vfio(2).hotplug(), "give 0000:02:00.0"),
    ] {
        let message = case.clone().requests("smmuv3").refused(Code::Smmuv3WithVfio);
        assert!(message.contains(words), "{message}");
    }
    let message = accelerated().requests("smmuv3").refused(Code::IommuConflict);
    assert!(message.contains("at least one cold-plugged VFIO device"), "{message}");
    let sized = "pciBus='0' accel='on' ats='off' ril='off' ssidsize='0' oas='48'";
    assert_eq!(smmuv3(sized).requests("smmuv3").refusal(), None);
}

#[test]
fn every_smmuv3_is_shown() {
    let two = smmuv3("pciBus='1'").device("<iommu model='smmuv3'><driver pciBus='2' accel='off'/></iommu>");
    let json = serde_json::to_value(two.plan()).unwrap();
    assert_eq!(json["iommu"]["driver"]["pciBus"], "1");
    assert_eq!(json["further_iommus"][0]["driver"], serde_json::json!({"pciBus": "2", "accel": "off"}));
    assert!(serde_json::to_value(smmuv3("").plan()).unwrap().get("further_iommus").is_none());
}

// Each SMMUv3 serves the devices of its own host bridge.
#[test]
fn each_smmuv3_serves_the_devices_below_its_host_bridge() {
    const BRIDGES: &str = "<controller type='pci' index='0' model='pcie-root'/>
        <controller type='pci' index='1' model='pcie-expander-bus'><address type='pci' bus='0' slot='4'/></controller>
        <controller type='pci' index='2' model='pcie-root-port'><address type='pci' bus='1' slot='0'/></controller>
        <controller type='pci' index='3' model='pcie-expander-bus'><address type='pci' bus='0' slot='5'/></controller>
        <controller type='pci' index='4' model='pcie-root-port'><address type='pci' bus='3' slot='0'/></controller>";
    let case = |first: &str, second: &str| {
        let second = format!("<iommu model='smmuv3'><driver pciBus='3' {second}/></iommu>");
        smmuv3(&format!("pciBus='1' {first}")).device(&second).device(BRIDGES).requests("smmuv3")
    };
    let accelerated = "accel='on'";
    assert_eq!(case(accelerated, accelerated).iommufd(2).iommufd(4).refusal(), None);
    assert_eq!(case(accelerated, "").iommufd(2).refusal(), None);
    case(accelerated, "").iommufd(2).iommufd(4).refused(Code::Smmuv3WithVfio);
    let message = case(accelerated, accelerated).iommufd(2).refused(Code::Smmuv3WithVfio);
    assert!(message.contains("cold-plugged"), "{message}");
}
