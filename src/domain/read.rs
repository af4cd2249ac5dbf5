//! From a document to the facts of a domain.

use super::bypass::Bypass;
use super::device_memory::device_memory;
use super::images::Images;
use super::lookup::{attribute, first_attribute, of_type, quoted, string};
use super::number::{decimal32, number_of};
use super::pci::{Buses, count_roots};
use super::vfio::{iommufd_opener, networks, passed_through, unassigned, virtio_ats};
use super::{Domain, Iommu, Memory, NovaMetadata, QEMU_NAMESPACE, System, Vcpus, cpu, virtio};
use crate::note::{Code, Note};
use crate::qemu::{acpi, count_nvme, count_vdpa};
use crate::xml::{Attribute, Document, Element};

/// Documents of libvirt's that hold a domain without being one.
const CONTAINERS: [&str; 4] = ["domstatus", "domainsnapshot", "domaincheckpoint", "domainbackup"];

impl Domain {
    /// Reads a domain as libvirt reads it (`virDomainDefParseXML`).
    ///
    /// Lenient below the root: what is missing or makes no sense is absent here, because libvirt refuses such a domain by
    /// itself. libvirt merges the contents of an element that is there twice, and takes the first of two values.
    ///
    /// # Errors
    ///
    /// [`Code::XmlNotADomain`] if the root is not a `<domain>` without a namespace; [`Code::DomainInvalid`] if libvirt refuses
    /// its memory or its number of vCPUs.
    pub fn read(document: &Document<'_>) -> Result<Domain, Note> {
        let root = document.root();
        if !root.is("domain") {
            return Err(not_a_domain(root));
        }
        let metadata = root.child("metadata");
        let nova = metadata.and_then(NovaMetadata::read);
        let commandline = commandline(root);
        let buses = Buses::read(root, &commandline, &Bypass::read(root, &commandline));
        let vfio = passed_through(root, &commandline, &buses);
        let (nvme, vdpa) = (Images::read(root, "nvme"), Images::read(root, "vhostvdpa"));
        let saturated = |number: usize| number.try_into().unwrap_or(u32::MAX);
        let os_type = |name| first_attribute(root, &["os"], "type", name).map(str::to_owned);
        Ok(Domain {
            virt_type: root.attr("type").unwrap_or_default().to_owned(),
            id: root.attr("id").and_then(|id| id.parse().ok()),
            name: string(root, &["name"]).unwrap_or_default(),
            uuid: string(root, &["uuid"]).and_then(|uuid| uuid.parse().ok()),
            arch: os_type("arch"),
            machine: os_type("machine"),
            emulator: string(root, &["devices", "emulator"]),
            acpi: features(root, "acpi").next().is_some() && acpi(&commandline) != Some(false),
            uefi: is_uefi(root),
            system: System::read(root, nova.as_ref(), &commandline),
            launch_security: root.child_prop("launchSecurity", "type").map(str::to_owned),
            vcpus: Vcpus::read(root)?,
            amd_cpu: cpu::is_amd(root),
            memory: Memory::read(root)?,
            // The last one counts, also if it names no driver (virDomainFeaturesDefParse).
            ioapic: features(root, "ioapic").last().and_then(|ioapic| ioapic.prop("driver")).map(str::to_owned),
            iommus: root.all(&["devices", "iommu"]).into_iter().map(Iommu::read).collect(),
            iommufd_opener: iommufd_opener(root, &commandline, &vfio),
            vfio,
            unassigned: unassigned(root),
            networks: networks(root),
            nvme_disks: nvme.disks,
            nvme_images: nvme.chains,
            nvme_hidden: saturated(count_nvme(&commandline)).saturating_add(nvme.stores),
            vdpa_interfaces: number_of(of_type(root, "interface", "vdpa")),
            vdpa_images: vdpa.chains,
            vdpa_hidden: saturated(count_vdpa(&commandline)).saturating_add(vdpa.stores),
            device_memory: device_memory(root, &commandline)?,
            virtio: virtio::devices(root, &buses),
            virtio_ats: virtio_ats(root),
            pci_roots: count_roots(root),
            commandline,
            capabilities_removed: capabilities_removed(root),
            metadata: metadata.and_then(super::metadata::own),
            ignored: super::metadata::ignored(root),
            nova,
        })
    }
}

impl Iommu {
    /// Children such as `<granule>`, `<address>` and `<alias>` do not affect the decision.
    fn read(iommu: Element<'_, '_>) -> Iommu {
        let driver = iommu.child("driver").into_iter().flat_map(Element::attributes);
        Iommu {
            model: iommu.prop("model").unwrap_or_default().to_owned(),
            driver: driver.map(|attribute| (attribute.name.to_owned(), setting(attribute))).collect(),
        }
    }
}

/// The value of a `<driver>` attribute, which libvirt takes from any namespace (`xmlGetProp`); the width as libvirt writes it.
fn setting(attribute: Attribute<'_>) -> String {
    let width = (attribute.name == "aw_bits").then(|| decimal32(attribute.value)).flatten();
    width.map_or_else(|| attribute.value.to_owned(), |bits| bits.to_string())
}

