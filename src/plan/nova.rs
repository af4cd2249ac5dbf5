//! What Nova writes and libvirt refuses: the `<driver>` of an intel vIOMMU for every model, and `<ioapic>` on AArch64.
//!
//! Source: Nova 34, `LibvirtConfigGuestIOMMU` and `_set_features` in nova/virt/libvirt; `virDomainIOMMUDefValidate` and
//! `qemuValidateDomainDefFeatures` refuse the result at define.

use crate::domain::{Domain, Iommu};
use crate::model::Model;

use super::result::{Change, DomainEdit};

/// The domain without what libvirt refuses of it, and the changes that remove it; none for a domain that Nova did not write so.
pub(super) fn repaired(domain: &Domain, arch: Option<&str>) -> Option<(Domain, Vec<Change>)> {
    domain.nova.as_ref()?;
    let [iommu] = domain.iommus.as_slice() else { return None };
    let model = iommu.known_model().filter(|model| *model != Model::Intel && writes_for_every_model(iommu))?;
    let remove = |edit, what| Change::new(edit, format!("Nova writes {what}, and libvirt refuses it"), true);
    let driver = format!("the attributes of intel for <iommu model='{model}'>");
    let mut changes = vec![remove(DomainEdit::RemoveIommuDriver, driver.as_str())];
    let mut domain = Domain { iommus: vec![Iommu { driver: Vec::new(), ..iommu.clone() }], ..domain.clone() };
    if arch == Some("aarch64") && domain.ioapic.as_deref() == Some("qemu") {
        domain.ioapic = None;
        changes.push(remove(DomainEdit::RemoveIoapic, "<ioapic> on every architecture"));
    }
    Some((domain, changes))
}

/// Whether the `<driver>` has exactly what Nova writes; `eim` depends on the machine type.
fn writes_for_every_model(iommu: &Iommu) -> bool {
    let written = [("intremap", "on"), ("caching_mode", "on"), ("iotlb", "on"), ("aw_bits", "48")];
    let eim = iommu.driver("eim").is_some_and(|value| matches!(value, "on" | "off"));
    eim && iommu.driver.len() == written.len() + 1
        && written.iter().all(|(name, value)| iommu.driver(name) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;
    use crate::request::{Request, RequestedModel};
    use crate::rewrite::rewrite;
    use crate::xml;

    const DRIVER: &str = "<driver intremap='on' caching_mode='on' aw_bits='48' eim='off' iotlb='on'/>";

    /// A guest on AArch64, with or without Nova's metadata.
    fn domain(nova: bool, model: &str, driver: &str) -> String {
        let metadata = "<metadata><nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'/></metadata>";
        format!(
            "<domain type='kvm'>{}<os><type arch='aarch64' machine='virt'>hvm</type></os>
  <features>
    <acpi/>
    <ioapic driver='qemu'/>
  </features>
  <devices>
    <iommu model='{model}'>
      {driver}
    </iommu>
  </devices>
</domain>",
            if nova { metadata } else { "" }
        )
    }

    fn filtered(text: &str) -> Option<String> {
        let document = xml::parse(text.as_bytes()).unwrap();
        let domain = Domain::read(&document).unwrap();
        let plan = super::super::plan(&domain, &Request::default(), &Host::default()).unwrap();
        rewrite(&document, &plan).unwrap()
    }

    #[test]
    fn attributes_of_nova_that_libvirt_refuses_are_removed() {
        for model in ["virtio", "smmuv3"] {
            let wanted = domain(true, model, DRIVER)
                .replace(&format!("      {DRIVER}\n"), "")
                .replace("    <ioapic driver='qemu'/>\n", "");
            assert_eq!(filtered(&domain(true, model, DRIVER)), Some(wanted));
        }
    }

    /// libvirt: "iommu model 'smmuv3' doesn't support additional attributes".
    #[test]
    fn a_request_is_judged_without_what_is_removed() {
        let text = domain(true, "smmuv3", DRIVER);
        let guest = Domain::read(&xml::parse(text.as_bytes()).unwrap()).unwrap();
        let request = Request { model: RequestedModel::Model(Model::Smmuv3), ..Request::default() };
        let plan = super::super::plan(&guest, &request, &Host::default()).unwrap();
        assert_eq!(plan.iommu.unwrap().driver, []);
    }

    #[test]
    fn other_domains_are_not_changed() {
        let without_eim = DRIVER.replace(" eim='off'", "");
        let other_width = DRIVER.replace("48", "39");
        for text in [
            domain(false, "virtio", DRIVER),
            domain(true, "intel", DRIVER),
            domain(true, "virtio", &without_eim),
            domain(true, "virtio", &other_width),
            domain(true, "virtio", ""),
        ] {
            assert_eq!(filtered(&text), None, "{text}");
        }
    }
}
