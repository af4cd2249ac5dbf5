//! Scalable mode, first-stage translation and PASID of an `intel-iommu` in `<qemu:commandline>`: libvirt has no attribute for them,
//! and QEMU refuses them late. The rules and texts are those of `vtd_decide_config` and `vtd_check_hiod`, hw/i386/intel_iommu.c.

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

/// The names that QEMU 10.0 has, and those of QEMU 11.1, which are the versions that were asked.
const NAMES: [(&str, &str); 3] =
    [("x-scalable-mode", "scalable-mode"), ("x-flts", "fsts"), ("x-pasid-mode", "pasid-bits")];

/// Refuses what QEMU refuses.
pub(super) fn check(guest: &Guest<'_>, hidden: &FoundIommu) -> Result<(), Note> {
    unknown_name(guest, hidden)?;
    if let Some((name, needed, text)) =
        NEEDED.into_iter().find(|(name, needed, _)| is_set(hidden, name) && !is_set(hidden, needed))
    {
        return Err(error(&format!("{name} without {needed}"), &format!("set {needed}, or remove {name}"), text));
    }
    let Some(first_stage) = ["fsts", "x-flts"].into_iter().find(|name| is_set(hidden, name)) else { return Ok(()) };
    if hidden.properties.get("aw-bits").is_some_and(|bits| bits != "48") {
        let what = format!("{first_stage} and another aw-bits than 48");
        return Err(error(&what, "set aw-bits=48", "supported value for aw-bits is: 48"));
    }
    let Some(device) = guest.domain.vfio.iter().find(|device| !device.iommufd) else { return Ok(()) };
    let what = format!("{first_stage}, which serves iommufd devices only");
    let remedy = format!("give {} <driver iommufd='yes'/>, or remove {first_stage}", device.source.name());
    Err(error(&what, &remedy, &format!("Need IOMMUFD backend when {first_stage}=on")))
}

fn unknown_name(guest: &Guest<'_>, hidden: &FoundIommu) -> Result<(), Note> {
    let Some(qemu) = guest.host.emulator_of(guest.domain).and_then(|emulator| emulator.version) else { return Ok(()) };
    let (newer, older) = (qemu >= Version::new(11, 1), qemu < Version::new(10, 1));
    for (old, new) in NAMES {
        let (wrong, right) = if newer { (old, new) } else { (new, old) };
        if (newer || older) && hidden.properties.contains_key(wrong) {
            let text = format!("Property 'intel-iommu.{wrong}' not found");
            return Err(error(&format!("{wrong}, which QEMU {qemu} does not have"), &format!("use {right}"), &text));
        }
    }
    Ok(())
}

/// `pasid-bits` is a number, the others are on or off.
fn is_set(hidden: &FoundIommu, name: &str) -> bool {
    hidden.is_on(name) || name == "pasid-bits" && hidden.properties.get(name).is_some_and(|bits| bits != "0")
}

fn error(what: &str, remedy: &str, qemu: &str) -> Note {
    let message = format!("the intel-iommu in <qemu:commandline> has {what}: {remedy} (QEMU: \"{qemu}\")");
    Note::error(Code::IommuConflict, message)
}