fn not_a_domain(root: Element<'_, '_>) -> Note {
    let name = root.name();
    let message = if root.namespace().is_none() && CONTAINERS.contains(&name) {
        format!("a <{name}> contains a <domain> but is not one: pass the <domain> in it, as 'virsh dumpxml' prints it")
    } else if name == "domain" {
        "the root element <domain> is in a namespace, and libvirt's is not: pass the output of 'virsh dumpxml'"
            .to_owned()
    } else {
        format!("the root element is <{}>, not a libvirt <domain>: pass the output of 'virsh dumpxml'", quoted(name))
    };
    Note::error(Code::XmlNotADomain, message)
}

/// The features of this name, in whatever namespace (`./features/*`).
fn features<'d, 'a>(domain: Element<'d, 'a>, name: &'static str) -> impl Iterator<Item = Element<'d, 'a>> {
    let features = domain.children("features").flat_map(Element::elements);
    features.filter(move |feature| feature.name() == name)
}

/// libvirt picks the firmware for `firmware='efi'`; a flash image as the loader is how it was written before, and what it
/// becomes when the guest starts.
fn is_uefi(domain: Element<'_, '_>) -> bool {
    let loader = domain.path(&["os", "loader"]).and_then(|loader| loader.prop("type"));
    attribute(domain, &["os"], "firmware") == Some("efi") || loader == Some("pflash")
}

fn commandline(root: Element<'_, '_>) -> Vec<String> {
    root.children_ns(QEMU_NAMESPACE, "commandline")
        .flat_map(|commandline| commandline.children_ns(QEMU_NAMESPACE, "arg"))
        .filter_map(|argument| argument.prop("value").map(str::to_owned))
        .collect()
}

/// `<qemu:del>` (`qemuDomainDefNamespaceParseCaps`).
fn capabilities_removed(root: Element<'_, '_>) -> Vec<String> {
    root.children_ns(QEMU_NAMESPACE, "capabilities")
        .flat_map(|capabilities| capabilities.children_ns(QEMU_NAMESPACE, "del"))
        .filter_map(|removed| removed.prop("capability").map(str::to_owned))
        .collect()
}

/// The domain in a test's document.
#[cfg(test)]
pub(super) fn from_text(text: &str) -> Domain {
    Domain::read(&crate::xml::parse(text.as_bytes()).unwrap()).unwrap()
}

