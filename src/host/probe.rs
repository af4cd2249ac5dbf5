//! Reads host facts from files of the running host. Starts no program, asks no daemon.
//!
//! Every fact is optional: a file that is missing or not readable only leaves its fact unknown.

use std::path::{Path, PathBuf};

use super::{Emulator, Host, bars, capcache, libvirt};
use crate::domain::Domain;
use crate::sys::{fs, process};
use crate::version::Version;
use crate::xml;

/// More emulators than any host has; libvirt probes a dozen.
const MOST_EMULATORS: usize = 64;

/// Longer than a network's description with a thousand VFs or DHCP hosts, bytes.
const LARGEST_NETWORK: usize = 1 << 20;

/// Where the files are.
#[derive(Debug, Clone)]
pub struct Places {
    /// The sysfs mount point.
    pub sysfs: PathBuf,
    /// Device nodes.
    pub devices: PathBuf,
    /// libvirt's capability cache.
    pub capabilities: PathBuf,
    /// Where libvirt's networks are described, those that are active first.
    pub networks: [PathBuf; 2],
    /// Installed memory, bytes. The kernel tells it faster than it writes `/proc/meminfo`.
    pub memory: fn() -> Option<u64>,
}

impl Default for Places {
    fn default() -> Places {
        Places {
            sysfs: "/sys".into(),
            devices: "/dev".into(),
            capabilities: capcache::DIRECTORY.into(),
            networks: ["/run/libvirt/network".into(), "/etc/libvirt/qemu/networks".into()],
            memory: process::memory_bytes,
        }
    }
}

impl Places {
    /// What the decision needs to know for one domain: only the groups of its own devices and its own networks are looked up,
    /// because a host can have thousands of PCI functions and the hook runs with the domain lock held.
    #[must_use]
    pub fn host_for(&self, domain: &Domain) -> Host {
        let mut host = self.host();
        for address in domain.vfio.iter().filter_map(|device| device.source.pci()) {
            let Some(group) = self.iommu_group(address) else { continue };
            let resource = self.functions().join(address).join("resource");
            host.bars.extend(fs::head(&resource, 4096).map(|text| (address.to_owned(), bars::memory(&text))));
            host.iommu_groups.insert(address.to_owned(), group);
            host.iommu_groups.extend(self.companions(address).map(|companion| (companion, group)));
        }
        for network in &domain.networks {
            if !host.pools.contains_key(network) {
                host.pools.extend(self.is_pool(network).map(|is_pool| (network.clone(), is_pool)));
            }
        }
        host
    }

    /// The other functions in a device's group, but for bridges: VFIO lets the kernel keep those.
    fn companions(&self, address: &str) -> impl Iterator<Item = String> {
        let functions = self.functions();
        let members = fs::names(&functions.join(address).join("iommu_group/devices"));
        members.into_iter().filter(move |member| {
            let class = fs::head(&functions.join(member).join("class"), 16);
            !class.is_some_and(|class| class.starts_with("0x0604"))
        })
    }

    /// Whether a network hands out host PCI functions; none where there is no description of it that can be read.
    fn is_pool(&self, name: &str) -> Option<bool> {
        // The name comes from a tenant's XML.
        if name.contains('/') {
            return None;
        }
        let file = format!("{name}.xml");
        let text = self.networks.iter().find_map(|place| fs::head_trusted(&place.join(&file), LARGEST_NETWORK))?;
        let document = xml::parse(text.as_bytes()).ok()?;
        let root = document.root();
        let network = if root.is("network") { root } else { root.child("network")? };
        Some(network.child("forward").and_then(|forward| forward.attr("mode")) == Some("hostdev"))
    }

    /// Everything that can be known, for `viommu capabilities`.
    #[must_use]
    pub fn whole_host(&self) -> Host {
        let mut host = self.host();
        for address in fs::names(&self.functions()) {
            host.iommu_groups.extend(self.iommu_group(&address).map(|group| (address, group)));
        }
        host.iommufd = self.devices.is_dir().then(|| self.devices.join("iommu").exists());
        host.host_route = libvirt::running().map(|(_, pid)| libvirt::has_host_route(pid));
        host
    }

    /// The directory of the host's PCI functions.
    fn functions(&self) -> PathBuf {
        self.sysfs.join("bus/pci/devices")
    }

    fn host(&self) -> Host {
        let (emulators, libvirt) = self.emulators();
        let (iommu, aw_bits) = self.iommu();
        Host {
            arch: Some(std::env::consts::ARCH.to_owned()),
            libvirt,
            emulators,
            iommu,
            aw_bits,
            memory_bytes: (self.memory)(),
            page_bytes: process::page_bytes(),
            allow_unsafe_interrupts: self.unsafe_interrupts(),
            ..Host::default()
        }
    }

    /// Several files are there when several emulators were probed. The newest libvirt wins: files of an older one are
    /// leftovers that the next probe replaces (`virQEMUCapsIsValid` compares the libvirt version too).
    fn emulators(&self) -> (Vec<Emulator>, Option<Version>) {
        // The directory above belongs to QEMU's user on some hosts (Debian 11): that user can put another directory in its
        // place, whose owner is that user, and cannot change the entries of root's.
        let trusted = fs::check_trusted_directory(&self.capabilities).is_ok();
        let names = if trusted { fs::names(&self.capabilities) } else { Vec::new() };
        let head = |name| fs::head_trusted(&self.capabilities.join(name), capcache::CACHE_HEAD);
        let probed = names.into_iter().take(MOST_EMULATORS).filter_map(|name| capcache::parse(&head(name)?));
        let probed: Vec<_> = probed.collect();
        let newest = probed.iter().filter_map(|(_, libvirt)| *libvirt).max();
        let of_newest = probed.into_iter().filter(|(_, libvirt)| *libvirt == newest);
        let mut emulators: Vec<_> = of_newest.map(|(emulator, _)| emulator).collect();
        emulators.sort_by(|a, b| a.path.cmp(&b.path));
        (emulators, newest)
    }

    fn iommu(&self) -> (Option<bool>, Option<u8>) {
        let class = self.sysfs.join("class/iommu");
        if !self.sysfs.join("class").is_dir() {
            return (None, None);
        }
        let units = fs::names(&class);
        let widths = units.iter().filter_map(|unit| {
            let register = fs::head(&class.join(unit).join("intel-iommu/cap"), 64)?;
            vtd_width(&register)
        });
        (Some(!units.is_empty()), widths.min())
    }

    fn iommu_group(&self, address: &str) -> Option<u32> {
        // The address comes from a tenant's XML, normalised by domain::vfio; it still must not be able to leave the directory.
        if address.contains('/') {
            return None;
        }
        fs::link_name(&self.functions().join(address).join("iommu_group"))?.parse().ok()
    }

    fn unsafe_interrupts(&self) -> Option<bool> {
        let parameter = Path::new("module/vfio_iommu_type1/parameters/allow_unsafe_interrupts");
        fs::head(&self.sysfs.join(parameter), 8).map(|text| text.starts_with('Y'))
    }
}

/// VT-d capability register: bits 21:16 are the maximum guest address width minus 1 (VT-d specification 11.4.2).
fn vtd_width(register: &str) -> Option<u8> {
    let value = u64::from_str_radix(register.trim().trim_start_matches("0x"), 16).ok()?;
    u8::try_from((value >> 16 & 0x3f) + 1).ok()
}

#[cfg(test)]
mod tests;
