//! Scalable mode, first-stage translation and PASID of an `intel-iommu` in `<qemu:commandline>`: libvirt has no attribute for them,
//! and QEMU refuses them late. The rules and texts are those of `vtd_decide_config` and `vtd_check_hiod`, hw/i386/intel_iommu.c.

use std::ops::Range;

use crate::note::{Code, Note};
use crate::qemu::FoundIommu;
use crate::version::Version;

use super::guest::Guest;

/// A property, another one that QEMU wants with it, and what QEMU says without that.
const NEEDED: [(&str, &str, &str); 7] = [
    ("fsts", "scalable-mode", "fsts is only available in scalable mode"),
    ("x-flts", "x-scalable-mode", "x-flts is only available in scalable mode"),
    ("pasid-bits", "scalable-mode", "Need to set scalable mode for PASID"),
    ("x-pasid-mode", "x-scalable-mode", "Need to set scalable mode for PASID"),
    ("svm", "device-iotlb", "Need to set device IOTLB for svm"),
    ("svm", "fsts", "Need to set fsts for svm"),
    ("svm", "pasid-bits", "Need to set PASID support for svm"),
];

/// A property, the QEMUs that may have it, and its other name. QEMU 5.2, 7.2, 10.0 and 11.1 were asked; a version between two
/// answers may have both names.
const NAMES: [(&str, Range<Version>, &str); 6] = [
    ("x-scalable-mode", ALWAYS..NEW_NAMES, "scalable-mode"),
    ("x-flts", FIRST_STAGE..NEW_NAMES, "fsts"),
    ("x-pasid-mode", ALWAYS..NEW_NAMES, "pasid-bits"),
    ("scalable-mode", RENAMED..NEVER, "x-scalable-mode"),
    ("fsts", RENAMED..NEVER, "x-flts"),
    ("pasid-bits", RENAMED..NEVER, "x-pasid-mode"),
];

const ALWAYS: Version = Version::new(0, 0);
const NEVER: Version = Version::new(u32::MAX, 0);
/// The QEMU that has `x-flts`.
const FIRST_STAGE: Version = Version::new(10, 0);
/// The oldest QEMU that may have the new names.
const RENAMED: Version = Version::new(10, 1);
/// QEMU with the new names only.
const NEW_NAMES: Version = Version::new(11, 1);

/// Refuses what QEMU refuses.
pub(super) fn check(guest: &Guest<'_>, hidden: &FoundIommu) -> Result<(), Note> {
    let qemu = guest.known_qemu();
    if let Some(qemu) = qemu {
        unknown_name(qemu, hidden)?;
    }
    if let Some((name, needed, text)) =
        NEEDED.into_iter().find(|(name, needed, _)| is_set(hidden, name) && !is_set(hidden, needed))
    {
        return Err(error(&format!("{name} without {needed}"), &format!("set {needed}, or remove {name}"), text));
    }
    let Some(name) = ["fsts", "x-flts"].into_iter().find(|name| is_set(hidden, name)) else { return Ok(()) };
    first_stage(guest, hidden, name, qemu)
}

/// First-stage translation: 48 bits, which older machine types do not have by default, and iommufd for VFIO devices.
fn first_stage(guest: &Guest<'_>, hidden: &FoundIommu, name: &str, qemu: Option<Version>) -> Result<(), Note> {
    let narrow = guest.q35_version().is_some_and(|version| version < Version::new(9, 2));
    if hidden.properties.get("aw-bits").map_or(narrow, |bits| bits != "48") {
        let what = format!("{name} and another aw-bits than 48");
        return Err(error(&what, "set aw-bits=48", "supported value for aw-bits is: 48"));
    }
    let never = qemu.is_some_and(|qemu| qemu < RENAMED);
    let Some(device) = guest.domain.vfio.iter().find(|device| never || !device.iommufd) else { return Ok(()) };
    let device = device.source.name();
    Err(if never {
        let what = format!("{name}, with which this QEMU serves no VFIO device, and {device} is one");
        error(&what, &format!("remove {name}"), "host device is uncompatible with stage-1 translation")
    } else {
        let what = format!("{name}, which serves iommufd devices only");
        let remedy = format!("give {device} <driver iommufd='yes'/>, or remove {name}");
        error(&what, &remedy, &format!("Need IOMMUFD backend when {name}=on"))
    })
}

fn unknown_name(qemu: Version, hidden: &FoundIommu) -> Result<(), Note> {
    let lacks = |name: &str| NAMES.iter().any(|(known, range, _)| *known == name && !range.contains(&qemu));
    let written = |(name, ..): &&(&str, Range<Version>, &str)| hidden.properties.contains_key(*name) && lacks(name);
    let Some((wrong, _, other)) = NAMES.iter().find(written) else { return Ok(()) };
    let remedy = if lacks(other) { format!("remove {wrong}") } else { format!("use {other}") };
    let text = format!("Property 'intel-iommu.{wrong}' not found");
    Err(error(&format!("{wrong}, which QEMU {qemu} does not have"), &remedy, &text))
}

/// `pasid-bits` is a number, the others are on or off.
fn is_set(hidden: &FoundIommu, name: &str) -> bool {
    hidden.is_on(name) || name == "pasid-bits" && hidden.properties.get(name).is_some_and(|bits| bits != "0")
}

fn error(what: &str, remedy: &str, qemu: &str) -> Note {
    let message = format!("the intel-iommu in <qemu:commandline> has {what}: {remedy} (QEMU: \"{qemu}\")");
    Note::error(Code::IommuConflict, message)
}