/// Panics: libvirt would refuse a value of the test's document.
#[cfg(test)]
#[track_caller]
pub(super) fn refused(text: &str) {
    let note = Domain::read(&crate::xml::parse(text.as_bytes()).unwrap()).unwrap_err();
    assert_eq!(note.code, Code::DomainInvalid, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let note = Domain::read(&crate::xml::parse(text.as_bytes()).unwrap()).unwrap_err();
        assert_eq!(note.code, Code::XmlNotADomain);
        note.message
    }

    #[test]
    fn only_a_domain_is_a_domain() {
        assert!(refusal("<network/>").contains("<network>"));
        assert!(refusal("<domstatus><domain/></domstatus>").contains("'virsh dumpxml'"));
        assert!(refusal("<domainsnapshot/>").starts_with("a <domainsnapshot> contains"));
        assert!(refusal("<domain xmlns='urn:x'/>").contains("namespace"));
        assert!(refusal("<domstatus xmlns='urn:x'/>").contains("root element is <domstatus>"));
        assert!(refusal(&format!("<{}/>", "x".repeat(10_000))).len() < 200);
    }

    #[test]
    fn an_empty_domain_has_defaults() {
        let expected = Domain { vcpus: Vcpus { maximum: 1, topology: None }, pci_roots: 1, ..Domain::default() };
        assert_eq!(from_text("<domain/>"), expected);
    }

    #[test]
    fn the_plain_facts() {
        let domain = from_text(
            "<domain type='kvm' id='7'><name>a &amp; b</name><uuid>3A21C2EE-5ece-4225-baa4-9a11258f601e</uuid>
             <os firmware='efi'><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
             <features><acpi/><ioapic driver='qemu'/></features><launchSecurity type='sev'/>
             <devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices></domain>",
        );
        assert_eq!(domain.virt_type, "kvm");
        assert_eq!(domain.name, "a & b");
        assert_eq!(domain.uuid.unwrap().to_string(), "3a21c2ee-5ece-4225-baa4-9a11258f601e");
        assert_eq!(domain.arch.as_deref(), Some("x86_64"));
        assert_eq!(domain.machine.as_deref(), Some("pc-q35-7.2"));
        assert_eq!(domain.emulator.as_deref(), Some("/usr/bin/qemu-system-x86_64"));
        assert_eq!(domain.ioapic.as_deref(), Some("qemu"));
        assert_eq!(domain.launch_security.as_deref(), Some("sev"));
        assert!(domain.acpi && domain.uefi);
        assert_eq!(from_text("<domain><uuid>../../x</uuid></domain>").uuid, None);
    }

    #[test]
    fn names_are_not_trimmed() {
        // Without the trailing blank the guest would be "victim", and its hook would act on that guest's QEMU.
        assert_eq!(from_text("<domain><name>victim </name></domain>").name, "victim ");
        assert_eq!(from_text("<domain><name>\n\tvictim</name></domain>").name, "\n\tvictim");
        let pieces = "<name><!-- c -->vi<![CDATA[ct]]><b>i</b>&#109; <?p i?></name><name>second</name>";
        assert_eq!(from_text(&format!("<domain>{pieces}</domain>")).name, "victim ");
        assert_eq!(from_text("<domain><name/><name>second</name></domain>").name, "", "the first counts");
        let emulator = "<devices/><devices><emulator> /usr/bin/qemu </emulator></devices>";
        assert_eq!(from_text(&format!("<domain>{emulator}</domain>")).emulator.as_deref(), Some(" /usr/bin/qemu "));
    }

    #[test]
    fn duplicate_elements_are_merged() {
        let domain = from_text(
            "<domain xmlns:x='urn:x' xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>
               <os><type x:arch='a' machine='q35'/></os><os firmware='efi'><type arch='x86_64' machine='pc'/></os>
               <features><ioapic driver='kvm'/></features><features><x:acpi/><ioapic driver='qemu'/></features>
               <memtune/><memtune><hard_limit unit='GiB'>1</hard_limit></memtune>
               <memoryBacking/><memoryBacking><locked/></memoryBacking>
               <devices><iommu x:model='intel'/></devices><devices><iommu model='virtio'/></devices>
               <q:commandline><q:arg value='a'/></q:commandline><q:commandline><q:arg value='b'/></q:commandline></domain>",
        );
        assert_eq!((domain.arch.as_deref(), domain.machine.as_deref()), (Some("x86_64"), Some("q35")));
        assert!(domain.uefi && domain.acpi && domain.memory.locked);
        assert_eq!(domain.memory.hard_limit, Some(1 << 30));
        assert_eq!(domain.ioapic.as_deref(), Some("qemu"), "the last counts");
        assert_eq!(domain.iommus.iter().map(|iommu| iommu.model.as_str()).collect::<Vec<_>>(), ["intel", "virtio"]);
        assert_eq!(domain.commandline, ["a", "b"]);
        let none = from_text("<domain><features><ioapic driver='qemu'/><ioapic/></features></domain>");
        assert_eq!(none.ioapic, None);
    }

    #[test]
    fn firmware() {
        let uefi = |os: &str| from_text(&format!("<domain>{os}</domain>")).uefi;
        assert!(uefi("<os><loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader></os>"));
        assert!(!uefi("<os firmware='bios'/>"));
        assert!(!uefi("<os><loader type='rom'>/x</loader></os>"));
        assert!(!uefi("<os><loader>/x</loader></os>"));
    }

    #[test]
    fn every_iommu_with_every_attribute() {
        let domain = from_text(
            "<domain><devices>
               <iommu model='intel'><driver intremap='on' caching_mode='on' eim='on' iotlb='on' aw_bits='48'/></iommu>
               <iommu model='virtio'><driver aw_bits='39'><granule mode='host'/></driver><alias name='iommu0'/>
                 <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0'/></iommu>
               <iommu model='smmuv3'><driver pciBus='1' accel='on' x:pciBus='9' xmlns:x='urn:x'/></iommu>
               <iommu/></devices></domain>",
        );
        let models: Vec<_> = domain.iommus.iter().map(|iommu| iommu.model.as_str()).collect();
        assert_eq!(models, ["intel", "virtio", "smmuv3", ""]);
        let [intel, virtio, smmu, bare] = &domain.iommus[..] else { panic!("four") };
        let names: Vec<_> = intel.driver.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["intremap", "caching_mode", "eim", "iotlb", "aw_bits"]);
        assert_eq!(intel.driver("aw_bits"), Some("48"));
        assert_eq!(virtio.driver("aw_bits"), Some("39"));
        assert_eq!((smmu.driver("pciBus"), smmu.driver("accel")), (Some("1"), Some("on")));
        assert_eq!(bare.driver, []);
    }

    #[test]
    fn the_command_line_by_namespace() {
        // qemu-ns-commandline-ns0.xml, with an <env> from qemu-ns.xml.
        let domain = from_text(
            "<domain><ns0:commandline xmlns:ns0='http://libvirt.org/schemas/domain/qemu/1.0'>
               <ns0:arg value='-device'/><ns0:env name='NS' value='ns'/><ns0:arg/><ns0:arg value='intel-iommu'/>
             </ns0:commandline></domain>",
        );
        assert_eq!(domain.commandline, ["-device", "intel-iommu"]);
        let foreign = from_text("<domain><commandline><arg value='-device'/></commandline></domain>");
        assert_eq!(foreign.commandline, [""; 0]);
    }
}
