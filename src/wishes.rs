//! What one source of a request says, and who it is. Which of them decides is the business of `request`.
//!
//! Pure, and ignorant of where a source keeps its words.

use serde::Serialize;

use crate::domain::Metadata;
use crate::note::{Code, Note};

/// A requested model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Model {
    /// No vIOMMU is added. Never removes one that the user wrote.
    #[default]
    None,
    /// VT-d.
    Intel,
    /// Arm SMMUv3.
    Smmuv3,
    /// virtio-iommu.
    Virtio,
    /// The best that this guest can have on this host.
    Auto,
}

impl Model {
    /// The accepted values, for error sentences.
    pub const NAMES: &str = "none, intel, smmuv3, virtio, auto";

    /// Reads a value; case counts, as in Nova and libvirt.
    ///
    /// # Errors
    /// The value is none of the accepted ones.
    #[expect(clippy::result_unit_err, reason = "every caller names the source in its own sentence")]
    pub fn parse(text: &str) -> Result<Model, ()> {
        Ok(match text {
            "none" => Model::None,
            "intel" => Model::Intel,
            "smmuv3" => Model::Smmuv3,
            "virtio" => Model::Virtio,
            "auto" => Model::Auto,
            _ => return Err(()),
        })
    }

    /// The value as users write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Model::None => "none",
            Model::Intel => "intel",
            Model::Smmuv3 => "smmuv3",
            Model::Virtio => "virtio",
            Model::Auto => "auto",
        }
    }
}

/// Who asked for the model, strongest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// An option of the command line.
    Cli,
    /// The annotations of a KubeVirt virtual machine instance.
    Kubevirt,
    /// The custom properties of an oVirt virtual machine.
    Ovirt,
    /// The domain's own metadata.
    Metadata,
    /// Nova's flavor.
    NovaFlavor,
    /// Nova's image.
    NovaImage,
    /// The host's configuration.
    Config,
    /// Nobody.
    #[default]
    None,
}

impl Source {
    /// The source as a sentence names it.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Source::Cli => "the command line",
            Source::Kubevirt => "the VMI's annotation",
            Source::Ovirt => "the custom property",
            Source::Metadata => "the domain metadata",
            Source::NovaFlavor => "the Nova flavor",
            Source::NovaImage => "the Nova image",
            Source::Config => "the host configuration",
            Source::None => "nobody",
        }
    }
}

/// What one source wishes; a key that is not there is left to weaker sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// A model, as written.
    pub model: Option<String>,
    /// Lock all of the guest's memory.
    pub locked_memory: Option<bool>,
    /// Address width of the vIOMMU, bits.
    pub aw_bits: Option<u8>,
    /// VFIO devices will be hot-plugged.
    pub hotplug: Option<bool>,
}

impl Wishes {
    /// What stands in the four keys of a request that somebody has written, in the domain metadata or where a manager has room
    /// for it. Strict: what cannot be meant is refused.
    ///
    /// # Errors
    /// `request-conflict`.
    pub fn written(written: &Metadata, source: Source) -> Result<Wishes, Note> {
        let place = source.describe();
        if let Some(unknown) = written.unknown.first() {
            let message = if unknown.starts_with('<') {
                format!("unknown element {unknown} in {place}: write <viommu model='auto'/>")
            } else {
                format!("unknown key '{unknown}' in {place}: use model, locked-memory, aw-bits or hotplug")
            };
            return Err(Note::error(Code::RequestConflict, message));
        }
        if source == Source::Metadata && written.is_empty() {
            let message = "<viommu> in the domain metadata asks for nothing: add model='auto', or take it out";
            return Err(Note::error(Code::RequestConflict, message));
        }
        Ok(Wishes {
            model: non_empty(written.model.as_deref()),
            locked_memory: boolean(written.locked_memory.as_deref(), "locked-memory", place)?,
            aw_bits: aw_bits(written.aw_bits.as_deref(), "aw-bits", place)?,
            hotplug: boolean(written.hotplug.as_deref(), "hotplug", place)?,
        })
    }

    /// Whether anything is wished for, rather than left open or declined.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.model.as_deref().is_some_and(|model| model != "none") || self.locked_memory == Some(true)
    }
}

pub(crate) fn non_empty(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}

pub(crate) fn is_true(text: &str) -> bool {
    matches!(text.trim().to_ascii_lowercase().as_str(), "1" | "t" | "true" | "on" | "y" | "yes")
}

fn is_false(text: &str) -> bool {
    matches!(text.trim().to_ascii_lowercase().as_str(), "0" | "f" | "false" | "off" | "n" | "no")
}

pub(crate) fn boolean(text: Option<&str>, key: &str, place: &str) -> Result<Option<bool>, Note> {
    match text {
        None | Some("") => Ok(None),
        Some(text) if is_true(text) => Ok(Some(true)),
        Some(text) if is_false(text) => Ok(Some(false)),
        Some(text) => {
            let message = format!("{key}='{text}' in {place} is neither yes nor no: write one of the two");
            Err(Note::error(Code::RequestConflict, message))
        }
    }
}

pub(crate) fn aw_bits(text: Option<&str>, key: &str, place: &str) -> Result<Option<u8>, Note> {
    match text {
        None | Some("") => Ok(None),
        Some("39") => Ok(Some(39)),
        Some("48") => Ok(Some(48)),
        Some(text) => {
            let message =
                format!("{key}='{text}' in {place} is not an address width that QEMU supports: write 39 or 48");
            Err(Note::error(Code::RequestConflict, message))
        }
    }
}
