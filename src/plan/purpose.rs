//! A vIOMMU for interrupts alone: it remaps them for more than 255 vCPUs and leaves DMA as it is.

use crate::model::Model;
use crate::note::{Code, Note};
use crate::qemu;
use crate::request::{Purpose, VirtioScope};
use crate::version::Version;

use super::guest::Guest;
use super::intel::needs_caching_mode;
use super::result::{Origin, Plan, PlannedIommu};
use super::written::Written;
use super::{Route, route};

/// libvirt's `dma_translation` and its capability flag.
const LIBVIRT: Version = Version::new(10, 7);
const FLAG: &str = "intel-iommu.dma-translation";
/// QEMU's property `dma-translation` of intel-iommu (hw/i386/intel_iommu.c).
const QEMU: Version = Version::new(7, 1);

/// Refuses a model that remaps no interrupts, and a second purpose.
pub(super) fn check(guest: &Guest<'_>, model: Option<Model>) -> Result<(), Note> {
    let conflict = |message| Err(Note::error(Code::RequestConflict, message));
    if guest.request.purpose == Purpose::Dma {
        return Ok(());
    }
    if model.is_some_and(|model| !model.facts().remaps_interrupts) {
        return conflict(
            "purpose=interrupts is asked for, and this vIOMMU model remaps no interrupts: use the model intel, or leave purpose out",
        );
    }
    if guest.request.virtio != VirtioScope::Off {
        return conflict(
            "virtio requests the translation of DMA, and purpose=interrupts requests none: remove one of the two",
        );
    }
    Ok(())
}

/// Refuses a vIOMMU that translates no DMA, as the user wrote it, where the request needs the translation. Without a request it
/// is the user's own decision.
pub(super) fn translation_is_on(guest: &Guest<'_>, written: &Written<'_>) -> Result<(), Note> {
    let needed = needs_caching_mode(guest) || guest.request.virtio != VirtioScope::Off;
    let is_off = written.get("dma_translation").is_some_and(|value| !qemu::is_on(value));
    if guest.as_it_is || guest.request.purpose != Purpose::Dma || !needed || !is_off {
        return Ok(());
    }
    let message = format!(
        "the {} has its DMA translation switched off, and the guest has devices that need it: remove that, or request \
         purpose=interrupts",
        written.place
    );
    Err(Note::error(Code::IommuConflict, message))
}

/// Whether every host decides alike: from this machine type on every QEMU has the property.
pub(super) fn is_reproducible(guest: &Guest<'_>) -> bool {
    guest.request.purpose == Purpose::Dma || guest.q35_version().is_some_and(|version| version >= QEMU)
}

/// Whether the vIOMMU is to leave DMA alone, and can.
pub(super) fn is_interrupts_only(guest: &Guest<'_>) -> bool {
    guest.request.purpose == Purpose::Interrupts && obstacle(guest).is_none()
}

/// Why the vIOMMU translates DMA nevertheless.
fn obstacle(guest: &Guest<'_>) -> Option<String> {
    let wrapped = route(guest.domain) == Route::Wrapper;
    if guest.opens_or_expects_vfio() || guest.unknown_networks().next().is_some() {
        return Some(
            "the guest has or may get VFIO devices, and their isolation in the guest needs the translation".into(),
        );
    }
    if let Some(unknown) = guest.unknown_and_cautious() {
        return Some(unknown);
    }
    // The wrapper writes the attribute for QEMU without libvirt.
    if !wrapped && guest.libvirt < LIBVIRT {
        return Some(format!("libvirt {} cannot switch the translation off ({LIBVIRT} can)", guest.libvirt));
    }
    let flag = guest.emulator_has(FLAG).filter(|_| guest.libvirt >= LIBVIRT);
    let has = flag.unwrap_or(guest.qemu >= QEMU);
    (!has).then(|| format!("QEMU {} cannot switch the translation off ({QEMU} can)", guest.qemu))
}

/// The note that says why the purpose is not met.
pub(super) fn note(guest: &Guest<'_>, plan: &Plan) -> Option<Note> {
    let iommu = plan.iommu.as_ref().filter(|_| guest.request.purpose == Purpose::Interrupts)?;
    let reason = match (iommu.origin, iommu.model) {
        _ if is_off(iommu) => return None,
        (Origin::Commandline, _) => "nothing is added to one in <qemu:commandline>".to_owned(),
        (_, Some(Model::Intel)) => obstacle(guest)?,
        _ => format!("the model {} cannot leave it out, intel can", iommu.name),
    };
    let message = format!("the vIOMMU translates DMA, although purpose=interrupts is asked for: {reason}");
    Some(Note::warning(Code::PurposeIgnored, message))
}

fn is_off(iommu: &PlannedIommu) -> bool {
    // libvirt's name, or QEMU's in <qemu:commandline>.
    let named = |name: &str| matches!(name, "dma_translation" | "dma-translation");
    iommu.driver.iter().any(|(name, value)| named(name) && !qemu::is_on(value))
}
