//! What a libvirt domain is, as far as the decision and the locked-memory limit need it.
//!
//! Pure: facts only, read from the domain XML. It holds no policy (`plan` does) and knows no host (`host` does). Strings are
//! as the document has them: tenants choose names and metadata, so nothing here may be printed without escaping.

mod bypass;
mod cpu;
mod device_memory;
mod images;
mod lookup;
mod memory;
mod metadata;
mod number;
mod pci;
mod read;
mod system;
mod uuid;
mod vfio;
mod virtio;

pub(crate) use lookup::devices;
pub use system::{Driver, System};
pub use uuid::Uuid;
pub use virtio::{VirtioBackend, VirtioDevice};

use crate::model::Model;
use crate::qemu::DeviceMemory;
use crate::text;

/// The namespace of the request that a user writes into `<metadata>`.
pub const METADATA_NAMESPACE: &str = "urn:libvirt-viommu:1";

/// The namespace of `<qemu:commandline>`, `<qemu:override>` and `<qemu:capabilities>`, which users may give any prefix.
const QEMU_NAMESPACE: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

/// Facts of one domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not the states of one thing")]
pub struct Domain {
    /// `<domain type=…>`: `kvm`, `qemu`, or a type that QEMU does not run.
    pub virt_type: String,
    /// `<domain id=…>`: libvirt's number for a guest that runs or starts.
    pub id: Option<u32>,
    /// `<name>`; empty where there is none.
    pub name: String,
    /// `<uuid>`, where it is written and well-formed.
    pub uuid: Option<Uuid>,
    /// `<os><type arch=…>`; libvirt takes the host's where it is missing.
    pub arch: Option<String>,
    /// `<os><type machine=…>`; libvirt takes the emulator's default where it is missing.
    pub machine: Option<String>,
    /// `<devices><emulator>`.
    pub emulator: Option<String>,
    /// `<features><acpi/>`, which `<qemu:commandline>` overrides.
    pub acpi: bool,
    /// The firmware is UEFI: `<os firmware='efi'>`, or a `<loader type='pflash'>`.
    pub uefi: bool,
    /// The system in the guest, as far as the domain tells.
    pub system: Option<System>,
    /// `<launchSecurity type=…>`.
    pub launch_security: Option<String>,
    /// Processors.
    pub vcpus: Vcpus,
    /// `<cpu><vendor>` or a model name that says AMD (QEMU then moves memory above 1 TiB).
    pub amd_cpu: bool,
    /// Memory, its backing and its limits.
    pub memory: Memory,
    /// `<features><ioapic driver=…>` of the last one.
    pub ioapic: Option<String>,
    /// Every `<iommu>`, in document order.
    pub iommus: Vec<Iommu>,
    /// Devices that QEMU opens through VFIO for the guest, in document order.
    pub vfio: Vec<VfioDevice>,
    /// Who opens `/dev/iommu` for devices that use an iommufd; none where that is libvirt, or no device uses one.
    pub iommufd_opener: Option<IommufdOpener>,
    /// `<hostdev>`s with `<address type='unassigned'/>`: taken from the host and never given to QEMU, but counted by
    /// libvirt when it computes the locked-memory limit (`virHostdevIsVFIODevice` asks for no guest address).
    pub unassigned: u32,
    /// The networks of every `<interface type='network'>` that has no device of its own yet: a network can hand out host PCI
    /// functions, and libvirt asks it only after the hook's `prepare`.
    pub networks: Vec<String>,
    /// Images of userspace NVMe disks, each with a VFIO container of its own in QEMU: number.
    pub nvme_images: u32,
    /// Disks with such images, which is what libvirt counts.
    pub nvme_disks: u32,
    /// Such images that libvirt does not count, of `<dataStore>` and `<qemu:commandline>`: number.
    pub nvme_hidden: u32,
    /// `<interface type='vdpa'>`: number.
    pub vdpa_interfaces: u32,
    /// Images of `vhostvdpa` disks: number.
    pub vdpa_images: u32,
    /// vDPA devices that libvirt does not count, of `<dataStore>` and `<qemu:commandline>`: number.
    pub vdpa_hidden: u32,
    /// Memory of devices that QEMU maps beside RAM.
    pub device_memory: DeviceMemory,
    /// Virtio devices whose DMA a vIOMMU can translate, in document order.
    pub virtio: Vec<VirtioDevice>,
    /// A virtio device has `<driver ats='on'>`.
    pub virtio_ats: bool,
    /// `pci-root` controllers (PCI host bridges of a pseries machine); at least 1.
    pub pci_roots: u32,
    /// The arguments of `<qemu:commandline>`, in order.
    pub commandline: Vec<String>,
    /// Capabilities of QEMU that libvirt does not use, `<qemu:capabilities><qemu:del>`.
    pub capabilities_removed: Vec<String>,
    /// The request in our own metadata: the attributes of `<viommu>`, as written.
    pub metadata: Option<Vec<(String, String)>>,
    /// Elements that look like a request or a vIOMMU and that viommu and libvirt ignore, as a message describes them.
    pub ignored: Vec<String>,
    /// Nova's metadata.
    pub nova: Option<NovaMetadata>,
}

impl Domain {
    /// Whether its processor is not emulated.
    #[must_use]
    pub fn uses_kvm(&self) -> bool {
        self.virt_type == "kvm"
    }

    /// Whether QEMU runs it.
    #[must_use]
    pub fn runs_in_qemu(&self) -> bool {
        self.uses_kvm() || self.virt_type == "qemu"
    }

    /// The domain's name for a command, see [`text::shell_name`].
    #[must_use]
    pub fn shell_name(&self) -> String {
        text::shell_name(&self.name, self.uuid)
    }

