//! The locked-memory limit: libvirt's own limit, and the need of a guest, for all relevant shapes of guests.
//!
//! Every number comes from another source than this program: libvirt's own tests, limits and `VmLck` of guests that
//! really ran, or QEMU's and libvirt's formulas computed by hand. `docs/proof/memlock.md` shows the second table.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a test program that prints its table")]

#[path = "support/corpus.rs"]
mod corpus;
#[path = "support/page.rs"]
mod page;
#[path = "memlock/tables.rs"]
mod tables;

use std::collections::BTreeSet;
use std::fmt::Write;

use viommu::config::Config;
use viommu::domain::Domain;
use viommu::host::{Emulator, Host};
use viommu::limit::Limit;
use viommu::plan::{Memlock, plan};
use viommu::request::{Keys, Request, Source};
use viommu::version::Version;
use viommu::xml;

use Limit::{Bytes, Unlimited};
use tables::TABLES;

fn memlock(text: &str, model: Option<&str>, libvirt: &str) -> Memlock {
    let document = xml::parse(text.as_bytes()).unwrap();
    let domain = Domain::read(&document).unwrap();
    let keys = Keys { model: model.map(str::to_owned), ..Keys::of(Source::Cli) };
    let request = Request::of(&domain, &keys, &Config::default()).unwrap();
    let emulator = Emulator { version: Some(Version::new(10, 0)), ..Emulator::default() };
    let host = Host { libvirt: libvirt.parse().ok(), emulators: vec![emulator], ..Host::default() };
    let plan = plan(&domain, &request, &host);
    assert!(plan.is_ok(), "{text}");
    let plan = plan.unwrap();
    plan.memlock
}

/// The expected results of `qemuDomainGetMemLockLimitBytes`: the second argument of each `DO_TEST` in libvirt 9.0.0's
/// tests/qemumemlocktest.c. `None` is its 0, which sets no limit.
const LIBVIRTS_OWN: [(&str, Option<Limit>); 18] = [
    ("pc-kvm", None),
    ("pc-tcg", None),
    ("pc-hardlimit", Some(Bytes(2_147_483_648))),
    ("pc-locked", Some(Unlimited)),
    ("pc-hostdev", Some(Bytes(2_147_483_648))),
    ("pc-hardlimit+locked", Some(Bytes(2_147_483_648))),
    ("pc-hardlimit+hostdev", Some(Bytes(2_147_483_648))),
    ("pc-hardlimit+locked+hostdev", Some(Bytes(2_147_483_648))),
    ("pc-locked+hostdev", Some(Unlimited)),
    ("pseries-kvm", Some(Bytes(20_971_520))),
    ("pseries-tcg", None),
    ("pseries-hardlimit", Some(Bytes(2_147_483_648))),
    ("pseries-locked", Some(Unlimited)),
    ("pseries-hostdev", Some(Bytes(4_320_133_120))),
    ("pseries-hardlimit+locked", Some(Bytes(2_147_483_648))),
    ("pseries-hardlimit+hostdev", Some(Bytes(2_147_483_648))),
    ("pseries-hardlimit+locked+hostdev", Some(Bytes(2_147_483_648))),
    ("pseries-locked+hostdev", Some(Unlimited)),
];

#[test]
fn libvirts_own_limits() {
    let mut seen = 0;
    for (path, mut text) in corpus::documents() {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let Some(name) = stem.strip_prefix("qemumemlock-") else { continue };
        let (_, limit) = LIBVIRTS_OWN.iter().find(|(known, _)| *known == name).unwrap();
        if name == "pseries-hostdev" {
            // The file with libvirt's additions, as a hook gets it: a host bridge for the device's IOMMU group alone.
            let bridges = "<devices><controller type='pci' index='0' model='pci-root'/>
                <controller type='pci' index='1' model='pci-root'/>";
            text = text.replace("<devices>", bridges);
        }
        for libvirt in ["9.0.0", "11.3.0"] {
            assert_eq!(memlock(&text, None, libvirt).libvirt_bytes, *limit, "{name} with libvirt {libvirt}");
        }
        seen += 1;
    }
    println!("{seen} domains of libvirt's memlock test");
    assert!(seen == 0 || seen == LIBVIRTS_OWN.len(), "{seen}");
}

/// The parts of a guest that affect the limit.
#[derive(Clone)]
struct Guest {
    arch: &'static str,
    machine: &'static str,
    wrapper: &'static str,
    memory: String,
    devices: String,
    rest: &'static str,
    model: Option<&'static str>,
}

