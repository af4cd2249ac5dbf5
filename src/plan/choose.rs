//! Chooses the model: checks that the machine can have a vIOMMU, turns `auto` into a model, and keeps the model of an existing
//! vIOMMU.

use crate::model::{Machine, Model};
use crate::note::{Code, Note};
use crate::qemu;
use crate::request::RequestedModel;

use super::auto::auto;
use super::guest::Guest;

/// A model, and the reasons for it.
pub(super) struct Choice {
    /// None: an `<iommu>` of another model, which stays as its user wrote it.
    pub(super) model: Option<Model>,
    pub(super) reasons: Vec<String>,
}

/// The model of a guest that asks for one.
pub(super) fn choose(guest: &Guest<'_>) -> Result<Choice, Note> {
    let machine = machine(guest)?;
    one_viommu(guest, machine)?;
    let existing = guest.domain.iommus.first();
    let existing = existing.map(|iommu| (format!("<iommu model='{}'>", iommu.model), iommu.known_model()));
    let hidden = guest.hidden.as_ref();
    let hidden = hidden.map(|found| (format!("'{}' in <qemu:commandline>", found.driver), Some(found.model)));
    let choice = match (guest.request.model, existing.or(hidden)) {
        (RequestedModel::Model(asked), Some((present, model))) if model != Some(asked) => {
            return Err(conflict(guest, &present));
        }
        (RequestedModel::Model(asked), _) => Choice { model: Some(asked), reasons: Vec::new() },
        (_, Some((present, model))) => Choice { model, reasons: vec![format!("the domain already has an {present}")] },
        (_, None) => auto(guest),
    };
    match choice.model.filter(|model| guest.hidden.is_none() && !model.facts().machines.contains(&machine)) {
        None => Ok(choice),
        Some(model) => {
            let others: Vec<_> = Model::of_machine(machine).map(Model::name).collect();
            let message = format!(
                "the vIOMMU model '{model}' does not exist on this guest's architecture: use {} or auto",
                others.join(", ")
            );
            Err(Note::error(Code::ModelArchMismatch, message))
        }
    }
}

/// The machine, if libvirt gives it a vIOMMU (`qemuValidateDomainDeviceDefIOMMU`; names as in `qemuDomainMachineIsQ35`,
/// `qemuDomainMachineIsARMVirt`, and Ubuntu's aliases).
fn machine(guest: &Guest<'_>) -> Result<Machine, Note> {
    let arch = guest.arch();
    let (machine, default) = match arch {
        // libvirt's default machine is the first that QEMU names: i440fx.
        "x86_64" | "i686" => (Machine::Q35, "pc"),
        "aarch64" => (Machine::ArmVirt, "virt"),
        _ => {
            let source = guest.request.source.describe();
            let message = format!(
                "libvirt has no vIOMMU for guests of the architecture '{arch}': remove the request from {source} (libvirt: \"is only \
                 supported with Q35 and ARM Virt machines\")"
            );
            return Err(Note::error(Code::ArchUnsupported, message));
        }
    };
    let name = guest.domain.machine.as_deref().unwrap_or(default);
    let supported = match machine {
        Machine::Q35 => name == "q35" || name.contains("-q35"),
        Machine::ArmVirt => name == "virt" || name.starts_with("virt-"),
    };
    if supported {
        return Ok(machine);
    }
    let (_, wanted) = machine.names();
    let message = format!("vIOMMU is not supported by machine type '{name}' ({arch}): use machine type '{wanted}'");
    Err(Note::error(Code::MachineUnsupported, message))
}

/// QEMU takes one vIOMMU, which libvirt 12 does not check; SMMUv3 can be there once for each host bridge (QEMU 10.2).
fn one_viommu(guest: &Guest<'_>, machine: Machine) -> Result<(), Note> {
    let written = guest.domain.iommus.iter().map(|iommu| (iommu.model.as_str(), iommu.known_model()));
    let hidden = qemu::iommu_drivers(&guest.domain.commandline);
    let hidden = hidden.iter().map(|(driver, model)| (driver.as_str(), Some(*model)));
    let (names, models): (Vec<_>, Vec<_>) = written.chain(hidden).unzip();
    if names.len() < 2 || models.iter().all(|model| *model == Some(Model::Smmuv3)) {
        return Ok(());
    }
    let (names, error) = (names.join(", "), machine.one_viommu());
    let message = format!("the domain has several vIOMMUs ({names}): keep one of them (QEMU: \"{error}\")");
    Err(Note::error(Code::IommuConflict, message))
}

fn conflict(guest: &Guest<'_>, present: &str) -> Note {
    let message = format!(
        "{} asks for the vIOMMU model '{}', but the domain already has {present}: remove one of the two",
        guest.request.source.describe(),
        guest.request.model.as_str()
    );
    Note::error(Code::IommuConflict, message)
}
