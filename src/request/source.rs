//! The places where a request can be written.

use serde::Serialize;

/// The source of a request, strongest first.
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
    /// There is no request.
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
            Source::None => "no source",
        }
    }

    /// What the names of all keys begin with in this source.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Source::Kubevirt => "viommu.libvirt/",
            Source::Ovirt => "viommu",
            Source::NovaFlavor => "viommu:",
            Source::Cli | Source::Metadata | Source::NovaImage | Source::Config | Source::None => "",
        }
    }

    /// The name of a key in this source.
    #[must_use]
    pub fn spelling(self, key: &str) -> String {
        let rest = match self {
            Source::Ovirt if key == "model" => String::new(),
            Source::Ovirt => format!("_{}", key.replace('-', "_")),
            Source::NovaFlavor => key.replace('-', "_"),
            _ => key.to_owned(),
        };
        format!("{}{rest}", self.prefix())
    }
}
