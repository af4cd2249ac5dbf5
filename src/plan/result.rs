//! What a plan says: the types behind `viommu plan --format json`, and the changes that `rewrite` makes of them.
//!
//! Plain data. Nothing is decided here, and JSON keys are only ever added.

use serde::{Serialize, Serializer};

use super::guest::Guest;
use super::memlock::guest_memory;
use super::{Memlock, Route, route, wrapper_for};
use crate::model::Model;
use crate::note::{Code, Level, Note};
use crate::qemu;
use crate::request::{Request, VirtioScope};
use crate::text;

/// The decision about a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Which domain.
    pub domain: Summary,
    /// What it asks for.
    pub request: Request,
    /// How the vIOMMU reaches QEMU.
    pub route: Route,
    /// The vIOMMU that the guest will have.
    pub iommu: Option<PlannedIommu>,
    /// The other `<iommu>`s of the domain: SMMUv3 can be there once for each host bridge.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub further_iommus: Vec<PlannedIommu>,
    /// The I/O APIC that goes with it.
    pub ioapic: Option<Ioapic>,
    /// The locked-memory limit.
    pub memlock: Memlock,
    /// What the changes mean on QEMU's command line: what libvirt makes of them natively, and the wrapper by itself.
    pub qemu: qemu::Edits,
    /// What has to be changed in the domain XML.
    pub changes: Vec<Change>,
    /// Warnings and information.
    pub notes: Vec<Note>,
    /// The note that says why the guest, without a request, will not start or not work.
    #[serde(skip)]
    pub flaw: Option<Note>,
    /// Whether another host decides alike about the vIOMMU: there is nothing to add, or the request names all that depends on
    /// the host.
    #[serde(skip)]
    pub reproducible: bool,
}

/// A request that cannot be met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub note: Note,
    /// A plan without changes: what the guest has now. Its locked memory is right for a guest that already runs.
    pub unchanged: Box<Plan>,
}

impl Serialize for Refusal {
    /// The unchanged plan, with the refusal among its notes.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut plan = Plan::clone(&self.unchanged);
        plan.notes.insert(0, self.note.clone());
        plan.serialize(serializer)
    }
}

/// The plan, or what a refused guest keeps.
#[must_use]
pub fn kept(outcome: &Result<Plan, Refusal>) -> &Plan {
    outcome.as_ref().unwrap_or_else(|refusal| &refusal.unchanged)
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
    /// Architecture; the host's where the domain names none, as for libvirt.
    pub arch: Option<String>,
    /// Machine type.
    pub machine: Option<String>,
    /// The system in the guest, as far as the domain tells; none where that is unknown.
    pub system: Option<String>,
    /// Maximum number of vCPUs.
    pub vcpus: u32,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Memory with everything that can be plugged, bytes.
    pub max_memory_bytes: u64,
    /// Nova defined the domain: its users can change neither the XML nor `<emulator>`.
    #[serde(skip)]
    pub nova: bool,
}

impl Summary {
    /// The domain's name for a command, see [`text::shell_name`].
    #[must_use]
    pub fn shell_name(&self) -> String {
        text::shell_name(&self.name, self.uuid.as_deref())
    }
}

/// Where a part of the guest comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// It is added.
    Added,
    /// The domain has it, complete.
    Existing,
    /// The domain has it, and missing attributes are added.
    Completed,
    /// It is in `<qemu:commandline>`.
    Commandline,
}

/// The vIOMMU in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedIommu {
    /// libvirt's model name, or QEMU's driver name where it is in `<qemu:commandline>`.
    #[serde(rename = "model")]
    pub name: String,
    /// The model, if it is a known one.
    #[serde(skip)]
    pub model: Option<Model>,
    /// Where it comes from.
    pub origin: Origin,
    /// `<driver>` attributes, in libvirt's order.
    #[serde(serialize_with = "as_map")]
    pub driver: Vec<(String, String)>,
}

impl PlannedIommu {
    /// An `<iommu>` as the domain has it.
    pub(super) fn existing(iommu: &crate::domain::Iommu) -> PlannedIommu {
        PlannedIommu {
            name: iommu.model.clone(),
            model: iommu.known_model(),
            origin: Origin::Existing,
            driver: iommu.driver.clone(),
        }
    }
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
    /// `add`, `set` or `remove`.
    pub action: &'static str,
    /// The element that is added, changed or removed.
    pub path: &'static str,
    /// Why.
    pub reason: String,
    /// What exactly.
    #[serde(skip)]
    pub edit: DomainEdit,
    /// Whether the guest would not get what it asks for without this change.
    #[serde(skip)]
    pub essential: bool,
}

