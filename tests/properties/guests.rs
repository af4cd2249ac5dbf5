//! Random guests and hosts, also unusual ones, as XML that libvirt could give a hook.

#![expect(clippy::format_push_string, reason = "builds the XML step by step")]
#![expect(clippy::struct_excessive_bools, reason = "independent parts of a guest")]

use proptest::option;
use proptest::prelude::*;
use viommu::host::{Emulator, Host};
use viommu::version::Version;

const MODELS: [&str; 5] = ["none", "intel", "smmuv3", "virtio", "auto"];

/// The place of a passed-through device in the guest.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// Behind its own root port.
    Port,
    /// Behind the guest's one conventional bridge, in this slot.
    Bridge,
    /// Without an address: libvirt will assign one.
    Open,
}

/// The parts of a guest's XML.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    pub(crate) virt_type: &'static str,
    pub(crate) arch: &'static str,
    pub(crate) machine: &'static str,
    pub(crate) wrapper: bool,
    pub(crate) vcpus: u32,
    pub(crate) memory_gib: u64,
    pub(crate) max_memory_gib: Option<u64>,
    pub(crate) acpi: bool,
    pub(crate) efi: bool,
    pub(crate) windows: bool,
    pub(crate) ioapic: Option<&'static str>,
    /// A hand-written `<iommu>`: its model, and attributes of its driver.
    pub(crate) iommu: Option<(&'static str, String)>,
    pub(crate) vfio: Vec<Place>,
    pub(crate) nvme_disks: u32,
    pub(crate) ats: bool,
    pub(crate) metadata: Option<String>,
    pub(crate) flavor: Option<&'static str>,
    pub(crate) image: Option<&'static str>,
}

pub(crate) fn model() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&MODELS[..])
}

fn one_of(words: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(words)
}

fn metadata() -> impl Strategy<Value = Option<String>> {
    let virtio = option::of(one_of(&["off", "on", "all", "yes"]));
    let attributes = (
        model(),
        option::of(one_of(&["39", "48"])),
        option::of(one_of(&["yes", "no"])),
        virtio,
        option::of(one_of(&["dma", "interrupts"])),
    );
    option::weighted(0.8, attributes).prop_map(|request| {
        let (model, aw_bits, hotplug, virtio, purpose) = request?;
        let aw_bits = aw_bits.map(|bits| format!(" aw-bits='{bits}'")).unwrap_or_default();
        let hotplug = hotplug.map(|word| format!(" hotplug='{word}'")).unwrap_or_default();
        let virtio = virtio.map(|word| format!(" virtio='{word}'")).unwrap_or_default();
        let purpose = purpose.map(|word| format!(" purpose='{word}'")).unwrap_or_default();
        Some(format!("model='{model}'{aw_bits}{hotplug}{virtio}{purpose}"))
    })
}

fn iommu() -> impl Strategy<Value = Option<(&'static str, String)>> {
    let switch = |name: &'static str| {
        option::of(one_of(&["on", "off"]))
            .prop_map(move |value| value.map(|value| format!(" {name}='{value}'")).unwrap_or_default())
    };
    let intel = (switch("intremap"), switch("caching_mode"), switch("eim"), switch("iotlb"));
    let intel = intel.prop_map(|(intremap, caching, eim, iotlb)| ("intel", intremap + &caching + &eim + &iotlb));
    let bare = one_of(&["virtio", "smmuv3"]).prop_map(|model| (model, String::new()));
    option::weighted(0.3, prop_oneof![3 => intel, 1 => bare])
}

prop_compose! {
    fn hardware()(
        virt_type in prop_oneof![4 => Just("kvm"), 1 => Just("qemu")],
        (arch, machine) in one_of(&["q35", "pc-q35-7.2", "pc", "virt", "virt-9.0"]).prop_map(|machine| {
            (if machine.starts_with("virt") { "aarch64" } else { "x86_64" }, machine)
        }),
        wrapper in any::<bool>(),
        vcpus in prop_oneof![1_u32..64, 250_u32..260, 64_u32..4096],
        memory_gib in prop_oneof![1_u64..64, 500_u64..600],
        max_memory_gib in option::of(1_u64..2000),
        acpi in prop::bool::weighted(0.9),
        efi in any::<bool>(),
        windows in prop::bool::weighted(0.1),
        ioapic in option::weighted(0.3, one_of(&["qemu", "kvm"])),
    ) -> Guest {
        // Only x86 has an I/O APIC.
        let ioapic = ioapic.filter(|_| arch == "x86_64");
        Guest {
            virt_type, arch, machine, wrapper, vcpus, memory_gib, max_memory_gib, acpi, efi, windows, ioapic,
            iommu: None, vfio: Vec::new(), nvme_disks: 0, ats: false, metadata: None, flavor: None, image: None,
        }
    }
}

prop_compose! {
    pub(crate) fn guest()(
        guest in hardware(),
        iommu in iommu(),
        vfio in prop::collection::vec(prop_oneof![3 => Just(Place::Port), 1 => Just(Place::Bridge), 1 => Just(Place::Open)], 0..5),
        nvme_disks in 0_u32..3,
        ats in prop::bool::weighted(0.2),
        metadata in metadata(),
        flavor in option::weighted(0.3, model()),
        image in option::weighted(0.3, model()),
    ) -> Guest {
        Guest { iommu, vfio, nvme_disks, ats, metadata, flavor, image, ..guest }
    }
}

