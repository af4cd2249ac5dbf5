//! What the rules look at: a domain, its request, its host, and what follows from them.

use std::collections::BTreeMap;

use crate::domain::{Domain, Iommu, Requester, VfioDevice};
use crate::host::{Emulator, Host};
use crate::model::Model;
use crate::note::Code;
use crate::qemu::{self, FoundIommu, Globals};
use crate::request::Request;
use crate::version::{NEWEST_LIBVIRT, NEWEST_QEMU, Version};

/// The input of every rule.
pub(super) struct Guest<'a> {
    pub(super) domain: &'a Domain,
    pub(super) request: &'a Request,
    pub(super) host: &'a Host,
    pub(super) emulator: Option<&'a Emulator>,
    /// The host's, or the newest where that is unknown.
    pub(super) libvirt: Version,
    /// The emulator's, or the newest where that is unknown.
    pub(super) qemu: Version,
    /// What `-global` of `<qemu:commandline>` sets for the `<iommu>`, by the names of its attributes.
    pub(super) globals: BTreeMap<String, String>,
    /// The vIOMMU in `<qemu:commandline>`.
    pub(super) hidden: Option<FoundIommu>,
    /// Nothing is added to the vIOMMU that the guest has: it must work as it is.
    pub(super) as_it_is: bool,
}

/// Why a host does not have a model.
pub(super) struct Unsupported {
    pub(super) code: Code,
    /// The reason, as the first half of a sentence.
    pub(super) why: String,
    /// libvirt's error for a domain with this model.
    pub(super) error: String,
}

impl<'a> Guest<'a> {
    pub(super) fn new(domain: &'a Domain, request: &'a Request, host: &'a Host) -> Guest<'a> {
        let emulator = host.emulator_of(domain);
        Guest {
            domain,
            request,
            host,
            emulator,
            libvirt: host.libvirt.unwrap_or(NEWEST_LIBVIRT),
            qemu: emulator.and_then(|emulator| emulator.version).unwrap_or(NEWEST_QEMU),
            globals: globals(domain),
            hidden: qemu::find_iommu(&domain.commandline),
            as_it_is: false,
        }
    }

    /// The programs of the host, and their versions where they are known.
    pub(super) fn versions(&self) -> [(&'static str, Option<Version>); 2] {
        [("libvirt", self.host.libvirt), ("QEMU", self.known_qemu())]
    }

    /// The version of the guest's QEMU, where it is known.
    pub(super) fn known_qemu(&self) -> Option<Version> {
        self.emulator?.version
    }

    /// The programs of the host whose versions are unknown.
    pub(super) fn unknown_versions(&self) -> Vec<&'static str> {
        self.versions().into_iter().filter(|(_, version)| version.is_none()).map(|(program, _)| program).collect()
    }

    /// The unknown versions as half a sentence, for a decision in which unknown means the less favourable.
    pub(super) fn unknown_and_cautious(&self) -> Option<String> {
        let unknown = self.unknown_versions();
        let doubts = self.host.cautious && !unknown.is_empty();
        doubts.then(|| format!("the version of {} is unknown", unknown.join(" and of ")))
    }

    /// The architecture; x86 where neither the domain nor the host says one.
    pub(super) fn arch(&self) -> &'a str {
        self.host.arch_of(self.domain).unwrap_or("x86_64")
    }

    /// Whether it is AArch64. Of all others, libvirt has a vIOMMU for x86 only.
    pub(super) fn is_arm(&self) -> bool {
        self.arch() == "aarch64"
    }

    pub(super) fn is_windows(&self) -> bool {
        self.domain.system.as_ref().is_some_and(|system| system.windows)
    }

    /// What libvirt found out about the domain's emulator; none where that is unknown. A libvirt newer than the tested ones may
    /// have stopped to probe what every QEMU has by then, so there the version decides.
    pub(super) fn emulator_has(&self, flag: &str) -> Option<bool> {
        self.emulator.filter(|_| self.libvirt <= NEWEST_LIBVIRT)?.has(flag)
    }

