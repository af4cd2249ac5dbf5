//! Host bridges that bypass the vIOMMU.
//!
//! libvirt has no element for it, so users set it in `<qemu:commandline>` or `<qemu:override>`. QEMU has two properties
//! (docs/bypass-iommu.txt): `default_bus_bypass_iommu` of the machine for the default bus, and `bypass_iommu` of a `pxb-pcie`.

use std::collections::BTreeMap;

use super::QEMU_NAMESPACE;
use crate::qemu;
use crate::xml::Element;

/// The property of `pxb-pcie`, with dashes.
const EXPANDER_PROPERTY: &str = "bypass-iommu";

/// Which host bridges bypass the vIOMMU.
#[derive(Debug, Default)]
pub(super) struct Bypass {
    /// The default bus does.
    pub(super) default_bus: bool,
    /// Every `pxb-pcie` without a property of its own does.
    every_expander: bool,
    /// The property in `<qemu:override>`, by the alias of the device.
    by_alias: BTreeMap<String, bool>,
}

impl Bypass {
    /// Reads both places; the arguments are those of `<qemu:commandline>`.
    pub(super) fn read(domain: Element<'_, '_>, commandline: &[String]) -> Bypass {
        let on = |value: Option<String>| value.is_some_and(|value| qemu::is_on(&value));
        Bypass {
            default_bus: on(qemu::machine_property(commandline, "default-bus-bypass-iommu")),
            every_expander: on(qemu::global(commandline, "pxb-pcie", EXPANDER_PROPERTY)),
            by_alias: overrides(domain),
        }
    }

    /// Whether the expander bus with this alias bypasses the vIOMMU.
    pub(super) fn expander(&self, alias: &str) -> bool {
        self.by_alias.get(alias).copied().unwrap_or(self.every_expander)
    }
}

/// `<qemu:override><qemu:device alias=…><qemu:frontend><qemu:property name='bypass_iommu' type='bool' value=…/>`.
fn overrides(domain: Element<'_, '_>) -> BTreeMap<String, bool> {
    let mut by_alias = BTreeMap::new();
    let overrides = domain.children_ns(QEMU_NAMESPACE, "override");
    for device in overrides.flat_map(|all| all.children_ns(QEMU_NAMESPACE, "device")) {
        let Some(alias) = device.attr("alias") else { continue };
        let properties = device
            .child_ns(QEMU_NAMESPACE, "frontend")
            .into_iter()
            .flat_map(|frontend| frontend.children_ns(QEMU_NAMESPACE, "property"))
            .filter(|property| property.attr("name").is_some_and(|name| name.replace('_', "-") == EXPANDER_PROPERTY));
        for property in properties {
            // type='remove' has no value and leaves QEMU's default, off.
            by_alias.insert(alias.to_owned(), property.attr("value").is_some_and(qemu::is_on));
        }
    }
    by_alias
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml;

    fn bypass(arguments: &[&str]) -> Bypass {
        let document = xml::parse(b"<domain/>").unwrap();
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        Bypass::read(document.root(), &arguments)
    }

    #[test]
    fn the_machine_switches_the_default_bus() {
        for arguments in [
            &["-machine", "q35,default_bus_bypass_iommu=on"][..],
            &["--machine", "default-bus-bypass-iommu=true"],
            &["-M", "virt,iommu=smmuv3,default_bus_bypass_iommu=yes"],
            &["-machine", "default_bus_bypass_iommu=off", "-machine", "default-bus-bypass-iommu=on,usb=off"],
            &["-cpu", "max", "-machine", "default_bus_bypass_iommu=on", "-machine", "usb=off"],
        ] {
            let bypass = bypass(arguments);
            assert!(bypass.default_bus, "{arguments:?}");
            assert!(!bypass.expander("pci.1"), "{arguments:?}");
        }
        for arguments in [
            &["-machine"][..],
            &["-machine", "default_bus_bypass_iommu=on,default_bus_bypass_iommu=off"],
            &["-machine", "default_bus_bypass_iommu"],
            &["machine", "default_bus_bypass_iommu=on"],
            &["-device", "default_bus_bypass_iommu=on"],
            &["-machine", "xdefault_bus_bypass_iommu=on"],
        ] {
            assert!(!bypass(arguments).default_bus, "{arguments:?}");
        }
    }

    #[test]
    fn a_global_switches_every_expander() {
        for arguments in [
            &["-global", "pxb-pcie.bypass_iommu=on"][..],
            &["-global", "driver=pxb-pcie,property=bypass_iommu,value=on"],
        ] {
            let bypass = bypass(arguments);
            assert!(bypass.expander("pci.1") && !bypass.default_bus, "{arguments:?}");
        }
        for arguments in [
            &["-global", "pxb-pcie.bypass_iommu=off"][..],
            &["-global", "pxb-pcie.bus_nr=on"],
            &["-global", "pxb.bypass_iommu=on"],
            &["-global", "driver=pxb,property=bypass_iommu,value=on"],
            &["-global", "pxb-pcie"],
        ] {
            assert!(!bypass(arguments).expander("pci.1"), "{arguments:?}");
        }
    }

    #[test]
    fn an_override_switches_one_expander() {
        let device = |alias, name, value| {
            format!(
                "<q:device alias='{alias}'><q:frontend>
                   <q:property name='{name}' type='bool' value='{value}'/></q:frontend></q:device>"
            )
        };
        let text = format!(
            "<domain xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><q:override>{}{}{}
               <q:device alias='pci.4'><q:property name='bypass_iommu' type='bool' value='true'/></q:device>
             </q:override></domain>",
            device("pci.1", "bypass_iommu", "true"),
            device("pci.2", "bypass_iommu", "false"),
            device("pci.3", "bus_nr", "true"),
        );
        let document = xml::parse(text.as_bytes()).unwrap();
        let bypass = Bypass::read(document.root(), &[]);
        assert!(bypass.expander("pci.1"));
        assert!(!bypass.expander("pci.2") && !bypass.expander("pci.3") && !bypass.expander("pci.4"));
        let global = ["-global".to_owned(), "pxb-pcie.bypass_iommu=on".to_owned()];
        let bypass = Bypass::read(document.root(), &global);
        assert!(!bypass.expander("pci.2"), "a device's own property beats the global one");
        assert!(bypass.expander("pci.3"));
    }
}
