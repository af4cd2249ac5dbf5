//! PCI: the guest's buses, and the requester id under which the vIOMMU sees a device.
//!
//! Follows `pci_device_iommu_address_space()` in QEMU's hw/pci/pci.c, walking libvirt's `<controller type='pci'>` instead
//! of QEMU's buses. A vIOMMU matters here only if it is written for a single host bridge. `plan` decides whether the guest has one,
//! and what shared ids mean for it.

use std::collections::{BTreeMap, BTreeSet};

use super::Requester;
use super::bypass::Bypass;
use super::lookup::{attribute, of_type};
use super::number::{c_notation, decimal32, number_of};
use crate::qemu::{BridgePassage, FoundBridge, FoundVfio, find_bridges};
use crate::xml::Element;

/// Buses that a device of libvirt can name (`virPCIDeviceAddressIsValid`), and that a PCI hierarchy of QEMU has at most.
const BUSES: u32 = 256;

/// A PCI address in the guest; the bus is the index of a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PciAddress {
    bus: u32,
    slot: u32,
    function: u32,
}

impl PciAddress {
    /// Where a device sits in the guest; `None` where libvirt has not assigned an address yet.
    pub(super) fn read(device: Element<'_, '_>) -> Option<PciAddress> {
        let address = device.child("address").filter(|address| address.prop("type") == Some("pci"))?;
        let number = |name| address.prop(name).and_then(c_notation).unwrap_or(0);
        let read = PciAddress { bus: number("bus"), slot: number("slot"), function: number("function") };
        // virPCIDeviceAddressIsEmpty: <address type='pci'/> only asks for an address.
        (number("domain") != 0 || read.bus != 0 || read.slot != 0).then_some(read)
    }
}

/// A host PCI function as sysfs writes it, from the `<address>` of a `<source>` (`virPCIDeviceAddressAsString`); what is
/// not written is 0.
pub(super) fn host_address(address: Option<Element<'_, '_>>) -> String {
    let number = |name| address.and_then(|address| address.prop(name)).and_then(c_notation).unwrap_or(0);
    format!("{:04x}:{:02x}:{:02x}.{}", number("domain"), number("bus"), number("slot"), number("function"))
}

/// What a controller does to the requester ids of the devices below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passage {
    /// Passes them on: `pcie-root`, `pcie-root-port`, switch ports, and everything that is new.
    Express,
    /// Puts an id of its own in their place, because a conventional bus carries none.
    ///
    /// `pci-expander-bus` is one of these: QEMU builds a conventional bridge into it, and the expander's own conventional
    /// bus ends in a function of the parent bus, which also decides about a bypass.
    Conventional,
    /// Is a host bridge (`pcie-expander-bus`): passes them on, and decides by itself about a bypass.
    HostBridge {
        /// It bypasses the vIOMMU.
        bypass: bool,
    },
}

#[derive(Debug, Clone, Copy)]
struct Controller {
    passage: Passage,
    /// It is a port for one PCI Express device.
    port: bool,
    /// The bus above; `None` for a root, and as long as libvirt has not assigned one.
    parent: Option<u32>,
}

/// The PCI controllers of a guest.
#[derive(Debug)]
pub(super) struct Buses {
    /// Those of `<qemu:commandline>` have numbers from [`BUSES`] on.
    controllers: BTreeMap<u32, Controller>,
    /// The controllers by their id on QEMU's command line, which is the name of the bus below.
    by_id: BTreeMap<String, u32>,
    default_bypass: bool,
}

