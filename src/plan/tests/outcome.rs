//! The output of a plan: JSON, changes, QEMU's command line, and the refusal of a start whose XML cannot be changed any
//! more.

use super::*;
use crate::request::VirtioScope;

#[test]
fn json_equals_the_specified_document() {
    let case = q35()
        .child("<uuid>3a21c2ee-5ece-4225-baa4-9a11258f601e</uuid>")
        .vfio(1)
        .group(1, 12)
        .aw_bits(48)
        .requests("intel");
    let json = serde_json::to_value(case.plan()).unwrap();
    let expected = serde_json::json!({
        "domain": {"name": "guest", "uuid": "3a21c2ee-5ece-4225-baa4-9a11258f601e", "type": "kvm", "arch": "x86_64",
                   "machine": "pc-q35-7.2", "system": null, "vcpus": 2, "memory_bytes": 402_653_184, "max_memory_bytes": 402_653_184},
        "request": {"model": "intel", "source": "metadata", "locked_memory": false, "aw_bits": 48, "hotplug": false,
                    "virtio_iommu_driver": true},
        "route": "native",
        "iommu": {"model": "intel", "origin": "added",
                  "driver": {"intremap": "on", "caching_mode": "on", "eim": "on", "aw_bits": "48"}},
        "ioapic": {"driver": "qemu", "origin": "added"},
        "memlock": {"address_spaces": [{"devices": ["0000:01:00.0"], "iommu_groups": [12], "backend": "container"}], "nvme_disks": 0,
                    "vdpa_devices": 0, "required_bytes": 1_476_395_008, "libvirt_bytes": 1_476_395_008, "raise": false},
        "qemu": {"machine": {"kernel_irqchip": "split"},
                 "devices": ["intel-iommu,id=ua-viommu0,intremap=on,caching-mode=on,eim=on,aw-bits=48"]},
        "changes": [
            {"action": "add", "path": "/domain/devices/iommu",
             "reason": "the domain metadata asks for a vIOMMU (intel)"},
            {"action": "add", "path": "/domain/features/ioapic",
             "reason": "interrupt remapping needs the split irqchip, and libvirt before 10.10 does not add it by itself"},
        ],
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&json[key], value, "{key}");
    }
    let levels: Vec<_> = json["notes"].as_array().unwrap().iter().map(|note| &note["level"]).collect();
    assert_eq!(levels, ["warning", "info"]);
    assert_eq!(json["notes"][0]["code"], "migration-blocked");
}

#[test]
fn json_has_null_for_missing_values_and_words_for_unlimited() {
    let json = serde_json::to_value(q35().plan()).unwrap();
    for key in ["iommu", "ioapic"] {
        assert!(json[key].is_null(), "{key}");
    }
    assert!(json["memlock"]["required_bytes"].is_null() && json["memlock"]["libvirt_bytes"].is_null());
    assert_eq!(json["request"]["source"], "none");
    let json = serde_json::to_value(q35().locks().plan()).unwrap();
    assert_eq!(json["memlock"]["required_bytes"], "unlimited");
}

#[test]
fn json_has_the_specified_words() {
    let words = |json: serde_json::Value| json.as_str().unwrap().to_owned();
    for (origin, word) in [
        (Origin::Added, "added"),
        (Origin::Existing, "existing"),
        (Origin::Completed, "completed"),
        (Origin::Commandline, "commandline"),
    ] {
        assert_eq!(words(serde_json::json!(origin)), word);
    }
    for (edit, action, path) in [
        (DomainEdit::TranslateVirtio(VirtioScope::All, Vec::new()), "set", "/domain/devices/*/driver"),
        (DomainEdit::TranslateVirtio(VirtioScope::On, Vec::new()), "set", "/domain/devices/interface/driver"),
        (DomainEdit::RemoveIommuDriver, "remove", "/domain/devices/iommu/driver"),
        (DomainEdit::RemoveIoapic, "remove", "/domain/features/ioapic"),
        (DomainEdit::ForbidPageSharing, "add", "/domain/memoryBacking/nosharepages"),
    ] {
        let change = Change::new(edit, "why", true);
        assert_eq!((change.action, change.path, change.reason.as_str()), (action, path, "why"));
    }
    assert_eq!(words(serde_json::json!(Route::Wrapper)), "wrapper");
}

#[test]
fn the_architecture_defaults_to_the_hosts() {
    assert_eq!(arm().os("").plan().domain.arch.as_deref(), Some("aarch64"));
    let mut unknown = q35().os("");
    unknown.host.arch = None;
    assert_eq!(unknown.plan().domain.arch, None);
}