impl Change {
    pub(super) fn new(edit: DomainEdit, reason: impl Into<String>, essential: bool) -> Change {
        let (action, path) = match &edit {
            DomainEdit::AddIommu(..) => ("add", "/domain/devices/iommu"),
            DomainEdit::CompleteIommu(..) => ("set", "/domain/devices/iommu/driver"),
            DomainEdit::TranslateVirtio(VirtioScope::All, _) => ("set", "/domain/devices/*/driver"),
            DomainEdit::TranslateVirtio(..) => ("set", "/domain/devices/interface/driver"),
            DomainEdit::RemoveIommuDriver => ("remove", "/domain/devices/iommu/driver"),
            DomainEdit::SplitIoapic => ("add", "/domain/features/ioapic"),
            DomainEdit::RemoveIoapic => ("remove", "/domain/features/ioapic"),
            DomainEdit::LockMemory => ("add", "/domain/memoryBacking/locked"),
            DomainEdit::ForbidPageSharing => ("add", "/domain/memoryBacking/nosharepages"),
        };
        Change { action, path, reason: reason.into(), edit, essential }
    }
}

/// Attributes of a `<driver>`.
pub type Attributes = Vec<(&'static str, String)>;

/// A change of the domain XML, as data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DomainEdit {
    /// `<devices><iommu model=…><driver …/></iommu>`.
    AddIommu(Model, Attributes),
    /// Attributes for the `<driver>` of the first `<iommu>`.
    CompleteIommu(Attributes),
    /// `iommu='on'` and `ats='on'` for the `<driver>` of the scope's virtio devices, by their places among the children of every
    /// `<devices>`.
    TranslateVirtio(VirtioScope, Vec<(usize, Attributes)>),
    /// Removes the `<driver>` of the only `<iommu>`.
    RemoveIommuDriver,
    /// `<features><ioapic driver='qemu'/>`.
    SplitIoapic,
    /// Removes `<features><ioapic>`.
    RemoveIoapic,
    /// `<memoryBacking><locked/>`.
    LockMemory,
    /// `<memoryBacking><nosharepages/>`.
    ForbidPageSharing,
}

impl Plan {
    /// What the host's log and the user must see.
    pub fn warnings(&self) -> impl Iterator<Item = &Note> {
        self.notes.iter().filter(|note| note.level == Level::Warning)
    }

    /// A plan without a vIOMMU that changes nothing.
    pub(super) fn empty(guest: &Guest<'_>) -> Plan {
        let domain = guest.domain;
        Plan {
            domain: Summary {
                name: domain.name.clone(),
                uuid: domain.uuid.map(|uuid| uuid.to_string()),
                virt_type: domain.virt_type.clone(),
                arch: guest.host.arch_of(domain).map(str::to_owned),
                machine: domain.machine.clone(),
                system: domain.system.as_ref().map(|system| system.name.clone()),
                vcpus: domain.vcpus.maximum,
                memory_bytes: domain.memory.total,
                max_memory_bytes: guest_memory(domain),
                nova: domain.nova.is_some(),
            },
            request: guest.request.clone(),
            route: route(domain),
            iommu: None,
            further_iommus: domain.iommus.iter().skip(1).map(PlannedIommu::existing).collect(),
            ioapic: None,
            memlock: Memlock::default(),
            qemu: qemu::Edits::default(),
            changes: Vec::new(),
            notes: guest.request.notes.clone(),
            flaw: None,
            reproducible: true,
        }
    }

    /// The refusal of a start whose domain XML cannot be changed any more: libvirt ignores what a hook prints then, so an
    /// essential change must be in the XML already, or be made by the wrapper.
    #[must_use]
    pub fn refusal_unless_rewritten(&self) -> Option<Note> {
        let missing = self.changes.iter().find(|change| change.essential).filter(|_| self.route == Route::Native)?;
        let lack = match &missing.edit {
            DomainEdit::AddIommu(..) => ", and the domain has no <iommu>",
            DomainEdit::LockMemory => ", and the domain has no <memoryBacking><locked/>",
            // The reason says what is lacking.
            _ => "",
        };
        let remedy = if self.domain.nova {
            "switch on the host route of this compute node ('viommu host-route on'), or keep the instance off it by a required trait"
                .to_owned()
        } else {
            let wrapper = wrapper_for(self.domain.arch.as_deref());
            format!(
                "run 'viommu apply {}', or pass the XML through 'viommu rewrite' before it is defined, or set <emulator> to {wrapper}",
                self.domain.shell_name()
            )
        };
        Some(Note::error(Code::WrapperMissing, format!("{}{lack}: {remedy}", missing.reason)))
    }
}

fn as_map<S: Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}