/// A q35 guest with this memory, MiB, and these devices.
fn guest(mebibytes: u32, devices: &str) -> Guest {
    Guest {
        arch: "x86_64",
        machine: "q35",
        wrapper: "",
        memory: format!("<memory unit='MiB'>{mebibytes}</memory>"),
        devices: devices.to_owned(),
        rest: "",
        model: None,
    }
}

impl Guest {
    fn with(self, model: &'static str) -> Guest {
        Guest { model: Some(model), ..self }
    }

    /// The wrapper adds the vIOMMU to QEMU's command line, and libvirt's XML does not contain it.
    fn behind_the_wrapper(self) -> Guest {
        Guest { wrapper: "viommu-", ..self }
    }

    fn and(self, rest: &'static str) -> Guest {
        Guest { rest, ..self }
    }

    fn on_arm(self) -> Guest {
        Guest { arch: "aarch64", machine: "virt", ..self }
    }

    fn has_viommu(&self) -> bool {
        self.model.is_some() || self.rest.contains("intel-iommu")
    }

    fn xml(&self) -> String {
        let Guest { arch, machine, wrapper, memory, devices, rest, .. } = self;
        format!(
            "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>guest</name>{memory}
               <vcpu>2</vcpu><os firmware='efi'><type arch='{arch}' machine='{machine}'>hvm</type></os>
               <features><acpi/></features>{rest}
               <devices><emulator>/usr/bin/{wrapper}qemu-system-{arch}</emulator>{devices}</devices></domain>"
        )
    }
}

/// A PCI controller of the guest.
fn controller(index: u32, model: &str, bus: u32, slot: u32) -> String {
    format!(
        "<controller type='pci' index='{index}' model='{model}'>
           <address type='pci' domain='0' bus='{bus:#x}' slot='{slot:#x}' function='0'/></controller>"
    )
}

/// A passed-through PCI function at this place in the guest.
fn function(host: u32, bus: u32, slot: u32, function: u32) -> String {
    format!(
        "<hostdev mode='subsystem' type='pci' managed='yes'>
           <source><address domain='0' bus='{host:#x}' slot='0' function='{function}'/></source>
           <address type='pci' domain='0' bus='{bus:#x}' slot='{slot:#x}' function='{function}'/></hostdev>"
    )
}

/// This number of devices, each behind its own root port.
fn root_ports(devices: u32) -> String {
    (1..=devices).map(|index| controller(index, "pcie-root-port", 0, index) + &function(index, index, 0, 0)).collect()
}

/// The same by iommufd.
fn by_iommufd(number: u32) -> String {
    root_ports(number).replace("<source>", "<driver iommufd='yes'/><source>")
}

/// Two devices on a conventional bus with this index, with any bus above it.
fn two_on(bus: u32) -> String {
    function(1, bus, 1, 0) + &function(2, bus, 2, 0)
}

/// Two PCI Express expander buses with a root port and a device each.
fn expanders() -> String {
    let expander = |index: u32, slot| {
        controller(index, "pcie-expander-bus", 0, slot)
            + &controller(index + 1, "pcie-root-port", index, 0)
            + &function(index, index + 1, 0, 0)
    };
    expander(1, 4) + &expander(3, 5)
}

fn mdev(number: u32) -> String {
    format!(
        "<hostdev mode='subsystem' type='mdev' model='vfio-pci'>
           <source><address uuid='53764d0e-85a0-42b4-af5c-2046b460b1d{number}'/></source></hostdev>"
    )
}

/// Two arguments of `<qemu:commandline>`.
macro_rules! commandline {
    ($option:literal, $value:literal) => {
        concat!(
            "<qemu:commandline><qemu:arg value='",
            $option,
            "'/><qemu:arg value='",
            $value,
            "'/></qemu:commandline>"
        )
    };
}

const UNASSIGNED: &str = "<hostdev mode='subsystem' type='pci'>
    <source><address bus='9' slot='0' function='0'/></source><address type='unassigned'/></hostdev>";
const INTERFACE: &str = "<interface type='hostdev'>
    <source><address type='pci' domain='0' bus='9' slot='0' function='1'/></source></interface>";
const NVME: &str = "<disk type='nvme' device='disk'><source type='pci' managed='yes' namespace='1'>
    <address domain='0x0000' bus='0x0a' slot='0x00' function='0x0'/></source><target dev='vda' bus='virtio'/></disk>";
const VDPA: &str = "<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>";
const VDPA_DISK: &str =
    "<disk type='vhostvdpa' device='disk'><source dev='/dev/vhost-vdpa-1'/><target dev='vdb' bus='virtio'/></disk>";

