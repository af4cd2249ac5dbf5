//! Host bridges that the user told QEMU to keep out of the vIOMMU.
//!
//! libvirt has no word for it, so it stands in `<qemu:commandline>` or `<qemu:override>`. QEMU's docs/bypass-iommu.txt
//! names the two switches: the machine's `default_bus_bypass_iommu` for the default bus, and `bypass_iommu` of a
//! `pxb-pcie`. It reads no other argument: `qemu` knows command lines, and which vIOMMU hides in one.

use std::collections::BTreeMap;

use super::QEMU_NAMESPACE;
use crate::xml::Element;

/// The property of `pxb-pcie`, with dashes.
const EXPANDER_PROPERTY: &str = "bypass-iommu";

/// Which host bridges bypass the vIOMMU.
#[derive(Debug, Default)]
pub(super) struct Bypass {
    /// The default bus does.
    pub(super) default_bus: bool,
    /// Every `pxb-pcie` that says nothing of its own does.
    every_expander: bool,
    /// What `<qemu:override>` says, by the alias of the device.
    by_alias: BTreeMap<String, bool>,
}

impl Bypass {
    /// Reads both places; the arguments are those of `<qemu:commandline>`.
    pub(super) fn read(domain: Element<'_, '_>, commandline: &[String]) -> Bypass {
        let mut bypass = Bypass { by_alias: overrides(domain), ..Bypass::default() };
        for (option, value) in commandline.iter().zip(commandline.iter().skip(1)) {
            // QEMU takes an option with one dash or two.
            let Some(option) = option.strip_prefix('-') else { continue };
            match option.strip_prefix('-').unwrap_or(option) {
                // All -machine options are one list, in which the last value of a key counts.
                "machine" | "M" => {
                    if let Some(on) = last(value, "default-bus-bypass-iommu") {
                        bypass.default_bus = on;
                    }
                }
                "global" => {
                    if let Some(on) = global(value) {
                        bypass.every_expander = on;
                    }
                }
                _ => {}
            }
        }
        bypass
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
            .filter(|property| property.attr("name").is_some_and(|name| dashed(name) == EXPANDER_PROPERTY));
        for property in properties {
            // type='remove' has no value and leaves QEMU's default, off.
            by_alias.insert(alias.to_owned(), property.attr("value").is_some_and(is_on));
        }
    }
    by_alias
}

/// The value of `-global`, if it is about expander buses: `pxb-pcie.bypass_iommu=on`, or that as a list of three keys.
fn global(value: &str) -> Option<bool> {
    if let Some((driver, rest)) = value.split_once('.') {
        let (property, value) = rest.split_once('=')?;
        return (driver == "pxb-pcie" && dashed(property) == EXPANDER_PROPERTY).then(|| is_on(value));
    }
    let key = |wanted| entries(value).filter(|&(key, _)| key == wanted).last().map(|(_, value)| value);
    let ours =
        key("driver") == Some("pxb-pcie") && key("property").is_some_and(|name| dashed(name) == EXPANDER_PROPERTY);
    ours.then(|| key("value").is_some_and(is_on))
}

/// The last value of a switch in a list of `key=value`.
fn last(list: &str, wanted: &str) -> Option<bool> {
    entries(list).filter(|(key, _)| dashed(key) == wanted).last().map(|(_, value)| is_on(value))
}

/// The `key=value` entries of a list. Doubled commas, QEMU's escape, cannot occur in what is looked for.
fn entries(list: &str) -> impl Iterator<Item = (&str, &str)> {
    list.split(',').filter_map(|entry| entry.split_once('='))
}

/// QEMU takes both spellings for a machine's options (`keyval_dashify`).
fn dashed(name: &str) -> String {
    name.replace('_', "-")
}

/// The words that QEMU reads as true (`qapi_bool_parse`).
fn is_on(value: &str) -> bool {
    matches!(value, "on" | "yes" | "true" | "y")
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