prop_compose! {
    /// A host by its versions, which may be unknown.
    pub(crate) fn host()(
        libvirt in option::weighted(0.9, one_of(&["7.0.0", "8.2.0", "8.3.0", "9.0.0", "10.10.0", "11.3.0", "12.8.0"])),
        qemu in option::weighted(0.9, one_of(&["5.2.0", "6.2.0", "7.0.0", "7.2.0", "9.0.0", "10.0.0", "11.1.0"])),
        aw_bits in option::of(prop::sample::select(vec![39_u8, 48, 57])),
    ) -> Host {
        let version = |text: &str| text.parse::<Version>().unwrap();
        let emulator = Emulator { version: qemu.map(version), ..Emulator::default() };
        Host { libvirt: libvirt.map(version), emulators: vec![emulator], aw_bits, ..Host::default() }
    }
}

impl Guest {
    /// The domain XML.
    pub(crate) fn xml(&self) -> String {
        let Guest { virt_type, arch, machine, vcpus, memory_gib, .. } = self;
        let when = |condition: bool, text: &str| if condition { text.to_owned() } else { String::new() };
        let prefix = if self.wrapper { "viommu-" } else { "" };
        let maximum = self.max_memory_gib.map(|gib| format!("  <maxMemory slots='4' unit='GiB'>{gib}</maxMemory>\n"));
        let firmware = when(self.efi, " firmware='efi'");
        let acpi = when(self.acpi, "    <acpi/>\n");
        let ioapic = self.ioapic.map(|driver| format!("    <ioapic driver='{driver}'/>\n")).unwrap_or_default();
        let iommu = self.iommu.as_ref().map(|(model, driver)| {
            let driver = when(!driver.is_empty(), &format!("<driver{driver}/>"));
            format!("    <iommu model='{model}'>{driver}</iommu>\n")
        });
        format!(
            "<domain type='{virt_type}'>\n  <name>g</name>\n  <uuid>8d6f2c4e-3b0a-4f7e-9a51-2f6f0c1d7e93</uuid>\n{}{}  <memory \
             unit='GiB'>{memory_gib}</memory>\n  <vcpu>{vcpus}</vcpu>\n  <os{firmware}>\n    <type arch='{arch}' \
             machine='{machine}'>hvm</type>\n  </os>\n  <features>\n{acpi}{ioapic}    <pae/>\n  </features>\n  <devices>\n    \
             <emulator>/usr/bin/{prefix}qemu-system-{arch}</emulator>\n{}{}  </devices>\n</domain>\n",
            self.metadata_xml(),
            maximum.unwrap_or_default(),
            self.devices(),
            iommu.unwrap_or_default(),
        )
    }

    fn metadata_xml(&self) -> String {
        let own =
            self.metadata.iter().map(|request| format!("    <v:viommu xmlns:v='urn:libvirt-viommu:1' {request}/>\n"));
        let os = "    <l:libosinfo xmlns:l='http://libosinfo.org/xmlns/libvirt/domain/1.0'><l:os \
                  id='http://microsoft.com/win/11'/></l:libosinfo>\n";
        let specs = self.flavor.map(|model| format!("<n:extraSpec name='hw:viommu_model'>{model}</n:extraSpec>"));
        let image = self.image.map(|model| format!("<n:property name='hw_viommu_model'>{model}</n:property>"));
        let nova = format!(
            "    <n:instance xmlns:n='http://openstack.org/xmlns/libvirt/nova/1.1'><n:flavor name='f'><n:extraSpecs>{}\
             </n:extraSpecs></n:flavor><n:image uuid=''><n:properties>{}</n:properties></n:image></n:instance>\n",
            specs.unwrap_or_default(),
            image.unwrap_or_default()
        );
        let os = if self.windows { os } else { "" };
        format!("  <metadata>\n{}{os}{nova}  </metadata>\n", own.collect::<String>())
    }

    fn devices(&self) -> String {
        let mut devices = String::from("    <controller type='pci' index='0' model='pcie-root'/>\n");
        if self.vfio.iter().any(|place| matches!(place, Place::Bridge)) {
            devices += "    <controller type='pci' index='100' model='pcie-to-pci-bridge'><address type='pci' bus='0' \
                        slot='0x1f'/></controller>\n";
        }
        for (number, place) in (1..).zip(&self.vfio) {
            let address = match place {
                Place::Port => {
                    devices += &format!(
                        "    <controller type='pci' index='{number}' model='pcie-root-port'><address type='pci' bus='0' \
                         slot='{number}'/></controller>\n"
                    );
                    format!("<address type='pci' bus='{number}' slot='0'/>")
                }
                Place::Bridge => format!("<address type='pci' bus='100' slot='{number}'/>"),
                Place::Open => String::new(),
            };
            devices += &format!(
                "    <hostdev mode='subsystem' type='pci'><source><address domain='0' bus='{number}' slot='0' function='0'/>\
                 </source>{address}</hostdev>\n"
            );
        }
        for number in 0..self.nvme_disks {
            devices += &format!(
                "    <disk type='nvme' device='disk'><source type='pci' namespace='1'><address domain='0' bus='9' \
                 slot='{number}' function='0'/></source><target dev='vd{number}'/></disk>\n"
            );
        }
        if self.ats {
            devices += "    <interface type='user'><model type='virtio'/><driver iommu='on' ats='on'/></interface>\n";
            devices += "    <interface type='bridge'><source bridge='b'/><model type='virtio'/></interface>\n";
        }
        devices
    }
}
