//! The decision: what is to be done about one domain, and why.
//!
//! Pure, and the only place that decides. The hook, the wrapper's state file, `plan`, `rewrite` and every other verb run
//! [`plan`] and differ only in what they do with the [`Plan`].

mod intel;
mod memlock;
mod model;
mod placing;
mod refusals;
mod result;
mod warnings;

use crate::domain::Domain;
use crate::host::Host;
use crate::note::{Code, Note};
use crate::qemu;
use crate::request::{Model, Request};
use crate::version::{NEWEST_LIBVIRT, NEWEST_QEMU, Version};

pub use memlock::{AddressSpace, Memlock, accounted_memory, needed_bytes};
use memlock::{Presence, Shape};
pub use placing::obstacle;
pub use result::{Action, Change, Edit, Ioapic, Iommu, Origin, Plan, Route, Summary, wrapper_for};

/// What the wrapper's name begins with; the rest is the name of the real QEMU.
const WRAPPER_PREFIX: &str = "viommu-";
/// The directory of the links that are libvirt's default emulators on a host with the host route. The hook's prefilter looks for
/// no part of its name.
pub const HOST_ROUTE: &str = "libvirt-host-route";

/// Decides about a domain.
///
/// A refusal is a note of level `error`; the plan then changes nothing.
#[must_use]
pub fn plan(domain: &Domain, request: &Request, host: &Host) -> Plan {
    let guest = Guest::new(domain, request, host);
    let mut plan = Plan {
        domain: guest.summary(),
        request: request.clone(),
        route: route(domain),
        iommu: None,
        ioapic: None,
        memlock: Memlock::default(),
        qemu: qemu::Edits::default(),
        changes: Vec::new(),
        notes: request.notes.clone(),
    };
    if !matches!(domain.virt_type.as_str(), "kvm" | "qemu") {
        return plan;
    }
    let decision = guest.decide().unwrap_or_else(|refusal| {
        plan.notes.push(refusal);
        // A guest that runs already keeps what it has, and the locked memory that goes with it.
        guest.as_it_is()
    });
    decision.enter(&guest, &mut plan);
    enter_memlock(&guest, &mut plan);
    warnings::warn(&guest, &mut plan);
    plan
}

/// A plan for a domain whose request itself is wrong.
#[must_use]
pub fn refused(domain: &Domain, refusal: Note) -> Plan {
    plan(domain, &Request { notes: vec![refusal], ..Request::default() }, &Host::default())
}

/// Whether the guest has a vIOMMU already, in its `<iommu>` or in `<qemu:commandline>`.
#[must_use]
pub fn has_viommu(domain: &Domain) -> bool {
    !domain.iommus.is_empty() || qemu::find_iommu(&domain.commandline).is_some()
}

/// How a vIOMMU reaches this domain's QEMU.
#[must_use]
pub fn route(domain: &Domain) -> Route {
    if domain.emulator.as_deref().and_then(wrapped_emulator).is_some() { Route::Wrapper } else { Route::Native }
}

/// Whether a path is a link of the host route: libvirt's default emulator, which no domain has chosen.
#[must_use]
pub fn is_host_route(path: &str) -> bool {
    let mut parts = path.rsplit('/');
    parts.next().is_some_and(|name| name.starts_with("qemu-system-")) && parts.next() == Some(HOST_ROUTE)
}

/// Whether the domain names the wrapper itself as its emulator. That is a request.
#[must_use]
pub fn chose_wrapper(domain: &Domain) -> bool {
    route(domain) == Route::Wrapper && !domain.emulator.as_deref().is_some_and(is_host_route)
}

/// The file name of the real QEMU, where a path is that of a wrapper.
#[must_use]
pub fn wrapped_emulator(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next()?;
    let real = name.strip_prefix(WRAPPER_PREFIX).or_else(|| is_host_route(path).then_some(name))?;
    real.starts_with("qemu-system-").then_some(real)
}

