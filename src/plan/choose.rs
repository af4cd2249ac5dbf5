//! Chooses the model: checks that the machine can have a vIOMMU, turns `auto` into a model, and keeps the model of an existing
//! vIOMMU.

use crate::model::{Machine, Model};
use crate::note::{Code, Note};
use crate::request::RequestedModel;

use super::auto::auto;
use super::guest::Guest;

/// A model, and the reasons for it.
pub(super) struct Choice {
    /// None: an `<iommu>` of another model, which stays as its user wrote it.
    pub(super) model: Option<Model>,
    pub(super) machine: Machine,
    pub(super) reasons: Vec<String>,
}

/// The model of a guest that asks for one.
pub(super) fn choose(guest: &Guest<'_>) -> Result<Choice, Note> {
    let machine = machine(guest)?;
    one_viommu(guest, machine)?;
    let existing = guest.domain.iommus.first().map(|iommu| &iommu.model);
    let choice = match (guest.request.model, existing, &guest.hidden) {
        (RequestedModel::Model(model), Some(existing), _) if existing.known() != Some(model) => {
            return Err(conflict(guest, &format!("<iommu model='{}'>", existing.as_str())));
        }
        (RequestedModel::Model(model), None, Some(hidden)) if hidden.model != model => {
            return Err(conflict(guest, &format!("'{}' in <qemu:commandline>", hidden.driver)));
        }
        (RequestedModel::Model(model), ..) => Choice { model: Some(model), machine, reasons: Vec::new() },
        (_, Some(existing), _) => {
            let reason = format!("the domain already has an <iommu model='{}'>", existing.as_str());
            Choice { model: existing.known(), machine, reasons: vec![reason] }
        }
        (_, None, Some(hidden)) => Choice { model: Some(hidden.model), machine, reasons: Vec::new() },
        (_, None, None) => auto(guest, machine),
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
    let (arch, machine) = (guest.arch(), guest.domain.machine.as_deref());
    let unsupported = |default: &str, supported: Machine| {
        let (name, wanted) = (machine.unwrap_or(default), supported.names().1);
        let message = format!("vIOMMU is not supported by machine type '{name}' ({arch}): use machine type '{wanted}'");
        Err(Note::error(Code::MachineUnsupported, message))
    };
    match arch {
        "x86_64" | "i686" => match machine {
            Some(name) if name == "q35" || name.contains("-q35") => Ok(Machine::Q35),
            // libvirt's default machine is the first that QEMU names: i440fx.
            _ => unsupported("pc", Machine::Q35),
        },
        "aarch64" => match machine {
            None => Ok(Machine::ArmVirt),
            Some(name) if name == "virt" || name.starts_with("virt-") => Ok(Machine::ArmVirt),
            Some(_) => unsupported("virt", Machine::ArmVirt),
        },
        _ => {
            let source = guest.request.source.describe();
            let message = format!(
                "libvirt has no vIOMMU for guests of the architecture '{arch}': remove the request from {source} (libvirt: \"is only \
                 supported with Q35 and ARM Virt machines\")"
            );
            Err(Note::error(Code::ArchUnsupported, message))
        }
    }
}

/// QEMU takes one vIOMMU, which libvirt 12 does not check; SMMUv3 can be there once for each host bridge (QEMU 10.2).
fn one_viommu(guest: &Guest<'_>, machine: Machine) -> Result<(), Note> {
    let written = guest.domain.iommus.iter().map(|iommu| (iommu.model.as_str(), iommu.model.known()));
    let hidden = guest.hidden.iter().map(|found| (found.driver.as_str(), Some(found.model)));
    let (names, models): (Vec<_>, Vec<_>) = written.chain(hidden).unzip();
    if names.len() < 2 || models.iter().all(|model| *model == Some(Model::Smmuv3)) {
        return Ok(());
    }
    let (names, late) = (names.join(", "), machine.one_viommu());
    let message = format!("the domain has several vIOMMUs ({names}): keep one of them (QEMU: \"{late}\")");
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
