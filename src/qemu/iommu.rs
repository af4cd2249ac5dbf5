//! vIOMMUs on a command line: every vIOMMU driver of the supported QEMUs. Files of `-readconfig`, which libvirt never uses, are
//! not read.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use super::arguments;
use super::device::{self, Device, Globals};
use super::machine;
use crate::model::{Model, NewIommu};

/// A vIOMMU that was found on a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundIommu {
    /// QEMU's type name, or `virtio-iommu` where that alias was written. `-machine iommu=smmuv3` is `arm-smmuv3`.
    pub driver: String,
    /// The model.
    pub model: Model,
    /// Its properties under QEMU's names, booleans as `on` and `off`. Empty for one of `-machine`.
    pub properties: BTreeMap<String, String>,
    /// How it is written.
    pub spelling: Spelling,
    /// QEMU creates a VFIO device of the same command line before it.
    pub after_vfio: bool,
}

impl FoundIommu {
    /// Whether a property is there and on.
    #[must_use]
    pub fn is_on(&self, property: &str) -> bool {
        self.properties.get(property).is_some_and(|value| device::is_on(value))
    }
}

/// How a vIOMMU is written on a command line. QEMU creates them in this order: the machine, all key=value devices, all JSON
/// devices (`qemu_create_cli_devices` in system/vl.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// A key of `-machine`.
    Machine,
    /// `-device` with key=value.
    KeyValue,
    /// `-device` with JSON.
    Json,
}

/// The first vIOMMU on a command line, if any, with what `-global` sets for it. The arguments may also be the `<qemu:arg>` values of
/// a domain, which are a part of a command line.
pub fn find_iommu<S: AsRef<OsStr>>(arguments: &[S]) -> Option<FoundIommu> {
    let devices: Vec<(usize, Device)> = devices(arguments).collect();
    let is_json = |at: usize| arguments.get(at).is_some_and(|text| device::is_json(&text.as_ref().to_string_lossy()));
    let created = |at: usize| (is_json(at), at);
    let is_vfio = |device: &Device| device.driver.starts_with("vfio-");
    let found = devices.iter().find_map(|(at, device)| Some((*at, device, Model::of_driver(&device.driver)?)));
    let Some((at, device, model)) = found else { return of_machine(arguments) };
    let properties = Globals::of(arguments).complete(&[&device.driver], device.properties.clone());
    Some(FoundIommu {
        driver: device.driver.clone(),
        model,
        properties: device::with_plain_booleans(properties),
        spelling: if is_json(at) { Spelling::Json } else { Spelling::KeyValue },
        after_vfio: devices.iter().any(|(other, device)| is_vfio(device) && created(*other) < created(at)),
    })
}

/// The driver and the model of every vIOMMU on a command line, that of `-machine` last.
pub fn iommu_drivers<S: AsRef<OsStr>>(arguments: &[S]) -> Vec<(String, Model)> {
    let model = |(_, device): (usize, Device)| Model::of_driver(&device.driver).map(|model| (device.driver, model));
    let machine = of_machine(arguments).map(|found| (found.driver, found.model));
    devices(arguments).filter_map(model).chain(machine).collect()
}

fn of_machine<S: AsRef<OsStr>>(arguments: &[S]) -> Option<FoundIommu> {
    let set = |model: Model| match model.facts().new {
        NewIommu::Machine(key, value) => machine::get(arguments, key).is_some_and(|found| found == value),
        NewIommu::Devices(_) => false,
    };
    let model = Model::ALL.iter().copied().find(|model| set(*model))?;
    Some(FoundIommu {
        driver: model.facts().drivers.first().copied().unwrap_or_default().to_owned(),
        model,
        properties: BTreeMap::new(),
        spelling: Spelling::Machine,
        after_vfio: false,
    })
}

