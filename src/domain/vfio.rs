//! Devices that QEMU opens through VFIO for the guest: passed-through PCI functions and mediated devices.
//!
//! `plan` computes how much memory they pin.

use super::lookup::of_type;
use super::number::number_of;
use super::pci::{Buses, PciAddress, host_address};
use super::{IommufdOpener, Requester, Uuid, VfioDevice, VfioSource, devices};
use crate::qemu::{find_vfio, opens_iommufd};
use crate::xml::Element;

/// Every `<hostdev>` and every `<interface type='hostdev'>` that the guest gets, which libvirt does not repeat as a `<hostdev>`,
/// and the devices of `<qemu:commandline>`.
pub(super) fn passed_through(domain: Element<'_, '_>, commandline: &[String], buses: &Buses) -> Vec<VfioDevice> {
    // <iommufd enabled='yes'/> holds for every PCI device without an attribute of its own (libvirt 12.2).
    let iommufd = domain.child_prop("iommufd", "enabled") == Some("yes");
    let written = devices(domain).filter(|device| !is_unassigned(*device)).filter_map(|device| {
        let source = vfio_source(device)?;
        let address = PciAddress::read(device);
        Some(VfioDevice {
            requester: if in_pci_guest(device) { buses.requester(address) } else { Requester::None },
            host_bridge: buses.host_bridge(address),
            iommufd: match device.child_prop("driver", "iommufd") {
                Some(value) => value == "yes",
                None => iommufd && source.pci().is_some(),
            },
            source,
            hidden: false,
        })
    });
    let hidden = find_vfio(commandline).into_iter().map(|device| VfioDevice {
        requester: if device.pci { buses.requester_of(&device) } else { Requester::None },
        host_bridge: buses.host_bridge(buses.address_of(&device)),
        source: hidden_source(device.source),
        iommufd: device.iommufd,
        hidden: true,
    });
    written.chain(hidden).collect()
}

/// How many devices libvirt takes from the host and does not give to QEMU.
pub(super) fn unassigned(domain: Element<'_, '_>) -> u32 {
    number_of(devices(domain).filter(|device| is_unassigned(*device) && vfio_source(*device).is_some()))
}

fn is_unassigned(device: Element<'_, '_>) -> bool {
    device.child_prop("address", "type") == Some("unassigned")
}

/// Who opens the iommufd of these devices, where it is not libvirt.
pub(super) fn iommufd_opener(
    domain: Element<'_, '_>,
    commandline: &[String],
    devices: &[VfioDevice],
) -> Option<IommufdOpener> {
    let uses = |hidden: bool| devices.iter().any(|device| device.iommufd && device.hidden == hidden);
    if uses(true) && opens_iommufd(commandline) {
        return Some(IommufdOpener::Qemu);
    }
    let fdgroup = domain.child_prop("iommufd", "fdgroup").is_some();
    (fdgroup && uses(false)).then_some(IommufdOpener::Manager)
}

/// A host address as sysfs writes it, with the domain that QEMU lets out, or a mediated device.
fn hidden_source(source: String) -> VfioSource {
    let digits = |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<&str> = source.split([':', '.']).collect();
    match parts[..] {
        [bus, slot, function] if digits(bus, 2) && digits(slot, 2) && digits(function, 1) => {
            VfioSource::Pci(format!("0000:{source}"))
        }
        [domain, _, _, _] if digits(domain, 4) => VfioSource::Pci(source),
        _ => VfioSource::Mdev(source),
    }
}

/// What a device passes through, if it is VFIO's.
fn vfio_source(device: Element<'_, '_>) -> Option<VfioSource> {
    let address = || device.child("source")?.child("address");
    if device.is("interface") {
        let hostdev = device.prop("type") == Some("hostdev") && driver_is_vfio(device);
        let pci = address().filter(|address| hostdev && address.prop("type") == Some("pci"));
        return pci.map(|pci| VfioSource::Pci(host_address(Some(pci))));
    }
    // mode='capabilities' belongs to LXC; none means subsystem (virDomainHostdevDefParseXML).
    if !device.is("hostdev") || !matches!(device.prop("mode"), None | Some("subsystem")) {
        return None;
    }
    match device.prop("type")? {
        // Without an address it is 0000:00:00.0 to libvirt.
        "pci" if driver_is_vfio(device) => device.child("source").map(|_| VfioSource::Pci(host_address(address()))),
        "mdev" => {
            let uuid = device.path(&["source", "address"])?.prop("uuid")?;
            Some(VfioSource::Mdev(uuid.parse().map_or_else(|_| uuid.to_owned(), |uuid: Uuid| uuid.to_string())))
        }
        _ => None,
    }
}

