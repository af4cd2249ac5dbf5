//! Virtio devices whose DMA a vIOMMU can translate: libvirt's `<driver iommu='on' ats='on'>`.
//!
//! The devices are those of `qemuBuildVirtioDevGetConfigDev` in libvirt's src/qemu/qemu_command.c, without displays, sound, file
//! systems, sockets, crypto devices, vhost-user disks (libvirt or their backends refuse it), and the balloon (Linux' driver clears
//! the feature).

use super::Requester;
use super::pci::{Buses, PciAddress};
use crate::xml::Element;

/// A virtio device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtioDevice {
    /// Its place among the children of every `<devices>`.
    pub at: usize,
    /// It is a network interface.
    pub nic: bool,
    /// What moves its data.
    pub backend: VirtioBackend,
    /// It is, or will be, a modern device, as the feature `VIRTIO_F_IOMMU_PLATFORM` needs it, on a bus that the vIOMMU translates
    /// for.
    pub translatable: bool,
    /// `<driver iommu=…>`, as written.
    pub iommu: Option<String>,
    /// `<driver ats=…>`, as written.
    pub ats: Option<String>,
}

/// What moves the data of a virtio device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VirtioBackend {
    /// QEMU itself.
    Qemu,
    /// Possibly vhost, in the kernel or in another process, which caches translations (a device IOTLB).
    Vhost,
    /// A vDPA device.
    Vdpa,
}

/// Every virtio device of a domain, in document order.
pub(super) fn devices(domain: Element<'_, '_>, buses: &Buses) -> Vec<VirtioDevice> {
    super::devices(domain).enumerate().filter_map(|(at, device)| read(at, device, buses)).collect()
}

fn read(at: usize, device: Element<'_, '_>, buses: &Buses) -> Option<VirtioDevice> {
    let kind = device.prop("type").unwrap_or_default();
    let model = device.prop("model");
    let nic = device.is("interface");
    let model = match device.name() {
        "interface" if kind != "hostdev" => device.child_prop("model", "type")?,
        "disk" if kind != "vhostuser" && is_on_virtio(device) => model.unwrap_or("virtio"),
        "input" if device.prop("bus") == Some("virtio") => model.unwrap_or("virtio"),
        "controller" if kind == "virtio-serial" => model.unwrap_or("virtio"),
        "controller" if kind == "scsi" => model?,
        "rng" => model?,
        _ => return None,
    };
    let suffix = model.strip_prefix("virtio")?;
    let is_pci = device.child("address").is_none_or(|address| address.prop("type") == Some("pci"));
    let modern = match suffix {
        "" | "-scsi" => buses.are_modern_at(PciAddress::read(device)),
        "-non-transitional" => true,
        "-transitional" => false,
        _ => return None,
    };
    let driver = |name| device.child_prop("driver", name).map(str::to_owned);
    Some(VirtioDevice {
        at,
        nic,
        backend: match kind {
            "network" | "bridge" | "ethernet" | "direct" | "vhostuser" if nic => VirtioBackend::Vhost,
            "vdpa" if nic => VirtioBackend::Vdpa,
            _ => VirtioBackend::Qemu,
        },
        translatable: is_pci && modern && buses.requester(PciAddress::read(device)) != Requester::Bypass,
        iommu: driver("iommu"),
        ats: driver("ats"),
    })
}

fn is_on_virtio(disk: Element<'_, '_>) -> bool {
    match disk.child_prop("target", "bus") {
        Some(bus) => bus == "virtio",
        // The name decides (virDomainDiskDefParseXML).
        None => disk.child_prop("target", "dev").is_some_and(|dev| dev.starts_with("vd")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::read::from_text;
    use super::*;

    const PORT: &str = "<controller type='pci' index='0' model='pcie-root'/><controller type='pci' index='1' model='pcie-root-port'/>
        <controller type='pci' index='2' model='pcie-to-pci-bridge'/><controller type='pci' index='3' model='pcie-expander-bus'/>
        <controller type='pci' index='4' model='pcie-switch-downstream-port'/>";

    /// The only virtio device of a domain with five controllers before it.
    fn virtio(device: &str) -> Option<VirtioDevice> {
        let mut found =
            from_text(&format!("<domain><devices>{PORT}</devices><devices>{device}</devices></domain>")).virtio;
        assert!(found.len() < 2);
        found.pop()
    }

    fn nic(kind: &str, rest: &str) -> Option<VirtioDevice> {
        virtio(&format!("<interface type='{kind}'>{rest}</interface>"))
    }

    #[test]
    fn kinds_of_devices() {
        for device in [
            "<disk type='file'><target dev='vda' bus='virtio'/></disk>",
            "<disk type='file'><target dev='vda'/></disk>",
            "<controller type='scsi' model='virtio-scsi'/>",
            "<controller type='virtio-serial'/>",
            "<rng model='virtio-non-transitional'/>",
            "<input type='tablet' bus='virtio'/>",
        ] {
            let found = virtio(device).unwrap();
            assert!(found.translatable && !found.nic && found.backend == VirtioBackend::Qemu, "{device}");
            assert_eq!(found.at, 5);
        }
        for device in [
            "<disk type='vhostuser'><target dev='vda' bus='virtio'/></disk>",
            "<disk type='file'><target dev='sda' bus='sata'/></disk>",
            "<controller type='scsi' model='lsilogic'/>",
            "<controller type='scsi'/>",
            "<controller type='usb' model='qemu-xhci'/>",
            "<memballoon model='virtio'/>",
            "<input type='tablet' bus='usb'/>",
            "<interface type='hostdev'><model type='virtio'/></interface>",
            "<interface type='user'/>",
            "<interface type='user'><model type='e1000e'/></interface>",
        ] {
            assert_eq!(virtio(device), None, "{device}");
        }
    }

    #[test]
    fn only_modern_devices() {
        let modern = |model: &str, address: &str| {
            nic("user", &format!("<model type='{model}'/>{address}")).unwrap().translatable
        };
        let at = |bus| format!("<address type='pci' bus='{bus}' slot='1'/>");
        assert!(modern("virtio", "") && modern("virtio", "<address type='pci'/>"));
        assert!(modern("virtio", &at(1)) && modern("virtio", &at(4)) && modern("virtio", &at(9)));
        for bus in [0, 2, 3] {
            assert!(!modern("virtio", &at(bus)), "{bus}");
            assert!(modern("virtio-non-transitional", &at(bus)), "{bus}");
        }
        assert!(!modern("virtio-transitional", ""));
        for kind in ["virtio-mmio", "ccw"] {
            assert!(!modern("virtio", &format!("<address type='{kind}'/>")));
        }
    }

    #[test]
    fn backends_and_what_is_written() {
        for kind in ["bridge", "network", "direct", "vhostuser"] {
            assert_eq!(nic(kind, "<model type='virtio'/>").unwrap().backend, VirtioBackend::Vhost, "{kind}");
        }
        for kind in ["user", "udp"] {
            assert_eq!(nic(kind, "<model type='virtio'/>").unwrap().backend, VirtioBackend::Qemu, "{kind}");
        }
        let found = nic("vdpa", "<model type='virtio'/><driver iommu='on' ats='off'/>").unwrap();
        assert_eq!(found.backend, VirtioBackend::Vdpa);
        assert_eq!((found.iommu.as_deref(), found.ats.as_deref()), (Some("on"), Some("off")));
    }
}
