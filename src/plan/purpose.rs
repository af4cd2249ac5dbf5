//! A vIOMMU for interrupts alone: it remaps them for more than 255 vCPUs and leaves DMA as it is.

use crate::model::Model;
use crate::note::{Code, Note};
use crate::request::{Purpose, VirtioScope};
use crate::version::Version;

use super::guest::Guest;
use super::result::{Origin, Plan};
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
            "virtio asks the vIOMMU to translate DMA, and purpose=interrupts asks it not to: remove one of the two",
        );
    }
    Ok(())
}

/// Whether the vIOMMU is to leave DMA alone, and can.
pub(super) fn is_interrupts_only(guest: &Guest<'_>) -> bool {
    guest.request.purpose == Purpose::Interrupts && obstacle(guest).is_none()
}

/// Why the vIOMMU translates DMA nevertheless.
fn obstacle(guest: &Guest<'_>) -> Option<String> {
    let wrapped = route(guest.domain) == Route::Wrapper;
    if guest.has_or_expects_vfio() || !guest.domain.vfio.is_empty() {
        return Some(
            "the guest has or expects VFIO devices, and their isolation in the guest needs the translation".into(),
        );
    }
    // The wrapper needs no libvirt for it.
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
        (Origin::Commandline, _) => "nothing is added to one in <qemu:commandline>".to_owned(),
        (_, Some(Model::Intel)) => obstacle(guest)?,
        _ => format!("the model {} cannot leave it out, intel can", iommu.name),
    };
    let message = format!("the vIOMMU translates DMA, although purpose=interrupts is asked for: {reason}");
    Some(Note::warning(Code::PurposeIgnored, message))
}