/// Whether `<driver name=…>` leaves the device to VFIO. The kernel's and Xen's own assignment are the only others.
fn driver_is_vfio(device: Element<'_, '_>) -> bool {
    !matches!(device.child_prop("driver", "name"), Some("kvm" | "xen"))
}

/// Whether the guest sees a PCI device. Mediated devices of s390 sit on its channel subsystem or are crypto adapters.
fn in_pci_guest(device: Element<'_, '_>) -> bool {
    !matches!(device.prop("model"), Some("vfio-ccw" | "vfio-ap"))
}

/// The names of the networks that have yet to give an interface its device. A running guest's interface of a pool is of type
/// `hostdev`, with its device.
pub(super) fn networks(domain: Element<'_, '_>) -> Vec<String> {
    let unresolved = of_type(domain, "interface", "network");
    unresolved.filter_map(|interface| interface.child_prop("source", "network")).map(str::to_owned).collect()
}

/// Whether a virtio device, of whatever kind, has `<driver ats='on'/>`.
pub(super) fn virtio_ats(domain: Element<'_, '_>) -> bool {
    devices(domain).any(|device| {
        // An SMMUv3 has an attribute of that name too, and it is no virtio device.
        !device.is("iommu") && device.child_prop("driver", "ats") == Some("on")
    })
}

#[cfg(test)]
mod tests {
    use super::super::Domain;
    use super::super::read::from_text;
    use super::*;

    fn domain(devices: &str) -> Domain {
        from_text(&format!("<domain><devices>{devices}</devices></domain>"))
    }

    /// Source, requester and iommufd of every device.
    fn vfio(devices: &str) -> Vec<VfioDevice> {
        domain(devices).vfio
    }

    fn pci(address: &str, requester: Requester) -> VfioDevice {
        VfioDevice { source: VfioSource::Pci(address.into()), requester, host_bridge: 0, iommufd: false, hidden: false }
    }

    #[test]
    fn a_pci_function() {
        // hostdev-vfio-multidomain.xml; its .args have host=0021:de:1f.1.
        let source = "<source><address domain='0x0021' bus='222' slot='31' function='1'/></source>";
        let found = vfio(&format!(
            "<hostdev mode='subsystem' type='pci' managed='yes'><driver name='vfio'/>{source}</hostdev>"
        ));
        assert_eq!(found, [pci("0021:de:1f.1", Requester::Unassigned)]);
        assert_eq!(
            vfio(&format!("<hostdev type='pci'>{source}</hostdev>")).len(),
            1,
            "vfio in a subsystem is the default"
        );
        // hostdev-vfio-zpci.xml; its .args have host=0000:00:00.0, …, addr=0x8.
        let found = vfio(
            "<controller type='pci' index='0' model='pci-root'/>
             <hostdev mode='subsystem' type='pci' managed='no'><driver name='vfio'/>
               <source><address domain='0x0000' bus='0x00' slot='0x00' function='0x0'/></source>
               <address type='pci' domain='0x0000' bus='0x00' slot='0x08' function='0x0'><zpci uid='0x19'/></address></hostdev>",
        );
        assert_eq!(found, [pci("0000:00:00.0", Requester::Function { bus: 0, slot: 8, function: 0 })]);
    }

    #[test]
    fn functions_of_one_slot_are_requesters_of_their_own() {
        let gpu = |function| {
            format!(
                "<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='1' slot='0' function='{function}'/></source>
                   <address type='pci' bus='5' slot='0' function='{function}' multifunction='on'/></hostdev>"
            )
        };
        let [video, audio] = &vfio(&(gpu(0) + &gpu(1)))[..] else { panic!("two devices") };
        assert_eq!(video.source.name(), "0000:01:00.0");
        assert_eq!(audio.source.name(), "0000:01:00.1");
        assert_ne!(video.requester, audio.requester);
    }

    #[test]
    fn an_interface() {
        // net-hostdev-vfio-multidomain.xml
        let address = "<address type='pci' domain='0x0021' bus='0xde' slot='0x1f' function='0x1'/>";
        let guest = "<address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>";
        let interface = |driver: &str, address: &str| {
            vfio(&format!("<interface type='hostdev'>{driver}<source>{address}</source>{guest}</interface>"))
        };
        let found = interface("<driver name='vfio'/>", address);
        assert_eq!(found, [pci("0021:de:1f.1", Requester::Function { bus: 0, slot: 2, function: 0 })]);
        assert_eq!(interface("", address).len(), 1);
        assert_eq!(interface("<driver name='kvm'/>", address), []);
        assert_eq!(interface("", "<address type='usb' bus='0' device='2'/>"), []);
        let pool = format!("<interface type='network'><source network='pool'/>{guest}</interface>");
        assert_eq!(vfio(&pool), [], "realised only at 'start begin'");
    }

