//! Finds a free slot among the 32 of the root bus.
//!
//! Devices that QEMU adds by itself are not known here: they take the lowest free slots, and the search begins at the highest.

use super::device::Device;
use crate::model::Machine;

/// The root bus of the machine types q35 and virt.
pub(super) const ROOT_BUS: &str = "pcie.0";

/// The highest slot that is free on both machine types.
const HIGHEST: u8 = 0x1e;

/// On q35 it holds the ICH9 bridge. libvirt gives it to a device of virt when the slots below are taken.
const LAST_OF_VIRT: u8 = 0x1f;

/// The highest slot of the root bus without a function of any of `devices`: libvirt and QEMU fill the bus upward. A device
/// without `bus` is on the root bus as well. `None` if the bus is full.
pub(super) fn free<'a>(machine: Machine, devices: impl IntoIterator<Item = &'a Device>) -> Option<u8> {
    let taken = devices
        .into_iter()
        .filter(|device| device.properties.get("bus").is_none_or(|bus| bus == ROOT_BUS))
        .filter_map(|device| device.address)
        .fold(0u32, |taken, (slot, _)| taken | (1 << slot));
    let last = (machine == Machine::ArmVirt).then_some(LAST_OF_VIRT);
    (1..=HIGHEST).rev().chain(last).find(|slot| taken & (1 << slot) == 0)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn free_beside(devices: &[&str]) -> Option<u8> {
        let devices: Vec<_> = devices.iter().filter_map(|device| Device::parse(OsStr::new(device))).collect();
        free(Machine::Q35, &devices)
    }

    #[test]
    fn search_goes_downward_past_every_spelling() {
        assert_eq!(free_beside(&[]), Some(0x1e));
        assert_eq!(free_beside(&["i82801b11-bridge,bus=pcie.0,addr=0x1e"]), Some(0x1d));
        assert_eq!(
            free_beside(&[
                r#"{"driver":"ich9-usb-ehci1","bus":"pcie.0","addr":"0x1d.0x7"}"#,
                r#"{"driver":"pcie-root-port","bus":"pcie.0","multifunction":true,"addr":240}"#,
                "virtio-net-pci,addr=1c",
            ]),
            Some(0x1b)
        );
    }

    #[test]
    fn other_buses_do_not_count() {
        assert_eq!(
            free_beside(&["vfio-pci,bus=pci.1,addr=0x1e", r#"{"driver":"vfio-pci","bus":"pci.2","addr":"0x1e"}"#]),
            Some(0x1e)
        );
    }

    #[test]
    fn full_bus_has_no_free_slot() {
        let full: Vec<String> = (1..0x1f).map(|slot| format!("e1000e,bus=pcie.0,addr={slot:x}")).collect();
        let full: Vec<&str> = full.iter().map(String::as_str).collect();
        assert_eq!(free_beside(&full), None);
        assert_eq!(free_beside(&full[1..]), Some(1));
    }

    #[test]
    fn virt_has_one_slot_more() {
        let devices =
            |last: u8| (1..=last).filter_map(|slot| Device::parse(OsStr::new(&format!("e1000e,addr={slot:x}"))));
        let free_below = |last: u8| free(Machine::ArmVirt, &devices(last).collect::<Vec<_>>());
        assert_eq!(free_below(0x1d), Some(0x1e));
        assert_eq!(free_below(0x1e), Some(0x1f));
        assert_eq!(free_below(0x1f), None);
    }
}
