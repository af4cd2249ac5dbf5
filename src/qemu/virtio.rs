//! Puts virtio devices of a command line behind the vIOMMU, as libvirt does it for `<driver iommu='on' ats='on'>`
//! (`qemuBuildVirtioDevProps`). `domain::VirtioDevice` has the same rule for the domain XML.

use std::collections::BTreeMap;
use std::ffi::OsString;

use serde::{Deserialize, Serialize};

use super::arguments;
use super::device::{self, Device};
use super::iommu::devices;
use crate::note::Note;

/// QEMU's types, without `-pci` and what follows.
const NIC: &str = "virtio-net";
const OTHERS: &[&str] = &[
    "virtio-blk",
    "virtio-input-host",
    "virtio-keyboard",
    "virtio-mouse",
    "virtio-rng",
    "virtio-scsi",
    "virtio-serial",
    "virtio-tablet",
];
/// Bridges below which a device is a modern one unless it says otherwise (`virtio_pci_realize`: an express bus that is no root).
const PORTS: &[&str] = &["pcie-root-port", "ioh3420", "xio3130-downstream"];

/// Which virtio devices the vIOMMU translates for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Translated {
    /// Not only network interfaces.
    pub all: bool,
    /// Those with a vhost backend get a device IOTLB.
    pub ats: bool,
    /// Those with a vDPA backend too.
    pub vdpa: bool,
}

/// Sets the properties of every device in question that lacks them.
///
/// # Errors
/// `command-line-unsupported` if the value to edit cannot be read.
pub(super) fn translate(arguments: &mut [OsString], wanted: Translated) -> Result<(), Note> {
    let all: Vec<(usize, Device)> = devices(arguments).collect();
    let ports: Vec<&str> = all
        .iter()
        .filter(|(_, port)| PORTS.contains(&port.driver.as_str()))
        .filter_map(|(_, port)| port.get("id"))
        .collect();
    for (at, device) in &all {
        let Some((base, suffix)) = device.driver.split_once("-pci") else { continue };
        let modern = suffix == "-non-transitional"
            || suffix.is_empty() && device.get("bus").is_some_and(|bus| ports.contains(&bus));
        let backend = device.get("netdev").and_then(|id| backend(arguments, id)).unwrap_or_default();
        let named = base == NIC || wanted.all && OTHERS.contains(&base);
        if !named || !modern || backend == "vhost-vdpa" && !wanted.vdpa {
            continue;
        }
        let is_off = device.get("iommu_platform").is_some_and(|value| !device::is_on(value));
        let vhost = matches!(backend.as_str(), "tap" | "vhost-user" | "vhost-vdpa");
        for key in ["iommu_platform", "ats"] {
            let wants = key != "ats" || wanted.ats && vhost && !is_off;
            if wants && device.get(key).is_none() {
                arguments::replace(arguments, *at, "device", |text| device::set(text, key, "on"))?;
            }
        }
    }
    Ok(())
}

/// The type of a `-netdev`.
fn backend(arguments: &[OsString], id: &str) -> Option<String> {
    let is_named = |netdev: &BTreeMap<String, String>| netdev.get("id").is_some_and(|found| found == id);
    device::lists(arguments, &["netdev"], "type").find(is_named)?.remove("type")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: [&str; 2] = ["-device", r#"{"driver":"pcie-root-port","bus":"pcie.0","id":"pci.1"}"#];

    #[track_caller]
    fn becomes(netdev: &str, device: &str, wanted: Translated, expected: &str) {
        let words = [&PORT[..], &["-netdev", netdev, "-device", device]].concat();
        let mut arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
        translate(&mut arguments, wanted).unwrap();
        assert_eq!(arguments.pop().unwrap(), expected);
        assert!(arguments.iter().zip(words).all(|(now, before)| now == before));
    }

    const ON: Translated = Translated { all: false, ats: true, vdpa: false };
    const ALL: Translated = Translated { all: true, ..ON };

    // net-virtio-iommu… of libvirt's own tests: "iommu_platform":true,"ats":true.
    #[test]
    fn both_spellings() {
        let tap = r#"{"type":"tap","fd":"3","vhost":true,"id":"n"}"#;
        becomes(
            tap,
            r#"{"driver":"virtio-net-pci","netdev":"n","bus":"pci.1"}"#,
            ON,
            r#"{"driver":"virtio-net-pci","netdev":"n","bus":"pci.1","iommu_platform":true,"ats":true}"#,
        );
        let plain = "virtio-net-pci,netdev=n,bus=pci.1";
        becomes("tap,fd=3,id=n", plain, ON, "virtio-net-pci,netdev=n,bus=pci.1,iommu_platform=on,ats=on");
        becomes("user,id=n", plain, ON, "virtio-net-pci,netdev=n,bus=pci.1,iommu_platform=on");
        becomes(
            "tap,id=n",
            plain,
            Translated { ats: false, ..ON },
            "virtio-net-pci,netdev=n,bus=pci.1,iommu_platform=on",
        );
        becomes("vhost-vdpa,id=n", plain, ON, plain);
        becomes(
            "vhost-vdpa,id=n",
            plain,
            Translated { vdpa: true, ..ON },
            &format!("{plain},iommu_platform=on,ats=on"),
        );
    }

    #[test]
    fn existing_and_unsuitable_devices_are_not_changed() {
        for device in [
            "virtio-net-pci,netdev=n,bus=pci.1,iommu_platform=off",
            "virtio-net-pci,netdev=n,bus=pcie.0",
            "virtio-net-pci,netdev=n",
            "virtio-net-pci-transitional,netdev=n,bus=pci.1",
            "virtio-net-device,netdev=n",
            "e1000e,netdev=n,bus=pci.1",
            "virtio-balloon-pci,bus=pci.1",
        ] {
            becomes("tap,id=n", device, ALL, device);
        }
        let device = "virtio-net-pci,netdev=n,bus=pci.1,iommu_platform=on,ats=on";
        becomes("tap,id=n", device, ON, device);
        let modern = "virtio-net-pci-non-transitional,netdev=n,bus=pcie.0";
        becomes("user,id=n", modern, ON, &format!("{modern},iommu_platform=on"));
    }

    #[test]
    fn all_includes_other_devices() {
        for driver in OTHERS {
            let device = format!("{driver}-pci,bus=pci.1");
            becomes("user,id=n", &device, ON, &device);
            becomes("user,id=n", &device, ALL, &format!("{device},iommu_platform=on"));
        }
    }
}
