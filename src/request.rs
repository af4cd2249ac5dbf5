//! What a guest asks for, and who asked.
//!
//! Pure. Each source can leave each key open; the strongest source that says something about a key decides it. The order is
//! that of [`Source`]. The rules among Nova's two sources are Nova's own (`_get_iommu_model`, `get_locked_memory_constraint`).

use serde::{Serialize, Serializer};

use crate::config::Config;
use crate::domain::{Domain, NovaMetadata};
use crate::note::{Code, Note};
use crate::wishes::{aw_bits, boolean, is_true, non_empty};

pub use crate::wishes::{Model, Source, Wishes};

/// What a guest asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent wishes, not the states of one thing")]
pub struct Request {
    /// The model.
    pub model: Model,
    /// Who asked for the model.
    pub source: Source,
    /// Lock all of the guest's memory (`<memoryBacking><locked/>`).
    pub locked_memory: bool,
    /// Nobody asks for locked memory by name: Nova locks that of such a guest (real time, SEV) and says so in its XML. It is
    /// completed where that is missing, and never a reason to refuse anything.
    pub lock_implied: bool,
    /// Nova's real-time guests also forbid page sharing.
    pub nosharepages: bool,
    /// Address width that was asked for, bits.
    pub aw_bits: Option<u8>,
    /// VFIO devices will be hot-plugged.
    pub hotplug: bool,
    /// What was noticed on the way.
    pub notes: Vec<Note>,
}

impl Serialize for Request {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct View {
            model: &'static str,
            source: Source,
            locked_memory: bool,
            aw_bits: Option<u8>,
            hotplug: bool,
        }
        View {
            model: self.model.as_str(),
            source: self.source,
            locked_memory: self.locked_memory,
            aw_bits: self.aw_bits,
            hotplug: self.hotplug,
        }
        .serialize(serializer)
    }
}

impl Request {
    /// Whether anything is asked for at all.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.model != Model::None || self.asks_to_lock()
    }

    /// Whether somebody asks for locked memory by name.
    #[must_use]
    pub fn asks_to_lock(&self) -> bool {
        self.locked_memory && !self.lock_implied
    }

    /// Merges all sources.
    ///
    /// # Errors
    /// `model-unknown`, `request-conflict`, `locked-memory-without-page-size`.
    pub fn of(domain: &Domain, command_line: &Wishes, config: &Config) -> Result<Request, Note> {
        Request::asked(domain, (Source::Cli, command_line), config)
    }

    /// Merges all sources; the strongest is whoever hands over the domain.
    ///
    /// # Errors
    /// As [`Request::of`].
    pub fn asked(domain: &Domain, strongest: (Source, &Wishes), config: &Config) -> Result<Request, Note> {
        let mut notes = Vec::new();
        let mut nova = domain.nova.clone().unwrap_or_default();
        if !config.allow_image_request {
            ignore_image(&mut nova, &mut notes);
        }
        let metadata = domain.metadata.as_ref().map(|written| Wishes::written(written, Source::Metadata));
        let metadata = metadata.transpose()?.unwrap_or_default();
        let flavor = flavor_wishes(&nova)?;
        let image = image_wishes(&nova);
        let host = config.wishes(domain);
        let sources = [
            strongest,
            (Source::Metadata, &metadata),
            (Source::NovaFlavor, &flavor),
            (Source::NovaImage, &image),
            (Source::Config, &host),
        ];
        let (source, model) = model(&sources)?;
        note_overridden_image(&flavor, &image, &mut notes);

        let stronger = strongest.1.locked_memory.or(metadata.locked_memory);
        let locked = match stronger {
            Some(wish) => wish,
            None => match locked_by_nova(flavor.locked_memory, image.locked_memory)? {
                Some(wish) => wish,
                None => host.locked_memory.unwrap_or(false),
            },
        };
        if locked && !has_page_size(domain, &nova) {
            return Err(Note::error(
                Code::LockedMemoryWithoutPageSize,
                "locked memory is asked for without a page size, and nothing bounds what is locked: set hw:mem_page_size (Nova), or \
                 add <memoryBacking><hugepages/> or <memtune><hard_limit> to the domain",
            ));
        }
        let realtime = nova.extra_spec("hw:cpu_realtime").is_some_and(is_true);
        let implied = !locked && (realtime || encrypts_memory(&nova));
        Ok(Request {
            model,
            source,
            locked_memory: locked || implied,
            lock_implied: implied,
            nosharepages: realtime,
            aw_bits: sources.iter().find_map(|(_, wishes)| wishes.aw_bits),
            hotplug: sources.iter().find_map(|(_, wishes)| wishes.hotplug).unwrap_or(false),
            notes,
        })
    }
}

