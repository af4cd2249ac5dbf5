//! The compared domains: libvirt's own, the examples, and additional ones.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::machines::{nameless, on_q35, on_virt, with_uefi};
use super::support::corpus;

/// A domain for a host without KVM.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) xml: String,
}

pub(crate) fn all() -> Vec<Case> {
    let mut all = made();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/domains");
    for entry in fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        all.push(case(&path, &fs::read_to_string(&path).unwrap()));
    }
    for (path, text) in corpus::documents() {
        let here = case(&path, &text);
        // Domains for i440fx have other devices, which are also valid on q35.
        all.extend(on_q35(&here));
        // The corpus has few AArch64 domains, and most of them have no firmware.
        all.extend(on_virt(&here));
        all.extend(with_uefi(&here));
        all.push(here);
    }
    let mut seen = BTreeSet::new();
    all.retain(|case| seen.insert(nameless(case)));
    all
}

fn case(path: &Path, text: &str) -> Case {
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    let text = text.replacen("type='kvm'", "type='qemu'", 1).replacen("type=\"kvm\"", "type=\"qemu\"", 1);
    // Only KVM provides the host's CPU model.
    let text = ["host-passthrough", "host-model"].into_iter().fold(text, |text, mode| {
        text.replace(&format!("mode='{mode}'"), "mode='maximum'").replace(&format!("mode=\"{mode}\""), "mode='maximum'")
    });
    let text = text.replace("<cache mode='passthrough'/>", "");
    Case { name, xml: text }
}

/// A domain in libvirt's format, changed so that libvirt can make a command line of it on this host.
pub(crate) fn askable(xml: &str) -> String {
    with_vfio_driver(&with_interfaces_as_hostdevs(xml))
}

const HOSTDEV: &str = "<hostdev mode='subsystem' type='pci'";

/// libvirt 9.0 needs an explicit driver on a host whose VFIO is a placeholder.
fn with_vfio_driver(xml: &str) -> String {
    let mut pieces = xml.split(HOSTDEV);
    let mut result = pieces.next().unwrap().to_owned();
    for piece in pieces {
        let (attributes, rest) = piece.split_once('>').unwrap();
        let has_one = rest.split("</hostdev>").next().unwrap().contains("<driver");
        let driver = if has_one { "" } else { "<driver name='vfio'/>" };
        write!(result, "{HOSTDEV}{attributes}>{driver}{rest}").unwrap();
    }
    result
}

/// `domxml-to-native` of both libvirts crashes or writes invalid text for `<interface type='hostdev'>`, because it
/// treats it as an ordinary interface. At a start libvirt writes the same `-device` as for a `<hostdev>`.
fn with_interfaces_as_hostdevs(xml: &str) -> String {
    let mut pieces = xml.split("<interface type='hostdev'");
    let mut result = pieces.next().unwrap().to_owned();
    for piece in pieces {
        let (attributes, rest) = piece.split_once('>').unwrap();
        let (own, rest) = rest.split_once("</interface>").unwrap();
        let part = |open: &str, close: &str| {
            own.split_once(open)
                .map_or(String::new(), |(_, rest)| open.to_owned() + rest.split(close).next().unwrap() + close)
        };
        let (source, driver, boot) = (part("<source", "</source>"), part("<driver", "/>"), part("<boot ", "/>"));
        let address = own.rsplit_once("</source>").map_or("", |(_, after)| after);
        let address = address.split_once("<address").map_or("", |(_, rest)| rest.split("/>").next().unwrap());
        write!(result, "{HOSTDEV}{attributes}>{driver}{source}{boot}<address{address}/></hostdev>{rest}").unwrap();
    }
    result
}

/// Domains that the corpus may lack, also in combinations.
fn made() -> Vec<Case> {
    let q35 = Made::default();
    let virt = Made { virt: true, ..q35 };
    let key_value = Made::KEY_VALUE;
    let ports = (1..0x1f).fold(String::new(), |mut ports, slot| {
        let address = format!("<address type='pci' bus='0' slot='{slot}'/>");
        write!(ports, "<controller type='pci' index='{slot}' model='pcie-root-port'>{address}</controller>").unwrap();
        ports
    });
    let huge = "<memoryBacking><hugepages/></memoryBacking>";
    let all = [
        ("q35", q35),
        ("q35, 1 hostdev", Made { devices: HOSTDEV_1, ..q35 }),
        ("q35, 3 hostdevs", Made { devices: HOSTDEV_3, ..q35 }),
        ("q35, interface", Made { devices: INTERFACE, ..q35 }),
        ("q35, key=value", Made { capabilities: key_value, ..q35 }),
        ("q35, 3 hostdevs, key=value", Made { capabilities: key_value, devices: HOSTDEV_3, ..q35 }),
        ("q35, ats", Made { devices: ATS, ..q35 }),
        ("q35, ats, key=value", Made { capabilities: key_value, devices: ATS, ..q35 }),
        ("q35, huge pages, hostdev", Made { memory: huge, devices: HOSTDEV_1, ..q35 }),
        ("q35, 255 vCPUs", Made { vcpus: 255, ..q35 }),
        ("q35, 288 vCPUs", Made { vcpus: 288, ..q35 }),
        ("q35, 300 vCPUs", Made { vcpus: 300, ..q35 }),
        ("q35, 300 vCPUs, hostdev", Made { vcpus: 300, devices: HOSTDEV_1, ..q35 }),
        ("q35, bare intel iommu", Made { devices: BARE_INTEL, ..q35 }),
        (
            "q35, bare intel iommu, hostdev, key=value",
            Made { devices: BARE_INTEL_HOSTDEV, capabilities: key_value, ..q35 },
        ),
        ("q35, ioapic", Made { features: "<ioapic driver='qemu'/>", ..q35 }),
        ("q35, full bus", Made { devices: FULL_BUS, ..q35 }),
        ("virt", virt),
        ("virt, 1 hostdev", Made { devices: HOSTDEV_1, ..virt }),
        ("virt, 3 hostdevs", Made { devices: HOSTDEV_3, ..virt }),
        ("virt, interface", Made { devices: INTERFACE, ..virt }),
        ("virt, key=value", Made { capabilities: key_value, ..virt }),
        ("virt, 3 hostdevs, key=value", Made { capabilities: key_value, devices: HOSTDEV_3, ..virt }),
        ("virt, ats", Made { devices: ATS, ..virt }),
        ("virt, huge pages", Made { memory: huge, ..virt }),
        ("virt, the last slot", Made { devices: &ports, ..virt }),
        ("virt, 64 vCPUs", Made { vcpus: 64, ..virt }),
    ];
    all.into_iter().map(|(name, made)| Case { name: name.to_owned(), xml: made.xml() }).collect()
}

