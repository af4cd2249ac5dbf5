//! The devices that the vIOMMU translates: virtio devices, or only interrupts.

use crate::qemu::Translated;
use crate::request::{Purpose, VirtioScope};

use super::*;

const BRIDGE: &str = "<interface type='bridge'><model type='virtio'/></interface>";
const USER: &str = "<interface type='user'><model type='virtio'/></interface>";
const DISK: &str = "<disk type='file'><target dev='vda' bus='virtio'/></disk>";

impl Case {
    fn virtio(mut self, scope: VirtioScope) -> Case {
        self.request.virtio = scope;
        self
    }

    fn interrupts(mut self) -> Case {
        self.request.purpose = Purpose::Interrupts;
        self
    }
}

fn edits(plan: &Plan) -> Vec<(usize, bool, bool)> {
    let devices = plan.changes.iter().filter_map(|change| match &change.edit {
        DomainEdit::TranslateVirtio(_, devices) => Some(devices),
        _ => None,
    });
    let has = |driver: &[(&str, String)], name| driver.contains(&(name, "on".to_owned()));
    devices.flatten().map(|(at, driver)| (*at, has(driver, "iommu"), has(driver, "ats"))).collect()
}

fn driver(plan: &Plan, name: &str) -> Option<String> {
    plan.iommu.as_ref()?.driver.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
}

fn note(plan: &Plan, code: Code) -> Option<(Level, String)> {
    plan.notes.iter().find(|note| note.code == code).map(|note| (note.level, note.message.clone()))
}

#[test]
fn only_requested_devices_are_translated() {
    let guest = || q35().device(BRIDGE).device(USER).device(DISK).requests("intel");
    let off = guest().plan();
    assert_eq!((edits(&off), off.qemu.virtio, driver(&off, "iotlb")), (vec![], None, None));
    assert_eq!(note(&off, Code::VirtioBypassesIommu).unwrap().0, Level::Info);
    let on = guest().virtio(VirtioScope::On).plan();
    assert_eq!(edits(&on), [(0, true, true), (1, true, false)]);
    assert_eq!(on.qemu.virtio, Some(Translated { all: false, ats: true, vdpa: true }));
    assert_eq!(driver(&on, "iotlb").as_deref(), Some("on"));
    assert_eq!(note(&on, Code::VirtioBypassesIommu), None);
    let all = guest().virtio(VirtioScope::All).plan();
    assert_eq!(edits(&all), [(0, true, true), (1, true, false), (2, true, false)]);
    assert!(all.qemu.virtio.unwrap().all);
    let disk = q35().device(DISK).requests("intel");
    assert_eq!(note(&disk.plan(), Code::VirtioBypassesIommu), None, "vfio-pci in the guest is for network interfaces");
    let unasked = q35().device(BRIDGE).virtio(VirtioScope::On).plan();
    assert_eq!((unasked.changes.len(), unasked.qemu.virtio), (0, None));
}

// vtd_iommu_notify_flag_changed; "Virtio-iommu does not support dev-iotlb yet".
#[test]
fn only_intel_has_a_device_iotlb() {
    for case in [q35().requests("virtio"), arm().requests("smmuv3")] {
        let plan = case.device(BRIDGE).virtio(VirtioScope::On).plan();
        assert_eq!(edits(&plan), [(0, true, false)]);
        assert!(!plan.qemu.virtio.unwrap().ats);
    }
    let plan = q35().device(USER).requests("intel").virtio(VirtioScope::On).plan();
    assert_eq!(driver(&plan, "iotlb"), None, "no backend needs one");
}

#[test]
fn devices_that_cannot_be_translated_give_a_warning() {
    let written = "<interface type='bridge'><model type='virtio'/><driver iommu='off'/></interface>";
    let old = "<interface type='user'><model type='virtio-transitional'/></interface>";
    for device in [written, old] {
        let plan = q35().device(device).device(USER).requests("intel").virtio(VirtioScope::On).plan();
        assert_eq!(edits(&plan), [(1, true, false)]);
        let (level, message) = note(&plan, Code::VirtioBypassesIommu).unwrap();
        assert!(level == Level::Warning && message.starts_with("1 virtio device will"), "{message}");
        assert_eq!(driver(&plan, "iotlb"), None);
    }
    let vdpa = || {
        q35()
            .device("<interface type='vdpa'><model type='virtio'/></interface>")
            .requests("intel")
            .virtio(VirtioScope::On)
    };
    assert_eq!(edits(&vdpa().plan()), [(0, true, true)]);
    assert_eq!(edits(&vdpa().qemu("7.2.0").plan()), []);
}

#[test]
fn existing_settings_are_no_change() {
    let done = "<interface type='bridge'><model type='virtio'/><driver iommu='on' ats='on'/></interface>";
    let plan = q35().device(done).requests("intel").virtio(VirtioScope::On).plan();
    assert_eq!((edits(&plan), plan.qemu.virtio), (vec![], None));
    let half = "<interface type='bridge'><model type='virtio'/><driver iommu='on'/></interface>";
    assert_eq!(edits(&q35().device(half).requests("intel").virtio(VirtioScope::On).plan()), [(0, false, true)]);
    let iommu = "<iommu model='intel'><driver intremap='on' eim='on' aw_bits='48'/></iommu><ioapic driver='qemu'/>";
    let plan = q35().device(iommu).device(BRIDGE).requests("auto").virtio(VirtioScope::On).plan();
    assert_eq!((edits(&plan), driver(&plan, "iotlb").as_deref()), (vec![(2, true, true)], Some("on")));
    // A start whose XML cannot be changed any more.
    assert_eq!(plan.refusal_unless_rewritten().unwrap().code, Code::WrapperMissing);
}

