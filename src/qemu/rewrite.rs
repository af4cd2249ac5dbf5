//! Applies the edits of a plan to a command line.
//!
//! The result is equivalent to the command line that libvirt writes for the rewritten domain. A second vIOMMU, or an edit that
//! cannot be applied, is an error.

use std::ffi::OsString;

use super::device::Device;
use super::iommu::{self, FoundIommu};
use super::slots::{self, ROOT_BUS};
use super::{Edits, arguments, device, machine, option, virtio};
use crate::model::{Machine, Model};
use crate::note::{Code, Note};

/// Writes `edits` into `arguments` (without `argv[0]`).
///
/// # Errors
/// `iommu-conflict` if a vIOMMU is to be added and one is there; `irqchip-conflict` if the in-kernel irqchip is set
/// explicitly; `command-line-unsupported` if an argument to edit is missing or not UTF-8, if the last option lacks its value, or
/// if pcie.0 is full.
pub fn rewrite(arguments: &[OsString], edits: &Edits) -> Result<Vec<OsString>, Note> {
    if let Some(name) = arguments::without_value(arguments).filter(|_| !edits.is_empty()) {
        let message = format!("-{name} at the end of QEMU's command line lacks its value: correct <qemu:commandline>");
        return Err(Note::error(Code::CommandLineUnsupported, message));
    }
    if edits.adds_iommu() {
        if let Some(found) = iommu::find_iommu(arguments) {
            return Err(conflict(arguments, &found));
        }
    }
    let devices = placed(arguments, &edits.devices)?;
    let mut rewritten = arguments.to_vec();
    for (key, value) in &edits.machine {
        machine::set(&mut rewritten, key, value)?;
    }
    if !edits.existing.is_empty() {
        complete(&mut rewritten, edits)?;
    }
    if let Some(wanted) = edits.virtio {
        virtio::translate(&mut rewritten, wanted)?;
    }
    if edits.lock_memory {
        lock_memory(&mut rewritten)?;
    }
    // Before the first device, because a vfio-pci that QEMU creates earlier silently stays outside the vIOMMU; and after the
    // other edits, because it moves the arguments.
    let first = arguments::options(&rewritten).find(|option| option.name == "device").map(|option| option.at);
    let at = first.unwrap_or(rewritten.len());
    rewritten.splice(at..at, devices.into_iter().flat_map(|device| ["-device".into(), device.into()]));
    Ok(rewritten)
}

/// The devices to insert, that of the root bus with an address. QEMU would give it the lowest free slot, which libvirt may have
/// given to another device.
fn placed(arguments: &[OsString], devices: &[String]) -> Result<Vec<String>, Note> {
    let mut placed = devices.to_vec();
    let Some(text) = placed.iter_mut().find(|text| needs_slot(text)) else {
        return Ok(placed);
    };
    let others: Vec<_> = iommu::devices(arguments).map(|(_, device)| device).collect();
    let slot = slots::free(machine_of(arguments), &others).ok_or_else(|| {
        Note::error(
            Code::CommandLineUnsupported,
            format!("no slot of {ROOT_BUS} is free for the vIOMMU: move a device behind a pcie-root-port"),
        )
    })?;
    *text = option::set(text, "driver", "addr", &format!("{slot:#x}"));
    Ok(placed)
}

fn machine_of(arguments: &[OsString]) -> Machine {
    let is_virt = machine::get(arguments, machine::TYPE).is_some_and(|machine| machine.starts_with("virt"));
    if is_virt { Machine::ArmVirt } else { Machine::Q35 }
}

fn needs_slot(device: &str) -> bool {
    Device::parse(device.as_ref()).is_some_and(|Device { properties, .. }| {
        properties.get("bus").is_some_and(|bus| bus == ROOT_BUS) && !properties.contains_key("addr")
    })
}

/// Sets properties of the vIOMMU that libvirt or `<qemu:commandline>` put on the command line.
fn complete(rewritten: &mut [OsString], edits: &Edits) -> Result<(), Note> {
    let takes_all = |model: Model| edits.existing.keys().all(|property| model.attribute(property).is_some());
    let completed = |device: &Device| Model::of_driver(&device.driver).is_some_and(takes_all);
    let Some(at) = iommu::devices(rewritten).find(|(_, device)| completed(device)).map(|(at, _)| at) else {
        return Err(Note::error(
            Code::CommandLineUnsupported,
            "the plan completes a vIOMMU, and QEMU's command line has none: start the domain again, so that the hook \
             plans for the domain as it is now",
        ));
    };
    arguments::replace(rewritten, at, "device", |text| {
        edits.existing.iter().try_fold(text.to_owned(), |text, (key, value)| device::set(&text, key, value))
    })
}

/// Sets `mem-lock=on`. QEMU reads every `-overcommit`, and the last value counts (`system/vl.c`).
fn lock_memory(rewritten: &mut Vec<OsString>) -> Result<(), Note> {
    const KEY: &str = "mem-lock";
    let present: Vec<usize> = arguments::values(rewritten, &["overcommit"])
        .filter(|(_, text)| option::get(&option::parse(&text.to_string_lossy(), ""), KEY).is_some())
        .map(|(at, _)| at)
        .collect();
    for at in &present {
        arguments::replace(rewritten, *at, "overcommit", |text| Some(option::set(text, "", KEY, "on")))?;
    }
    if present.is_empty() {
        rewritten.extend(["-overcommit".into(), format!("{KEY}=on").into()]);
    }
    Ok(())
}

/// Refuses a second vIOMMU, and quotes QEMU's own message.
fn conflict(arguments: &[OsString], found: &FoundIommu) -> Note {
    let error = machine_of(arguments).one_viommu();
    Note::error(
        Code::IommuConflict,
        format!(
            "QEMU's command line has a vIOMMU already ({}), and another was to be added: remove that one from the domain \
             (<iommu> or <qemu:commandline>), or the request. QEMU itself would say: {error}",
            found.driver
        ),
    )
}

#[cfg(test)]
mod tests;
