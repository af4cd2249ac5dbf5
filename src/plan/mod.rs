//! The decision: what is to be done about one domain, and why.
//!
//! Pure, and the only place that decides. The hook, the wrapper's state file, `plan`, `rewrite` and every other verb run
//! [`plan`] and differ only in what they do with the [`Plan`].

mod amd;
mod auto;
mod choose;
mod decision;
mod existing;
mod guest;
mod intel;
mod memlock;
mod nova;
mod placing;
mod purpose;
mod result;
mod route;
mod scalable;
mod smmuv3;
mod spaces;
mod vcpus;
mod virtio;
mod virtio_devices;
mod warnings;
mod written;

use crate::domain::Domain;
use crate::host::Host;
use crate::model::Model;
use crate::note::{Code, Note};
use crate::qemu::{self, FoundIommu};
use crate::request::{Request, RequestedModel};
use crate::version::Version;

use decision::Decision;
use guest::Guest;
pub use memlock::{Memlock, accounted_memory, beyond_reserve, needed_bytes};
pub use placing::unsuitable;
pub use result::{Attributes, Change, DomainEdit, Ioapic, Origin, Plan, PlannedIommu, Refusal, Summary, kept};
pub use route::{HOST_ROUTE, Route, chose_wrapper, is_host_route, route, wrapped_emulator, wrapper_for};
pub use spaces::{AddressSpace, Backend};

/// Decides about a domain.
///
/// # Errors
/// The refusal, where the request cannot be met.
pub fn plan(domain: &Domain, request: &Request, host: &Host) -> Result<Plan, Refusal> {
    let repaired = nova::repaired(domain, host.arch_of(domain));
    let (domain, repairs) = repaired.as_ref().map_or((domain, &[][..]), |(domain, changes)| (domain, changes));
    let guest = Guest::new(domain, request, host);
    if !domain.runs_in_qemu() {
        return Ok(Plan::empty(&guest));
    }
    let repaired = Plan { changes: repairs.to_vec(), ..Plan::empty(&guest) };
    let decided = decide_model(&guest).and_then(|decision| decided(&guest, decision, repaired));
    decided.map_err(|note| Refusal { note, unchanged: Box::new(unchanged(&guest)) })
}

/// What a refused guest keeps.
fn unchanged(guest: &Guest<'_>) -> Plan {
    let mut plan = Plan::empty(guest);
    Decision::unchanged(guest).enter(guest, &mut plan);
    plan.memlock = Memlock { raise: false, ..Memlock::of(guest, &plan) };
    plan.notes.extend(warnings::of_any_guest(guest, &plan));
    plan
}

/// The plan with a decision and all that follows from it.
fn decided(guest: &Guest<'_>, decision: Decision, mut plan: Plan) -> Result<Plan, Note> {
    decision.enter(guest, &mut plan);
    virtio_devices::enter(guest, &mut plan);
    decision::lock_memory(guest, &mut plan);
    plan.reproducible |= plan.qemu.is_empty();
    plan.memlock = Memlock::of(guest, &plan);
    memlock::hard_limit_holds(guest, &plan)?;
    plan.flaw = existing::flaw(guest);
    if let Some(message) = spaces::mixed_backends(guest, &plan.memlock.address_spaces) {
        if guest.request.asks() {
            return Err(Note::error(Code::IommufdMixed, message));
        }
        plan.flaw = plan.flaw.or_else(|| Some(Note::warning(Code::IommufdMixed, message)));
    }
    plan.notes.extend(plan.flaw.iter().cloned().chain(warnings::all(guest, &plan)));
    Ok(plan)
}

/// Decides about a domain with this request.
///
/// # Errors
/// The refusal, where the request is invalid or cannot be met.
pub fn plan_for(domain: &Domain, request: Result<Request, Note>, host: &Host) -> Result<Plan, Refusal> {
    request.map_or_else(|note| Err(refused(domain, note, host)), |request| plan(domain, &request, host))
}

fn refused(domain: &Domain, note: Note, host: &Host) -> Refusal {
    let unchanged = plan(domain, &Request::default(), host).unwrap_or_else(|refusal| *refusal.unchanged);
    Refusal { note, unchanged: Box::new(unchanged) }
}