impl Buses {
    /// Reads the controllers of a domain and those of its `<qemu:commandline>`.
    pub(super) fn read(domain: Element<'_, '_>, commandline: &[String], bypass: &Bypass) -> Buses {
        let mut controllers = BTreeMap::new();
        let mut by_id = BTreeMap::new();
        let served = served_by_smmus(domain);
        let without_smmu = |bus| served.as_ref().is_some_and(|served| !served.contains(&bus));
        for element in of_type(domain, "controller", "pci") {
            let index = element.prop("index").and_then(decimal32).filter(|&index| index < BUSES);
            let Some(index) = index else { continue };
            let model = element.prop("model").unwrap_or_default();
            let port = matches!(model, "pcie-root-port" | "pcie-switch-downstream-port");
            let alias = attribute(element, &["alias"], "name");
            // The alias that libvirt will give it (qemuAssignDeviceControllerAlias).
            let alias = alias.map_or_else(|| format!("pci.{index}"), str::to_owned);
            let passage = match model {
                "pcie-to-pci-bridge" | "dmi-to-pci-bridge" | "pci-bridge" | "pci-expander-bus" => Passage::Conventional,
                "pcie-expander-bus" => Passage::HostBridge { bypass: bypass.expander(&alias) || without_smmu(index) },
                _ => Passage::Express,
            };
            let parent = PciAddress::read(element).map(|address| address.bus);
            controllers.entry(index).or_insert(Controller { passage, port, parent });
            by_id.entry(alias).or_insert(index);
        }
        let mut buses = Buses { controllers, by_id, default_bypass: bypass.default_bus || without_smmu(0) };
        buses.add_hidden(commandline);
        buses
    }

    /// Adds the bridges of `<qemu:commandline>`. QEMU creates a bridge after the bus that it is on.
    fn add_hidden(&mut self, commandline: &[String]) {
        for (number, FoundBridge { id, bus, passage }) in (BUSES..).zip(find_bridges(commandline)) {
            let parent = self.bus(bus.as_deref());
            let port = passage == BridgePassage::Port;
            let passage = match passage {
                BridgePassage::Port | BridgePassage::Express => Passage::Express,
                BridgePassage::Conventional => Passage::Conventional,
                BridgePassage::HostBridge { bypass } => Passage::HostBridge { bypass },
            };
            self.controllers.insert(number, Controller { passage, port, parent });
            self.by_id.entry(id).or_insert(number);
        }
    }

    /// The bus of this id: libvirt names them `pcie.0` and `pci.N`, or by the alias that a user gives. `None` for a bus of another
    /// name.
    fn bus(&self, id: Option<&str>) -> Option<u32> {
        match id {
            None | Some("pcie.0") => Some(0),
            Some(id) => self.by_id.get(id).copied().or_else(|| id.strip_prefix("pci.")?.parse().ok()),
        }
    }

    /// Where a device of a command line sits.
    pub(super) fn address_of(&self, device: &FoundVfio) -> Option<PciAddress> {
        let (slot, function) = device.address.unwrap_or_default();
        Some(PciAddress { bus: self.bus(device.bus.as_deref())?, slot: slot.into(), function: function.into() })
    }

    /// The requester id that a vIOMMU sees for a device.
    pub(super) fn requester(&self, address: Option<PciAddress>) -> Requester {
        let Some(PciAddress { bus, slot, function }) = address else { return Requester::Unassigned };
        let own = Requester::Function { bus, slot, function };
        self.climb(bus, &own).unwrap_or(own)
    }

    /// The host bridge above a device.
    pub(super) fn host_bridge(&self, address: Option<PciAddress>) -> u32 {
        let mut up = self.up(address.map_or(0, |address| address.bus));
        up.find_map(|(bus, passage, _)| matches!(passage, Passage::HostBridge { .. }).then_some(bus)).unwrap_or(0)
    }

    /// The buses from one up to the host bridge, at most [`BUSES`], since they can form a ring: each with its controller's
    /// passage and the bus above.
    fn up(&self, bus: u32) -> impl Iterator<Item = (u32, Passage, Option<u32>)> {
        let step = |bus: u32| match self.controllers.get(&bus) {
            Some(Controller { passage: passage @ Passage::HostBridge { .. }, .. }) => (bus, *passage, None),
            Some(Controller { passage, parent, .. }) => (bus, *passage, *parent),
            // libvirt adds missing controllers, and on a PCI Express machine they are root ports.
            None => (bus, Passage::Express, None),
        };
        std::iter::successors(Some(step(bus)), move |(_, _, parent)| parent.map(step)).take(BUSES as usize)
    }

    /// Whether a virtio device is modern unless it says otherwise: below a port, where libvirt also puts one without an address on
    /// a PCI Express machine (QEMU's `virtio_pci_realize`).
    pub(super) fn are_modern_at(&self, address: Option<PciAddress>) -> bool {
        address.is_none_or(|address| match self.controllers.get(&address.bus) {
            Some(controller) => controller.port,
            None => address.bus != 0,
        })
    }