    /// The number of NVMe images, for each of which QEMU maps the guest's memory.
    #[must_use]
    pub fn nvme(&self) -> u32 {
        self.nvme_images.saturating_add(self.nvme_hidden)
    }

    /// The number of vDPA devices, for each of which QEMU maps the guest's memory.
    #[must_use]
    pub fn vdpa(&self) -> u32 {
        [self.vdpa_interfaces, self.vdpa_images, self.vdpa_hidden].into_iter().fold(0, u32::saturating_add)
    }
}

/// `<vcpu>` and `<cpu><topology>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vcpus {
    /// The maximum (the content of `<vcpu>`; 1 where it is missing).
    pub maximum: u32,
    /// The topology, where it is written.
    pub topology: Option<Topology>,
}

/// The levels of `<cpu><topology>` below the sockets; what is not written is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// Dies in a socket.
    pub dies: u32,
    /// Clusters in a die.
    pub clusters: u32,
    /// Cores in a cluster.
    pub cores: u32,
    /// Threads in a core.
    pub threads: u32,
}

/// Memory, bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// What libvirt calls the total: initial memory and every memory device (`virDomainDefGetMemoryTotal`).
    pub total: u64,
    /// `<maxMemory>`, where memory can be hot-plugged.
    pub maximum: Option<u64>,
    /// `<maxMemory slots=…>`.
    pub slots: u32,
    /// `<memtune><hard_limit>`, where it is set and not unlimited.
    pub hard_limit: Option<u64>,
    /// `<memoryBacking><locked/>`.
    pub locked: bool,
    /// `<memoryBacking><nosharepages/>`.
    pub nosharepages: bool,
    /// `<memoryBacking><hugepages>`.
    pub hugepages: bool,
}

/// An `<iommu>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iommu {
    /// `model=…`, as written; empty where it is missing.
    pub model: String,
    /// The attributes of `<driver>` as written, in order.
    pub driver: Vec<(String, String)>,
}

impl Iommu {
    /// The model, if it is a known one.
    #[must_use]
    pub fn known_model(&self) -> Option<Model> {
        Model::of_name(&self.model)
    }

    /// The value of a `<driver>` attribute.
    #[must_use]
    pub fn driver(&self, name: &str) -> Option<&str> {
        self.driver.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// An SMMUv3 with `<driver accel='on'>`.
    #[must_use]
    pub fn is_accelerated(&self) -> bool {
        self.driver("accel") == Some("on")
    }
}

/// A device behind VFIO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VfioDevice {
    /// What is passed through.
    pub source: VfioSource,
    /// The requester that the vIOMMU sees.
    pub requester: Requester,
    /// The host bridge above it, by the index of its controller: 0 or a `pcie-expander-bus`.
    pub host_bridge: u32,
    /// `<driver iommufd='yes'/>`, or `iommufd=` on the command line.
    pub iommufd: bool,
    /// It is in `<qemu:commandline>`, where libvirt does not see it.
    pub hidden: bool,
}

/// Who opens `/dev/iommu`, where it is not libvirt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IommufdOpener {
    /// QEMU, for an `-object iommufd` of `<qemu:commandline>` without a descriptor.
    Qemu,
    /// The domain's manager, which hands the descriptor to libvirt (`<iommufd fdgroup=…>`, libvirt 12.2).
    Manager,
}

/// What is passed through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VfioSource {
    /// A host PCI function, written `0000:01:00.0`; from `<hostdev>` or `<interface type='hostdev'>`.
    Pci(String),
    /// A mediated device, by UUID.
    Mdev(String),
}

impl VfioSource {
    /// The name of the device for people: its host address or its UUID.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            VfioSource::Pci(name) | VfioSource::Mdev(name) => name,
        }
    }

    /// The host address of a PCI function.
    #[must_use]
    pub fn pci(&self) -> Option<&str> {
        match self {
            VfioSource::Pci(address) => Some(address),
            VfioSource::Mdev(_) => None,
        }
    }
}

/// The requester id that the guest's vIOMMU sees for a device, hence the address space it is in
/// (QEMU: `pci_device_iommu_address_space()`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requester {
    /// Its own guest address: controller index (bus), slot, function.
    Function {
        /// Index of the PCI controller.
        bus: u32,
        /// Slot.
        slot: u32,
        /// Function.
        function: u32,
    },
    /// That of the outermost conventional bridge above it, by the index of that controller.
    Bridge {
        /// Index of the controller.
        controller: u32,
    },
    /// None: its host bridge bypasses the vIOMMU.
    Bypass,
    /// Not assigned yet; libvirt will give the device a root port of its own.
    Unassigned,
    /// Not a PCI device of the guest (channel subsystem, crypto adapter).
    None,
}

/// The part of `<nova:instance>` that a tenant or an operator can write a request into (Nova >= 32.0.0).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NovaMetadata {
    /// `nova:flavor/nova:extraSpecs/nova:extraSpec`: name and value, as written. Set by operators.
    pub extra_specs: Vec<(String, String)>,
    /// `nova:image/nova:properties/nova:property`: name and value, as written. Set by tenants.
    pub properties: Vec<(String, String)>,
    /// The name of the flavor.
    pub flavor: Option<String>,
    /// The project's name and UUID.
    pub project: Vec<String>,
    /// The UUID of the image.
    pub image: Option<String>,
}

impl NovaMetadata {
    /// A flavor's extra spec.
    #[must_use]
    pub fn extra_spec(&self, name: &str) -> Option<&str> {
        self.extra_specs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// An image's property.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}