#[test]
fn interrupts_only() {
    let big = |case: Case| case.vcpus(300).requests("auto").interrupts();
    let plan = big(q35()).plan();
    assert_eq!(driver(&plan, "dma_translation").as_deref(), Some("off"));
    assert!(plan.qemu.devices[0].ends_with(",dma-translation=off"), "{:?}", plan.qemu);
    assert_eq!(note(&plan, Code::PurposeIgnored), None);
    for (case, why) in [
        (big(q35()).libvirt("10.6.0"), "libvirt 10.6.0"),
        (big(q35()).flags(&["intel-iommu"]), "QEMU 10.0.13"),
        (big(q35()).vfio(1), "VFIO"),
        (big(q35()).hotplug(), "VFIO"),
    ] {
        let plan = case.plan();
        assert_eq!(driver(&plan, "dma_translation"), None, "{why}");
        let (level, message) = note(&plan, Code::PurposeIgnored).unwrap();
        assert!(level == Level::Warning && message.contains(why), "{message}");
    }
    // The wrapper does not depend on libvirt's support.
    let wrapped = |qemu| driver(&big(q35().wrapped()).libvirt("9.0.0").qemu(qemu).plan(), "dma_translation");
    assert_eq!(wrapped("7.2.0").as_deref(), Some("off"));
    assert_eq!(wrapped("7.0.0"), None);
    // Without this request the model would be virtio.
    assert_eq!(q35().requests("auto").interrupts().plan().iommu.unwrap().model, Some(Model::Intel));
    let existing =
        q35().device("<iommu model='intel'><driver intremap='on' aw_bits='48' eim='on'/></iommu>").requests("intel");
    assert_eq!(existing.interrupts().plan().qemu.existing["dma-translation"], "off");
}

#[test]
fn interrupts_only_contradicts_translation() {
    for case in [
        q35().requests("virtio"),
        arm().requests("smmuv3"),
        arm().requests("auto"),
        q35().requests("intel").device(USER).virtio(VirtioScope::On),
    ] {
        assert_eq!(case.interrupts().refusal().unwrap().code, Code::RequestConflict);
    }
}

fn written(driver: &str) -> Case {
    q35().device(&format!("<iommu model='intel'><driver intremap='on' eim='on' aw_bits='48' {driver}/></iommu>"))
}

#[test]
fn a_written_vtd_without_translation_serves_no_device_that_needs_it() {
    let off = || written("dma_translation='off' caching_mode='on'").requests("intel");
    for case in [off().vfio(1), off().hotplug(), off().device(USER).virtio(VirtioScope::On)] {
        assert!(case.refused(Code::IommuConflict).contains("DMA translation switched off"));
    }
    assert_eq!(off().refusal(), None);
    // The request is for interrupts alone, and so is the guest's vIOMMU.
    let plan = off().vfio(1).interrupts().plan();
    assert_eq!(note(&plan, Code::PurposeIgnored), None);
    // Without a request it is the user's own decision.
    let plan = written("dma_translation='off' caching_mode='on'").vfio(1).plan();
    assert_eq!(note(&plan, Code::IommuConflict), None);
    let hidden = q35().argument("-device", "intel-iommu,intremap=on,caching-mode=on,dma-translation=no,aw-bits=48");
    hidden.qemu("5.2.0").libvirt("8.0.0").requests("intel").vfio(1).refused(Code::IommuConflict);
}

#[test]
fn interrupts_only_without_a_reason_against_it() {
    let case = || q35().requests("intel").interrupts();
    let mut unknown = case();
    unknown.host.cautious = true;
    unknown.host.libvirt = None;
    assert_eq!(driver(&unknown.plan(), "dma_translation"), None);
    // QEMU 7.0 supports the machine type, too, but not the property: another host may decide differently.
    let on = |os| case().os(os).plan().reproducible;
    assert!(
        !on("<type arch='x86_64' machine='pc-q35-7.0'>hvm</type>")
            && !on("<type arch='x86_64' machine='q35'>hvm</type>")
    );
    assert!(on("<type arch='x86_64' machine='pc-q35-7.1'>hvm</type>"));
}

#[test]
fn devices_on_a_bus_that_bypasses_the_viommu_are_not_translated_for() {
    let bus = "<controller type='pci' index='0' model='pcie-root'/><controller type='pci' index='1' model='pcie-expander-bus'/>
        <controller type='pci' index='2' model='pcie-root-port'><address type='pci' bus='1' slot='0'/></controller>";
    let nic = "<interface type='user'><model type='virtio'/><address type='pci' bus='2' slot='0'/></interface>";
    let case = || q35().device(bus).device(nic).requests("intel").virtio(VirtioScope::On);
    assert_eq!(edits(&case().plan()).len(), 1);
    let plan = case().argument("-global", "pxb-pcie.bypass_iommu=on").plan();
    assert_eq!(edits(&plan), []);
    assert!(note(&plan, Code::VirtioBypassesIommu).is_some());
}

#[test]
fn amd_translates_for_virtio_by_the_wrapper_only() {
    let case = || q35().libvirt("12.9.0").qemu("11.1.3").device(USER).requests("amd").virtio(VirtioScope::On);
    case().refused(Code::RequestConflict);
    assert_eq!(edits(&case().wrapped().plan()).len(), 1);
}
