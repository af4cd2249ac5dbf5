//! What was decided about the vIOMMU, and the changes that follow from it.

use crate::model::{Model, NewIommu};
use crate::note::{Code, Note};
use crate::qemu::Edits;
use crate::request::RequestedModel;

use super::Route;
use super::guest::Guest;
use super::result::{Attributes, Change, DomainEdit, Ioapic, Origin, Plan, PlannedIommu};

/// What was decided about the vIOMMU.
pub(super) struct Decision {
    pub(super) iommu: Option<PlannedIommu>,
    /// `<driver>` attributes that are added.
    pub(super) added: Attributes,
    pub(super) ioapic: Option<Ioapic>,
    /// Why `auto` became this model.
    pub(super) reasons: Vec<String>,
    /// Every host decides alike about this guest.
    pub(super) reproducible: bool,
}

impl Decision {
    /// The guest keeps what it has.
    pub(super) fn unchanged(guest: &Guest<'_>) -> Decision {
        let existing = guest.domain.iommus.first().map(PlannedIommu::existing);
        let hidden = guest.hidden.as_ref().map(|hidden| PlannedIommu {
            name: hidden.driver.clone(),
            model: Some(hidden.model),
            origin: Origin::Commandline,
            driver: hidden.properties.clone().into_iter().collect(),
        });
        let ioapic = guest.domain.ioapic.clone().map(|driver| Ioapic { driver, origin: Origin::Existing });
        Decision { iommu: existing.or(hidden), added: Vec::new(), ioapic, reasons: Vec::new(), reproducible: true }
    }

    /// A new vIOMMU with these `<driver>` attributes, or the existing `<iommu>` with those that it lacks.
    pub(super) fn with(guest: &Guest<'_>, model: Model, wanted: Attributes) -> Decision {
        let existing = guest.domain.iommus.first();
        let lacks = |name: &str| existing.is_none_or(|iommu| iommu.driver(name).is_none());
        let added: Vec<_> = wanted.into_iter().filter(|(name, _)| lacks(name)).collect();
        let mut driver = existing.map(|iommu| iommu.driver.clone()).unwrap_or_default();
        driver.extend(added.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let origin = match (existing, added.is_empty()) {
            (None, _) => Origin::Added,
            (Some(_), true) => Origin::Existing,
            (Some(_), false) => Origin::Completed,
        };
        let iommu = PlannedIommu { name: model.name().to_owned(), model: Some(model), origin, driver };
        Decision { iommu: Some(iommu), added, ..Decision::unchanged(guest) }
    }

    /// The same with the I/O APIC that interrupt remapping needs, where it is wanted.
    pub(super) fn with_split_irqchip(self, wanted: bool) -> Decision {
        let split = || Ioapic { driver: "qemu".to_owned(), origin: Origin::Added };
        Decision { ioapic: self.ioapic.or_else(|| wanted.then(split)), ..self }
    }

    /// Writes the vIOMMU, the I/O APIC and their changes into a plan.
    pub(super) fn enter(self, guest: &Guest<'_>, plan: &mut Plan) {
        match self.iommu.as_ref().and_then(|iommu| Some((iommu.origin, iommu.model?))) {
            Some((Origin::Added, model)) => add_iommu(guest, model, self.added, plan),
            Some((Origin::Completed, model)) => complete_iommu(guest, model, self.added, plan),
            _ => {}
        }
        if self.ioapic.as_ref().is_some_and(|ioapic| ioapic.origin == Origin::Added) {
            let reason =
                "interrupt remapping needs the split irqchip, and libvirt before 10.10 does not add it by itself";
            plan.changes.push(Change::new(DomainEdit::SplitIoapic, reason, false));
            plan.qemu.machine.insert("kernel_irqchip".into(), "split".into());
        }
        plan.reproducible = self.reproducible && guest.request.model != RequestedModel::Auto;
        plan.notes.extend(self.reasons.into_iter().map(|reason| Note::info(Code::AutoModel, reason)));
        plan.iommu = self.iommu;
        plan.ioapic = self.ioapic;
    }
}

fn add_iommu(guest: &Guest<'_>, model: Model, driver: Attributes, plan: &mut Plan) {
    let (source, asked) = (guest.request.source.describe(), guest.request.model.as_str());
    on_command_line(model, &driver, plan.route, &mut plan.qemu);
    let reason = format!("{source} asks for a vIOMMU ({asked})");
    plan.changes.push(Change::new(DomainEdit::AddIommu(model, driver), reason, true));
}

fn complete_iommu(guest: &Guest<'_>, model: Model, driver: Attributes, plan: &mut Plan) {
    let names = driver.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ");
    let essential = driver.iter().any(|(name, _)| is_essential(guest, name));
    let properties = properties(model, &driver).map(|(name, value)| (name.to_owned(), value.to_owned()));
    plan.qemu.existing = properties.collect();
    let reason = format!("the <iommu> lacks {names}");
    plan.changes.push(Change::new(DomainEdit::CompleteIommu(driver), reason, essential));
}

/// Whether the guest does not work, or not as asked, without an attribute that its `<iommu>` lacks.
fn is_essential(guest: &Guest<'_>, attribute: &str) -> bool {
    match attribute {
        "caching_mode" => !guest.domain.vfio.is_empty() || guest.pools().next().is_some(),
        "intremap" | "eim" | "xtsup" => guest.needs_eim(),
        "aw_bits" => guest.request.aw_bits.is_some(),
        "dma_translation" => true,
        _ => false,
    }
}

/// What libvirt writes for a new `<iommu>` (`qemuBuildIOMMUCommandLine`), and what the wrapper adds to that.
fn on_command_line(model: Model, driver: &[(&'static str, String)], route: Route, edits: &mut Edits) {
    match model.facts().new {
        NewIommu::Machine(key, value) => {
            edits.machine.insert(key.to_owned(), value.to_owned());
        }
        NewIommu::Devices(devices) => {
            edits.devices.extend(devices.iter().map(|device| (*device).to_owned()));
            let of_wrapper = model.facts().of_wrapper.iter().copied().filter(|_| route == Route::Wrapper);
            let properties = of_wrapper.chain(properties(model, driver));
            if let Some(last) = edits.devices.last_mut() {
                last.extend(properties.map(|(name, value)| format!(",{name}={value}")));
            }
        }
    }
}

/// QEMU's properties for attributes of `<driver>`.
fn properties<'a>(model: Model, driver: &'a [(&str, String)]) -> impl Iterator<Item = (&'a str, &'a str)> {
    driver.iter().map(move |(name, value)| (model.property(name).unwrap_or(name), value.as_str()))
}

/// Locks all of the guest's memory, where that is asked for.
pub(super) fn lock_memory(guest: &Guest<'_>, plan: &mut Plan) {
    let (request, memory) = (guest.request, &guest.domain.memory);
    if request.nosharepages && !memory.nosharepages {
        plan.changes.push(Change::new(DomainEdit::ForbidPageSharing, "a real-time guest shares no pages", false));
    }
    if request.locked_memory && !memory.locked {
        let asked = request.asks_to_lock();
        plan.changes.push(Change::new(DomainEdit::LockMemory, "all of the guest's memory is to be locked", asked));
        plan.qemu.lock_memory = asked;
    }
}
