//! What Nova's metadata asks for. The rules are Nova's own (`_get_iommu_model`, `get_locked_memory_constraint`).

use crate::domain::{Domain, NovaMetadata};
use crate::note::{Code, Note};

use super::keys::is_true;
use super::{Keys, Source};

/// The keys of an image, which tenants set.
const IMAGE_KEYS: [&str; 2] = ["hw_viommu_model", "hw_locked_memory"];

/// The flavor's keys: Nova's, and those of our own namespace, which Nova does not check. A Nova that knows `hw:viommu_model`
/// writes XML for it that libvirt refuses, so `viommu:model` comes first.
pub(super) fn flavor(nova: &NovaMetadata) -> Result<Keys, Note> {
    let source = Source::NovaFlavor;
    let own = nova.extra_specs.iter().filter(|(name, _)| name.starts_with(source.prefix()));
    let own = Keys::read(source, own.map(|(name, value)| (name, value)))?;
    let model = non_empty(nova.extra_spec("hw:viommu_model")).map(str::to_owned);
    let locked_memory = non_empty(nova.extra_spec("hw:locked_memory")).map(is_true);
    Ok(own.or(&Keys { model, locked_memory, ..Keys::of(source) }))
}

/// The image's keys; a warning where they differ from the flavor's or do not count on this host.
pub(super) fn image(nova: &NovaMetadata, flavor: &Keys, allowed: bool) -> (Keys, Option<Note>) {
    let source = Source::NovaImage;
    if !allowed {
        let message = "the Nova image's request is ignored: allow-image-request is off on this host";
        let asks = IMAGE_KEYS.iter().any(|key| nova.property(key).is_some());
        return (Keys::of(source), asks.then(|| Note::warning(Code::ImageIgnored, message)));
    }
    let model = non_empty(nova.property("hw_viommu_model")).map(str::to_owned);
    let overridden = flavor.model.as_deref().zip(model.as_deref()).filter(|(flavor, image)| flavor != image);
    let note = overridden.map(|(flavor, image)| {
        let message =
            format!("the Nova flavor asks for '{flavor}' and the image for '{image}': the flavor wins, as in Nova");
        Note::warning(Code::ImageOverridden, message)
    });
    let locked_memory = non_empty(nova.property("hw_locked_memory")).map(is_true);
    (Keys { model, locked_memory, ..Keys::of(source) }, note)
}

/// Flavor and image may not contradict each other about locked memory.
pub(super) fn locked_memory_agrees(flavor: &Keys, image: &Keys) -> Result<(), Note> {
    match (flavor.locked_memory, image.locked_memory) {
        (Some(flavor), Some(image)) if flavor != image => {
            let message = format!(
                "locked_memory is {image} in the Nova image and {flavor} in the flavor: make them equal or remove one (Nova: \"A \
                 consistent value is expected if both specified.\")"
            );
            Err(Note::error(Code::RequestConflict, message))
        }
        _ => Ok(()),
    }
}

/// Nova wants a page size because it places only guests with one by their memory. Other domains have what limits the locked
/// memory in their XML.
pub(super) fn has_page_size(domain: &Domain, nova: &NovaMetadata) -> bool {
    non_empty(nova.extra_spec("hw:mem_page_size")).is_some()
        || non_empty(nova.property("hw_mem_page_size")).is_some()
        || domain.memory.hugepages
        || domain.memory.hard_limit.is_some()
        || domain.memory.locked
}

/// How many host PCI functions the flavor passes through: `pci_passthrough:alias` is `name:count,…`.
pub(super) fn functions(nova: &NovaMetadata) -> u32 {
    let aliases = nova.extra_spec("pci_passthrough:alias").unwrap_or_default().split(',');
    let counts = aliases.filter_map(|alias| alias.rsplit_once(':')?.1.trim().parse::<u32>().ok());
    counts.fold(0, u32::saturating_add)
}

/// A real-time guest: Nova locks its memory and forbids page sharing.
pub(super) fn is_realtime(nova: &NovaMetadata) -> bool {
    nova.extra_spec("hw:cpu_realtime").is_some_and(is_true)
}

/// SEV and SEV-ES pin guest memory, SEV-SNP does not (`get_mem_encryption_constraint`, `needs_locked_memory`).
pub(super) fn pins_encrypted_memory(nova: &NovaMetadata) -> bool {
    let encrypts =
        nova.extra_spec("hw:mem_encryption").or_else(|| nova.property("hw_mem_encryption")).is_some_and(is_true);
    let model = nova.extra_spec("hw:mem_encryption_model").or_else(|| nova.property("hw_mem_encryption_model"));
    encrypts && matches!(model.unwrap_or("amd-sev"), "amd-sev" | "amd-sev-es")
}

fn non_empty(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}
