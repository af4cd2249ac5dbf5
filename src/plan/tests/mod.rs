//! One small test for each rule. Domains are written as XML, so that the tests cover the parser and the decision
//! together.

mod amd;
mod existing;
mod intel;
mod iommufd;
mod memlock;
mod models;
mod outcome;
mod refusals;
mod translation;
mod warnings;

use super::*;
use crate::host::Emulator;
use crate::note::Level;
use crate::request::Source;
use crate::version::Version;
use crate::xml;

/// A domain, its request, and its host. The defaults are a small guest on Debian 13 without a request and with the
/// driver for a virtio-iommu.
#[derive(Clone)]
struct Case {
    kind: &'static str,
    os: &'static str,
    features: &'static str,
    vcpus: String,
    children: String,
    devices: String,
    request: Request,
    host: Host,
}

/// x86 with PCI Express and ACPI.
fn q35() -> Case {
    let emulator = Emulator { version: Some("10.0.13".parse().unwrap()), ..Emulator::default() };
    Case {
        kind: "kvm",
        os: "<type arch='x86_64' machine='pc-q35-7.2'>hvm</type>",
        features: "<acpi/>",
        vcpus: "<vcpu>2</vcpu>".to_owned(),
        children: "<memory unit='MiB'>384</memory>".to_owned(),
        devices: String::new(),
        request: Request { virtio_iommu_driver: Some(true), ..Request::default() },
        host: Host {
            arch: Some("x86_64".to_owned()),
            libvirt: Some(Version::new(11, 3)),
            emulators: vec![emulator],
            ..Host::default()
        },
    }
}

/// AArch64 with UEFI and ACPI.
fn arm() -> Case {
    let os = "<type arch='aarch64' machine='virt-10.0'>hvm</type><loader type='pflash'>/x</loader>";
    let mut case = Case { os, ..q35() };
    case.host.arch = Some("aarch64".to_owned());
    case
}

impl Case {
    fn requests(mut self, model: &str) -> Case {
        self.request.model = RequestedModel::parse(model).unwrap();
        self.request.source = Source::Metadata;
        self
    }

    fn aw_bits(mut self, bits: u8) -> Case {
        self.request.aw_bits = Some(bits);
        self
    }

    fn hotplug(mut self) -> Case {
        self.request.hotplug = true;
        self
    }

    /// Only the domain determines whether the guest has the driver for a virtio-iommu.
    fn driver_unknown(mut self) -> Case {
        self.request.virtio_iommu_driver = None;
        self
    }

    fn specification_order(mut self) -> Case {
        self.request.specification_order = true;
        self
    }

    fn locks(mut self) -> Case {
        self.request.locked_memory = true;
        self
    }

    fn kind(self, kind: &'static str) -> Case {
        Case { kind, ..self }
    }

    fn os(self, os: &'static str) -> Case {
        Case { os, ..self }
    }

    fn features(self, features: &'static str) -> Case {
        Case { features, ..self }
    }

    fn vcpus(mut self, number: u32) -> Case {
        self.vcpus = format!("<vcpu>{number}</vcpu>");
        self
    }

    /// The number of vCPUs is the product of the topology.
    fn topology(mut self, sockets: u32, cores: u32, threads: u32) -> Case {
        self.vcpus = format!(
            "<vcpu>{}</vcpu><cpu><topology sockets='{sockets}' cores='{cores}' threads='{threads}'/></cpu>",
            sockets * cores * threads
        );
        self
    }

    /// Replaces all elements that set the memory size.
    fn memory(mut self, children: &str) -> Case {
        children.clone_into(&mut self.children);
        self
    }

    fn child(mut self, child: &str) -> Case {
        self.children += child;
        self
    }

    fn device(mut self, device: &str) -> Case {
        self.devices += device;
        self
    }

    fn windows(self) -> Case {
        self.system("microsoft.com/win/11")
    }

    /// A guest with libosinfo's id of its system.
    fn system(self, id: &str) -> Case {
        self.child(&format!(
            "<metadata><l:libosinfo xmlns:l='http://libosinfo.org/xmlns/libvirt/domain/1.0'><l:os id='http://{id}'/></l:libosinfo>
             </metadata>"
        ))
    }

    /// A passed-through function of the host, `0000:0N:00.0`, behind its own root port.
    fn vfio(self, host: u8) -> Case {
        self.vfio_at(host, &format!("<address type='pci' bus='{host}' slot='0' function='0'/>"))
    }

