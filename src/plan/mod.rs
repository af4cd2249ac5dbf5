//! The decision: what is to be done about one domain, and why.
//!
//! Pure, and the only place that decides. The hook, the wrapper's state file, `plan`, `rewrite` and every other verb run
//! [`plan`] and differ only in what they do with the [`Plan`].

mod checks;
mod intel;
mod memlock;
mod model;

use serde::Serialize;

use crate::domain::Domain;
use crate::host::Host;
use crate::note::{Code, Level, Note};
use crate::qemu;
use crate::request::{Model, Request};
use crate::version::Version;

pub use memlock::{AddressSpace, Limit, Memlock, accounted_memory, needed_bytes};
use memlock::{Presence, Shape};

/// What libvirt and QEMU are taken for when nobody knows their versions: the newest that were tested.
pub const ASSUMED_LIBVIRT: Version = Version::new(12, 8);
/// See [`ASSUMED_LIBVIRT`].
pub const ASSUMED_QEMU: Version = Version::new(11, 1);

/// The last word about a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Which domain.
    pub domain: Summary,
    /// What it asks for.
    pub request: Request,
    /// How the vIOMMU reaches QEMU.
    pub route: Route,
    /// The vIOMMU that the guest will have.
    pub iommu: Option<Iommu>,
    /// The I/O APIC that goes with it.
    pub ioapic: Option<Ioapic>,
    /// The locked-memory limit.
    pub memlock: Memlock,
    /// What the changes mean on QEMU's command line: what libvirt makes of them natively, and the wrapper by itself.
    pub qemu: qemu::Edits,
    /// What has to be changed in the domain XML.
    pub changes: Vec<Change>,
    /// Everything worth saying, refusals included.
    pub notes: Vec<Note>,
}

/// The domain in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Name, as the tenant chose it.
    pub name: String,
    /// UUID.
    pub uuid: Option<String>,
    /// `kvm`, `qemu`, …
    #[serde(rename = "type")]
    pub virt_type: String,
    /// Architecture.
    pub arch: Option<String>,
    /// Machine type.
    pub machine: Option<String>,
    /// Maximum number of vCPUs.
    pub vcpus: u32,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Memory with everything that can be plugged, bytes.
    pub max_memory_bytes: u64,
}

/// How a vIOMMU reaches QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Route {
    /// The domain XML says it.
    Native,
    /// The emulator is the wrapper, which edits QEMU's command line.
    Wrapper,
}

/// Where a part of the guest comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// We add it.
    Added,
    /// The domain has it, complete.
    Existing,
    /// The domain has it, and we add what is missing.
    Completed,
    /// It hides in `<qemu:commandline>`.
    Commandline,
}

impl Origin {
    /// The word in JSON and in the text output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Origin::Added => "added",
            Origin::Existing => "existing",
            Origin::Completed => "completed",
            Origin::Commandline => "commandline",
        }
    }
}

/// The vIOMMU in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Iommu {
    /// libvirt's model name, or QEMU's driver name where it hides in `<qemu:commandline>`.
    pub model: String,
    /// Where it comes from.
    pub origin: Origin,
    /// `<driver>` attributes, in libvirt's order.
    #[serde(serialize_with = "as_map")]
    pub driver: Vec<(String, String)>,
}

/// The I/O APIC in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ioapic {
    /// `qemu` (the split irqchip) or `kvm`.
    pub driver: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// One change of the domain XML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `add` or `set`.
    pub action: Action,
    /// The element that is added or changed.
    pub path: &'static str,
    /// Why.
    pub reason: String,
    /// What exactly.
    #[serde(skip)]
    pub edit: Edit,
    /// Whether the guest would not get what it asks for without this change.
    #[serde(skip)]
    pub essential: bool,
}

/// What kind of change it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// An element is added.
    Add,
    /// Attributes of an element are set.
    Set,
}

impl Action {
    /// The word in JSON and in the text output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Add => "add",
            Action::Set => "set",
        }
    }
}

