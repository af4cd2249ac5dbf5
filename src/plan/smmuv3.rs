//! The rules of an SMMUv3.

use crate::model::Model;
use crate::note::{Code, Note};

use super::decision::Decision;
use super::guest::Guest;

/// Decides about an SMMUv3.
pub(super) fn decide(guest: &Guest<'_>) -> Result<Decision, Note> {
    super::supported(guest, Model::Smmuv3, "use the model virtio")?;
    check(guest, guest.domain.iommus.iter().any(|iommu| iommu.driver("accel") == Some("on")))?;
    super::only_own_attributes(guest, Model::Smmuv3, false)?;
    super::no_width(guest)?;
    Ok(Decision::with(guest, Model::Smmuv3, Vec::new()))
}

/// QEMU before 11.0 has no MAP notifier for SMMUv3, and 11.0 only with iommufd and `accel='on'`, which the user writes.
pub(super) fn check(guest: &Guest<'_>, accelerated: bool) -> Result<(), Note> {
    if accelerated || !guest.has_or_expects_vfio() {
        return Ok(());
    }
    let message = "SMMUv3 cannot serve a VFIO device, now or hot-plugged: use the model virtio (QEMU: \"requires iommu MAP \
                   notifier which is not currently supported\")";
    Err(Note::error(Code::Smmuv3WithVfio, message))
}