    fn vfio_at(self, host: u8, address: &str) -> Case {
        self.device(&format!(
            "<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='{host}' slot='0' function='0'/></source>
               {address}</hostdev>"
        ))
    }

    /// Two passed-through functions, 1 and 2, behind one conventional bridge.
    fn aliased(self) -> Case {
        self.device("<controller type='pci' index='5' model='pcie-to-pci-bridge'/>")
            .vfio_at(1, "<address type='pci' bus='5' slot='1'/>")
            .vfio_at(2, "<address type='pci' bus='5' slot='2'/>")
    }

    fn argument(self, option: &str, value: &str) -> Case {
        self.child(&format!(
            "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'><q:arg value='{option}'/>
               <q:arg value='{value}'/></q:commandline>"
        ))
    }

    fn wrapped(self) -> Case {
        self.device("<emulator>/usr/bin/viommu-qemu-system-x86_64</emulator>")
    }

    fn libvirt_unknown(mut self) -> Case {
        (self.host.libvirt, self.host.cautious) = (None, true);
        self
    }

    fn qemu_unknown(mut self) -> Case {
        self.host.emulators.clear();
        self.host.cautious = true;
        self
    }

    fn ran_with(mut self, model: Model) -> Case {
        self.host.recorded = Some(model);
        self
    }

    fn libvirt(mut self, version: &str) -> Case {
        self.host.libvirt = Some(version.parse().unwrap());
        self
    }

    fn qemu(mut self, version: &str) -> Case {
        self.host.emulators[0].version = Some(version.parse().unwrap());
        self
    }

    fn flags(mut self, flags: &[&str]) -> Case {
        self.host.emulators[0].flags = Some(flags.iter().map(ToString::to_string).collect());
        self
    }

    fn host_aw_bits(mut self, bits: u8) -> Case {
        self.host.aw_bits = Some(bits);
        self
    }

    fn host_memory(mut self, bytes: u64) -> Case {
        self.host.memory_bytes = Some(bytes);
        self
    }

    /// The IOMMU group of the host's function `0000:0N:00.0`.
    fn group(mut self, host: u8, group: u32) -> Case {
        self.host.iommu_groups.insert(format!("0000:{host:02x}:00.0"), group);
        self
    }

    fn text(&self) -> String {
        let Case { kind, os, features, vcpus, children, devices, .. } = self;
        format!(
            "<domain type='{kind}'><name>guest</name>{vcpus}{children}<os>{os}</os><features>{features}</features>
               <devices>{devices}</devices></domain>"
        )
    }

    fn domain(&self) -> Domain {
        Domain::read(&xml::parse(self.text().as_bytes()).unwrap()).unwrap()
    }

    fn decided(&self) -> Result<Plan, Refusal> {
        plan(&self.domain(), &self.request, &self.host)
    }

    #[track_caller]
    fn plan(&self) -> Plan {
        self.decided().unwrap_or_else(|refusal| panic!("refused: {:?}", refusal.note))
    }

    fn refusal(&self) -> Option<Note> {
        self.decided().err().map(|refusal| refusal.note)
    }

    /// The refusal. Each refusal changes nothing, is one line, and contains a remedy after a colon.
    #[track_caller]
    fn refused(&self, code: Code) -> String {
        let Err(Refusal { note, unchanged }) = self.decided() else { panic!("not refused") };
        assert_eq!((note.code, note.level), (code, Level::Error), "{}", note.message);
        assert!(unchanged.changes.is_empty() && unchanged.qemu.is_empty() && !unchanged.memlock.raise);
        assert!(note.message.contains(": ") && !note.message.contains('\n'), "{}", note.message);
        assert!(!note.message.contains("  ") && !note.message.ends_with('.'), "{}", note.message);
        note.message
    }

    /// The guest's model.
    #[track_caller]
    fn model(&self) -> String {
        self.plan().iommu.expect("a vIOMMU").name
    }

    /// `<driver>` attributes in JSON's order, in one line.
    #[track_caller]
    fn driver(&self) -> String {
        let driver = self.plan().iommu.expect("a vIOMMU").driver;
        driver.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    /// The note with this code that is not a refusal.
    #[track_caller]
    fn note(&self, code: Code) -> Option<(Level, String)> {
        let plan = self.plan();
        plan.notes.into_iter().find(|note| note.code == code).map(|note| (note.level, note.message))
    }
}
