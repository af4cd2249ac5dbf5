//! Host bridges that bypass the vIOMMU.
//!
//! libvirt has no element for it, so users set it in `<qemu:commandline>` or `<qemu:override>`. QEMU has two properties
//! (docs/bypass-iommu.txt): `default_bus_bypass_iommu` of the machine for the default bus, and `bypass_iommu` of a `pxb-pcie`.

use std::collections::BTreeMap;

use super::lookup::overrides;
use crate::qemu::{self, Globals};
use crate::xml::Element;

/// The property of `pxb-pcie`.
const EXPANDER_PROPERTY: &str = "bypass_iommu";

/// Which host bridges bypass the vIOMMU.
#[derive(Debug, Default)]
pub(super) struct Bypass {
    /// The default bus does.
    pub(super) default_bus: bool,
    /// Every `pxb-pcie` without a property of its own does.
    every_expander: bool,
    /// The property in `<qemu:override>`, by the alias of the device. QEMU's default is off.
    by_alias: BTreeMap<String, bool>,
}

impl Bypass {
    /// Reads both places; the arguments are those of `<qemu:commandline>`.
    pub(super) fn read(domain: Element<'_, '_>, commandline: &[String]) -> Bypass {
        Bypass {
            default_bus: qemu::machine_property(commandline, "default-bus-bypass-iommu")
                .as_deref()
                .is_some_and(qemu::is_on),
            every_expander: Globals::of(commandline).get("pxb-pcie", EXPANDER_PROPERTY).is_some_and(qemu::is_on),
            by_alias: overrides(domain)
                .into_iter()
                .filter_map(|(alias, properties)| {
                    let (_, value) = properties.into_iter().rfind(|(name, _)| *name == EXPANDER_PROPERTY)?;
                    Some((alias.to_owned(), value.is_some_and(qemu::is_on)))
                })
                .collect(),
        }
    }

    /// Whether the expander bus with this alias bypasses the vIOMMU.
    pub(super) fn expander(&self, alias: &str) -> bool {
        self.by_alias.get(alias).copied().unwrap_or(self.every_expander)
    }
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
        assert!(!bypass.expander("pci.2"), "a device's own property overrides the global one");
        assert!(bypass.expander("pci.3"));
    }
}