/// Whether the guest has a vIOMMU already, in its `<iommu>` or in `<qemu:commandline>`.
#[must_use]
pub fn has_viommu(domain: &Domain) -> bool {
    !domain.iommus.is_empty() || qemu::find_iommu(&domain.commandline).is_some()
}

/// Chooses the model, checks that this guest can have it, and completes it. What is wrong with the model itself comes before
/// what is wrong with a device.
fn decide_model(guest: &Guest<'_>) -> Result<Decision, Note> {
    if guest.request.model == RequestedModel::None {
        return Ok(Decision::unchanged(guest));
    }
    let choice = choose::choose(guest)?;
    purpose::check(guest, choice.model)?;
    if let Some(hidden) = &guest.hidden {
        check_hidden(guest, hidden)?;
        spaces::groups_are_whole(guest)?;
        return Ok(Decision::unchanged(guest));
    }
    let decision = match choice.model {
        Some(Model::Intel) => intel::decide(guest),
        Some(Model::Virtio) => virtio::decide(guest),
        Some(Model::Smmuv3) => smmuv3::decide(guest),
        Some(Model::Amd) => amd::decide(guest),
        None => no_width(guest).map(|()| Decision::unchanged(guest)),
    }?;
    spaces::groups_are_whole(guest)?;
    Ok(Decision { reasons: choice.reasons, ..decision })
}

/// Refuses a vIOMMU in `<qemu:commandline>` that does not work.
fn check_hidden(guest: &Guest<'_>, hidden: &FoundIommu) -> Result<(), Note> {
    vcpus::none_hidden(guest, hidden)?;
    existing::created_before_vfio(guest, hidden)?;
    match hidden.model {
        Model::Intel => intel::check_hidden(guest, hidden),
        Model::Virtio => virtio::check(guest),
        Model::Smmuv3 => smmuv3::check(guest, hidden.is_on("accel")),
        Model::Amd => amd::check_hidden(guest, hidden),
    }
}

/// Refuses a model that this libvirt or QEMU does not have.
fn supported(guest: &Guest<'_>, model: Model, remedy: &str) -> Result<(), Note> {
    let Some(unsupported) = guest.unsupported(model) else { return Ok(()) };
    let message = format!("{}: {remedy} (libvirt: \"{}\")", unsupported.why, unsupported.error);
    Err(Note::error(unsupported.code, message))
}

/// Refuses `<driver>` attributes of another model, as libvirt does at define (`virDomainIOMMUDefValidate`). Nova writes those
/// of intel for every model.
fn only_own_attributes(guest: &Guest<'_>, model: Model, takes_width: bool) -> Result<(), Note> {
    let names = guest.domain.iommus.first().into_iter().flat_map(|iommu| &iommu.driver).map(|(name, _)| name.as_str());
    let own = |name: &str| model.property(name).is_some() && (takes_width || name != "aw_bits");
    // libvirt ignores an attribute of a model that it does not have.
    let of = |name: &str, other: &Model| other.property(name).is_some() && guest.libvirt >= other.facts().libvirt;
    let of_another = |name: &&str| Model::ALL.iter().any(|other| of(name, other)) && !own(name);
    let Some(name) = names.into_iter().find(of_another) else { return Ok(()) };
    let some = if guest.libvirt >= Version::new(12, 0) { "some " } else { "" };
    let message = format!(
        "the <driver> of <iommu model='{model}'> has '{name}', which this model does not take: leave it out (libvirt: \"iommu model \
         '{model}' doesn't support {some}additional attributes\")"
    );
    Err(Note::error(Code::IommuConflict, message))
}

/// Refuses a requested address width for a model that takes none.
fn no_width(guest: &Guest<'_>) -> Result<(), Note> {
    let Some(bits) = guest.request.aw_bits else { return Ok(()) };
    let message = format!("aw-bits={bits} is asked for, and this vIOMMU model takes no address width: leave it out");
    Err(Note::error(Code::RequestConflict, message))
}

#[cfg(test)]
mod tests;