fn model(sources: &[(Source, &Wishes)]) -> Result<(Source, Model), Note> {
    for (source, wishes) in sources {
        if let Some(text) = wishes.model.as_deref().filter(|text| !text.is_empty()) {
            let model = Model::parse(text).map_err(|()| {
                let message = format!(
                    "unknown vIOMMU model '{text}' in {}; accepted values are {}",
                    source.describe(),
                    Model::NAMES
                );
                Note::error(Code::ModelUnknown, message)
            })?;
            return Ok((*source, model));
        }
    }
    Ok((Source::None, Model::None))
}

/// Nova's validator refuses unknown `hw:` keys, and lets every key of a namespace that it does not know through: `viommu:` is
/// for operators whose Nova writes XML of its own for `hw:viommu_model` that libvirt refuses.
fn flavor_wishes(nova: &NovaMetadata) -> Result<Wishes, Note> {
    let place = "the Nova flavor";
    let model = non_empty(nova.extra_spec("viommu:model")).or_else(|| non_empty(nova.extra_spec("hw:viommu_model")));
    Ok(Wishes {
        model,
        // oslo_utils.strutils.bool_from_string, not strict: what is not true is false.
        locked_memory: nova.extra_spec("hw:locked_memory").filter(|text| !text.is_empty()).map(is_true),
        aw_bits: aw_bits(nova.extra_spec("viommu:aw_bits"), "viommu:aw_bits", place)?,
        hotplug: boolean(nova.extra_spec("viommu:hotplug"), "viommu:hotplug", place)?,
    })
}

fn image_wishes(nova: &NovaMetadata) -> Wishes {
    Wishes {
        model: non_empty(nova.property("hw_viommu_model")),
        // FlexibleBoolean, which is the same function.
        locked_memory: nova.property("hw_locked_memory").filter(|text| !text.is_empty()).map(is_true),
        ..Wishes::default()
    }
}

fn ignore_image(nova: &mut NovaMetadata, notes: &mut Vec<Note>) {
    const WISHES: [&str; 2] = ["hw_viommu_model", "hw_locked_memory"];
    if WISHES.iter().any(|key| nova.property(key).is_some()) {
        let message =
            "the Nova image's vIOMMU and locked-memory wishes are ignored: allow-image-request is off on this host";
        notes.push(Note::warning(Code::ImageIgnored, message));
        nova.properties.retain(|(key, _)| !WISHES.contains(&key.as_str()));
    }
}

fn note_overridden_image(flavor: &Wishes, image: &Wishes, notes: &mut Vec<Note>) {
    if let (Some(flavor), Some(image)) = (&flavor.model, &image.model) {
        if flavor == image {
            return;
        }
        let message =
            format!("the Nova flavor asks for '{flavor}' and the image for '{image}': the flavor wins, as in Nova");
        notes.push(Note::warning(Code::ImageOverridden, message));
    }
}

fn locked_by_nova(flavor: Option<bool>, image: Option<bool>) -> Result<Option<bool>, Note> {
    match (flavor, image) {
        (Some(flavor), Some(image)) if flavor != image => Err(Note::error(
            Code::RequestConflict,
            format!(
                "locked_memory is {image} in the Nova image and {flavor} in the flavor: make them equal or remove one (Nova: \"A \
                 consistent value is expected if both specified.\")"
            ),
        )),
        (flavor, image) => Ok(flavor.or(image)),
    }
}

/// Nova asks for a page size because only guests with one are placed by their memory.
fn has_page_size(domain: &Domain, nova: &NovaMetadata) -> bool {
    nova.extra_spec("hw:mem_page_size").is_some_and(|text| !text.is_empty())
        || nova.property("hw_mem_page_size").is_some_and(|text| !text.is_empty())
        || domain.memory.hugepages
        || domain.memory.hard_limit.is_some()
        || domain.memory.locked
}

/// SEV and SEV-ES pin guest memory, SEV-SNP does not (`get_mem_encryption_constraint`, `needs_locked_memory`).
fn encrypts_memory(nova: &NovaMetadata) -> bool {
    let wanted =
        nova.extra_spec("hw:mem_encryption").or_else(|| nova.property("hw_mem_encryption")).is_some_and(is_true);
    let model = nova.extra_spec("hw:mem_encryption_model").or_else(|| nova.property("hw_mem_encryption_model"));
    wanted && matches!(model.unwrap_or("amd-sev"), "amd-sev" | "amd-sev-es")
}

#[cfg(test)]
mod tests;
