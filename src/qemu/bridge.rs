//! PCI bridges on a command line, below which other devices may sit.

use std::ffi::OsStr;

use super::device::{Globals, is_on};
use super::iommu::devices;

/// A bridge with an id, which names the bus below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundBridge {
    /// Its id.
    pub id: String,
    /// The id of the bus that it is on; none for the default bus.
    pub bus: Option<String>,
    /// What it does to requester ids.
    pub passage: BridgePassage,
}

/// What a bridge does to the requester ids of the devices below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BridgePassage {
    /// Passes them on, and is a port for one device.
    Port,
    /// Passes them on.
    Express,
    /// Puts an id of its own in their place.
    Conventional,
    /// Is a host bridge.
    HostBridge {
        /// It bypasses the vIOMMU.
        bypass: bool,
    },
}

/// Every PCI bridge with an id, in the order of the command line.
pub fn find_bridges<S: AsRef<OsStr>>(arguments: &[S]) -> Vec<FoundBridge> {
    let globals = Globals::of(arguments);
    let found = devices(arguments).filter_map(|(_, device)| {
        let passage = match device.driver.as_str() {
            "pcie-root-port" | "ioh3420" | "xio3130-downstream" | "cxl-rp" | "cxl-downstream" => BridgePassage::Port,
            "x3130-upstream" | "cxl-upstream" => BridgePassage::Express,
            // The bridge in a pxb is a conventional one on the bus that the pxb is on (hw/pci-bridge/pci_expander_bridge.c).
            "pcie-pci-bridge" | "i82801b11-bridge" | "pci-bridge" | "pci-bridge-seat" | "pxb" => {
                BridgePassage::Conventional
            }
            "pxb-pcie" | "pxb-cxl" => {
                BridgePassage::HostBridge { bypass: device.value(&globals, "bypass_iommu").is_some_and(is_on) }
            }
            _ => return None,
        };
        Some(FoundBridge { id: device.get("id")?.to_owned(), bus: device.get("bus").map(str::to_owned), passage })
    });
    found.collect()
}
