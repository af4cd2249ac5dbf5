//! What a guest asks for, and where.
//!
//! Pure. Each source can leave each key open; the strongest source that sets a key decides it. The order is that of [`Source`].

mod keys;
mod nova;
mod source;

use serde::Serialize;

use crate::config::{AutoOrder, Config};
use crate::domain::Domain;
use crate::note::{Code, Note};

pub use keys::{Keys, Purpose, RequestedModel, VirtioScope};
pub use source::Source;

/// What a guest asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent keys, not the states of one thing")]
pub struct Request {
    /// The model.
    pub model: RequestedModel,
    /// The source of the model.
    pub source: Source,
    /// Lock all of the guest's memory (`<memoryBacking><locked/>`).
    pub locked_memory: bool,
    /// Locked memory is not asked for by name: Nova locks that of such a guest (real time, SEV) and says so in its XML. It is
    /// completed where that is missing, and never a reason for a refusal.
    #[serde(skip)]
    pub lock_implied: bool,
    /// Nova's real-time guests also forbid page sharing.
    #[serde(skip)]
    pub nosharepages: bool,
    /// Requested address width, bits.
    pub aw_bits: Option<u8>,
    /// VFIO devices will be hot-plugged.
    pub hotplug: bool,
    /// Passed-through functions that are not in the domain: Nova detaches those of a flavor before it suspends a guest, and plugs
    /// them in right after the resume.
    #[serde(skip)]
    pub coming_vfio: u32,
    /// Whether the guest has the driver for a virtio-iommu where its boot needs it; none where the request does not say.
    pub virtio_iommu_driver: Option<bool>,
    /// The virtio devices whose DMA the vIOMMU translates. Left out where it is the default, as in records of older versions.
    #[serde(skip_serializing_if = "is_default")]
    pub virtio: VirtioScope,
    /// What the vIOMMU is for. Left out where it is the default.
    #[serde(skip_serializing_if = "is_default")]
    pub purpose: Purpose,
    /// `auto` follows the Nova specification, whatever is known of the guest's driver.
    #[serde(skip)]
    pub specification_order: bool,
    /// Warnings about the sources.
    #[serde(skip)]
    pub notes: Vec<Note>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Request {
    /// Whether anything is asked for.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.model != RequestedModel::None || self.asks_to_lock()
    }

    /// Whether locked memory is asked for by name.
    #[must_use]
    pub fn asks_to_lock(&self) -> bool {
        self.locked_memory && !self.lock_implied
    }

    /// Merges all sources; `strongest` comes from outside the domain, by an option or a manager.
    ///
    /// # Errors
    /// `model-unknown`, `request-conflict`, `locked-memory-without-page-size`.
    pub fn of(domain: &Domain, strongest: &Keys, config: &Config) -> Result<Request, Note> {
        let metadata = domain.metadata.as_deref().map(own_metadata).transpose()?.unwrap_or_default();
        let from_nova = domain.nova.clone().unwrap_or_default();
        let flavor = nova::flavor(&from_nova)?;
        let (image, note) = nova::image(&from_nova, &flavor, config.allow_image_request);
        if strongest.or(&metadata).locked_memory.is_none() {
            nova::locked_memory_agrees(&flavor, &image)?;
        }
        let sources = [strongest, &metadata, &flavor, &image, &config.keys_for(domain)];
        let (model, source) = model(&sources)?;
        let keys = sources.into_iter().fold(Keys::default(), |stronger, weaker| stronger.or(weaker));
        let locked = keys.locked_memory.unwrap_or(false);
        if locked && !nova::has_page_size(domain, &from_nova) {
            return Err(Note::error(
                Code::LockedMemoryWithoutPageSize,
                "locked memory is asked for without a page size, and nothing limits what is locked: set hw:mem_page_size (Nova), or \
                 add <memoryBacking><hugepages/> or <memtune><hard_limit> to the domain",
            ));
        }
        let coming_vfio = nova::functions(&from_nova).saturating_sub(domain.vfio.len().try_into().unwrap_or(u32::MAX));
        let realtime = nova::is_realtime(&from_nova);
        let lock_implied = !locked && (realtime || nova::pins_encrypted_memory(&from_nova));
        Ok(Request {
            model,
            source,
            locked_memory: locked || lock_implied,
            lock_implied,
            nosharepages: realtime,
            aw_bits: keys.aw_bits,
            hotplug: keys.hotplug.unwrap_or(coming_vfio > 0),
            coming_vfio,
            virtio_iommu_driver: keys.virtio_iommu_driver,
            virtio: keys.virtio.unwrap_or_default(),
            purpose: keys.purpose.unwrap_or_default(),
            specification_order: config.auto_order == AutoOrder::Specification,
            notes: note.into_iter().collect(),
        })
    }
}

/// The request in `<metadata>`.
fn own_metadata(written: &[(String, String)]) -> Result<Keys, Note> {
    let invalid = |message: String| Err(Note::error(Code::RequestConflict, message));
    match written {
        [] => invalid("<viommu> in the domain metadata has no key: add model='auto', or remove the element".to_owned()),
        [(element, _), ..] if element.starts_with('<') => {
            invalid(format!("unknown element {element} in the domain metadata: use <viommu model='auto'/>"))
        }
        keys => Keys::read(Source::Metadata, keys.iter().map(|(name, value)| (name, value))),
    }
}

/// The model of the strongest source that names one, and that source.
fn model(sources: &[&Keys]) -> Result<(RequestedModel, Source), Note> {
    let named =
        sources.iter().find_map(|keys| Some((keys.model.as_deref().filter(|text| !text.is_empty())?, keys.source)));
    let Some((text, source)) = named else { return Ok((RequestedModel::None, Source::None)) };
    let model = RequestedModel::parse(text).ok_or_else(|| {
        let (place, accepted) = (source.describe(), RequestedModel::names());
        Note::error(
            Code::ModelUnknown,
            format!("unknown vIOMMU model '{text}' in {place}; accepted values are {accepted}"),
        )
    })?;
    Ok((model, source))
}

#[cfg(test)]
mod tests;
