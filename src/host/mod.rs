//! Facts about the host: versions, emulators, the IOMMU, IOMMU groups, memory.
//!
//! The types are pure. `probe` reads the facts from files of a running host, `capcache` parses libvirt's capability cache,
//! `config` reads the configuration, `libvirt` finds libvirt's processes. An unknown fact is `None`; the plan reports what it
//! assumes instead (`host-fact-assumed`).

mod bars;
pub mod capcache;
pub mod config;
pub mod guest_process;
pub mod libvirt;
pub mod probe;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::Domain;
use crate::model::Model;
use crate::version::Version;

/// What is known about a host. Printed by `viommu capabilities --format json`, read back by `--host FILE`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// The processor's architecture, in libvirt's words (`x86_64`, `aarch64`).
    pub arch: Option<String>,
    /// libvirt's version.
    pub libvirt: Option<Version>,
    /// The emulators that libvirt has probed.
    pub emulators: Vec<Emulator>,
    /// Whether the kernel uses an IOMMU (`/sys/class/iommu` is not empty).
    pub iommu: Option<bool>,
    /// Narrowest address width of the host's IOMMUs, bits (VT-d: MGAW + 1 of the capability register).
    pub aw_bits: Option<u8>,
    /// IOMMU group of each host PCI function.
    pub iommu_groups: BTreeMap<String, u32>,
    /// Memory that the BARs of a domain's host PCI functions have, bytes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub bars: BTreeMap<String, u64>,
    /// Whether a network of libvirt's hands out host PCI functions (`<forward mode='hostdev'>`), by the network's name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pools: BTreeMap<String, bool>,
    /// Installed memory, bytes (`MemTotal`).
    pub memory_bytes: Option<u64>,
    /// The kernel's page size, bytes: 4096 on x86; 4096, 16384 or 65536 on AArch64.
    pub page_bytes: Option<u64>,
    /// Whether the kernel has `/dev/iommu`.
    pub iommufd: Option<bool>,
    /// `vfio_iommu_type1.allow_unsafe_interrupts`.
    pub allow_unsafe_interrupts: Option<bool>,
    /// Whether the running daemon of libvirt finds the links of the host route first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_route: Option<bool>,
    /// What is unknown counts as the less favourable: an old libvirt for the limit, no virtio-iommu for `auto`. A guest starts
    /// now, and libvirt has the facts in its memory.
    #[serde(skip)]
    pub cautious: bool,
    /// The model that `auto` became when this guest last started with the same request.
    #[serde(skip)]
    pub recorded: Option<Model>,
}

/// A QEMU as libvirt knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Emulator {
    /// Absolute path; empty for an emulator that was described on the command line: it matches every path.
    pub path: String,
    /// The guest architecture it emulates.
    pub arch: Option<String>,
    /// QEMU's version.
    pub version: Option<Version>,
    /// libvirt's capability flags with `iommu` in their names; `None` where they are not known.
    pub flags: Option<Vec<String>>,
}

impl Emulator {
    /// Whether libvirt found a capability; `None` where that is not known.
    #[must_use]
    pub fn has(&self, flag: &str) -> Option<bool> {
        self.flags.as_ref().map(|flags| flags.iter().any(|known| known == flag))
    }
}

impl Host {
    /// The emulator of a domain: that of its `<emulator>` path, else any of its architecture.
    #[must_use]
    pub fn emulator_of(&self, domain: &Domain) -> Option<&Emulator> {
        let path = domain.emulator.as_deref().unwrap_or_default();
        let named = self.emulators.iter().find(|emulator| emulator.path.is_empty() || emulator.path == path);
        let arch = self.arch_of(domain);
        named.or_else(|| {
            self.emulators.iter().find(|emulator| emulator.arch.is_some() && emulator.arch.as_deref() == arch)
        })
    }

    /// The architecture of a domain: libvirt gives one without an architecture the host's.
    #[must_use]
    pub fn arch_of<'a>(&'a self, domain: &'a Domain) -> Option<&'a str> {
        domain.arch.as_deref().or(self.arch.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emulator(path: &str, arch: &str) -> Emulator {
        Emulator { path: path.to_owned(), arch: Some(arch.to_owned()), ..Emulator::default() }
    }

    fn path_of(host: &Host, emulator: Option<&str>, arch: Option<&str>) -> Option<String> {
        let own = |text: Option<&str>| text.map(str::to_owned);
        let domain = Domain { emulator: own(emulator), arch: own(arch), ..Domain::default() };
        host.emulator_of(&domain).map(|emulator| emulator.path.clone())
    }

    #[test]
    fn the_emulator_is_that_of_the_path_else_of_the_architecture() {
        let host = Host {
            arch: Some("aarch64".to_owned()),
            emulators: vec![emulator("/a", "aarch64"), emulator("/i", "i686"), emulator("/x", "x86_64")],
            ..Host::default()
        };
        assert_eq!(path_of(&host, Some("/x"), Some("i686")).as_deref(), Some("/x"), "it runs both");
        assert_eq!(path_of(&host, None, Some("i686")).as_deref(), Some("/i"));
        assert_eq!(path_of(&host, Some("/other"), Some("x86_64")).as_deref(), Some("/x"));
        assert_eq!(path_of(&host, None, None).as_deref(), Some("/a"), "the host's architecture");
        assert_eq!(path_of(&host, Some("/other"), Some("s390x")), None);
        assert_eq!(path_of(&Host::default(), None, None), None);
    }

    #[test]
    fn a_recorded_emulator_without_a_path_matches_every_path() {
        let host = Host { emulators: vec![Emulator::default()], ..Host::default() };
        assert_eq!(path_of(&host, Some("/x"), Some("x86_64")).as_deref(), Some(""));
        assert_eq!(path_of(&host, None, None).as_deref(), Some(""));
    }

    #[test]
    fn an_unknown_flag_is_not_a_missing_one() {
        assert_eq!(Emulator::default().has("intel-iommu"), None);
        assert_eq!(Emulator { flags: Some(Vec::new()), ..Emulator::default() }.has("intel-iommu"), Some(false));
    }

    #[test]
    fn a_host_survives_json() {
        let mut host = Host { libvirt: Some(Version::new(9, 0)), aw_bits: Some(39), ..Host::default() };
        host.iommu_groups.insert("0000:01:00.0".to_owned(), 12);
        host.emulators.push(Emulator { flags: Some(vec!["intel-iommu".to_owned()]), ..emulator("/x", "x86_64") });
        let json = serde_json::to_string(&host).unwrap();
        assert_eq!(serde_json::from_str::<Host>(&json).unwrap(), host);
        // A file written by hand, with some facts.
        let some: Host = serde_json::from_str(r#"{"libvirt": "8.0.0", "unheard_of": 1}"#).unwrap();
        assert_eq!(some, Host { libvirt: Some(Version::new(8, 0)), ..Host::default() });
    }
}
