//! Facts about the host: versions, emulators, the IOMMU, IOMMU groups, memory.
//!
//! This module is pure: what is known of a host, from wherever it comes. `probe` reads it from files of a running host,
//! `capcache` understands libvirt's capability cache. A fact that is not known is `None`, never a guess; the decision says
//! what it assumes (`host-fact-assumed`).

mod capcache;
pub mod probe;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::Domain;
use crate::version::Version;

pub use capcache::{CACHE_HEAD, parse as parse_capability_cache};

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
    /// Whether the kernel has an IOMMU at work (`/sys/class/iommu` is not empty).
    pub iommu: Option<bool>,
    /// Narrowest address width of the host's IOMMUs, bits (VT-d: MGAW + 1 of the capability register).
    pub aw_bits: Option<u8>,
    /// IOMMU group of each host PCI function.
    pub iommu_groups: BTreeMap<String, u32>,
    /// Installed memory, bytes (`MemTotal`).
    pub memory_bytes: Option<u64>,
    /// `vfio_iommu_type1.allow_unsafe_interrupts`.
    pub allow_unsafe_interrupts: Option<bool>,
}

/// A QEMU as libvirt knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Emulator {
    /// Absolute path; empty for one that was only described on the command line, which then stands for every path.
    pub path: String,
    /// The guest architecture it emulates.
    pub arch: Option<String>,
    /// QEMU's version.
    pub version: Option<Version>,
    /// libvirt's capability flags that speak of a vIOMMU; `None` where they are not known.
    pub flags: Option<Vec<String>>,
}

impl Emulator {
    /// Whether libvirt found a capability; `None` where nobody knows.
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
        let arch = domain.arch.as_ref().or(self.arch.as_ref());
        named.or_else(|| {
            self.emulators.iter().find(|emulator| emulator.arch.is_some() && emulator.arch.as_ref() == arch)
        })
    }
}