/// Everything a rule may look at.
struct Guest<'a> {
    domain: &'a Domain,
    request: &'a Request,
    host: &'a Host,
    libvirt: Version,
    qemu: Version,
    hidden: Option<qemu::FoundIommu>,
}

/// What was decided about the vIOMMU.
struct Decision {
    iommu: Option<Iommu>,
    /// `<driver>` attributes that we add.
    added: Vec<(&'static str, String)>,
    ioapic: Option<Ioapic>,
    reasons: Vec<String>,
}

impl<'a> Guest<'a> {
    fn new(domain: &'a Domain, request: &'a Request, host: &'a Host) -> Guest<'a> {
        let emulator = host.emulator_of(domain);
        Guest {
            domain,
            request,
            host,
            libvirt: host.libvirt.unwrap_or(NEWEST_LIBVIRT),
            qemu: emulator.and_then(|emulator| emulator.version).unwrap_or(NEWEST_QEMU),
            hidden: qemu::find_iommu(&domain.commandline),
        }
    }

    fn summary(&self) -> Summary {
        let domain = self.domain;
        Summary {
            name: domain.name.clone(),
            uuid: domain.uuid.map(|uuid| uuid.to_string()),
            virt_type: domain.virt_type.clone(),
            arch: self.known_arch().map(str::to_owned),
            machine: domain.machine.clone(),
            vcpus: domain.vcpus.maximum,
            memory_bytes: domain.memory.total,
            max_memory_bytes: accounted_memory(domain),
        }
    }

    /// libvirt gives a domain without an architecture the host's.
    fn known_arch(&self) -> Option<&'a str> {
        self.domain.arch.as_deref().or(self.host.arch.as_deref())
    }

    fn is_windows(&self) -> bool {
        self.domain.system.as_ref().is_some_and(|system| system.windows)
    }

    fn arch(&self) -> &'a str {
        self.known_arch().unwrap_or("x86_64")
    }

    /// What libvirt found out about the domain's emulator; none where nobody knows. A libvirt that is newer than any that was
    /// tested may have stopped to ask for what every QEMU has by then, so there a version says more than a missing flag.
    fn emulator_has(&self, flag: &str) -> Option<bool> {
        if self.libvirt > NEWEST_LIBVIRT {
            return None;
        }
        self.host.emulator_of(self.domain).and_then(|emulator| emulator.has(flag))
    }

    fn decide(&self) -> Result<Decision, Note> {
        if self.request.model == Model::None {
            return Ok(self.as_it_is());
        }
        let machine = model::machine(self)?;
        model::one_viommu(self, machine)?;
        if let Some(hidden) = &self.hidden {
            model::matches_hidden(self, hidden)?;
            return Ok(self.as_it_is());
        }
        let choice = model::choose(self, machine)?;
        refusals::check(self, machine, choice.model)?;
        let decision = if choice.model == model::Kind::Intel { intel::decide(self)? } else { self.bare(choice.model) };
        Ok(Decision { reasons: choice.reasons, ..decision })
    }

    /// The guest keeps what it has.
    fn as_it_is(&self) -> Decision {
        let existing = self.domain.iommus.first().map(|iommu| Iommu {
            model: iommu.model.clone(),
            origin: Origin::Existing,
            driver: iommu.driver.clone(),
        });
        let hidden = self.hidden.as_ref().map(|hidden| Iommu {
            model: hidden.driver.clone(),
            origin: Origin::Commandline,
            driver: hidden.properties.clone().into_iter().collect(),
        });
        let ioapic = self.domain.ioapic.clone().map(|driver| Ioapic { driver, origin: Origin::Existing });
        Decision { iommu: existing.or(hidden), added: Vec::new(), ioapic, reasons: Vec::new() }
    }

    /// A model whose `<driver>` takes nothing that we would set, but the width that was asked for.
    fn bare(&self, model: model::Kind) -> Decision {
        let kept = self.as_it_is();
        if kept.iommu.is_some() {
            return kept;
        }
        let added: Vec<_> = self.request.aw_bits.map(|bits| ("aw_bits", bits.to_string())).into_iter().collect();
        let driver = added.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let iommu = Iommu { model: model.as_str().to_owned(), origin: Origin::Added, driver };
        Decision { iommu: Some(iommu), added, ..kept }
    }
}