    #[test]
    fn mediated_devices() {
        let uuid = "53764d0e-85a0-42b4-af5c-2046b460b1dc";
        let mdev = |model: &str, address: &str| {
            vfio(&format!(
                "<hostdev mode='subsystem' type='mdev' model='{model}' display='on'>
                   <source><address uuid='{uuid}'/></source>{address}</hostdev>"
            ))
        };
        let device = |requester| VfioDevice {
            source: VfioSource::Mdev(uuid.into()),
            requester,
            host_bridge: 0,
            iommufd: false,
            hidden: false,
        };
        assert_eq!(mdev("vfio-pci", ""), [device(Requester::Unassigned)]);
        let function = Requester::Function { bus: 1, slot: 0, function: 0 };
        assert_eq!(mdev("vfio-pci", "<address type='pci' bus='1'/>"), [device(function)]);
        assert_eq!(
            mdev("vfio-ccw", "<address type='ccw' cssid='0xfe' ssid='0x0' devno='0x1'/>"),
            [device(Requester::None)]
        );
        assert_eq!(mdev("vfio-ap", ""), [device(Requester::None)]);
    }

    #[test]
    fn other_devices_are_not_vfio() {
        let source = "<source><address domain='0' bus='1' slot='0' function='0'/></source>";
        assert_eq!(vfio(&format!("<hostdev mode='subsystem' type='pci'><driver name='kvm'/>{source}</hostdev>")), []);
        assert_eq!(vfio(&format!("<hostdev mode='subsystem' type='pci'><driver name='xen'/>{source}</hostdev>")), []);
        assert_eq!(vfio(&format!("<hostdev mode='capabilities' type='pci'>{source}</hostdev>")), []);
        assert_eq!(vfio(&format!("<hostdev mode='subsystem'>{source}</hostdev>")), []);
        assert_eq!(
            vfio("<hostdev mode='subsystem' type='pci'/><hostdev type='mdev'><source><address/></source></hostdev>"),
            []
        );
        assert_eq!(
            vfio("<hostdev mode='subsystem' type='usb'><source><address bus='1' device='2'/></source></hostdev>"),
            []
        );
        let foreign = format!("<hostdev xmlns='urn:x' mode='subsystem' type='pci'>{source}</hostdev>");
        assert_eq!(vfio(&foreign), []);
    }

    #[test]
    fn unassigned_devices_stay_outside() {
        // hostdev-pci-address-unassigned.xml: four functions, of which QEMU gets three.
        let hostdev = |function: u32, address: &str| {
            format!(
                "<hostdev mode='subsystem' type='pci' managed='yes'><driver name='vfio'/>
                   <source><address domain='0x0005' bus='0x90' slot='0x01' function='0x{function}'/></source>{address}</hostdev>"
            )
        };
        let unassigned = "<address type='unassigned'/>";
        let domain = domain(&(hostdev(0, "") + &hostdev(1, unassigned) + &hostdev(2, "") + &hostdev(3, "")));
        let names: Vec<_> = domain.vfio.iter().map(|device| device.source.name()).collect();
        assert_eq!(names, ["0005:90:01.0", "0005:90:01.2", "0005:90:01.3"]);
        assert_eq!(domain.unassigned, 1);
    }

    #[test]
    fn iommufd() {
        let hostdev =
            |driver: &str| format!("<hostdev type='pci'>{driver}<source><address bus='1'/></source></hostdev>");
        let devices = hostdev("<driver iommufd='yes'/>") + &hostdev("<driver iommufd='no'/>") + &hostdev("");
        let mdev = "<hostdev type='mdev' model='vfio-pci'><source><address uuid='u'/></source></hostdev>";
        let read = |iommufd: &str| {
            let domain = from_text(&format!("<domain>{iommufd}<devices>{devices}{mdev}</devices></domain>"));
            domain.vfio.iter().map(|device| device.iommufd).collect::<Vec<_>>()
        };
        assert_eq!(read(""), [true, false, false, false]);
        assert_eq!(read("<iommufd enabled='no'/>"), [true, false, false, false]);
        assert_eq!(read("<iommufd enabled='yes' fdgroup='iommu'/>"), [true, false, true, false]);
    }

