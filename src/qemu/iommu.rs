//! vIOMMUs on a command line: every vIOMMU driver of the supported QEMUs. Files of `-readconfig`, which libvirt never uses, are
//! not read.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use super::arguments;
use super::device::Device;
use super::machine;

/// The VT-d emulation.
pub(super) const INTEL: &str = "intel-iommu";
/// The paravirtual vIOMMU, by its name and by the alias that libvirt writes.
pub(super) const VIRTIO: &[&str] = &["virtio-iommu-pci", "virtio-iommu"];
/// What `-machine iommu=smmuv3` creates, and the device of the same name (QEMU >= 10.2).
const SMMUV3: &str = "arm-smmuv3";
const AMD: &str = "amd-iommu";

/// A vIOMMU that was found on a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundIommu {
    /// QEMU's type name, or `virtio-iommu` where that alias was written. `-machine iommu=smmuv3` is `arm-smmuv3`.
    pub driver: String,
    /// Its properties under QEMU's names, JSON booleans as `on` and `off`. Empty for one of `-machine`.
    pub properties: BTreeMap<String, String>,
}

/// The first vIOMMU on a command line, if any. The arguments may also be the `<qemu:arg>` values of a domain, which are a
/// part of a command line.
pub fn find_iommu<S: AsRef<OsStr>>(arguments: &[S]) -> Option<FoundIommu> {
    let device = devices(arguments).map(|(_, device)| device).find(|device| is_iommu(&device.driver));
    device.map(|device| FoundIommu { driver: device.driver, properties: device.properties }).or_else(|| {
        let on_machine = machine::get(arguments, "iommu").is_some_and(|iommu| iommu == "smmuv3");
        on_machine.then(|| FoundIommu { driver: SMMUV3.to_owned(), properties: BTreeMap::new() })
    })
}

/// Every `-device`, with the index of the argument that describes it.
pub(super) fn devices<S: AsRef<OsStr>>(arguments: &[S]) -> impl Iterator<Item = (usize, Device)> {
    arguments::values(arguments, &["device"]).filter_map(|(at, value)| Some((at, Device::parse(value)?)))
}

fn is_iommu(driver: &str) -> bool {
    matches!(driver, INTEL | AMD | SMMUV3) || VIRTIO.contains(&driver)
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
    fn properties_come_along() {
        let found = find_iommu(&["-device", "intel-iommu,caching-mode=on,aw-bits=39"]).unwrap();
        let expected = [("aw-bits", "39"), ("caching-mode", "on")];
        assert!(found.properties.iter().map(|(key, value)| (key.as_str(), value.as_str())).eq(expected));
    }

    #[test]
    fn smmuv3_of_the_machine_is_found() {
        assert_eq!(driver(&["-machine", "virt,iommu=smmuv3"]).as_deref(), Some("arm-smmuv3"));
        assert_eq!(driver(&["-machine", "iommu=smmuv3"]).as_deref(), Some("arm-smmuv3"));
        assert_eq!(driver(&["-machine", "virt,iommu=smmuv3", "-machine", "iommu=none"]), None);
    }

    #[test]
    fn what_only_looks_like_one_is_not_found() {
        assert_eq!(driver(&["-name", "intel-iommu", "-append", "-device", "intel-iommu"]), None);
        assert_eq!(driver(&["-device", "e1000e,id=intel-iommu"]), None);
        assert_eq!(driver(&["-global", "intel-iommu.caching-mode=on"]), None);
        assert_eq!(driver(&[]), None);
    }
}