impl Decision {
    fn enter(self, guest: &Guest<'_>, plan: &mut Plan) {
        let refused = plan.refusal().is_some();
        let names = self.added.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ");
        match self.iommu.as_ref().map(|iommu| (iommu.origin, model::Kind::from_name(&iommu.model))) {
            Some((Origin::Added, Some(kind))) => {
                let (source, model) = (guest.request.source.describe(), guest.request.model.as_str());
                let reason = format!("{source} asks for a vIOMMU ({model})");
                kind.on_command_line(&self.added, &mut plan.qemu);
                let edit = Edit::AddIommu { model: kind.as_str(), driver: self.added };
                plan.change(Action::Add, "/domain/devices/iommu", reason, edit, true);
            }
            Some((Origin::Completed, Some(_))) => {
                let reason = format!("the <iommu> lacks {names}");
                let essential = self.added.iter().any(|(name, _)| intel::is_essential(guest, name));
                plan.qemu.existing = model::properties(&self.added).collect();
                let edit = Edit::CompleteIommu { driver: self.added };
                plan.change(Action::Set, "/domain/devices/iommu/driver", reason, edit, essential);
            }
            _ => {}
        }
        if self.ioapic.as_ref().is_some_and(|ioapic| ioapic.origin == Origin::Added) {
            let reason =
                "interrupt remapping needs the split irqchip, and libvirt before 10.10 does not add it by itself";
            plan.change(Action::Add, "/domain/features/ioapic", reason.to_owned(), Edit::SplitIoapic, false);
            plan.qemu.machine.insert("kernel_irqchip".into(), "split".into());
        }
        if guest.request.nosharepages && !guest.domain.memory.nosharepages && !refused {
            let reason = "a real-time guest shares no pages".to_owned();
            plan.change(Action::Add, "/domain/memoryBacking/nosharepages", reason, Edit::ForbidPageSharing, false);
        }
        if guest.request.locked_memory && !guest.domain.memory.locked && !refused {
            let reason = "all of the guest's memory is to be locked".to_owned();
            let asked = guest.request.asks_to_lock();
            plan.change(Action::Add, "/domain/memoryBacking/locked", reason, Edit::LockMemory, asked);
            plan.qemu.lock_memory = asked;
        }
        plan.notes.extend(self.reasons.into_iter().map(|reason| Note::info(Code::AutoModel, reason)));
        plan.iommu = self.iommu;
        plan.ioapic = self.ioapic;
    }
}

impl Plan {
    fn change(&mut self, action: Action, path: &'static str, reason: String, edit: Edit, essential: bool) {
        self.changes.push(Change { action, path, reason, edit, essential });
    }

    /// Whether libvirt will know of the guest's vIOMMU, and count it.
    fn viommu(&self) -> Presence {
        match self.iommu.as_ref().map(|iommu| iommu.origin) {
            Some(Origin::Existing | Origin::Completed) => Presence::Known,
            Some(Origin::Added) if self.route == Route::Native => Presence::Known,
            Some(Origin::Added | Origin::Commandline) => Presence::Hidden,
            None => Presence::Absent,
        }
    }

    fn locked(&self, domain: &Domain) -> Presence {
        let added = self.changes.iter().any(|change| change.edit == Edit::LockMemory);
        if domain.memory.locked || added && self.route == Route::Native {
            Presence::Known
        } else if self.qemu.lock_memory {
            Presence::Hidden
        } else {
            Presence::Absent
        }
    }
}

fn enter_memlock(guest: &Guest<'_>, plan: &mut Plan) {
    let shape = Shape { viommu: plan.viommu(), locked: plan.locked(guest.domain) };
    let managed = guest.request.asks() || plan.iommu.is_some();
    plan.memlock = memlock::memlock(guest.domain, shape, managed, guest.host);
    plan.memlock.raise &= plan.refusal().is_none();
}

#[cfg(test)]
mod tests;