const NVME_CHAIN: &str = "<disk type='nvme' device='disk'><driver name='qemu' type='qcow2'/>
    <source type='pci' managed='yes' namespace='1'><address domain='0' bus='0x0a' slot='0' function='0'/></source>
    <backingStore type='nvme'><format type='raw'/>
      <source type='pci' managed='yes' namespace='1'><address domain='0' bus='0x0b' slot='0' function='0'/></source>
    <backingStore/></backingStore><target dev='vda' bus='virtio'/></disk>";
const SHMEM: &str = "<shmem name='s'><model type='ivshmem-plain'/><size unit='M'>1024</size></shmem>";
const LARGE_VGA: &str = "<video><model type='vga' vram='131072' heads='1' primary='yes'/></video>";

/// Guests by their names in [`TABLES`].
fn guests() -> Vec<(&'static str, Guest)> {
    let locked = "<memoryBacking><locked/></memoryBacking>";
    let limited = "<memtune><hard_limit unit='MiB'>2560</hard_limit></memtune>";
    let both = "<memtune><hard_limit unit='GiB'>2</hard_limit></memtune><memoryBacking><locked/></memoryBacking>";
    let hidden = commandline!("-device", "intel-iommu,caching-mode=on");
    let expanders_bypass = commandline!("-global", "pxb-pcie.bypass_iommu=on");
    let default_bypasses = commandline!("-machine", "default_bus_bypass_iommu=on");
    let cells = "<cpu><numa><cell id='0' cpus='0' memory='524288' unit='KiB'/>
        <cell id='1' cpus='1' memory='524288' unit='KiB'/></numa></cpu>";
    let dimm = "<memory model='dimm'><target><size unit='MiB'>512</size><node>0</node></target></memory>";
    let mut growing = guest(1024, &root_ports(2)).with("intel").and(cells);
    growing.memory += "<maxMemory slots='4' unit='GiB'>4</maxMemory>";

    let mut odd = guest(1, &root_ports(2)).with("intel");
    "<memory unit='KiB'>524289</memory>".clone_into(&mut odd.memory);

    let bridge = controller(1, "pcie-root-port", 0, 1) + &controller(2, "pcie-to-pci-bridge", 1, 0) + &two_on(2);
    let bridges = controller(1, "dmi-to-pci-bridge", 0, 0x1e)
        + &controller(2, "pci-bridge", 1, 1)
        + &two_on(2)
        + &controller(3, "pcie-root-port", 0, 2)
        + &function(3, 3, 0, 0);
    let slot = controller(1, "pcie-root-port", 0, 1) + &function(1, 1, 0, 0) + &function(1, 1, 0, 1);
    let three_buses = expanders() + &controller(5, "pcie-root-port", 0, 1) + &function(5, 5, 0, 0);
    let everything = root_ports(2) + NVME + VDPA + VDPA_DISK;
    vec![
        ("2 devices, no vIOMMU", guest(384, &root_ports(2))),
        ("2 devices, intel", guest(384, &root_ports(2)).with("intel")),
        ("2 devices, virtio", guest(384, &root_ports(2)).with("virtio")),
        ("2 devices by iommufd, no vIOMMU", guest(384, &by_iommufd(2))),
        ("2 devices by iommufd, intel", guest(384, &by_iommufd(2)).with("intel")),
        ("4 devices by iommufd, intel", guest(384, &by_iommufd(4)).with("intel")),
        ("4 devices by iommufd, intel by the wrapper", guest(384, &by_iommufd(4)).with("intel").behind_the_wrapper()),
        ("3 devices, intel", guest(384, &root_ports(3)).with("intel")),
        ("4 devices, intel", guest(384, &root_ports(4)).with("intel")),
        ("4 devices, intel by the wrapper", guest(384, &root_ports(4)).with("intel").behind_the_wrapper()),
        (
            "4 devices, intel by the wrapper, hard_limit of 2560 MiB",
            guest(384, &root_ports(4)).with("intel").behind_the_wrapper().and(limited),
        ),
        ("4 devices, intel in qemu:commandline", guest(384, &root_ports(4)).and(hidden)),
        ("2 devices, 1.5 GiB, intel", guest(1536, &root_ports(2)).with("intel")),
        ("3 devices, 1.5 GiB, intel by the wrapper", guest(1536, &root_ports(3)).with("intel").behind_the_wrapper()),
        ("AArch64: 2 devices, virtio", guest(384, &root_ports(2)).with("virtio").on_arm()),
        (
            "AArch64: 4 devices, virtio by the wrapper",
            guest(384, &root_ports(4)).with("virtio").on_arm().behind_the_wrapper(),
        ),
        ("2 devices behind one pcie-to-pci-bridge, intel", guest(384, &bridge).with("intel")),
        ("2 behind dmi-to-pci-bridge and pci-bridge, 1 behind a root port, intel", guest(1024, &bridges).with("intel")),
        ("2 functions of one slot, intel", guest(1024, &slot).with("intel")),
        ("1 behind each of 2 pcie-expander-buses, intel", guest(1024, &expanders()).with("intel")),
        ("the same, and both bypass the vIOMMU", guest(1024, &expanders()).with("intel").and(expanders_bypass)),
        (
            "the same and 1 on the default bus, which alone bypasses",
            guest(1024, &three_buses).with("intel").and(default_bypasses),
        ),
        ("2 mediated devices, intel", guest(1024, &(mdev(1) + &mdev(2))).with("intel")),
        ("1 mediated device, 1 PCI device, no vIOMMU", guest(1024, &(mdev(1) + &root_ports(1)))),
        ("no device, intel", guest(1024, "").with("intel")),
        ("1 device, and 1 with an unassigned address, intel", guest(1024, &(root_ports(1) + UNASSIGNED)).with("intel")),
        ("1 device, and 1 as an interface, intel", guest(1024, &(root_ports(1) + INTERFACE)).with("intel")),
        ("2 NUMA cells of 512 MiB, 2 devices, intel", guest(4096, &root_ports(2)).with("intel").and(cells)),
        ("the same and a DIMM of 512 MiB", guest(4096, &(root_ports(2) + dimm)).with("intel").and(cells)),
        ("1 GiB that can grow to 4, 2 devices, intel", growing),
        ("locked memory, 2 devices, intel", guest(1024, &root_ports(2)).with("intel").and(locked)),
        ("locked memory and a hard_limit of 2 GiB", guest(1024, &root_ports(2)).with("intel").and(both)),
        ("2 devices, NVMe disk, vDPA interface and disk, intel", guest(384, &everything).with("intel")),
        ("2 devices, NVMe disk, vDPA interface and disk", guest(384, &everything)),
        ("1 device and an NVMe disk", guest(1024, &(root_ports(1) + NVME))),
        ("a vDPA interface", guest(1024, VDPA)),
        ("an NVMe disk with an NVMe backing file", guest(1024, NVME_CHAIN)),
        ("2 devices and 1 GiB of ivshmem, intel", guest(512, &(root_ports(2) + SHMEM)).with("intel")),
        ("2 devices and video memory of 128 MiB, intel", guest(512, &(root_ports(2) + LARGE_VGA)).with("intel")),
        ("2 devices, 524289 KiB, intel", odd),
    ]
}

