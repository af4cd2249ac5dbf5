#![expect(clippy::disallowed_methods, reason = "the test creates the files of a host")]

use std::os::unix::fs::symlink;

use super::*;
use crate::domain::{Requester, VfioDevice, VfioSource};
use crate::version::Version;

/// A host in a temporary directory, which `drop` removes.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Tree {
        let root = std::env::temp_dir().join(format!("viommu-probe-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        Tree(root)
    }

    fn file(&self, path: &str, content: &str) -> &Tree {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// A PCI function in the form of sysfs: a link to its IOMMU group.
    fn function(&self, address: &str, group: &str) -> &Tree {
        let directory = self.0.join("sys/bus/pci/devices").join(address);
        std::fs::create_dir_all(&directory).unwrap();
        symlink(format!("../../../../kernel/iommu_groups/{group}"), directory.join("iommu_group")).unwrap();
        self
    }

    fn places(&self) -> Places {
        Places {
            sysfs: self.0.join("sys"),
            devices: self.0.join("dev"),
            capabilities: self.0.join("cache"),
            networks: ["run", "etc"].map(|place| self.0.join(place)),
            memory: || Some(24 << 30),
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn cache(path: &str, libvirt: u32, arch: &str) -> String {
    format!(
        "<qemuCaps>\n  <emulator>{path}</emulator>\n  <selfvers>{libvirt}</selfvers>\n  <flag name='intel-iommu'/>\n  \
         <version>10000013</version>\n  <arch>{arch}</arch>\n"
    )
}

/// Whether the test can create a valid cache: root must own it.
fn as_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn reads_a_whole_host() {
    if !as_root() {
        return;
    }
    let tree = Tree::new("whole");
    tree.file("sys/class/iommu/dmar0/intel-iommu/cap", "d2078c106f0466\n")
        .file("sys/class/iommu/dmar1/intel-iommu/cap", "1c0000c40660462\n")
        .file("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y\n")
        .function("0000:01:00.0", "11")
        .function("0000:01:00.1", "11")
        .file("sys/bus/pci/devices/0000:02:00.0/vendor", "0x8086\n")
        .file("cache/b.xml", &cache("/usr/bin/qemu-system-x86_64", 11_003_000, "x86_64"))
        .file("cache/a.xml", &cache("/usr/bin/viommu-qemu-system-x86_64", 11_003_000, "x86_64"))
        .file("cache/c.xml", "not a cache")
        .file("dev/null", "");
    let host = tree.places().whole_host();
    assert_eq!(host.arch.as_deref(), Some(std::env::consts::ARCH));
    assert_eq!(host.libvirt, Some(Version::new(11, 3)));
    let paths: Vec<_> = host.emulators.iter().map(|emulator| emulator.path.as_str()).collect();
    assert_eq!(paths, ["/usr/bin/qemu-system-x86_64", "/usr/bin/viommu-qemu-system-x86_64"]);
    assert_eq!((host.iommu, host.aw_bits), (Some(true), Some(39)), "the narrowest unit decides");
    let groups: Vec<_> = host.iommu_groups.iter().map(|(address, group)| (address.as_str(), *group)).collect();
    assert_eq!(groups, [("0000:01:00.0", 11), ("0000:01:00.1", 11)]);
    assert_eq!(host.memory_bytes, Some(24 << 30));
    assert_eq!((host.allow_unsafe_interrupts, host.iommufd), (Some(true), Some(false)));
    tree.file("dev/iommu", "");
    assert_eq!(tree.places().whole_host().iommufd, Some(true));
    // The smallest page size of Linux; larger ones are powers of two.
    assert!(host.page_bytes.is_some_and(|bytes| bytes >= 4096 && bytes.is_power_of_two()), "{:?}", host.page_bytes);
}

#[test]
fn looks_up_only_what_the_domain_has() {
    let tree = Tree::new("domain");
    tree.function("0000:01:00.0", "11").function("0000:02:00.0", "12").function("0000:03:00.0", "none");
    tree.file("sys/bus/pci/devices/0000:01:00.0/resource", "0x1000 0x1fff 0x200\n");
    let device =
        |source| VfioDevice { source, requester: Requester::Unassigned, host_bridge: 0, iommufd: false, hidden: false };
    let pci = |address: &str| device(VfioSource::Pci(address.to_owned()));
    let domain = Domain {
        vfio: vec![
            pci("0000:01:00.0"),
            pci("0000:03:00.0"),
            pci("0000:09:00.0"),
            pci("../devices/0000:02:00.0"),
            device(VfioSource::Mdev("0000:02:00.0".to_owned())),
        ],
        ..Domain::default()
    };
    let host = tree.places().host_for(&domain);
    assert_eq!(host.iommu_groups.into_iter().collect::<Vec<_>>(), [("0000:01:00.0".to_owned(), 11)]);
    assert_eq!(host.bars.into_iter().collect::<Vec<_>>(), [("0000:01:00.0".to_owned(), 4096)]);
}

#[test]
fn the_rest_of_a_group_but_for_its_bridges() {
    let tree = Tree::new("companions");
    tree.function("0000:01:00.0", "11").file("sys/bus/pci/devices/0000:00:01.0/class", "0x060400\n");
    for member in ["0000:00:01.0", "0000:01:00.0", "0000:01:00.1"] {
        tree.file(&format!("sys/kernel/iommu_groups/11/devices/{member}/vendor"), "0x10de\n");
    }
    let source = VfioSource::Pci("0000:01:00.0".to_owned());
    let device = VfioDevice { source, requester: Requester::Unassigned, host_bridge: 0, iommufd: false, hidden: false };
    let groups = tree.places().host_for(&Domain { vfio: vec![device], ..Domain::default() }).iommu_groups;
    let expected = [("0000:01:00.0".to_owned(), 11), ("0000:01:00.1".to_owned(), 11)];
    assert_eq!(groups.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn networks_that_are_pools() {
    if !as_root() {
        return;
    }
    let tree = Tree::new("networks");
    // libvirt's files of an active and of a defined network.
    let pool = "<network><name>p</name><forward mode='hostdev' managed='yes'><pf dev='eth0'/></forward></network>";
    tree.file("run/active.xml", &format!("<networkstatus><class_id bitmap='0-2'/>{pool}</networkstatus>"))
        .file("etc/active.xml", "<network><forward mode='nat'/></network>")
        .file("etc/defined.xml", &format!("<!-- virsh net-edit -->\n{pool}"))
        .file("etc/nat.xml", "<network><forward mode='nat'/></network>")
        .file("etc/closed.xml", "<network/>")
        .file("etc/broken.xml", "<network>");
    let names = ["active", "defined", "nat", "closed", "broken", "absent", "../etc/defined"];
    let domain = Domain { networks: names.map(str::to_owned).to_vec(), ..Domain::default() };
    let pools = tree.places().host_for(&domain).pools;
    let expected = [("active", true), ("closed", false), ("defined", true), ("nat", false)];
    assert_eq!(pools, expected.map(|(name, is_pool)| (name.to_owned(), is_pool)).into());
}

#[test]
fn missing_files_are_unknown_facts() {
    let tree = Tree::new("nothing");
    let host = Places { memory: || None, ..tree.places() }.whole_host();
    let (arch, page_bytes) = (Some(std::env::consts::ARCH.to_owned()), host.page_bytes);
    assert_eq!(host, Host { arch, page_bytes, ..Host::default() }, "the facts of the process itself");
}

#[test]
fn an_iommu_that_is_off_or_not_intels() {
    let tree = Tree::new("off");
    tree.file("sys/class/mem/null/dev", "1:3\n");
    let host = tree.places().whole_host();
    assert_eq!((host.iommu, host.aw_bits), (Some(false), None));
    tree.file("sys/class/iommu/ivhd0/amd-iommu/cap", "190b640f\n")
        .file("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "N\n");
    let host = tree.places().whole_host();
    assert_eq!((host.iommu, host.aw_bits, host.allow_unsafe_interrupts), (Some(true), None, Some(false)));
}

#[test]
fn leftovers_of_an_older_libvirt_do_not_count() {
    if !as_root() {
        return;
    }
    let tree = Tree::new("leftovers");
    tree.file("cache/a.xml", &cache("/usr/bin/qemu-system-x86_64", 11_003_000, "x86_64"))
        .file("cache/b.xml", &cache("/usr/bin/qemu-old", 9_000_000, "x86_64"))
        .file("cache/c.xml", "<qemuCaps>\n  <emulator>/usr/bin/qemu-odd</emulator>\n");
    let host = tree.places().whole_host();
    assert_eq!(host.libvirt, Some(Version::new(11, 3)));
    assert_eq!(host.emulators.len(), 1);
}

#[test]
fn a_file_that_others_may_write_is_no_cache() {
    use std::os::unix::fs::PermissionsExt;
    let tree = Tree::new("forged");
    tree.file("elsewhere.xml", &cache("/usr/bin/forged", 12_000_000, "x86_64"))
        .file("cache/a.xml", &cache("/usr/bin/forged", 12_000_000, "x86_64"));
    std::fs::set_permissions(tree.0.join("cache/a.xml"), std::fs::Permissions::from_mode(0o666)).unwrap();
    symlink("../elsewhere.xml", tree.0.join("cache/b.xml")).unwrap();
    assert_eq!((tree.places().whole_host().libvirt, tree.places().whole_host().emulators), (None, Vec::new()));
}

#[test]
fn a_directory_that_others_may_change_is_no_cache() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let tree = Tree::new("exchanged");
    tree.file("cache/a.xml", &cache("/usr/bin/qemu-system-x86_64", 9_000_000, "x86_64"));
    let known = || tree.places().whole_host().libvirt.is_some();
    let directory = tree.0.join("cache");
    let mode = |mode| std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(mode)).unwrap();
    assert!(known());
    mode(0o775);
    assert!(!known());
    mode(0o755);
    chown(&directory, Some(65_534), None).unwrap();
    assert!(!known());
    chown(&directory, Some(0), None).unwrap();
    std::fs::rename(&directory, tree.0.join("elsewhere")).unwrap();
    symlink("elsewhere", &directory).unwrap();
    assert!(!known());
}

#[test]
fn reads_the_address_width_of_vt_d() {
    // Capability registers from /sys: a client CPU's 39-bit unit, a server's 48-bit one.
    assert_eq!(vtd_width("1c0000c40660462\n"), Some(39));
    assert_eq!(vtd_width("d2078c106f0466\n"), Some(48));
    assert_eq!(vtd_width("0xd2078c106f0466"), Some(48));
    assert_eq!(vtd_width("none"), None);
}
