//! Devices behind VFIO that are on a command line already: libvirt neither sees them nor counts their memory.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use super::block;
use super::device::{Globals, lists};
use super::iommu::devices;

/// A device behind VFIO that was found on a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundVfio {
    /// What is passed through: the value of `host`, or the last part of `sysfsdev`'s path.
    pub source: String,
    /// The id of the guest's bus; none for the default bus, and for a device of another kind than PCI.
    pub bus: Option<String>,
    /// Slot and function on that bus; none where QEMU takes the next free slot.
    pub address: Option<(u8, u8)>,
    /// The guest sees a PCI device.
    pub pci: bool,
    /// It uses an iommufd.
    pub iommufd: bool,
}

/// Whether QEMU opens `/dev/iommu` itself: an `-object iommufd` without a descriptor (backends/iommufd.c).
pub fn opens_iommufd<S: AsRef<OsStr>>(arguments: &[S]) -> bool {
    lists(arguments, &["object"], "qom-type")
        .any(|object| is(&object, "qom-type", "iommufd") && !object.contains_key("fd"))
}

fn is(properties: &BTreeMap<String, String>, key: &str, kind: &str) -> bool {
    properties.get(key).is_some_and(|found| found == kind)
}

/// Every device behind VFIO on a command line, in its order. `vfio-user-pci` is not among them: it pins nothing.
pub fn find_vfio<S: AsRef<OsStr>>(arguments: &[S]) -> Vec<FoundVfio> {
    let globals = Globals::of(arguments);
    let found = devices(arguments).filter_map(|(_, device)| {
        let pci = match device.driver.as_str() {
            "vfio-pci" | "vfio-pci-nohotplug" => true,
            "vfio-ap" | "vfio-ccw" | "vfio-platform" => false,
            _ => return None,
        };
        let path = device.get("sysfsdev");
        let source = device.get("host").or_else(|| path?.trim_end_matches('/').rsplit('/').next());
        Some(FoundVfio {
            source: source.unwrap_or_default().to_owned(),
            bus: device.get("bus").map(str::to_owned),
            address: device.address,
            pci,
            iommufd: device.value(&globals, "iommufd").is_some(),
        })
    });
    found.collect()
}

/// How many vDPA devices are on a command line: `-netdev` and `-nic vhost-vdpa`, generic ones, and images of
/// `virtio-blk-vhost-vdpa`. QEMU maps the guest's memory into each.
pub fn count_vdpa<S: AsRef<OsStr>>(arguments: &[S]) -> usize {
    let generic = devices(arguments).filter(|(_, device)| device.driver.starts_with("vhost-vdpa-device"));
    let nics = lists(arguments, &["netdev", "nic"], "type").filter(|netdev| is(netdev, "type", "vhost-vdpa"));
    generic.count() + nics.count() + block::count(arguments, "virtio-blk-vhost-vdpa")
}

/// How many NVMe images QEMU drives itself by options of a command line. It opens a container for each (block/nvme.c).
pub fn count_nvme<S: AsRef<OsStr>>(arguments: &[S]) -> usize {
    block::count(arguments, "nvme")
}

#[cfg(test)]
mod tests {
    use super::*;

    // qemu-options.hx, docs/system/devices/vhost-user.rst; hw/virtio/vdpa-dev-pci.c.
    #[test]
    fn vdpa_of_every_kind() {
        let arguments = [
            "-netdev",
            "vhost-vdpa,id=n,vhostdev=/dev/vhost-vdpa-0",
            "-netdev",
            r#"{"type":"vhost-vdpa","id":"m","vhostdev":"/dev/vhost-vdpa-1"}"#,
            "-netdev",
            "user,id=vhost-vdpa",
            "-nic",
            "vhost-vdpa,vhostdev=/dev/vhost-vdpa-4",
            "-device",
            "vhost-vdpa-device-pci,vhostdev=/dev/vhost-vdpa-2",
            "-blockdev",
            "node-name=d,driver=virtio-blk-vhost-vdpa,path=/dev/vhost-vdpa-3",
            "-device",
            "virtio-net-pci,netdev=n",
        ];
        assert_eq!(count_vdpa(&arguments), 5);
    }

    // docs/system/qemu-block-drivers.rst.inc.
    #[test]
    fn nvme_in_every_form() {
        for image in [
            ["-blockdev", "driver=nvme,device=0000:01:00.0,namespace=1,node-name=x"],
            ["-blockdev", "nvme,device=0000:01:00.0,namespace=1,node-name=x"],
            ["-blockdev", "driver=raw,node-name=y,file.driver=nvme,file.device=0000:01:00.0,file.namespace=1"],
            [
                "-blockdev",
                r#"{"driver":"raw","node-name":"y","file":{"driver":"nvme","device":"0000:01:00.0","namespace":1}}"#,
            ],
            ["-drive", "file=nvme://0000:01:00.0/1,if=none,id=x"],
            ["-drive", "driver=nvme,device=0000:01:00.0,namespace=1,id=x,if=none"],
        ] {
            assert_eq!(count_nvme(&image), 1, "{image:?}");
        }
        for image in [["-blockdev", "driver=raw,file=x,node-name=nvme"], ["-drive", "file=/nvme,if=none,id=x"]] {
            assert_eq!(count_nvme(&image), 0, "{image:?}");
        }
    }

    #[test]
    fn both_spellings_and_both_sources() {
        let found = find_vfio(&[
            "-device",
            "vfio-pci,host=02:00.0,multifunction=on",
            "-device",
            r#"{"driver":"vfio-pci","host":"0000:02:00.1","bus":"pci.3","addr":"0x0.1"}"#,
            "-device",
            "vfio-pci-nohotplug,sysfsdev=/sys/bus/mdev/devices/3a21c2ee-5ece-4225-baa4-9a11258f601e,addr=1f",
            "-device",
            "vfio-ccw,sysfsdev=/sys/bus/mdev/devices/a/",
            "-device",
            "vfio-user-pci",
            "-name",
            "vfio-pci,host=03:00.0",
        ]);
        let plain: Vec<_> =
            found.iter().map(|vfio| (vfio.source.as_str(), vfio.bus.as_deref(), vfio.address, vfio.pci)).collect();
        let expected = [
            ("02:00.0", None, None, true),
            ("0000:02:00.1", Some("pci.3"), Some((0, 1)), true),
            ("3a21c2ee-5ece-4225-baa4-9a11258f601e", None, Some((0x1f, 0)), true),
            ("a", None, None, false),
        ];
        assert_eq!(plain, expected);
    }
}