fn limit(words: &str) -> Option<Limit> {
    match words {
        "-" => None,
        "unlimited" => Some(Unlimited),
        bytes => Some(Bytes(bytes.parse().unwrap())),
    }
}

fn words(limit: Option<Limit>) -> String {
    match limit {
        Some(Bytes(bytes)) => bytes.to_string(),
        Some(Unlimited) => "unlimited".to_owned(),
        None => "-".to_owned(),
    }
}

#[test]
fn locked_memory_of_every_guest() {
    let guests = guests();
    let mut unused: BTreeSet<_> = guests.iter().map(|(name, _)| *name).collect();
    let mut page = String::new();
    let mut wrong = Vec::new();
    for (title, rows) in TABLES {
        let head = "| guest | libvirt | needs | libvirt sets | too little | known from |\n|---|---|---:|---:|---|---|";
        writeln!(page, "\n## {title}\n\n{head}").unwrap();
        for row in rows.lines() {
            let [name, libvirt, needed, libvirts, source] = row.split('|').map(str::trim).collect::<Vec<_>>()[..]
            else {
                panic!("{row}");
            };
            let (_, guest) = guests.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name}"));
            let found = memlock(&guest.xml(), guest.model, libvirt);
            let (needed, libvirts) = (limit(needed), limit(libvirts));
            // This test checks the computed sizes, not whether viommu raises the limit of a guest without a vIOMMU.
            let raise = if guest.has_viommu() { needed > libvirts } else { found.raise };
            if (found.required_bytes, found.libvirt_bytes, found.raise) != (needed, libvirts, raise) {
                wrong.push(format!("{row}: {found:?}"));
            }
            let too_little = if needed > libvirts { "yes" } else { "" };
            let (needed, libvirts) = (words(needed), words(libvirts));
            writeln!(page, "| {name} | {libvirt} | {needed} | {libvirts} | {too_little} | {source} |").unwrap();
            unused.remove(name);
        }
    }
    println!("{page}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(unused.is_empty(), "{unused:?}");
    page::check("proof/memlock.md", "memlock", &format!("{page}\n"));
}