    /// The same for a device of a command line; one that QEMU gives the next free slot has an id of its own.
    pub(super) fn requester_of(&self, device: &FoundVfio) -> Requester {
        let requester = self.requester(self.address_of(device));
        let unplaced = device.address.is_none() && matches!(requester, Requester::Function { .. });
        if unplaced { Requester::Unassigned } else { requester }
    }

    /// What becomes of a requester id on its way from a bus up to the host bridge; `None` if it never gets there.
    fn climb(&self, bus: u32, own: &Requester) -> Option<Requester> {
        let mut seen = own.clone();
        for (bus, passage, parent) in self.up(bus) {
            let bypass = match passage {
                Passage::HostBridge { bypass } => bypass,
                // The outermost one decides, so a later bridge replaces an earlier one.
                Passage::Conventional => {
                    seen = Requester::Bridge { controller: bus };
                    self.default_bypass
                }
                Passage::Express => self.default_bypass,
            };
            if parent.is_none() {
                return Some(if bypass { Requester::Bypass } else { seen });
            }
        }
        None
    }
}

/// The host bridges that have a vIOMMU, where each is an SMMUv3 for one of them (`pciBus`: libvirt >= 11.10, QEMU >= 10.2);
/// `None` where there is a vIOMMU for all, or none at all.
fn served_by_smmus(domain: Element<'_, '_>) -> Option<BTreeSet<u32>> {
    let iommus = domain.all(&["devices", "iommu"]).into_iter();
    let bus = |iommu: Element<'_, '_>| {
        let smmu = Some(iommu).filter(|iommu| iommu.prop("model") == Some("smmuv3"))?;
        smmu.child_prop("driver", "pciBus").and_then(decimal32)
    };
    iommus.map(bus).collect::<Option<BTreeSet<u32>>>().filter(|served| !served.is_empty())
}

