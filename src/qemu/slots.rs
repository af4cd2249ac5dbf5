//! The 32 slots of the root bus: which of them the command line has given away, and a free one.
//!
//! Knows QEMU's ways to write a PCI address (`hw/core/qdev-properties-system.c`, `set_pci_devfn`), and nothing of devices that
//! QEMU adds by itself: those take the lowest free slots, far from where the search here begins.

use super::device::Device;

/// The root bus of the machine types q35 and virt.
pub(super) const ROOT_BUS: &str = "pcie.0";

/// The highest slot that is ever given away: 0x1f holds the ICH9 bridge of q35, 0 the host bridge.
const HIGHEST: u8 = 0x1e;

/// The highest slot of the root bus in which none of `devices` sits with any of its functions: downward, because libvirt
/// and QEMU fill the bus upward. A device without `bus` goes to the root bus as well. None if the bus is full.
pub(super) fn free<'a>(devices: impl IntoIterator<Item = &'a Device>) -> Option<u8> {
    let taken = devices
        .into_iter()
        .filter(|device| device.properties.get("bus").is_none_or(|bus| bus == ROOT_BUS))
        .filter_map(|device| device.slot)
        .fold(0u32, |taken, slot| taken | (1 << slot));
    (1..=HIGHEST).rev().find(|slot| taken & (1 << slot) == 0)
}

/// The slot in `slot`, `slot.function`: both hexadecimal, with or without `0x`.
pub(super) fn slot_of_text(addr: &str) -> Option<u8> {
    let slot = addr.split_once('.').map_or(addr, |(slot, _)| slot);
    let digits = slot.strip_prefix("0x").or_else(|| slot.strip_prefix("0X")).unwrap_or(slot);
    u8::from_str_radix(digits, 16).ok().filter(|slot| *slot < 32)
}

/// The slot in a device and function number, five bits and three.
pub(super) fn slot_of_devfn(devfn: u64) -> Option<u8> {
    u8::try_from(devfn).ok().map(|devfn| devfn >> 3)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn free_beside(devices: &[&str]) -> Option<u8> {
        let devices: Vec<_> = devices.iter().filter_map(|device| Device::parse(OsStr::new(device))).collect();
        free(&devices)
    }

    #[test]
    fn addresses_are_read_as_qemu_reads_them() {
        for (text, slot) in
            [("0x2.0x1", 2), ("2.1", 2), ("02", 2), ("0x1e", 0x1e), ("1e.0", 0x1e), ("10", 0x10), ("0X1F", 0x1f)]
        {
            assert_eq!(slot_of_text(text), Some(slot), "{text}");
        }
        for text in ["", "0x20", "20", "-1", "g", "0x", "256"] {
            assert_eq!(slot_of_text(text), None, "{text}");
        }
        assert_eq!(slot_of_devfn(0xf0), Some(0x1e));
        assert_eq!(slot_of_devfn(0x100), None);
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
}
