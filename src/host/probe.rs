//! Reads host facts from files of the running host. Starts no program, asks no daemon.
//!
//! Every fact is optional: a file that is missing or not readable only leaves its fact unknown.

use std::path::{Path, PathBuf};

use super::{CACHE_HEAD, Host, parse_capability_cache};
use crate::domain::{Domain, VfioSource};
use crate::sys::fs;

/// Where the files are.
#[derive(Debug, Clone)]
pub struct Places {
    /// The sysfs mount point.
    pub sysfs: PathBuf,
    /// libvirt's capability cache.
    pub capabilities: PathBuf,
    /// `/proc/meminfo`.
    pub meminfo: PathBuf,
}

impl Default for Places {
    fn default() -> Places {
        Places {
            sysfs: "/sys".into(),
            capabilities: "/var/cache/libvirt/qemu/capabilities".into(),
            meminfo: "/proc/meminfo".into(),
        }
    }
}

impl Places {
    /// What the decision needs to know for one domain: only the groups of its own devices are looked up, because a host can
    /// have thousands of PCI functions and the hook runs with the domain lock held.
    #[must_use]
    pub fn host_for(&self, domain: &Domain) -> Host {
        let mut host = self.host();
        for device in &domain.vfio {
            if let VfioSource::Pci(address) = &device.source {
                host.iommu_groups.extend(self.iommu_group(address).map(|group| (address.clone(), group)));
            }
        }
        host
    }

    /// Everything that can be known, for `viommu capabilities`.
    #[must_use]
    pub fn whole_host(&self) -> Host {
        let mut host = self.host();
        for address in fs::names(&self.sysfs.join("bus/pci/devices")) {
            host.iommu_groups.extend(self.iommu_group(&address).map(|group| (address, group)));
        }
        host
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
            memory_bytes: fs::head(&self.meminfo, 4096).as_deref().and_then(mem_total),
            allow_unsafe_interrupts: self.unsafe_interrupts(),
            ..Host::default()
        }
    }

    /// Several files are there when several emulators were probed. The newest libvirt wins: files of an older one are
    /// leftovers that the next probe replaces (`virQEMUCapsIsValid` compares the libvirt version too).
    fn emulators(&self) -> (Vec<super::Emulator>, Option<crate::version::Version>) {
        let mut emulators = Vec::new();
        let mut newest = None;
        for name in fs::names(&self.capabilities) {
            let cache = fs::head(&self.capabilities.join(name), CACHE_HEAD);
            if let Some((emulator, libvirt)) = cache.as_deref().and_then(parse_capability_cache) {
                newest = newest.max(libvirt);
                emulators.push((emulator, libvirt));
            }
        }
        emulators.retain(|(_, libvirt)| *libvirt == newest);
        let mut emulators: Vec<_> = emulators.into_iter().map(|(emulator, _)| emulator).collect();
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
        let link = self.sysfs.join("bus/pci/devices").join(address).join("iommu_group");
        fs::link_name(&link)?.parse().ok()
    }

    fn unsafe_interrupts(&self) -> Option<bool> {
        let parameter = Path::new("module/vfio_iommu_type1/parameters/allow_unsafe_interrupts");
        fs::head(&self.sysfs.join(parameter), 8).map(|text| text.starts_with('Y'))
    }
}

fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// VT-d capability register: bits 21:16 are the maximum guest address width minus 1 (VT-d specification 11.4.2).
fn vtd_width(register: &str) -> Option<u8> {
    let value = u64::from_str_radix(register.trim().trim_start_matches("0x"), 16).ok()?;
    u8::try_from((value >> 16 & 0x3f) + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_address_width_of_vt_d() {
        // Capability registers as /sys shows them: a client CPU's 39-bit unit, a server's 48-bit one.
        assert_eq!(vtd_width("1c0000c40660462\n"), Some(39));
        assert_eq!(vtd_width("d2078c106f0466\n"), Some(48));
        assert_eq!(vtd_width("none"), None);
    }

    #[test]
    fn reads_installed_memory() {
        assert_eq!(mem_total("MemTotal:       24577348 kB\nMemFree: 1 kB\n"), Some(24_577_348 * 1024));
        assert_eq!(mem_total("MemFree: 1 kB\n"), None);
    }
}