#[test]
fn edits_of_the_wrapper() {
    assert_eq!(q35().requests("virtio").plan().qemu.devices, ["virtio-iommu,id=ua-viommu0,bus=pcie.0"]);
    let ats = q35().device("<interface type='user'><driver ats='on'/></interface>").requests("intel").plan().qemu;
    assert_eq!(ats.devices, ["intel-iommu,id=ua-viommu0,intremap=on,eim=on,device-iotlb=on,aw-bits=48"]);
    assert_eq!(ats.machine.get("kernel_irqchip").map(String::as_str), Some("split"));
    let smmuv3 = arm().requests("smmuv3").plan().qemu;
    assert_eq!(smmuv3.machine.get("iommu").map(String::as_str), Some("smmuv3"));
    assert!(smmuv3.devices.is_empty());
    assert!(q35().requests("virtio").plan().qemu.machine.is_empty(), "no I/O APIC");
}

#[test]
fn the_route_is_the_emulators_name() {
    for (emulator, route) in [
        ("/usr/bin/viommu-qemu-system-x86_64", Route::Wrapper),
        ("/opt/x/viommu-qemu-system-aarch64", Route::Wrapper),
        ("/usr/lib/libvirt-host-route/qemu-system-x86_64", Route::Wrapper),
        ("/usr/lib/libvirt-host-route/viommu", Route::Native),
        ("/usr/bin/qemu-system-x86_64", Route::Native),
        ("/usr/bin/viommu-", Route::Native),
        ("/usr/bin/viommu-qemu-system-x86_64/qemu", Route::Native),
        ("", Route::Native),
    ] {
        assert_eq!(q35().device(&format!("<emulator>{emulator}</emulator>")).plan().route, route, "{emulator}");
    }
}

#[track_caller]
fn wrapper_missing(case: &Case, lack: &str) -> String {
    let note = case.plan().refusal_unless_rewritten().expect("a refusal");
    assert_eq!((note.code, note.level), (Code::WrapperMissing, Level::Error));
    assert!(note.message.starts_with(lack), "{}", note.message);
    note.message
}

#[test]
fn a_start_without_a_route_is_refused() {
    let message = wrapper_missing(
        &q35().requests("auto"),
        "the domain metadata asks for a vIOMMU (auto), and the domain has no <iommu>: ",
    );
    assert!(message.ends_with("or set <emulator> to /usr/bin/viommu-qemu-system-x86_64"), "{message}");
    assert_eq!(q35().requests("auto").wrapped().plan().refusal_unless_rewritten(), None);
    assert_eq!(q35().plan().refusal_unless_rewritten(), None);
    let i686 = q35().os("<type arch='i686' machine='q35'>hvm</type>").requests("intel");
    assert!(wrapper_missing(&i686, "the").ends_with("viommu-qemu-system-x86_64"));
    let arm = arm().os("").requests("smmuv3");
    assert!(wrapper_missing(&arm, "the").ends_with("viommu-qemu-system-aarch64"));
    wrapper_missing(
        &q35().locks(),
        "all of the guest's memory is to be locked, and the domain has no <memoryBacking><locked/>: ",
    );
}

#[test]
fn a_start_is_refused_only_for_essential_changes() {
    let existing =
        |driver: &str| q35().device(&format!("<iommu model='intel'><driver {driver}/></iommu>")).requests("intel");
    wrapper_missing(&existing("intremap='on' eim='on' aw_bits='48'").vfio(1), "the <iommu> lacks caching_mode=on: ");
    wrapper_missing(&existing("caching_mode='on'").vcpus(256), "the <iommu> lacks intremap=on, eim=on, aw_bits=48: ");
    wrapper_missing(&existing("intremap='on' eim='on'").aw_bits(39), "the <iommu> lacks aw_bits=39: ");
    for case in [
        existing("intremap='on' eim='on'"),
        existing("caching_mode='on'").vfio(1),
        existing("intremap='on' eim='on' aw_bits='48'").hotplug(),
        existing("intremap='on' eim='on' aw_bits='48'").device("<interface type='user'><driver ats='on'/></interface>"),
    ] {
        let plan = case.plan();
        assert!(!plan.changes.is_empty());
        assert_eq!(plan.refusal_unless_rewritten(), None);
    }
}

#[test]
fn a_refusal_contains_the_unchanged_plan() {
    let refusal = refused(&q35().vfio(1).domain(), Note::error(Code::ModelUnknown, "x"), &Host::default());
    assert!(refusal.unchanged.changes.is_empty());
    let json = serde_json::to_value(&refusal).unwrap();
    assert_eq!((&json["domain"]["name"], &json["notes"][0]["code"]), (&"guest".into(), &"model-unknown".into()));
    assert_eq!(json["memlock"]["address_spaces"].as_array().unwrap().len(), 1, "the memory that a running guest keeps");
}

#[test]
fn a_refused_request_changes_nothing_else() {
    let mut case = q35().requests("smmuv3").locks();
    case.request.nosharepages = true;
    case.refused(Code::ModelArchMismatch);
}

#[test]
fn has_viommu_reads_the_xml_and_the_command_line() {
    assert!(has_viommu(&q35().device("<iommu model='amd'/>").domain()));
    assert!(has_viommu(&q35().argument("-device", "intel-iommu").domain()));
    assert!(!has_viommu(&q35().argument("-device", "e1000e").domain()));
}
