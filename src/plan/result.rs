//! What a plan says: the types behind `viommu plan --format json`, and the changes that `rewrite` makes of them.
//!
//! Plain data. Nothing is decided here, and JSON keys are only ever added.

use serde::Serialize;

use super::{Memlock, WRAPPER_PREFIX};
use crate::note::{Code, Level, Note};
use crate::qemu;
use crate::request::Request;

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
    /// Architecture; the host's where the domain names none, as for libvirt.
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
        let lack = match &missing.edit {
            Edit::AddIommu { .. } => ", and the domain has no <iommu>",
            Edit::LockMemory => ", and the domain has no <memoryBacking><locked/>",
            // The reason says what is lacking.
            Edit::CompleteIommu { .. } | Edit::SplitIoapic | Edit::ForbidPageSharing => "",
        };
        // Not the domain's name: whoever chose it would have a word in what people paste into a root shell.
        let message = format!(
            "{}{lack}: run 'viommu apply DOMAIN', or have the XML go through 'viommu rewrite' before it is defined, or set <emulator> \
             to {}",
            missing.reason,
            wrapper_for(self.domain.arch.as_deref())
        );
        Some(Note::error(Code::WrapperMissing, message))
    }
}

/// The wrapper for guests of an architecture, by its path. A 32-bit x86 guest runs in the 64-bit QEMU too
/// (`virQEMUCapsIsArchSupported`).
#[must_use]
pub fn wrapper_for(arch: Option<&str>) -> String {
    let arch = if arch == Some("aarch64") { "aarch64" } else { "x86_64" };
    format!("/usr/bin/{WRAPPER_PREFIX}qemu-system-{arch}")
}

fn as_map<S: serde::Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}
