//! Guests with VFIO devices at different places: as domain XML, and as libvirt's command line.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use std::ffi::OsString;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::qemu::{GROUP_OF_TWO, MDEVS};

/// Guest memory, bytes: enough for a part above 4 GiB on q35, which maps 2 GiB below 4 GiB for a guest of 2.75 GiB or
/// more.
pub(crate) const MEMORY: u64 = 3 << 30;

/// The spelling of `-device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// libvirt's with QEMU 6.2 or newer.
    Json,
    /// libvirt's with older QEMUs, and the usual spelling by hand.
    KeyValue,
}

impl Dialect {
    pub(crate) const ALL: [Dialect; 2] = [Dialect::Json, Dialect::KeyValue];
}

/// A guest.
#[derive(Debug, Clone)]
pub(crate) struct Topology {
    pub(crate) name: &'static str,
    pub(crate) arch: &'static str,
    controllers: Vec<Controller>,
    hostdevs: Vec<Hostdev>,
    /// `<qemu:commandline>`.
    arguments: Vec<&'static str>,
    /// `<iommu>` and other devices.
    more_devices: &'static str,
    /// `<maxMemory>`, bytes.
    max_memory: Option<u64>,
}

#[derive(Debug, Clone)]
struct Controller {
    index: u8,
    /// libvirt's name.
    model: &'static str,
    bus: u8,
    slot: u8,
    /// `<qemu:override>` sets `bypass_iommu`.
    bypass: bool,
}

#[derive(Debug, Clone)]
struct Hostdev {
    /// A host address or a mediated device's UUID.
    source: String,
    bus: u8,
    slot: u8,
    function: u8,
}

impl Topology {
    pub(crate) fn q35(name: &'static str) -> Topology {
        Topology {
            name,
            arch: "x86_64",
            controllers: Vec::new(),
            hostdevs: Vec::new(),
            arguments: Vec::new(),
            more_devices: "",
            max_memory: None,
        }
    }

    pub(crate) fn virt(name: &'static str) -> Topology {
        Topology { arch: "aarch64", ..Topology::q35(name) }
    }

    /// A PCI controller of libvirt's model `model`, at a slot of another one.
    pub(crate) fn controller(mut self, index: u8, model: &'static str, bus: u8, slot: u8) -> Topology {
        self.controllers.push(Controller { index, model, bus, slot, bypass: false });
        self
    }

    /// Makes the last controller bypass the vIOMMU.
    pub(crate) fn bypassing(mut self) -> Topology {
        self.controllers.last_mut().unwrap().bypass = true;
        self
    }

    /// A VFIO device at function 0.
    pub(crate) fn hostdev(self, source: &str, bus: u8, slot: u8) -> Topology {
        self.function(source, bus, slot, 0)
    }

    /// A VFIO device at any function.
    pub(crate) fn function(mut self, source: &str, bus: u8, slot: u8, function: u8) -> Topology {
        self.hostdevs.push(Hostdev { source: source.to_owned(), bus, slot, function });
        self
    }

    /// A root port on pcie.0 for each of these VFIO devices.
    pub(crate) fn root_ports(self, sources: &[&str]) -> Topology {
        let first = self.controllers.iter().map(|controller| controller.index).max().unwrap_or(0) + 1;
        (first..).zip(sources).fold(self, |topology, (index, source)| {
            topology.controller(index, "pcie-root-port", 0, 0x10 + index).hostdev(source, index, 0)
        })
    }

