//! The vIOMMU models: one table with everything that depends on a model alone.
//!
//! Pure. Sources: libvirt's docs/formatdomain.rst, `qemuValidateDomainDeviceDefIOMMU`, `virDomainIOMMUDefValidate` and
//! `qemuBuildIOMMUCommandLine`.

use std::fmt;

use crate::version::Version;

/// The machine types that libvirt gives a vIOMMU to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// x86 with PCI Express.
    Q35,
    /// The generic Arm board.
    ArmVirt,
}

impl Machine {
    /// Every machine type.
    pub const ALL: [Machine; 2] = [Machine::Q35, Machine::ArmVirt];

    /// libvirt's names of the architecture and of the machine type.
    #[must_use]
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Machine::Q35 => ("x86_64", "q35"),
            Machine::ArmVirt => ("aarch64", "virt"),
        }
    }

    /// QEMU's message for a second vIOMMU (`x86-iommu.c`, `hw/arm/virt.c`).
    #[must_use]
    pub fn one_viommu(self) -> &'static str {
        match self {
            Machine::Q35 => "QEMU does not support multiple vIOMMUs for x86 yet.",
            Machine::ArmVirt => "virt machine does not support multiple IOMMUs",
        }
    }
}

/// What is known of a model.
#[derive(Debug)]
pub struct ModelFacts {
    /// libvirt's name; also the value in a request.
    pub name: &'static str,
    /// The machine types that can have it.
    pub machines: &'static [Machine],
    /// The first libvirt that has it.
    pub libvirt: Version,
    /// The first QEMU that libvirt accepts for it.
    pub qemu: Version,
    /// libvirt's capability flags for it; all must be there.
    pub flags: &'static [&'static str],
    /// QEMU's type names and aliases.
    pub drivers: &'static [&'static str],
    /// How a new one is written on QEMU's command line. The id differs from libvirt's `iommu0`.
    pub new: NewIommu,
    /// The attributes of libvirt's `<driver>`, each with its property in QEMU.
    pub attributes: &'static [(&'static str, &'static str)],
    /// Properties that libvirt does not write, and the wrapper does.
    pub of_wrapper: &'static [(&'static str, &'static str)],
    /// It remaps interrupts, which needs `<ioapic driver='qemu'/>`.
    pub remaps_interrupts: bool,
}

/// A new vIOMMU on QEMU's command line.
#[derive(Debug, Clone, Copy)]
pub enum NewIommu {
    /// The values of `-device`, the last without the properties of `<driver>`.
    Devices(&'static [&'static str]),
    /// A key of `-machine` and its value.
    Machine(&'static str, &'static str),
}

macro_rules! models {
    ($($(#[doc = $doc:literal])+ $model:ident = $facts:expr,)+) => {
        /// A vIOMMU model of libvirt's that this program can add.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Model { $($(#[doc = $doc])+ $model,)+ }

        impl Model {
            /// Every model.
            pub const ALL: &[Model] = &[$(Model::$model,)+];

            /// Its row of the table.
            #[must_use]
            pub fn facts(self) -> &'static ModelFacts {
                match self { $(Model::$model => const { &$facts },)+ }
            }
        }
    };
}

models! {
    /// VT-d.
    Intel = ModelFacts {
        name: "intel",
        machines: &[Machine::Q35],
        libvirt: Version::new(2, 1),
        qemu: Version::new(2, 4),
        flags: &["intel-iommu"],
        drivers: &["intel-iommu"],
        new: NewIommu::Devices(&["intel-iommu,id=ua-viommu0"]),
        attributes: &[
            ("intremap", "intremap"),
            ("caching_mode", "caching-mode"),
            ("eim", "eim"),
            ("iotlb", "device-iotlb"),
            ("aw_bits", "aw-bits"),
            ("dma_translation", "dma-translation"),
        ],
        of_wrapper: &[],
        remaps_interrupts: true,
    },
    /// Arm SMMUv3.
    Smmuv3 = ModelFacts {
        name: "smmuv3",
        machines: &[Machine::ArmVirt],
        libvirt: Version::new(5, 5),
        qemu: Version::new(2, 12),
        flags: &["machine.virt.iommu"],
        drivers: &["arm-smmuv3"],
        new: NewIommu::Machine("iommu", "smmuv3"),
        attributes: &[],
        of_wrapper: &[],
        remaps_interrupts: false,
    },
    /// virtio-iommu. libvirt wants QEMU's property boot-bypass, hence QEMU 7.0, and takes `aw_bits` from 12.2 on.
    Virtio = ModelFacts {
        name: "virtio",
        machines: &[Machine::Q35, Machine::ArmVirt],
        libvirt: Version::new(8, 3),
        qemu: Version::new(7, 0),
        flags: &["virtio-iommu-pci", "virtio-iommu.boot-bypass"],
        drivers: &["virtio-iommu-pci", "virtio-iommu"],
        // Without a slot: only the command line tells which one is free.
        new: NewIommu::Devices(&["virtio-iommu,id=ua-viommu0,bus=pcie.0"]),
        attributes: &[("aw_bits", "aw-bits")],
        of_wrapper: &[],
        remaps_interrupts: false,
    },
    /// AMD-Vi. libvirt wants QEMU's property pci-id. It does not write dma-remap (QEMU 10.2).
    Amd = ModelFacts {
        name: "amd",
        machines: &[Machine::Q35],
        libvirt: Version::new(11, 5),
        qemu: Version::new(10, 1),
        flags: &["amd-iommu", "amd-iommu.pci-id"],
        drivers: &["amd-iommu"],
        new: NewIommu::Devices(&["AMDVI-PCI,id=ua-viommu0,bus=pcie.0", "amd-iommu,pci-id=ua-viommu0"]),
        attributes: &[
            ("intremap", "intremap"),
            ("passthrough", "pt"),
            ("xtsup", "xtsup"),
            ("iotlb", "device-iotlb"),
        ],
        of_wrapper: &[("dma-remap", "on")],
        remaps_interrupts: true,
    },
}

impl Model {
    /// The model of this name in libvirt.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Model> {
        Model::ALL.iter().copied().find(|model| model.name() == name)
    }

    /// The model of a device with this type name in QEMU.
    #[must_use]
    pub fn of_driver(driver: &str) -> Option<Model> {
        Model::ALL.iter().copied().find(|model| model.facts().drivers.contains(&driver))
    }

    /// The models of a machine type.
    pub fn of_machine(machine: Machine) -> impl Iterator<Item = Model> {
        Model::ALL.iter().copied().filter(move |model| model.facts().machines.contains(&machine))
    }

    /// libvirt's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// QEMU's property for an attribute of libvirt's `<driver>`, if the model takes it.
    #[must_use]
    pub fn property(self, attribute: &str) -> Option<&'static str> {
        self.facts().attributes.iter().find(|(name, _)| *name == attribute).map(|(_, property)| *property)
    }

    /// The attribute of libvirt's `<driver>` that sets a property of QEMU, if there is one.
    #[must_use]
    pub fn attribute(self, property: &str) -> Option<&'static str> {
        self.facts().attributes.iter().find(|(_, known)| *known == property).map(|(name, _)| *name)
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_do_not_overlap() {
        for model in Model::ALL {
            assert_eq!(Model::of_name(model.name()), Some(*model));
            assert!(model.facts().drivers.iter().all(|driver| Model::of_driver(driver) == Some(*model)));
            assert!(Model::ALL.iter().filter(|other| other.name() == model.name()).count() == 1);
        }
        for other in ["", "Intel", "AMD"] {
            assert_eq!(Model::of_name(other), None);
        }
    }
}