    #[test]
    fn ats() {
        for (devices, ats) in [
            ("<interface type='user'><model type='virtio'/><driver ats='on'/></interface>", true),
            ("<disk type='file'><driver name='qemu' ats='on'/></disk>", true),
            ("<controller type='scsi' model='virtio-scsi'><driver iommu='on' ats='on'/></controller>", true),
            ("<memballoon model='virtio'><driver ats='off'/></memballoon>", false),
            ("<iommu model='smmuv3'><driver ats='on'/></iommu>", false),
            ("", false),
        ] {
            assert_eq!(domain(devices).virtio_ats, ats, "{devices}");
        }
    }

    /// QEMU 7.2 and 10.0 open one container for two devices behind one bridge, however it is named.
    #[test]
    fn bridges_by_their_ids() {
        let requesters = |devices: &str, arguments: &[&str]| {
            let arguments: Vec<_> = arguments.iter().map(|value| format!("<q:arg value='{value}'/>")).collect();
            let arguments = arguments.concat();
            let namespace = "http://libvirt.org/schemas/domain/qemu/1.0";
            let text = format!(
                "<domain><devices>{devices}</devices><q:commandline xmlns:q='{namespace}'>{arguments}</q:commandline></domain>"
            );
            from_text(&text).vfio.into_iter().map(|device| device.requester).collect::<Vec<_>>()
        };
        let named = "<controller type='pci' index='2' model='pcie-to-pci-bridge'><alias name='ua-br'/></controller>
            <hostdev type='pci'><source><address bus='1'/></source><address type='pci' bus='2' slot='1'/></hostdev>";
        let found = requesters(named, &["-device", "vfio-pci,host=0e:00.0,bus=ua-br,addr=2"]);
        assert_eq!(found, [Requester::Bridge { controller: 2 }, Requester::Bridge { controller: 2 }]);
        let (first, second) = ("vfio-pci,host=01:00.0,bus=br1,addr=1", "vfio-pci,host=02:00.0,bus=br1,addr=2");
        let hidden = |bridge: &str| {
            let port = ["-device", "pcie-root-port,id=rp1,chassis=91", "-device", bridge];
            requesters("", &[&port[..], &["-device", first, "-device", second]].concat())
        };
        for bridge in
            ["pcie-pci-bridge,id=br1,bus=rp1", "pci-bridge,id=br1,bus=rp1", "i82801b11-bridge,id=br1,bus=pcie.0"]
        {
            assert_eq!(hidden(bridge), vec![Requester::Bridge { controller: 257 }; 2], "{bridge}");
        }
        let expander = hidden("pxb-pcie,id=br1,bus=pcie.0,bus_nr=9");
        assert_eq!(expander[0], Requester::Function { bus: 257, slot: 1, function: 0 });
        assert_eq!(hidden("pxb-pcie,id=br1,bus_nr=9,bypass_iommu=true"), vec![Requester::Bypass; 2]);
        assert_eq!(hidden("x3130-upstream,id=br1,bus=rp1")[1], Requester::Function { bus: 257, slot: 2, function: 0 });
        assert_eq!(hidden("e1000e,id=br1,bus=rp1"), vec![Requester::Unassigned; 2]);
    }

    #[test]
    fn devices_of_the_command_line() {
        let arguments = |arguments: &[&str]| {
            let arguments: Vec<_> = arguments.iter().map(|argument| format!("<q:arg value='{argument}'/>")).collect();
            let bridge = "<controller type='pci' index='3' model='pcie-to-pci-bridge'/>";
            from_text(&format!(
                "<domain><devices>{bridge}</devices><q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>{}\
                 </q:commandline></domain>",
                arguments.concat()
            ))
            .vfio
        };
        let found = arguments(&[
            "-device",
            "vfio-pci,host=02:00.0",
            "-device",
            "vfio-pci,host=0001:02:00.1,addr=5.1",
            "-device",
            "vfio-pci,sysfsdev=/sys/bus/mdev/devices/3a21c2ee-5ece-4225-baa4-9a11258f601e,bus=pci.3,addr=1",
            "-device",
            "vfio-ap,sysfsdev=/sys/devices/vfio_ap/matrix/x",
        ]);
        let expected = [
            (VfioSource::Pci("0000:02:00.0".into()), Requester::Unassigned),
            (VfioSource::Pci("0001:02:00.1".into()), Requester::Function { bus: 0, slot: 5, function: 1 }),
            (VfioSource::Mdev("3a21c2ee-5ece-4225-baa4-9a11258f601e".into()), Requester::Bridge { controller: 3 }),
            (VfioSource::Mdev("x".into()), Requester::None),
        ];
        let expected = expected.map(|(source, requester)| VfioDevice {
            source,
            requester,
            host_bridge: 0,
            iommufd: false,
            hidden: true,
        });
        assert_eq!(found, expected);
        assert_eq!(arguments(&["-device", "e1000e,host=02:00.0"]), []);
    }
}
