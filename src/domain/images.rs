//! Images of disks that QEMU opens as a device of the host, by the type of their source: NVMe in user space, and vDPA.

use super::number::number_of;
use crate::xml::Element;

/// Images of one type.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Images {
    /// Those of the backing chains. QEMU opens a VFIO container for each NVMe image, also for two namespaces of one device
    /// (block/nvme.c).
    pub(super) chains: u32,
    /// Disks with one in the backing chain.
    pub(super) disks: u32,
    /// Those that hold the data of a qcow2 image (`<dataStore>`, libvirt 10.10), which libvirt's limit leaves out
    /// (`virStorageSourceChainHasNVMe`).
    pub(super) stores: u32,
}

impl Images {
    /// The images of this type in every disk.
    pub(super) fn read(domain: Element<'_, '_>, kind: &str) -> Images {
        let disks = domain.all(&["devices", "disk"]);
        // Without a source there is no image, whatever the type (`virStorageSourceIsEmpty`).
        let is_kind = |image: &Element<'_, '_>| image.prop("type") == Some(kind) && image.child("source").is_some();
        let store = |image: Element<'_, '_>| {
            image.child("source").and_then(|source| source.child_prop("dataStore", "type")) == Some(kind)
        };
        Images {
            chains: number_of(disks.iter().flat_map(|disk| chain(*disk).filter(is_kind))),
            disks: number_of(disks.iter().filter(|disk| chain(**disk).any(|image| is_kind(&image)))),
            stores: number_of(disks.iter().flat_map(|disk| chain(*disk).filter(|image| store(*image)))),
        }
    }
}

/// The images of a disk: itself and its backing files, which end where one has no type (`virDomainDiskBackingStoreParse`).
fn chain<'d, 'a>(disk: Element<'d, 'a>) -> impl Iterator<Item = Element<'d, 'a>> {
    let typed = |image: &Element<'_, '_>| image.prop("type").is_some();
    std::iter::successors(Some(disk), move |image| image.child("backingStore").filter(typed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml;

    fn images(kind: &str, disks: &str) -> Images {
        let text = format!("<domain><devices>{disks}</devices></domain>");
        Images::read(xml::parse(text.as_bytes()).unwrap().root(), kind)
    }

    #[test]
    fn disks_of_both_types() {
        // disk-nvme.xml: two namespaces of one device, and two more devices.
        let disk = |address: &str, namespace: u32| {
            format!("<disk type='nvme'><source type='pci' namespace='{namespace}'><address {address}/></source></disk>")
        };
        let one = "domain='0x0000' bus='0x01' slot='0x00' function='0x0'";
        let other = "domain='0x0001' bus='0x02' slot='0x00' function='0x0'";
        let overlay = format!(
            "<disk type='file'><source file='/x'/><backingStore type='file'><source file='/y'/>
               <backingStore type='nvme'><source type='pci' namespace='1'><address {other}/></source><backingStore/></backingStore>
             </backingStore></disk>"
        );
        let vdpa = "<disk type='vhostvdpa'><source dev='/dev/vhost-vdpa-1'/></disk>
                    <disk type='vhostvdpa'/><disk type='nvme' device='cdrom'/>";
        let disks = disk(one, 1) + &disk(one, 2) + &overlay + vdpa;
        assert_eq!(images("nvme", &disks), Images { chains: 3, disks: 3, stores: 0 });
        assert_eq!(images("vhostvdpa", &disks), Images { chains: 1, disks: 1, stores: 0 });
    }

    #[test]
    fn images_of_one_chain() {
        let chain =
            "<disk type='nvme'><source/><backingStore type='nvme'><source/><backingStore/></backingStore></disk>";
        assert_eq!(images("nvme", chain), Images { chains: 2, disks: 1, stores: 0 });
        let vdpa = "<disk type='vhostvdpa'><source/><backingStore type='vhostvdpa'><source/></backingStore></disk>";
        assert_eq!(images("vhostvdpa", vdpa), Images { chains: 2, disks: 1, stores: 0 });
        let ended = "<disk type='file'><backingStore><backingStore type='nvme'/></backingStore></disk>";
        assert_eq!(images("nvme", ended), Images::default());
    }

    // docs/formatdomain.rst of libvirt 10.10, "dataStore".
    #[test]
    fn data_of_a_qcow2_image() {
        let store = |kind: &str| {
            format!("<source file='/a'><dataStore type='{kind}'><format type='raw'/><source/></dataStore></source>")
        };
        let backing = format!("<backingStore type='file'>{}</backingStore>", store("nvme"));
        let disk = format!("<disk type='file'>{}{backing}</disk>", store("nvme"));
        assert_eq!(images("nvme", &disk), Images { chains: 0, disks: 0, stores: 2 });
        assert_eq!(images("vhostvdpa", &disk), Images::default());
    }
}
