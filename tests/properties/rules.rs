//! The rules of libvirt and QEMU for a vIOMMU, written from their sources and not from viommu's:
//! `virDomainIOMMUDefValidate`, `virDomainDefIOMMUValidate` (domain_validate.c), `qemuValidateDomainDeviceDefIOMMU`,
//! `qemuValidateDomainDefFeatures`, `qemuValidateDomainVCpuTopology` (qemu_validate.c), `intel_iommu.c`.

use roxmltree::{Document, Node};
use viommu::version::Version;

fn child<'a>(node: Node<'a, 'a>, name: &str) -> Option<Node<'a, 'a>> {
    node.children().find(|child| child.tag_name().name() == name)
}

#[expect(clippy::disallowed_methods, reason = "the program's own documents have no foreign attributes")]
fn attribute<'a>(node: Option<Node<'a, 'a>>, name: &str) -> Option<&'a str> {
    node?.attribute(name)
}

/// # Errors
///
/// The error of libvirt or QEMU for this domain's vIOMMU.
pub(crate) fn accepts(xml: &str, libvirt: Version, qemu: Version) -> Result<(), String> {
    let document = Document::parse(xml).unwrap();
    let root = document.root_element();
    let devices = child(root, "devices").unwrap();
    let iommus: Vec<_> = devices.children().filter(|node| node.tag_name().name() == "iommu").collect();
    let [iommu] = iommus[..] else { return Err(format!("{} vIOMMUs", iommus.len())) };
    let os_type = child(root, "os").and_then(|os| child(os, "type"));
    let (arch, machine) = (attribute(os_type, "arch").unwrap(), attribute(os_type, "machine").unwrap());
    let (q35, virt) = (machine.contains("q35") && arch == "x86_64", machine.starts_with("virt") && arch == "aarch64");
    let features = child(root, "features").unwrap();
    let ioapic = attribute(child(features, "ioapic"), "driver");
    let driver = child(iommu, "driver");
    let on = |name: &str| attribute(driver, name) == Some("on");
    let vcpus: u32 = child(root, "vcpu").and_then(|node| node.text()).unwrap().parse().unwrap();
    let tcg = attribute(Some(root), "type") == Some("qemu");
    let model = attribute(Some(iommu), "model").unwrap();
    // libvirt 12.8: "more than 255 vCPUs require either IOAPIC in QEMU or an iommu device with EIM or XTSup mode enabled".
    let ioapic_is_enough = ioapic == Some("qemu") && libvirt >= Version::new(12, 8);
    let rules = [
        (model != "intel" || q35, "intel needs q35"),
        (model != "smmuv3" || virt, "smmuv3 needs Arm's virt"),
        (model != "virtio" || q35 || virt, "virtio needs q35 or virt"),
        (model != "virtio" || libvirt >= Version::new(8, 3), "libvirt does not know virtio"),
        (model != "virtio" || qemu >= Version::new(7, 0), "QEMU has no boot-bypass"),
        (model != "virtio" || child(features, "acpi").is_some(), "virtio requires ACPI"),
        (!on("intremap") || ioapic == Some("qemu"), "intremap requires the split irqchip"),
        (!on("eim") || on("intremap"), "eim requires intremap"),
        (!on("eim") || !tcg || qemu >= Version::new(9, 0), "eim requires KVM"),
        (ioapic.is_none() || arch == "x86_64", "ioapic is for x86"),
        (arch != "x86_64" || vcpus <= 255 || on("eim") || ioapic_is_enough, "more than 255 vCPUs require eim"),
    ];
    if let Some((_, rule)) = rules.iter().find(|(holds, _)| !holds) {
        return Err((*rule).to_owned());
    }
    for attribute in driver.iter().flat_map(Node::attributes) {
        let known = match (model, attribute.name()) {
            ("intel", "intremap" | "caching_mode" | "eim" | "iotlb") => matches!(attribute.value(), "on" | "off"),
            ("intel", "aw_bits") => matches!(attribute.value(), "39" | "48"),
            // An older libvirt drops it, and the wrapper sets it.
            ("intel", "dma_translation") => {
                (libvirt >= Version::new(10, 7) || xml.contains("viommu-qemu")) && qemu >= Version::new(7, 1)
            }
            ("virtio", "aw_bits") => libvirt >= Version::new(12, 2),
            _ => false,
        };
        if !known {
            return Err(format!("{model} takes no {attribute:?}"));
        }
    }
    Ok(())
}
