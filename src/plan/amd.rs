//! The rules of AMD's vIOMMU. Without QEMU's `dma-remap`, which is off by default and which libvirt 12.9 does not write, it remaps
//! interrupts and translates no DMA (`amdvi_host_dma_iommu` and `amdvi_sysbus_realize` in hw/i386/amd_iommu.c).

use crate::model::Model;
use crate::note::{Code, Note};
use crate::qemu::FoundIommu;
use crate::request::VirtioScope;
use crate::version::Version;

use super::Route;
use super::decision::Decision;
use super::guest::Guest;
use super::written::Written;

/// The first QEMU with `dma-remap`. Before it, emulated devices are translated for and VFIO devices are refused.
const DMA_REMAP: Version = Version::new(10, 2);

/// Decides about every attribute, and keeps what the user wrote.
pub(super) fn decide(guest: &Guest<'_>) -> Result<Decision, Note> {
    let by_wrapper = by_wrapper(guest);
    if by_wrapper { has_dma_remap(guest) } else { super::supported(guest, Model::Amd, "use the model intel") }?;
    super::only_own_attributes(guest, Model::Amd, false)?;
    super::no_width(guest)?;
    let written = Written::of(guest);
    check(guest, &written, by_wrapper)?;
    if !by_wrapper && guest.request.virtio != VirtioScope::Off {
        let message = "virtio requests the translation of DMA, and the vIOMMU of AMD translates none without dma-remap, which libvirt \
                       does not write: use the model intel, or leave virtio out";
        return Err(Note::error(Code::RequestConflict, message));
    }
    let on = |name| (name, "on".to_owned());
    let intremap = written.will_be_on("intremap");
    let wanted = if intremap { vec![on("intremap"), on("xtsup")] } else { Vec::new() };
    Ok(Decision::with(guest, Model::Amd, wanted).with_split_irqchip(intremap))
}

/// The wrapper adds the vIOMMU, with `dma-remap`.
fn by_wrapper(guest: &Guest<'_>) -> bool {
    super::route(guest.domain) == Route::Wrapper && !super::has_viommu(guest.domain)
}

/// libvirt need not know the model of a vIOMMU that the wrapper adds.
fn has_dma_remap(guest: &Guest<'_>) -> Result<(), Note> {
    if guest.qemu >= DMA_REMAP {
        return Ok(());
    }
    let message = format!(
        "the amd-iommu of QEMU {} has no dma-remap ({DMA_REMAP} has it): use the model intel (QEMU: \"Property \
         'amd-iommu.dma-remap' not found\")",
        guest.qemu
    );
    Err(Note::error(Code::ModelUnsupportedByQemu, message))
}

/// Refuses a vIOMMU in `<qemu:commandline>` that does not work.
pub(super) fn check_hidden(guest: &Guest<'_>, hidden: &FoundIommu) -> Result<(), Note> {
    let written = Written::hidden(hidden, "amd-iommu in <qemu:commandline>");
    super::no_width(guest)?;
    check(guest, &written, hidden.is_on("dma-remap"))
}

/// Refuses what does not work.
fn check(guest: &Guest<'_>, written: &Written<'_>, dma_remap: bool) -> Result<(), Note> {
    serves_vfio(guest, written, dma_remap)?;
    no_passthrough(guest, written)?;
    written.fits_irqchip(guest)?;
    many_vcpus(guest, written)
}

/// QEMU has no notifier for VFIO devices before 10.2, and then only with `dma-remap=on`.
fn serves_vfio(guest: &Guest<'_>, written: &Written<'_>, dma_remap: bool) -> Result<(), Note> {
    if !guest.has_or_expects_vfio() {
        return Ok(());
    }
    let message = if guest.qemu < DMA_REMAP {
        format!(
            "the vIOMMU of AMD in QEMU {} cannot serve a VFIO device: use the model intel (QEMU: \"requires iommu notifier which is not \
             currently supported\")",
            guest.qemu
        )
    } else if !dma_remap {
        let remedy = if written.in_xml {
            "use the model intel, or the wrapper as <emulator> with a request for amd and without an <iommu>"
        } else {
            "set it there, or use the model intel"
        };
        format!(
            "the vIOMMU of AMD serves a VFIO device with dma-remap=on only, which libvirt does not write: {remedy} (QEMU: \"requires \
             dma-remap=1\")"
        )
    } else {
        return fits_host(guest);
    };
    Err(Note::error(Code::IommuConflict, message))
}

/// Its width is 48 bits and more, and no property of QEMU's makes it narrower.
fn fits_host(guest: &Guest<'_>) -> Result<(), Note> {
    let Some(host) = guest.host.aw_bits.filter(|bits| *bits < 48) else { return Ok(()) };
    let message = format!("the vIOMMU of AMD is wider than the host IOMMU's {host} bits: use the model intel");
    Err(Note::error(Code::AwBitsExceedHost, message))
}

fn no_passthrough(guest: &Guest<'_>, written: &Written<'_>) -> Result<(), Note> {
    if guest.qemu < Version::new(11, 0) || written.get("passthrough").is_none() {
        return Ok(());
    }
    let message = format!(
        "the {} has {}, and QEMU {} has no such property: remove it (QEMU: \"Property 'amd-iommu.pt' not found\")",
        written.place,
        if written.in_xml { "the attribute passthrough" } else { "the property pt" },
        guest.qemu
    );
    Err(Note::error(Code::IommuConflict, message))
}

/// An APIC id above 254 needs xtsup; libvirt accepts it instead of eim from 12.2 on.
fn many_vcpus(guest: &Guest<'_>, written: &Written<'_>) -> Result<(), Note> {
    let on = written.will_be_on("intremap") && written.will_be_on("xtsup");
    let accepted = guest.domain.vcpus.maximum <= 255 || guest.libvirt >= Version::new(12, 2);
    if !guest.needs_eim() || on && accepted {
        return Ok(());
    }
    let remedy = if on {
        format!("libvirt {} accepts eim only: use the model intel, or libvirt 12.2", guest.libvirt)
    } else {
        format!("set intremap=on and xtsup=on in the {}, or leave both out of an <iommu>", written.place)
    };
    Err(guest.too_many_vcpus(&format!("xtsup: {remedy} (libvirt: \"{}\")", guest.error_for_many_vcpus())))
}

/// QEMU's amd-iommu translates for no device without dma-remap, which libvirt does not write.
pub(super) fn translates_nothing(guest: &Guest<'_>) -> Option<Note> {
    let written = guest.hidden.as_ref().is_some_and(|hidden| hidden.is_on("dma-remap"));
    let message = format!(
        "libvirt does not write dma-remap, without which QEMU {} translates nothing behind the vIOMMU of AMD: an emulated device does \
         not work in a guest that translates; use the model intel, or the wrapper with the model amd and without an <iommu>, or boot \
         the guest with iommu=pt",
        guest.qemu
    );
    let nothing = guest.qemu >= DMA_REMAP && !by_wrapper(guest) && !written;
    (nothing && !guest.has_or_expects_vfio()).then(|| Note::warning(Code::AmdWithoutDmaRemap, message))
}