/// A change of the domain XML, as data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// `<devices><iommu model=…><driver …/></iommu>`.
    AddIommu {
        /// libvirt's model name.
        model: &'static str,
        /// `<driver>` attributes.
        driver: Vec<(&'static str, String)>,
    },
    /// Attributes of the first `<iommu>`'s `<driver>`, which is made if there is none.
    CompleteIommu {
        /// `<driver>` attributes.
        driver: Vec<(&'static str, String)>,
    },
    /// `<features><ioapic driver='qemu'/>`.
    SplitIoapic,
    /// `<memoryBacking><locked/>`.
    LockMemory,
    /// `<memoryBacking><nosharepages/>`.
    ForbidPageSharing,
}

impl Plan {
    /// The first refusal, if the request cannot be met.
    #[must_use]
    pub fn refusal(&self) -> Option<&Note> {
        self.notes.iter().find(|note| note.level == Level::Error)
    }

    /// The refusal of a start whose domain XML is as it is: libvirt ignores what a hook prints at this point, so a change
    /// that the guest cannot do without must be in the XML already, or be made by the wrapper.
    #[must_use]
    pub fn refusal_unless_rewritten(&self) -> Option<Note> {
        let missing = self.changes.iter().find(|change| change.essential).filter(|_| self.route == Route::Native)?;
        let message = format!(
            "{}, but the domain has no {} and its <emulator> is not the wrapper: run 'viommu rewrite' on the domain XML and define \
             the result, or set <emulator> to /usr/bin/{WRAPPER_PREFIX}qemu-system-{}",
            missing.reason,
            missing.path,
            self.domain.arch.as_deref().unwrap_or("x86_64")
        );
        Some(Note::error(Code::WrapperMissing, message))
    }
}

/// Decides about a domain.
///
/// A refusal is a note of level `error`; the plan then changes nothing.
#[must_use]
pub fn plan(domain: &Domain, request: &Request, host: &Host) -> Plan {
    let mut plan = Plan {
        domain: summary(domain),
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
    let guest = Guest::new(domain, request, host);
    match guest.decide() {
        Ok(decision) => decision.enter(&guest, &mut plan),
        Err(refusal) => plan.notes.push(refusal),
    }
    enter_memlock(&guest, &mut plan);
    checks::warn(&guest, &mut plan);
    plan
}

/// A plan for a domain whose request itself is wrong.
#[must_use]
pub fn refused(domain: &Domain, refusal: Note) -> Plan {
    let nothing = Request {
        model: Model::None,
        source: crate::request::Source::None,
        locked_memory: false,
        nosharepages: false,
        aw_bits: None,
        hotplug: false,
        notes: vec![refusal],
    };
    plan(domain, &nothing, &Host::default())
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
            libvirt: host.libvirt.unwrap_or(ASSUMED_LIBVIRT),
            qemu: emulator.and_then(|emulator| emulator.version).unwrap_or(ASSUMED_QEMU),
            hidden: qemu::find_iommu(&domain.commandline),
        }
    }

    /// What libvirt found out about the domain's emulator; none where nobody knows.
    fn emulator_has(&self, flag: &str) -> Option<bool> {
        self.host.emulator_of(self.domain).and_then(|emulator| emulator.has(flag))
    }

    fn decide(&self) -> Result<Decision, Note> {
        if self.request.model == Model::None {
            return Ok(self.as_it_is());
        }
        let machine = model::machine(self)?;
        if let Some(hidden) = &self.hidden {
            model::matches_hidden(self, hidden)?;
            return Ok(self.as_it_is());
        }
        let choice = model::choose(self, machine)?;
        checks::check(self, machine, choice.model)?;
        let decision = if choice.model == model::Kind::Intel { intel::decide(self)? } else { self.bare(&choice) };
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

    /// A model whose `<driver>` takes nothing that we would set.
    fn bare(&self, choice: &model::Choice) -> Decision {
        let kept = self.as_it_is();
        let added = || Iommu { model: choice.model.as_str().to_owned(), origin: Origin::Added, driver: Vec::new() };
        Decision { iommu: Some(kept.iommu.unwrap_or_else(added)), ..kept }
    }
}

impl Decision {
    fn enter(self, guest: &Guest<'_>, plan: &mut Plan) {
        let added = || self.added.clone();
        let names = self.added.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ");
        match self.iommu.as_ref().map(|iommu| (iommu.origin, model::Kind::from_name(&iommu.model))) {
            Some((Origin::Added, Some(kind))) => {
                let (source, model) = (guest.request.source.describe(), guest.request.model.as_str());
                let reason = format!("{source} asks for a vIOMMU ({model})");
                let edit = Edit::AddIommu { model: kind.as_str(), driver: added() };
                plan.change(Action::Add, "/domain/devices/iommu", reason, edit, true);
                kind.on_command_line(&self.added, &mut plan.qemu);
            }
            Some((Origin::Completed, Some(_))) => {
                let reason = format!("the <iommu> lacks {names}");
                let essential = self.added.iter().any(|(name, _)| intel::is_essential(guest, name));
                let edit = Edit::CompleteIommu { driver: added() };
                plan.change(Action::Set, "/domain/devices/iommu/driver", reason, edit, essential);
                plan.qemu.existing = intel::properties(&self.added).collect();
            }
            _ => {}
        }
        if self.ioapic.as_ref().is_some_and(|ioapic| ioapic.origin == Origin::Added) {
            let reason =
                "interrupt remapping needs the split irqchip, and libvirt before 10.10 does not add it by itself";
            plan.change(Action::Add, "/domain/features/ioapic", reason.to_owned(), Edit::SplitIoapic, false);
            plan.qemu.machine.insert("kernel_irqchip".into(), "split".into());
        }
        if guest.request.nosharepages && !guest.domain.memory.nosharepages {
            let reason = "a real-time guest shares no pages".to_owned();
            plan.change(Action::Add, "/domain/memoryBacking/nosharepages", reason, Edit::ForbidPageSharing, false);
        }
        if guest.request.locked_memory && !guest.domain.memory.locked {
            let reason = "all of the guest's memory is to be locked".to_owned();
            plan.change(Action::Add, "/domain/memoryBacking/locked", reason, Edit::LockMemory, true);
            plan.qemu.lock_memory = true;
        }
        for reason in self.reasons {
            plan.notes.push(Note::info(Code::AutoModel, reason));
        }
        plan.iommu = self.iommu;
        plan.ioapic = self.ioapic;
    }
}

impl Plan {
    fn change(&mut self, action: Action, path: &'static str, reason: String, edit: Edit, essential: bool) {
        self.changes.push(Change { action, path, reason, edit, essential });
    }
}

fn enter_memlock(guest: &Guest<'_>, plan: &mut Plan) {
    let domain = guest.domain;
    let ours = if plan.route == Route::Native { Presence::Known } else { Presence::Hidden };
    let viommu = match plan.iommu.as_ref().map(|iommu| iommu.origin) {
        Some(Origin::Existing | Origin::Completed) => Presence::Known,
        Some(Origin::Added) => ours,
        Some(Origin::Commandline) => Presence::Hidden,
        None => Presence::Absent,
    };
    let locked = if domain.memory.locked {
        Presence::Known
    } else if guest.request.locked_memory && plan.refusal().is_none() {
        ours
    } else {
        Presence::Absent
    };
    let shape = Shape { viommu, locked };
    plan.memlock = memlock::memlock(domain, shape, guest.host);
}

/// Whether the guest has a vIOMMU already, in its `<iommu>` or in `<qemu:commandline>`.
#[must_use]
pub fn has_viommu(domain: &Domain) -> bool {
    !domain.iommus.is_empty() || qemu::find_iommu(&domain.commandline).is_some()
}

/// How a vIOMMU reaches this domain's QEMU.
#[must_use]
pub fn route(domain: &Domain) -> Route {
    let emulator = domain.emulator.as_deref().and_then(|path| path.rsplit('/').next());
    if emulator.is_some_and(|name| name.starts_with(WRAPPER_PREFIX)) { Route::Wrapper } else { Route::Native }
}

/// What the wrapper's name begins with; the rest is the name of the real QEMU.
pub const WRAPPER_PREFIX: &str = "viommu-";

fn summary(domain: &Domain) -> Summary {
    Summary {
        name: domain.name.clone(),
        uuid: domain.uuid.map(|uuid| uuid.to_string()),
        virt_type: domain.virt_type.clone(),
        arch: domain.arch.clone(),
        machine: domain.machine.clone(),
        vcpus: domain.vcpus.maximum,
        memory_bytes: domain.memory.total,
        max_memory_bytes: accounted_memory(domain),
    }
}

fn as_map<S: serde::Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}