    /// Why this host does not have a model; none where it has.
    pub(super) fn unsupported(&self, model: Model) -> Option<Unsupported> {
        let (facts, libvirt, qemu) = (model.facts(), self.libvirt, self.qemu);
        if libvirt < facts.libvirt {
            return Some(Unsupported {
                code: Code::ModelUnsupportedByLibvirt,
                why: format!("libvirt {libvirt} does not know the vIOMMU model '{model}' ({} does)", facts.libvirt),
                error: if libvirt < Version::new(9, 0) {
                    format!("unknown IOMMU model: {model}")
                } else {
                    format!("Invalid value for attribute 'model' in element 'iommu': '{model}'")
                },
            });
        }
        let flags: Option<Vec<bool>> = facts.flags.iter().map(|flag| self.emulator_has(flag)).collect();
        let supported = flags.map_or(qemu >= facts.qemu, |flags| flags.into_iter().all(|has| has));
        let driver = facts.drivers.first().copied().unwrap_or_default();
        (!supported).then(|| Unsupported {
            code: Code::ModelUnsupportedByQemu,
            why: format!("QEMU {qemu} has no {driver} that libvirt accepts ({} can have it)", facts.qemu),
            error: format!("IOMMU device: '{model}' is not supported with this QEMU binary"),
        })
    }

    /// The version of the machine type, where it has one.
    pub(super) fn q35_version(&self) -> Option<Version> {
        self.domain.machine.as_deref()?.strip_prefix("pc-q35-")?.parse().ok()
    }

    /// VFIO devices now, of those that the vIOMMU translates for.
    pub(super) fn has_vfio(&self) -> bool {
        self.domain.vfio.iter().any(|device| device.requester != Requester::Bypass)
    }

    /// VFIO devices now or later.
    pub(super) fn has_or_expects_vfio(&self) -> bool {
        self.request.hotplug || self.has_vfio() || self.pools().next().is_some()
    }

    /// VFIO devices now or later, also on a bus that bypasses the vIOMMU.
    pub(super) fn opens_or_expects_vfio(&self) -> bool {
        self.has_or_expects_vfio() || !self.domain.vfio.is_empty()
    }

    /// The guest's networks that hand out host PCI functions.
    pub(super) fn pools(&self) -> impl Iterator<Item = &'a str> {
        self.networks(Some(true))
    }

    /// The guest's networks that may do so.
    pub(super) fn unknown_networks(&self) -> impl Iterator<Item = &'a str> {
        self.networks(None)
    }

    fn networks(&self, is_pool: Option<bool>) -> impl Iterator<Item = &'a str> {
        let networks = self.domain.networks.iter().map(String::as_str);
        networks.filter(move |name| self.host.pools.get(*name).copied() == is_pool)
    }

    /// On AArch64 libvirt gives ACPI to UEFI guests only ("ACPI requires UEFI on this architecture").
    pub(super) fn has_acpi(&self) -> bool {
        self.domain.acpi && (self.domain.uefi || !self.is_arm())
    }

    /// Two VFIO devices that the vIOMMU sees under one requester id.
    pub(super) fn aliased(&self) -> Option<(&'a str, &'a str)> {
        let behind_bridge = |device: &VfioDevice| match device.requester {
            Requester::Bridge { controller } => Some(controller),
            _ => None,
        };
        let vfio = &self.domain.vfio;
        vfio.iter().enumerate().find_map(|(index, first)| {
            let bridge = behind_bridge(first)?;
            let second = vfio.iter().skip(index + 1).find(|device| behind_bridge(device) == Some(bridge))?;
            Some((first.source.name(), second.source.name()))
        })
    }
}

fn globals(domain: &Domain) -> BTreeMap<String, String> {
    let Some(model) = domain.iommus.first().and_then(Iommu::known_model) else { return BTreeMap::new() };
    let set = Globals::of(&domain.commandline).complete(model.facts().drivers, BTreeMap::new());
    let attribute = |property: String| model.attribute(&property).map_or(property.clone(), str::to_owned);
    qemu::with_plain_booleans(set).into_iter().map(|(property, value)| (attribute(property), value)).collect()
}