    /// Arguments in `<qemu:commandline>`.
    pub(crate) fn arguments(mut self, arguments: &[&'static str]) -> Topology {
        self.arguments.extend(arguments);
        self
    }

    /// Other devices, in XML only.
    pub(crate) fn more_devices(mut self, xml: &'static str) -> Topology {
        self.more_devices = xml;
        self
    }

    /// The maximum memory with hot-plug, bytes.
    pub(crate) fn max_memory(mut self, bytes: u64) -> Topology {
        self.max_memory = Some(bytes);
        self
    }

    /// The domain, with the wrapper as its emulator.
    pub(crate) fn xml(&self) -> String {
        let arch = self.arch;
        let (machine, firmware, gic) = match arch {
            "aarch64" => ("virt", " firmware='efi'", "<gic version='2'/>"),
            _ => ("q35", "", ""),
        };
        let mut devices = self.more_devices.to_owned();
        let mut overrides = String::new();
        for Controller { index, model, bus, slot, bypass } in &self.controllers {
            write!(
                devices,
                "<controller type='pci' index='{index}' model='{model}'>\
                 <address type='pci' domain='0x0000' bus='{bus:#04x}' slot='{slot:#04x}' function='0x0'/></controller>"
            )
            .unwrap();
            if *bypass {
                write!(
                    overrides,
                    "<qemu:device alias='pci.{index}'><qemu:frontend>\
                     <qemu:property name='bypass_iommu' type='bool' value='true'/></qemu:frontend></qemu:device>"
                )
                .unwrap();
            }
        }
        for hostdev in &self.hostdevs {
            devices += &hostdev.xml();
        }
        let mut arguments = String::new();
        for argument in &self.arguments {
            write!(arguments, "<qemu:arg value='{argument}'/>").unwrap();
        }
        let max_memory = self.max_memory.map(|bytes| format!("<maxMemory slots='4' unit='bytes'>{bytes}</maxMemory>"));
        format!(
            "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
               <name>containers</name><uuid>{UUID}</uuid>
               {}<memory unit='bytes'>{MEMORY}</memory><vcpu>2</vcpu>
               <os{firmware}><type arch='{arch}' machine='{machine}'>hvm</type></os>
               <features><acpi/>{gic}</features>
               <devices><emulator>/usr/bin/viommu-qemu-system-{arch}</emulator>{devices}</devices>
               <qemu:commandline>{arguments}</qemu:commandline><qemu:override>{overrides}</qemu:override>
             </domain>",
            max_memory.unwrap_or_default()
        )
    }

    /// libvirt's command line for the domain, as far as this test depends on it, with QMP on stdin and stdout.
    pub(crate) fn command_line(&self, dialect: Dialect) -> Vec<OsString> {
        let ram = if self.arch == "aarch64" { "mach-virt.ram" } else { "pc.ram" };
        let machine = match self.arch {
            "aarch64" => format!("virt,usb=off,gic-version=2,dump-guest-core=off,memory-backend={ram}"),
            _ => format!("q35,usb=off,dump-guest-core=off,memory-backend={ram}"),
        };
        let cpu = if self.arch == "aarch64" { "cortex-a57" } else { "qemu64" };
        let max = self.max_memory.map(|bytes| format!(",slots=4,maxmem={}k", bytes >> 10)).unwrap_or_default();
        let size = format!("size={}k{max}", MEMORY >> 10);
        let object = format!(r#"{{"qom-type":"memory-backend-ram","id":"{ram}","size":{MEMORY}}}"#);
        let mut words: Vec<String> = ["-name", "guest=containers,debug-threads=on", "-S", "-object", &object]
            .into_iter()
            .chain(["-machine", &machine, "-accel", "tcg", "-cpu", cpu, "-m", &size, "-overcommit", "mem-lock=off"])
            .chain(["-smp", "2", "-uuid", UUID, "-display", "none", "-no-user-config", "-nodefaults", "-qmp", "stdio"])
            .map(str::to_owned)
            .collect();
        let controllers = self.controllers.iter().map(Controller::qemu);
        for device in controllers.chain(self.hostdevs.iter().enumerate().map(|(index, device)| device.qemu(index))) {
            words.extend(["-device".to_owned(), spelt(&device, dialect)]);
        }
        words.extend(self.arguments.iter().map(ToString::to_string));
        words.into_iter().map(OsString::from).collect()
    }
}

const UUID: &str = "b5a3f5b2-6c7c-4d4b-8a0b-3b8f2d8f0a11";

impl Controller {
    /// In the form of `qemuBuildPCIControllerDevProps`.
    fn qemu(&self) -> Value {
        let Controller { index, .. } = self;
        let mut device = match self.model {
            "pcie-root-port" => json!({"driver": "pcie-root-port", "port": index, "chassis": index}),
            "pcie-to-pci-bridge" => json!({"driver": "pcie-pci-bridge"}),
            "dmi-to-pci-bridge" => json!({"driver": "i82801b11-bridge"}),
            "pci-bridge" => json!({"driver": "pci-bridge", "chassis_nr": index}),
            "pcie-switch-upstream-port" => json!({"driver": "x3130-upstream"}),
            "pcie-switch-downstream-port" => json!({"driver": "xio3130-downstream", "port": index, "chassis": index}),
            // The bus numbers from here on belong to it.
            _ => json!({"driver": "pxb-pcie", "bus_nr": 256 - 16 * i32::from(*index)}),
        };
        device["id"] = format!("pci.{index}").into();
        device["bus"] = bus(self.bus).into();
        device["addr"] = format!("{:#x}", self.slot).into();
        if self.bypass {
            device["bypass_iommu"] = true.into();
        }
        device
    }
}

impl Hostdev {
    fn is_mdev(&self) -> bool {
        self.source.len() == UUID.len()
    }

    fn xml(&self) -> String {
        let Hostdev { source, bus, slot, function } = self;
        let from = if self.is_mdev() {
            format!("mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='{source}'/></source>")
        } else {
            let [domain, host_bus, rest] = source.split(':').collect::<Vec<_>>().try_into().unwrap();
            let (host_slot, host_function) = rest.split_once('.').unwrap();
            format!(
                "mode='subsystem' type='pci' managed='yes'><driver name='vfio'/><source><address domain='0x{domain}' \
                 bus='0x{host_bus}' slot='0x{host_slot}' function='0x{host_function}'/></source>"
            )
        };
        format!("<hostdev {from}<address type='pci' bus='{bus}' slot='{slot}' function='{function}'/></hostdev>")
    }

    /// In the form of `qemuBuildPCIHostdevDevProps` and `qemuBuildHostdevMediatedDevProps`.
    fn qemu(&self, index: usize) -> Value {
        let mut device = if self.is_mdev() {
            json!({"driver": "vfio-pci", "sysfsdev": format!("/sys/bus/mdev/devices/{}", self.source)})
        } else {
            json!({"driver": "vfio-pci", "host": self.source})
        };
        device["id"] = format!("hostdev{index}").into();
        device["bus"] = bus(self.bus).into();
        // Function 0 of a slot with several functions needs this property.
        if self.function == 0 {
            device["multifunction"] = true.into();
            device["addr"] = format!("{:#x}", self.slot).into();
        } else {
            device["addr"] = format!("{:#x}.{:#x}", self.slot, self.function).into();
        }
        device
    }
}

fn bus(index: u8) -> String {
    if index == 0 { "pcie.0".to_owned() } else { format!("pci.{index}") }
}

fn spelt(device: &Value, dialect: Dialect) -> String {
    if dialect == Dialect::Json {
        return device.to_string();
    }
    let words = device.as_object().unwrap().iter().map(|(key, value)| match (key.as_str(), value) {
        ("driver", Value::String(text)) => text.clone(),
        (_, Value::String(text)) => format!("{key}={text}"),
        (_, Value::Bool(on)) => format!("{key}={}", if *on { "on" } else { "off" }),
        (_, other) => format!("{key}={other}"),
    });
    words.collect::<Vec<_>>().join(",")
}

/// Three functions in groups of their own.
pub(crate) const THREE: [&str; 3] = ["0000:01:00.0", "0000:02:00.0", "0000:03:00.0"];

/// Every pxb-pcie bypasses the vIOMMU.
const GLOBAL: [&str; 2] = ["-global", "pxb-pcie.bypass_iommu=on"];
/// pcie.0 and all buses below it bypass the vIOMMU, but no pxb-pcie.
const DEFAULT_BUS: [&str; 2] = ["-machine", "default_bus_bypass_iommu=on"];

/// All topologies in which a device's place determines its address space.
pub(crate) fn topologies() -> Vec<Topology> {
    [on_q35(), on_virt()].concat()
}

/// Two root ports with a device each, on bus 1.
fn two_behind(topology: Topology) -> Topology {
    let ports = topology.controller(2, "pcie-root-port", 1, 0).controller(3, "pcie-root-port", 1, 1);
    ports.hostdev(THREE[0], 2, 0).hostdev(THREE[1], 3, 0)
}

fn on_q35() -> Vec<Topology> {
    let [one, two, three] = THREE;
    let [video, audio] = GROUP_OF_TWO;
    let bridge = |name| {
        let topology = Topology::q35(name).controller(1, "pcie-root-port", 0, 2);
        topology.controller(2, "pcie-to-pci-bridge", 1, 0)
    };
    let bridge_in_expander = |topology: Topology| {
        let bridge = topology.controller(2, "pcie-root-port", 1, 0).controller(3, "pcie-to-pci-bridge", 2, 0);
        bridge.hostdev(one, 3, 1).hostdev(two, 3, 2)
    };
    let expander = |name| Topology::q35(name).controller(1, "pcie-expander-bus", 0, 2);
    vec![
        Topology::q35("3 root ports").root_ports(&THREE),
        Topology::q35("2 on pcie.0").hostdev(one, 0, 2).hostdev(two, 0, 3),
        Topology::q35("2 functions of a slot").controller(1, "pcie-root-port", 0, 2).hostdev(one, 1, 0).function(
            "0000:01:00.1",
            1,
            0,
            1,
        ),
        Topology::q35("2 ports of a switch")
            .controller(1, "pcie-root-port", 0, 2)
            .controller(2, "pcie-switch-upstream-port", 1, 0)
            .controller(3, "pcie-switch-downstream-port", 2, 0)
            .controller(4, "pcie-switch-downstream-port", 2, 1)
            .hostdev(one, 3, 0)
            .hostdev(two, 4, 0),
        bridge("1 behind a pcie-to-pci-bridge").hostdev(one, 2, 1),
        bridge("3 behind a pcie-to-pci-bridge").hostdev(one, 2, 1).hostdev(two, 2, 2).hostdev(three, 2, 3),
        bridge("2 behind a pcie-to-pci-bridge, 1 root port").hostdev(one, 2, 1).hostdev(two, 2, 2).root_ports(&[three]),
        bridge("2 behind a pcie-to-pci-bridge, one of them behind a pci-bridge there")
            .controller(3, "pci-bridge", 2, 1)
            .hostdev(one, 2, 2)
            .hostdev(two, 3, 1),
        bridge("2 pcie-to-pci-bridges with 1 each")
            .controller(3, "pcie-root-port", 0, 3)
            .controller(4, "pcie-to-pci-bridge", 3, 0)
            .hostdev(one, 2, 1)
            .hostdev(two, 4, 1),
        Topology::q35("2 behind an i82801b11, one of them behind a pci-bridge there")
            .controller(1, "dmi-to-pci-bridge", 0, 0x1e)
            .controller(2, "pci-bridge", 1, 1)
            .hostdev(one, 1, 2)
            .hostdev(two, 2, 1),
        Topology::q35("2 behind pci-bridges of one i82801b11")
            .controller(1, "dmi-to-pci-bridge", 0, 0x1e)
            .controller(2, "pci-bridge", 1, 1)
            .controller(3, "pci-bridge", 1, 2)
            .hostdev(one, 2, 1)
            .hostdev(two, 3, 1),
        Topology::q35("1 behind an i82801b11").controller(1, "dmi-to-pci-bridge", 0, 0x1e).hostdev(one, 1, 1),
        two_behind(expander("pxb-pcie with 2")),
        bridge_in_expander(expander("pxb-pcie with 2 behind a pcie-to-pci-bridge")),
        bridge_in_expander(expander("pxb-pcie with 2 behind a pcie-to-pci-bridge; override bypass_iommu").bypassing()),
        two_behind(expander("pxb-pcie with 2, 1 root port; -global bypass_iommu=on"))
            .arguments(&GLOBAL)
            .root_ports(&[three]),
        two_behind(expander("pxb-pcie with 2, 1 root port; override bypass_iommu").bypassing()).root_ports(&[three]),
        bridge("1 root port, 2 behind a pcie-to-pci-bridge; default_bus_bypass_iommu=on")
            .arguments(&DEFAULT_BUS)
            .hostdev(one, 2, 1)
            .hostdev(two, 2, 2)
            .root_ports(&[three]),
        two_behind(expander("pxb-pcie with 2, 1 root port; default_bus_bypass_iommu=on"))
            .arguments(&DEFAULT_BUS)
            .root_ports(&[three]),
        two_behind(expander("pxb-pcie with 2, 1 root port; both bypass"))
            .arguments(&DEFAULT_BUS)
            .arguments(&GLOBAL)
            .root_ports(&[three]),
        Topology::q35("2 mediated devices").root_ports(&MDEVS),
        Topology::q35("1 mediated device, 1 root port").root_ports(&[MDEVS[0], one]),
        Topology::q35("a group of 2 on 2 root ports").root_ports(&GROUP_OF_TWO),
        Topology::q35("a group of 2 in a slot")
            .controller(1, "pcie-root-port", 0, 2)
            .hostdev(video, 1, 0)
            .function(audio, 1, 0, 1),
        bridge("a group of 2 behind a pcie-to-pci-bridge").hostdev(video, 2, 1).hostdev(audio, 2, 2),
        Topology::q35("a group of 2 on 2 root ports; default_bus_bypass_iommu=on")
            .arguments(&DEFAULT_BUS)
            .root_ports(&GROUP_OF_TWO),
    ]
}

fn on_virt() -> Vec<Topology> {
    let [one, two, three] = THREE;
    let expander = |name| Topology::virt(name).controller(1, "pcie-expander-bus", 0, 2);
    vec![
        Topology::virt("3 root ports").root_ports(&THREE),
        Topology::virt("2 behind a pcie-to-pci-bridge")
            .controller(1, "pcie-root-port", 0, 2)
            .controller(2, "pcie-to-pci-bridge", 1, 0)
            .hostdev(one, 2, 1)
            .hostdev(two, 2, 2),
        two_behind(expander("pxb-pcie with 2")),
        two_behind(expander("pxb-pcie with 2, 1 root port; -global bypass_iommu=on"))
            .arguments(&GLOBAL)
            .root_ports(&[three]),
        two_behind(expander("pxb-pcie with 2; -global bypass_iommu=on")).arguments(&GLOBAL),
        Topology::virt("2 root ports; default_bus_bypass_iommu=on").arguments(&DEFAULT_BUS).root_ports(&[one, two]),
    ]
}