#[derive(Clone, Copy)]
pub(crate) struct Made<'a> {
    pub(crate) virt: bool,
    pub(crate) vcpus: u32,
    pub(crate) memory: &'a str,
    pub(crate) features: &'a str,
    pub(crate) devices: &'a str,
    pub(crate) capabilities: &'a str,
}

impl Default for Made<'_> {
    fn default() -> Self {
        Made { virt: false, vcpus: 4, memory: "", features: "", devices: "", capabilities: "" }
    }
}

const HOSTDEV_1: &str = "<hostdev mode='subsystem' type='pci' managed='no'>
    <source><address domain='0' bus='1' slot='0' function='0'/></source></hostdev>";
const HOSTDEV_3: &str = "<hostdev mode='subsystem' type='pci' managed='yes'>
    <source><address domain='0' bus='1' slot='0' function='0'/></source></hostdev>
  <hostdev mode='subsystem' type='pci' managed='yes'>
    <source><address domain='0' bus='2' slot='0' function='0'/></source></hostdev>
  <hostdev mode='subsystem' type='pci' managed='yes'>
    <source><address domain='0' bus='2' slot='0' function='1'/></source></hostdev>";
const INTERFACE: &str = "<interface type='hostdev' managed='yes'><mac address='52:54:00:00:00:01'/>
    <source><address type='pci' domain='0' bus='3' slot='2' function='1'/></source></interface>";
const ATS: &str = "<interface type='user'><mac address='52:54:00:00:00:02'/><model type='virtio'/>
    <driver iommu='on' ats='on'/></interface>
  <rng model='virtio'><driver iommu='on' ats='on'/><backend model='random'>/dev/urandom</backend></rng>";
const BARE_INTEL: &str = "<iommu model='intel'/>";
const BARE_INTEL_HOSTDEV: &str = "<iommu model='intel'><driver aw_bits='39'/></iommu>
  <hostdev mode='subsystem' type='pci' managed='no'>
    <source><address domain='0' bus='1' slot='0' function='0'/></source></hostdev>";
/// The slots that a search from the top would try first.
const FULL_BUS: &str = "<controller type='pci' index='0' model='pcie-root'/>
  <controller type='usb' model='ich9-ehci1'><address type='pci' domain='0' bus='0' slot='0x1d' function='7'/></controller>
  <controller type='usb' model='ich9-uhci1'><master startport='0'/>
    <address type='pci' domain='0' bus='0' slot='0x1d' function='0' multifunction='on'/></controller>
  <controller type='pci' index='1' model='dmi-to-pci-bridge'>
    <address type='pci' domain='0' bus='0' slot='0x1e' function='0'/></controller>
  <sound model='ich9'><address type='pci' domain='0' bus='0' slot='0x1c' function='0'/></sound>";

impl Made<'_> {
    /// Makes libvirt write every device as key=value.
    pub(crate) const KEY_VALUE: &'static str =
        "<qemu:capabilities><qemu:del capability='device.json+hotplug'/></qemu:capabilities>";

    pub(crate) const UUID: &'static str = "5b3ac9a1-78a5-4e3f-9b43-a5a1b4a8f6c2";

    pub(crate) fn xml(self) -> String {
        let Made { virt, vcpus, memory, features, devices, capabilities } = self;
        let (firmware, kind, own, cpu, emulator) = if virt {
            (
                " firmware='efi'",
                "arch='aarch64' machine='virt'",
                "<gic version='3'/>",
                "<cpu mode='custom'><model>cortex-a57</model></cpu>",
                "/usr/bin/qemu-system-aarch64",
            )
        } else {
            ("", "arch='x86_64' machine='q35'", "", "", "/usr/bin/qemu-system-x86_64")
        };
        format!(
            "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>made</name>
  <uuid>{}</uuid>
  <memory unit='MiB'>1024</memory>
  {memory}
  <vcpu>{vcpus}</vcpu>
  <os{firmware}><type {kind}>hvm</type></os>
  <features><acpi/>{own}{features}</features>
  {cpu}
  <devices>
  <emulator>{emulator}</emulator>
  {devices}
  </devices>
  {capabilities}
</domain>
",
            Made::UUID
        )
    }
}
