//! The keys of a request: their names, their values, and what one source says about each.
//!
//! Pure. A new key is one line of the table below and what `Request` makes of it.

use serde::{Serialize, Serializer};

use crate::model::Model;
use crate::note::{Code, Note};
use crate::text::{self, words};

use super::Source;

/// A requested model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RequestedModel {
    /// No vIOMMU is added. One that the user wrote is never removed.
    #[default]
    None,
    /// This model.
    Model(Model),
    /// The best model that this guest can have on this host.
    Auto,
}

impl RequestedModel {
    /// Every accepted value.
    pub fn all() -> impl Iterator<Item = RequestedModel> {
        [RequestedModel::None].into_iter().chain(RequestedModel::models())
    }

    /// What a guest can ask for besides nothing.
    pub fn models() -> impl Iterator<Item = RequestedModel> {
        Model::ALL.iter().map(|model| RequestedModel::Model(*model)).chain([RequestedModel::Auto])
    }

    /// The accepted values, for messages and help.
    #[must_use]
    pub fn names() -> String {
        RequestedModel::all().map(RequestedModel::as_str).collect::<Vec<_>>().join(", ")
    }

    /// Reads a value; case counts, as in Nova and libvirt. None for any other value.
    #[must_use]
    pub fn parse(text: &str) -> Option<RequestedModel> {
        RequestedModel::all().find(|model| model.as_str() == text)
    }

    /// The value as users write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RequestedModel::None => "none",
            RequestedModel::Model(model) => model.name(),
            RequestedModel::Auto => "auto",
        }
    }
}

impl Serialize for RequestedModel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

words! {
    /// Virtio devices whose DMA the vIOMMU translates (libvirt's `<driver iommu='on'>`).
    #[derive(Default)]
    pub enum VirtioScope {
        /// None but those that say so themselves.
        #[default]
        Off = "off",
        /// Network interfaces.
        On = "on",
        /// Also disks, SCSI and serial controllers, random number generators and input devices.
        All = "all",
    }
}

impl VirtioScope {
    /// Reads a value.
    ///
    /// # Errors
    /// What the value has to be.
    pub fn parse(text: &str) -> Result<VirtioScope, &'static str> {
        match (text.trim(), boolean(text)) {
            ("all", _) => Ok(VirtioScope::All),
            (_, Ok(true)) => Ok(VirtioScope::On),
            (_, Ok(false)) => Ok(VirtioScope::Off),
            _ => Err("on, off or all"),
        }
    }
}

words! {
    /// What a vIOMMU is for.
    #[derive(Default)]
    pub enum Purpose {
        /// The translation of DMA, and the remapping of interrupts where the model has it.
        #[default]
        Dma = "dma",
        /// The remapping of interrupts alone, as more than 255 vCPUs need it.
        Interrupts = "interrupts",
    }
}

impl Purpose {
    /// Reads a value.
    ///
    /// # Errors
    /// What the value has to be.
    pub fn parse(text: &str) -> Result<Purpose, &'static str> {
        Purpose::ALL.iter().copied().find(|purpose| purpose.as_str() == text).ok_or("dma or interrupts")
    }
}

macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $key:ident: $type:ty = $name:literal, $parse:path;)+) => {
        /// What one source says. A key that is absent is left to weaker sources.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Keys {
            /// The source.
            pub source: Source,
            $($(#[doc = $doc])+ pub $key: Option<$type>,)+
        }

        impl Keys {
            /// The names of all keys, as in the domain metadata.
            pub const NAMES: &[&str] = &[$($name,)+];

            /// Sets one key.
            ///
            /// # Errors
            /// What the value has to be. None where there is no such key.
            pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), Option<&'static str>> {
                match name {
                    $($name => self.$key = Some($parse(value)?),)+
                    _ => return Err(None),
                }
                Ok(())
            }

            /// These keys, and those of a weaker source for what is absent.
            #[must_use]
            pub fn or(&self, weaker: &Keys) -> Keys {
                Keys { source: self.source, $($key: self.$key.clone().or_else(|| weaker.$key.clone()),)+ }
            }
        }
    };
}

keys! {
    /// The model, as written.
    model: String = "model", model;
    /// Lock all of the guest's memory.
    locked_memory: bool = "locked-memory", boolean;
    /// Address width of the vIOMMU, bits: one of model intel takes it, and a virtio-iommu from libvirt 12.2 on.
    aw_bits: u8 = "aw-bits", aw_bits;
    /// VFIO devices will be hot-plugged.
    hotplug: bool = "hotplug", boolean;
    /// The guest has the driver for a virtio-iommu where its boot needs it: in the kernel or in the initramfs.
    virtio_iommu_driver: bool = "virtio-iommu-driver", boolean;
    /// The virtio devices whose DMA the vIOMMU translates.
    virtio: VirtioScope = "virtio", VirtioScope::parse;
    /// What the vIOMMU is for.
    purpose: Purpose = "purpose", Purpose::parse;
}

impl Keys {
    /// A source that says nothing yet.
    #[must_use]
    pub fn of(source: Source) -> Keys {
        Keys { source, ..Keys::default() }
    }

    /// Reads the keys of a source, by their names there. An empty value counts as absent; of two values the first counts.
    ///
    /// # Errors
    /// `request-conflict` for an unknown key or an invalid value.
    pub fn read(
        source: Source,
        written: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>)>,
    ) -> Result<Keys, Note> {
        let mut keys = Keys::of(source);
        let mut seen = Vec::new();
        for (written, value) in written {
            let (written, value) = (written.as_ref(), value.as_ref());
            let name = Keys::NAMES.iter().find(|name| source.spelling(name) == written);
            let name = *name.ok_or_else(|| unknown(source, written))?;
            if value.is_empty() || seen.contains(&name) {
                continue;
            }
            seen.push(name);
            keys.set(name, value).map_err(|wanted| {
                let place = source.describe();
                let message =
                    format!("invalid value {written}='{value}' in {place}: use {}", wanted.unwrap_or_default());
                Note::error(Code::RequestConflict, message)
            })?;
        }
        Ok(keys)
    }

    /// Whether there is a request: a model other than `none`, or locked memory.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.model.as_deref().is_some_and(|model| model != "none") || self.locked_memory == Some(true)
    }
}

fn unknown(source: Source, written: &str) -> Note {
    let names: Vec<String> = Keys::NAMES.iter().map(|name| source.spelling(name)).collect();
    let message = format!("unknown key '{written}' in {}: use {}", source.describe(), text::alternatives(&names));
    Note::error(Code::RequestConflict, message)
}

/// Any text: only the model of the strongest source has to be a known one.
#[expect(clippy::unnecessary_wraps, reason = "every key has a parser of the same form")]
fn model(text: &str) -> Result<String, &'static str> {
    Ok(text.to_owned())
}

fn boolean(text: &str) -> Result<bool, &'static str> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "on" | "y" | "yes" => Ok(true),
        "0" | "f" | "false" | "off" | "n" | "no" => Ok(false),
        _ => Err("yes or no"),
    }
}

/// A boolean as Nova reads it (oslo_utils.strutils.bool_from_string, not strict): what is not true is false.
pub(super) fn is_true(text: &str) -> bool {
    boolean(text) == Ok(true)
}

/// QEMU: "supported values for aw-bits are: 39, 48".
fn aw_bits(text: &str) -> Result<u8, &'static str> {
    match text {
        "39" => Ok(39),
        "48" => Ok(48),
        _ => Err("39 or 48"),
    }
}
