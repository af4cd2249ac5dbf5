//! The edits of a plan, applied to the command line of one start.
//!
//! Should: write what makes QEMU's vIOMMU equal to the one that libvirt would have written for the native domain. Mustn't: give
//! a guest a second vIOMMU, or leave an edit out.

use std::ffi::OsString;

use super::device::Device;
use super::iommu::{self, FoundIommu, INTEL, VIRTIO};
use super::slots::{self, ROOT_BUS};
use super::{Edits, arguments, device, machine, option};
use crate::note::{Code, Note};

/// A command line with a plan's edits in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// The arguments without `argv[0]`.
    pub arguments: Vec<OsString>,
    /// The slot of pcie.0 that was found for virtio-iommu. None if there is no virtio-iommu among the edits, or if the edit
    /// names its address itself.
    pub slot: Option<u8>,
}

/// Writes `edits` into `arguments` (without `argv[0]`).
///
/// # Errors
/// `iommu-conflict` if a vIOMMU is to be added and one is there; `irqchip-conflict` if the in-kernel irqchip is asked for
/// explicitly; `command-line-unsupported` if what must be edited is missing or not UTF-8, if the last option lacks its value, or
/// if pcie.0 is full.
pub fn rewrite(arguments: &[OsString], edits: &Edits) -> Result<Rewritten, Note> {
    if let Some(name) = arguments::without_value(arguments).filter(|_| *edits != Edits::default()) {
        let message = format!("-{name} at the end of QEMU's command line lacks its value: correct <qemu:commandline>");
        return Err(Note::error(Code::CommandLineUnsupported, message));
    }
    if !edits.devices.is_empty() || edits.machine.contains_key("iommu") {
        iommu::find_iommu(arguments).map_or(Ok(()), |found| Err(conflict(arguments, &found)))?;
    }
    let (devices, slot) = placed(arguments, &edits.devices)?;
    let mut rewritten = arguments.to_vec();
    for (key, value) in &edits.machine {
        machine::set(&mut rewritten, key, value)?;
    }
    if !edits.existing.is_empty() {
        complete_intel(&mut rewritten, edits)?;
    }
    if edits.lock_memory {
        lock_memory(&mut rewritten)?;
    }
    // Before the first device, because a vfio-pci that QEMU creates earlier silently stays outside the vIOMMU; last of all
    // edits, because it moves the arguments.
    let first = arguments::options(&rewritten).find(|option| option.name == "device").map(|option| option.at);
    let at = first.unwrap_or(rewritten.len());
    rewritten.splice(at..at, devices.into_iter().flat_map(|device| ["-device".into(), device.into()]));
    Ok(Rewritten { arguments: rewritten, slot })
}

/// The devices to insert, virtio-iommu with an address. QEMU would give it the lowest free slot, and take that from a device
/// to which libvirt has given it.
fn placed(arguments: &[OsString], devices: &[String]) -> Result<(Vec<String>, Option<u8>), Note> {
    let mut placed = devices.to_vec();
    let Some(text) = placed.iter_mut().find(|text| needs_slot(text)) else {
        return Ok((placed, None));
    };
    let others: Vec<_> = iommu::devices(arguments).map(|(_, device)| device).collect();
    let slot = slots::free(&others).ok_or_else(|| {
        Note::error(
            Code::CommandLineUnsupported,
            format!("no slot of {ROOT_BUS} is free for virtio-iommu-pci: move a device behind a pcie-root-port"),
        )
    })?;
    *text = option::set(text, "driver", "bus", ROOT_BUS);
    *text = option::set(text, "driver", "addr", &format!("{slot:#x}"));
    Ok((placed, Some(slot)))
}

fn needs_slot(device: &str) -> bool {
    Device::parse(device.as_ref())
        .is_some_and(|device| VIRTIO.contains(&device.driver.as_str()) && !device.properties.contains_key("addr"))
}

/// Sets properties of the intel-iommu that libvirt or `<qemu:commandline>` put on the command line.
fn complete_intel(rewritten: &mut [OsString], edits: &Edits) -> Result<(), Note> {
    let Some(at) = iommu::devices(rewritten).find(|(_, device)| device.driver == INTEL).map(|(at, _)| at) else {
        return Err(Note::error(
            Code::CommandLineUnsupported,
            "the plan completes an intel-iommu, and QEMU's command line has none: start the domain again, so that the hook \
             plans for the domain as it is now",
        ));
    };
    arguments::replace(rewritten, at, "device", |text| {
        edits.existing.iter().try_fold(text.to_owned(), |text, (key, value)| device::set(&text, key, value))
    })
}

/// QEMU reads every `-overcommit`, and the last word of them counts (`system/vl.c`).
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

/// Refuses a second vIOMMU, in the words that QEMU uses seconds later (`x86-iommu.c`, `hw/arm/virt.c`).
fn conflict(arguments: &[OsString], found: &FoundIommu) -> Note {
    let is_virt = machine::machine_type(arguments).is_some_and(|machine| machine.starts_with("virt"));
    let late = if is_virt {
        "virt machine does not support multiple IOMMUs"
    } else {
        "QEMU does not support multiple vIOMMUs for x86 yet."
    };
    Note::error(
        Code::IommuConflict,
        format!(
            "QEMU's command line has a vIOMMU already ({}), and another was to be added: remove that one from the domain \
             (<iommu> or <qemu:commandline>), or the request. QEMU itself would say: {late}",
            found.driver
        ),
    )
}

#[cfg(test)]
mod tests;