/// Every `-device`, and the index of the argument that describes it.
pub(super) fn devices<S: AsRef<OsStr>>(arguments: &[S]) -> impl Iterator<Item = (usize, Device)> {
    arguments::values(arguments, &["device"]).filter_map(|(at, value)| Some((at, Device::parse(value)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(arguments: &[&str]) -> Option<String> {
        find_iommu(arguments).map(|found| found.driver)
    }

    #[test]
    fn every_model_is_found_in_both_spellings() {
        for name in ["intel-iommu", "virtio-iommu", "virtio-iommu-pci", "amd-iommu", "arm-smmuv3"] {
            assert_eq!(driver(&["-S", "-device", "e1000e", "-device", name]).as_deref(), Some(name));
            let json = format!(r#"{{"id":"x","driver":"{name}"}}"#);
            assert_eq!(driver(&["--device", &json]).as_deref(), Some(name));
        }
    }

    #[test]
    fn the_order_is_that_of_creation() {
        let after = |arguments: &[&str]| find_iommu(arguments).unwrap().after_vfio;
        let (vfio, json_vfio) = ("vfio-pci,host=1:0.0", r#"{"driver":"vfio-pci","host":"1:0.0"}"#);
        let json_iommu = r#"{"driver":"intel-iommu"}"#;
        assert!(after(&["-device", vfio, "-device", "intel-iommu"]));
        assert!(!after(&["-device", "intel-iommu", "-device", vfio]));
        // QEMU 7.2 and 10.0 create all key=value devices first.
        assert!(!after(&["-device", json_vfio, "-device", "intel-iommu"]));
        assert!(after(&["-device", json_iommu, "-device", vfio]));
        assert!(after(&["-device", json_vfio, "-device", json_iommu]));
        assert!(!after(&["-device", "e1000e", "-device", "intel-iommu"]));
        assert!(!after(&["-device", vfio, "-machine", "virt,iommu=smmuv3"]));
    }

    #[test]
    fn properties_come_along() {
        let found = find_iommu(&["-device", "intel-iommu,caching-mode=on,aw-bits=39"]).unwrap();
        let expected = [("aw-bits", "39"), ("caching-mode", "on")];
        assert!(found.properties.iter().map(|(key, value)| (key.as_str(), value.as_str())).eq(expected));
    }

    // object_apply_global_props runs before the device's own properties are set.
    #[test]
    fn globals_are_properties_too() {
        let global = ["-global", "intel-iommu.caching-mode=on", "-global", "x86-iommu.intremap=on"];
        let found = |device| find_iommu(&[&global[..], &["-device", device]].concat()).unwrap();
        assert!(found("intel-iommu").is_on("caching-mode") && found("intel-iommu").is_on("intremap"));
        assert!(!found("intel-iommu,caching-mode=off").is_on("caching-mode"));
        assert!(!found("virtio-iommu-pci").is_on("caching-mode"));
        // QEMU applies them in their order.
        for (arguments, on) in [
            (["-global", "intel-iommu.intremap=on", "-global", "x86-iommu.intremap=off"], false),
            (["-global", "x86-iommu.intremap=off", "-global", "intel-iommu.intremap=on"], true),
        ] {
            let found = find_iommu(&[&arguments[..], &["-device", "intel-iommu"]].concat()).unwrap();
            assert_eq!(found.is_on("intremap"), on, "{arguments:?}");
        }
    }

    #[test]
    fn smmuv3_of_the_machine_is_found() {
        assert_eq!(driver(&["-machine", "virt,iommu=smmuv3"]).as_deref(), Some("arm-smmuv3"));
        assert_eq!(driver(&["-machine", "iommu=smmuv3"]).as_deref(), Some("arm-smmuv3"));
        assert_eq!(driver(&["-machine", "virt,iommu=smmuv3", "-machine", "iommu=none"]), None);
    }

    #[test]
    fn similar_arguments_are_not_viommus() {
        assert_eq!(driver(&["-name", "intel-iommu", "-append", "-device", "intel-iommu"]), None);
        assert_eq!(driver(&["-device", "e1000e,id=intel-iommu"]), None);
        assert_eq!(driver(&["-global", "intel-iommu.caching-mode=on"]), None);
        assert_eq!(driver(&[]), None);
    }
}
