//! What the vIOMMU translates: virtio devices, or nothing but interrupts.

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
        Edit::TranslateVirtio(devices) => Some(devices),
        _ => None,
    });
    devices.flatten().map(|device| (device.at, device.iommu, device.ats)).collect()
}

fn driver(plan: &Plan, name: &str) -> Option<String> {
    plan.iommu.as_ref()?.driver.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
}

fn note(plan: &Plan, code: Code) -> Option<(Level, String)> {
    plan.notes.iter().find(|note| note.code == code).map(|note| (note.level, note.message.clone()))
}

#[test]
fn only_what_is_asked_for_is_translated() {
    let guest = || q35().device(BRIDGE).device(USER).device(DISK).asks("intel");
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
    let disk = q35().device(DISK).asks("intel");
    assert_eq!(note(&disk.plan(), Code::VirtioBypassesIommu), None, "vfio-pci in the guest is for network interfaces");
    let unasked = q35().device(BRIDGE).virtio(VirtioScope::On).plan();
    assert_eq!((unasked.changes.len(), unasked.qemu.virtio), (0, None));
}

// vtd_iommu_notify_flag_changed; "Virtio-iommu does not support dev-iotlb yet".
#[test]
fn only_intel_has_a_device_iotlb() {
    for case in [q35().asks("virtio"), arm().asks("smmuv3")] {
        let plan = case.device(BRIDGE).virtio(VirtioScope::On).plan();
        assert_eq!(edits(&plan), [(0, true, false)]);
        assert!(!plan.qemu.virtio.unwrap().ats);
    }
    let plan = q35().device(USER).asks("intel").virtio(VirtioScope::On).plan();
    assert_eq!(driver(&plan, "iotlb"), None, "no backend needs one");
}

#[test]
fn what_cannot_be_translated_is_said() {
    let written = "<interface type='bridge'><model type='virtio'/><driver iommu='off'/></interface>";
    let old = "<interface type='user'><model type='virtio-transitional'/></interface>";
    for device in [written, old] {
        let plan = q35().device(device).device(USER).asks("intel").virtio(VirtioScope::On).plan();
        assert_eq!(edits(&plan), [(1, true, false)]);
        let (level, message) = note(&plan, Code::VirtioBypassesIommu).unwrap();
        assert!(level == Level::Warning && message.starts_with("1 virtio device will"), "{message}");
        assert_eq!(driver(&plan, "iotlb"), None);
    }
    let vdpa = || {
        q35().device("<interface type='vdpa'><model type='virtio'/></interface>").asks("intel").virtio(VirtioScope::On)
    };
    assert_eq!(edits(&vdpa().plan()), [(0, true, true)]);
    assert_eq!(edits(&vdpa().qemu("7.2.0").plan()), []);
}

#[test]
fn what_is_there_already_is_no_change() {
    let done = "<interface type='bridge'><model type='virtio'/><driver iommu='on' ats='on'/></interface>";
    let plan = q35().device(done).asks("intel").virtio(VirtioScope::On).plan();
    assert_eq!((edits(&plan), plan.qemu.virtio), (vec![], None));
    let half = "<interface type='bridge'><model type='virtio'/><driver iommu='on'/></interface>";
    assert_eq!(edits(&q35().device(half).asks("intel").virtio(VirtioScope::On).plan()), [(0, false, true)]);
    let iommu = "<iommu model='intel'><driver intremap='on' eim='on' aw_bits='48'/></iommu><ioapic driver='qemu'/>";
    let plan = q35().device(iommu).device(BRIDGE).asks("auto").virtio(VirtioScope::On).plan();
    assert_eq!((edits(&plan), driver(&plan, "iotlb").as_deref()), (vec![(2, true, true)], Some("on")));
    // A start whose XML cannot be rewritten any more.
    assert_eq!(plan.refusal_unless_rewritten().unwrap().code, Code::WrapperMissing);
}

#[test]
fn interrupts_only() {
    let big = |case: Case| case.vcpus(300).asks("auto").interrupts();
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
    // The wrapper needs no libvirt for it.
    let wrapped = |qemu| driver(&big(q35().wrapped()).libvirt("9.0.0").qemu(qemu).plan(), "dma_translation");
    assert_eq!(wrapped("7.2.0").as_deref(), Some("off"));
    assert_eq!(wrapped("7.0.0"), None);
    // A guest that would be virtio otherwise.
    assert_eq!(q35().asks("auto").interrupts().plan().iommu.unwrap().model, Some(Model::Intel));
    let existing =
        q35().device("<iommu model='intel'><driver intremap='on' aw_bits='48' eim='on'/></iommu>").asks("intel");
    assert_eq!(existing.interrupts().plan().qemu.existing["dma-translation"], "off");
}

#[test]
fn interrupts_only_contradicts_translation() {
    for case in [
        q35().asks("virtio"),
        arm().asks("smmuv3"),
        arm().asks("auto"),
        q35().asks("intel").device(USER).virtio(VirtioScope::On),
    ] {
        assert_eq!(case.interrupts().refusal().unwrap().code, Code::RequestConflict);
    }
}