/// The `pci-root` controllers, which are the PCI host bridges of a pseries guest; libvirt adds one where there is none.
pub(super) fn count_roots(domain: Element<'_, '_>) -> u32 {
    let controllers = of_type(domain, "controller", "pci");
    number_of(controllers.filter(|element| element.prop("model") == Some("pci-root"))).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml;

    /// The requester of a device at `bus`, slot 2, function 1 below these controllers.
    fn requester(controllers: &str, arguments: &[&str], bus: u32) -> Requester {
        let text = format!("<domain><devices>{controllers}</devices></domain>");
        let document = xml::parse(text.as_bytes()).unwrap();
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let bypass = Bypass::read(document.root(), &arguments);
        let buses = Buses::read(document.root(), &arguments, &bypass);
        buses.requester(Some(PciAddress { bus, slot: 2, function: 1 }))
    }

    fn controller(index: u32, model: &str, bus: u32, slot: u32) -> String {
        format!(
            "<controller type='pci' index='{index}' model='{model}'>
               <address type='pci' domain='0x0000' bus='{bus:#04x}' slot='{slot:#04x}' function='0x0'/></controller>"
        )
    }

    fn function(bus: u32) -> Requester {
        Requester::Function { bus, slot: 2, function: 1 }
    }

    const ROOT: &str = "<controller type='pci' index='0' model='pcie-root'/>";
    const OLD_ROOT: &str = "<controller type='pci' index='0' model='pci-root'/>";

    #[test]
    fn root_ports_and_switches_pass_ids_on() {
        let tree = ROOT.to_owned()
            + &controller(1, "pcie-root-port", 0, 1)
            + &controller(2, "pcie-switch-upstream-port", 1, 0)
            + &controller(3, "pcie-switch-downstream-port", 2, 0);
        for bus in [0, 1, 3] {
            assert_eq!(requester(&tree, &[], bus), function(bus));
        }
        assert_eq!([OLD_ROOT, ""].map(|root| requester(root, &[], 0)), [function(0), function(0)]);
        assert_eq!(requester(ROOT, &[], 7), function(7), "libvirt will add that controller");
    }

    #[test]
    fn conventional_bridges_hide_what_is_below() {
        // Measured: N devices behind one pcie-pci-bridge, i82801b11 or pci-bridge share one container.
        for model in ["pcie-to-pci-bridge", "dmi-to-pci-bridge", "pci-bridge"] {
            let tree = ROOT.to_owned() + &controller(1, "pcie-root-port", 0, 1) + &controller(2, model, 1, 0);
            assert_eq!(requester(&tree, &[], 2), Requester::Bridge { controller: 2 }, "{model}");
            assert_eq!(requester(&tree, &[], 1), function(1), "{model}");
        }
        // The outermost bridge determines the requester.
        let tree = ROOT.to_owned() + &controller(1, "dmi-to-pci-bridge", 0, 0x1e) + &controller(2, "pci-bridge", 1, 1);
        assert_eq!(requester(&tree, &[], 2), Requester::Bridge { controller: 1 });
        let tree = OLD_ROOT.to_owned() + &controller(1, "pci-bridge", 0, 3);
        assert_eq!(requester(&tree, &[], 1), Requester::Bridge { controller: 1 });
        // A bridge without an address is a bridge, too.
        let tree = "<controller type='pci' index='1' model='pcie-to-pci-bridge'/>";
        assert_eq!(requester(tree, &[], 1), Requester::Bridge { controller: 1 });
    }

    #[test]
    fn an_expander_is_a_host_bridge() {
        // From pcie-expander-bus.xml.
        let tree = ROOT.to_owned()
            + &controller(1, "pcie-expander-bus", 0, 4)
            + &controller(2, "pcie-root-port", 1, 0)
            + &controller(3, "pcie-root-port", 0, 5);
        assert_eq!(requester(&tree, &[], 2), function(2));
        let global = ["-global", "pxb-pcie.bypass_iommu=on"];
        assert_eq!(requester(&tree, &global, 2), Requester::Bypass);
        assert_eq!(requester(&tree, &global, 3), function(3));
        let machine = ["-machine", "default_bus_bypass_iommu=on"];
        assert_eq!([3, 0].map(|bus| requester(&tree, &machine, bus)), [Requester::Bypass, Requester::Bypass]);
        assert_eq!(requester(&tree, &machine, 2), function(2), "the property of the default bus applies to it only");
    }

    #[test]
    fn an_smmu_serves_its_own_host_bridge_only() {
        let tree = ROOT.to_owned()
            + &controller(1, "pcie-expander-bus", 0, 4)
            + &controller(2, "pcie-root-port", 1, 0)
            + &controller(3, "pcie-root-port", 0, 5);
        // As in KubeVirt's Grace guests: one for each expander bus.
        let on = |bus: u32| format!("<iommu model='smmuv3'><driver pciBus='{bus}'/></iommu>");
        let seen = |iommus: &str| [2, 3].map(|bus| requester(&(tree.clone() + iommus), &[], bus));
        assert_eq!(seen(&on(1)), [function(2), Requester::Bypass]);
        assert_eq!(seen(&on(0)), [Requester::Bypass, function(3)]);
        assert_eq!(seen(&(on(0) + &on(1))), [function(2), function(3)]);
        assert_eq!(
            seen("<iommu model='smmuv3'/>"),
            [function(2), function(3)],
            "the machine's SMMU serves all devices"
        );
        assert_eq!(seen(&(on(1) + "<iommu model='virtio'/>")), [function(2), function(3)]);
    }

    #[test]
    fn a_conventional_expander_is_seen_as_its_own_function() {
        // hw/pci-bridge/pci_expander_bridge.c: a pci-bridge on the bus "pxb-internal", whose parent device is the pxb.
        let tree = OLD_ROOT.to_owned() + &controller(1, "pci-expander-bus", 0, 4) + &controller(2, "pci-bridge", 1, 0);
        assert_eq!(requester(&tree, &[], 1), Requester::Bridge { controller: 1 });
        assert_eq!(requester(&tree, &[], 2), Requester::Bridge { controller: 1 });
        assert_eq!(requester(&tree, &["-global", "pxb-pcie.bypass_iommu=on"], 1), Requester::Bridge { controller: 1 });
    }

    #[test]
    fn a_bridge_below_a_bypass_bypasses() {
        let tree = ROOT.to_owned() + &controller(1, "pcie-to-pci-bridge", 0, 4);
        assert_eq!(requester(&tree, &["-M", "default-bus-bypass-iommu=on"], 1), Requester::Bypass);
    }

    #[test]
    fn the_alias_names_the_expander() {
        for (alias, name) in [("", "pci.1"), ("<alias name='ua-pxb'/>", "ua-pxb")] {
            let text = format!(
                "<domain xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><devices>{ROOT}
                   <controller type='pci' index='1' model='pcie-expander-bus'>{alias}
                     <address type='pci' bus='0' slot='4'/></controller></devices>
                 <q:override><q:device alias='{name}'><q:frontend>
                   <q:property name='bypass_iommu' type='bool' value='true'/></q:frontend></q:device></q:override></domain>"
            );
            let document = xml::parse(text.as_bytes()).unwrap();
            let bypass = Bypass::read(document.root(), &[]);
            let buses = Buses::read(document.root(), &[], &bypass);
            let address = PciAddress { bus: 1, slot: 0, function: 0 };
            assert_eq!(buses.requester(Some(address)), Requester::Bypass, "{name}");
        }
    }

    #[test]
    fn cycles_of_bridges_end() {
        let circle = controller(1, "pci-bridge", 2, 1) + &controller(2, "pcie-root-port", 1, 1);
        assert_eq!(requester(&circle, &[], 1), function(1));
        assert_eq!(requester(&controller(1, "pcie-root-port", 1, 1), &[], 1), function(1));
        // The longest chain without a cycle: every bus of a guest.
        let chain: String = (1..256).map(|index| controller(index, "pci-bridge", index - 1, 1)).collect();
        assert_eq!(requester(&(ROOT.to_owned() + &chain), &[], 255), Requester::Bridge { controller: 1 });
        assert_eq!(requester(&controller(256, "pci-bridge", 0, 1), &[], 256), function(256), "no such bus");
    }

    #[test]
    fn invalid_addresses_are_absent() {
        let tree = "<controller type='pci' model='pci-bridge'/><controller type='pci' index='-1' model='pci-bridge'/>
            <controller type='usb' index='1' model='pci-bridge'/><controller index='1' model='pci-bridge'/>
            <controller type='pci' index='1'/><controller type='pci' index='1' model='pci-bridge'/>";
        assert_eq!(requester(tree, &[], 1), function(1), "the first controller of an index counts");
    }

    #[test]
    fn guest_addresses() {
        let read = |address: &str| {
            let text = format!("<hostdev>{address}</hostdev>");
            PciAddress::read(xml::parse(text.as_bytes()).unwrap().root())
        };
        let at = |bus, slot, function| Some(PciAddress { bus, slot, function });
        assert_eq!(read("<address type='pci' domain='0x0000' bus='0x0a' slot='0x1f' function='0x7'/>"), at(10, 31, 7));
        assert_eq!(read("<address type='pci' bus='4'/>"), at(4, 0, 0));
        assert_eq!(read("<address type='pci' bus='0' slot='010' function='x'/>"), at(0, 8, 0));
        assert_eq!(read("<address type='pci' slot='2'/><address type='pci' slot='3'/>"), at(0, 2, 0));
        for unassigned in [
            "",
            "<address type='pci'/>",
            "<address type='pci' domain='0' bus='0x00' slot='0x00' function='0x1' multifunction='on'/>",
            "<address type='unassigned'/>",
            "<address type='ccw'/><address type='pci' slot='2'/>",
            "<address bus='1' slot='1'/>",
            "<source><address type='pci' bus='1' slot='1'/></source>",
        ] {
            assert_eq!(read(unassigned), None, "{unassigned}");
        }
    }

    #[test]
    fn roots() {
        let count = |controllers: &str| {
            let text = format!("<domain><devices>{controllers}</devices></domain>");
            count_roots(xml::parse(text.as_bytes()).unwrap().root())
        };
        assert_eq!(["", ROOT].map(count), [1, 1]);
        assert_eq!(count("<controller type='pci' model='pci-root'/><controller type='pci' model='pci-root'/>"), 2);
    }
}
