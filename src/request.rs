//! What a guest asks for, and who asked.
//!
//! Pure. Each source can leave each key open; the strongest source that says something about a key decides it. The order is
//! that of [`Source`]. The rules among Nova's two sources are Nova's own (`_get_iommu_model`, `get_locked_memory_constraint`).

use serde::{Serialize, Serializer};

use crate::config::Config;
use crate::domain::{Domain, Metadata, NovaMetadata};
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
            let message = format!("unknown key '{unknown}' in {place}: use model, locked-memory, aw-bits or hotplug");
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
        let image = image_wishes(&nova)?;
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

fn image_wishes(nova: &NovaMetadata) -> Result<Wishes, Note> {
    Ok(Wishes {
        model: non_empty(nova.property("hw_viommu_model")),
        locked_memory: boolean(nova.property("hw_locked_memory"), "hw_locked_memory", "the Nova image")?,
        ..Wishes::default()
    })
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

fn non_empty(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}

fn is_true(text: &str) -> bool {
    matches!(text.trim().to_ascii_lowercase().as_str(), "1" | "t" | "true" | "on" | "y" | "yes")
}

fn is_false(text: &str) -> bool {
    matches!(text.trim().to_ascii_lowercase().as_str(), "0" | "f" | "false" | "off" | "n" | "no")
}

fn boolean(text: Option<&str>, key: &str, place: &str) -> Result<Option<bool>, Note> {
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

fn aw_bits(text: Option<&str>, key: &str, place: &str) -> Result<Option<u8>, Note> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(extra_specs: &[(&str, &str)], properties: &[(&str, &str)]) -> Domain {
        let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Domain {
            nova: Some(NovaMetadata { extra_specs: own(extra_specs), properties: own(properties) }),
            ..Domain::default()
        }
    }

    fn request(domain: &Domain) -> Result<Request, Note> {
        Request::of(domain, &Wishes::default(), &Config::default())
    }

    #[test]
    fn nobody_asks() {
        let request = request(&Domain::default()).unwrap();
        assert!(!request.asks());
        assert_eq!(request.source, Source::None);
    }

    #[test]
    fn the_strongest_source_decides_each_key() {
        let config =
            Config::parse("[default]\nmodel = 'smmuv3'\naw-bits = 39\nhotplug = true\nlocked-memory = false").unwrap();
        let mut domain = domain(&[("hw:viommu_model", "intel")], &[("hw_viommu_model", "virtio")]);
        let wishes = |domain: &Domain, cli: Option<&str>| {
            let cli = Wishes { model: cli.map(str::to_owned), ..Wishes::default() };
            let request = Request::of(domain, &cli, &config).unwrap();
            (request.model, request.source, request.aw_bits, request.hotplug)
        };
        assert_eq!(wishes(&domain, None), (Model::Intel, Source::NovaFlavor, Some(39), true));
        domain.metadata =
            Some(Metadata { model: Some("none".into()), aw_bits: Some("48".into()), ..Metadata::default() });
        assert_eq!(wishes(&domain, None), (Model::None, Source::Metadata, Some(48), true));
        assert_eq!(wishes(&domain, Some("virtio")).0, Model::Virtio);
        domain.metadata = None;
        domain.nova.as_mut().unwrap().extra_specs.clear();
        assert_eq!(wishes(&domain, None).1, Source::NovaImage);
        domain.nova = None;
        assert_eq!(wishes(&domain, None).1, Source::Config);
    }

    #[test]
    fn a_differing_image_is_a_warning_and_an_empty_flavor_falls_through() {
        let differing = request(&domain(&[("hw:viommu_model", "intel")], &[("hw_viommu_model", "virtio")])).unwrap();
        assert_eq!(differing.notes.iter().map(|note| note.code).collect::<Vec<_>>(), [Code::ImageOverridden]);
        let equal = request(&domain(&[("hw:viommu_model", "auto")], &[("hw_viommu_model", "auto")])).unwrap();
        assert!(equal.notes.is_empty());
        let empty = request(&domain(&[("hw:viommu_model", "")], &[("hw_viommu_model", "virtio")])).unwrap();
        assert_eq!((empty.model, empty.source), (Model::Virtio, Source::NovaImage));
    }

    #[test]
    fn an_unknown_model_names_its_source_and_the_accepted_values() {
        for value in ["INTEL", "autt", " intel", "amd"] {
            let note = request(&domain(&[("hw:viommu_model", value)], &[])).unwrap_err();
            assert_eq!(note.code, Code::ModelUnknown);
            assert!(
                note.message.contains("the Nova flavor") && note.message.contains(Model::NAMES),
                "{}",
                note.message
            );
        }
    }

    #[test]
    fn the_operator_can_forbid_image_requests() {
        let config = Config { allow_image_request: false, ..Config::default() };
        let asked = domain(&[], &[("hw_viommu_model", "intel"), ("hw_locked_memory", "True")]);
        let request = Request::of(&asked, &Wishes::default(), &config).unwrap();
        assert!(!request.asks());
        assert_eq!(request.notes.first().map(|note| note.code), Some(Code::ImageIgnored));
    }

    #[test]
    fn own_metadata_is_strict() {
        let with = |metadata| Domain { metadata: Some(metadata), ..Domain::default() };
        let wrong = [
            Metadata { hotplug: Some("maybe".into()), ..Metadata::default() },
            Metadata { aw_bits: Some("57".into()), ..Metadata::default() },
            Metadata { unknown: vec!["modell".into()], ..Metadata::default() },
        ];
        for metadata in wrong {
            assert_eq!(request(&with(metadata)).unwrap_err().code, Code::RequestConflict);
        }
    }

    #[test]
    fn an_empty_model_is_none_at_all() {
        let cli = Wishes { model: Some(String::new()), ..Wishes::default() };
        let request = Request::of(&domain(&[("hw:viommu_model", "intel")], &[]), &cli, &Config::default()).unwrap();
        assert_eq!((request.model, request.source), (Model::Intel, Source::NovaFlavor));
    }

    #[test]
    fn own_keys_of_a_flavor() {
        let specs = [("viommu:model", "virtio"), ("hw:viommu_model", "intel"), ("viommu:aw_bits", "39")];
        let request = request(&domain(&[&specs[..], &[("viommu:hotplug", "yes")]].concat(), &[])).unwrap();
        assert_eq!((request.model, request.aw_bits, request.hotplug), (Model::Virtio, Some(39), true));
        for wrong in [("viommu:aw_bits", "40"), ("viommu:hotplug", "perhaps")] {
            assert_eq!(super::tests::request(&domain(&[wrong], &[])).unwrap_err().code, Code::RequestConflict);
        }
    }

    #[test]
    fn locked_memory_needs_a_page_size() {
        // Nova: VirtLockMemoryTestCase.
        let locked = ("hw:locked_memory", "True");
        let note = request(&domain(&[locked], &[])).unwrap_err();
        assert_eq!(note.code, Code::LockedMemoryWithoutPageSize);
        assert_eq!(request(&domain(&[], &[("hw_locked_memory", "True")])).unwrap_err().code, note.code);
        assert_eq!(request(&domain(&[locked, ("hw:mem_page_size", "")], &[])).unwrap_err().code, note.code);
        assert!(request(&domain(&[locked, ("hw:mem_page_size", "small")], &[])).unwrap().asks_to_lock());
        assert!(request(&domain(&[locked], &[("hw_mem_page_size", "large")])).unwrap().asks_to_lock());
        assert!(!request(&domain(&[("hw:locked_memory", "False")], &[])).unwrap().asks());
        // A domain of nobody's: what bounds the locked memory stands in its XML.
        let bounded = |change: fn(&mut Domain)| {
            let mut domain = domain(&[locked], &[]);
            change(&mut domain);
            request(&domain).map(|request| request.locked_memory)
        };
        assert_eq!(bounded(|domain| domain.memory.hugepages = true), Ok(true));
        assert_eq!(bounded(|domain| domain.memory.hard_limit = Some(1 << 30)), Ok(true));
        assert_eq!(bounded(|domain| domain.memory.locked = true), Ok(true));
    }

    #[test]
    fn novas_two_words_about_locked_memory_must_agree() {
        let of = |flavor, image| {
            let specs = [("hw:locked_memory", flavor), ("hw:mem_page_size", "small")];
            request(&domain(&specs, &[("hw_locked_memory", image)])).map(|request| request.locked_memory)
        };
        assert_eq!(of("False", "True").unwrap_err().code, Code::RequestConflict);
        assert_eq!(of("True", "False").unwrap_err().code, Code::RequestConflict);
        assert_eq!(of("1", "true"), Ok(true));
        assert_eq!(of("no", "False"), Ok(false));
        // bool_from_string, not strict.
        assert_eq!(of("nonsense", "False"), Ok(false));
        assert_eq!(of("", "True"), Ok(true));
    }

    #[test]
    fn a_stronger_word_about_locked_memory_ends_the_quarrel() {
        let specs = [("hw:locked_memory", "False"), ("hw:mem_page_size", "small")];
        let mut domain = domain(&specs, &[("hw_locked_memory", "True")]);
        domain.metadata = Some(Metadata { locked_memory: Some("yes".into()), ..Metadata::default() });
        assert!(request(&domain).unwrap().asks_to_lock());
        let cli = Wishes { locked_memory: Some(false), ..Wishes::default() };
        assert!(!Request::of(&domain, &cli, &Config::default()).unwrap().locked_memory);
    }

    #[test]
    fn nobody_asks_for_what_nova_implies() {
        let realtime = domain(&[("hw:cpu_realtime", "yes")], &[]);
        let encrypted = domain(&[], &[("hw_mem_encryption", "True")]);
        for domain in [&realtime, &encrypted] {
            let request = request(domain).unwrap();
            assert!(request.locked_memory && !request.asks());
        }
        assert!(request(&realtime).unwrap().nosharepages && !request(&encrypted).unwrap().nosharepages);
        let both = domain(&[("hw:cpu_realtime", "yes"), ("hw:locked_memory", "1"), ("hw:mem_page_size", "any")], &[]);
        assert!(request(&both).unwrap().asks());
    }

    #[test]
    fn every_refusal_says_what_to_do_in_one_line() {
        let domain = domain(&[("hw:viommu_model", "Intel")], &[]);
        let message = request(&domain).unwrap_err().message;
        assert_eq!(
            message,
            "unknown vIOMMU model 'Intel' in the Nova flavor; accepted values are none, intel, smmuv3, virtio, auto"
        );
        let metadata =
            |metadata| request(&Domain { metadata: Some(metadata), ..Domain::default() }).unwrap_err().message;
        let locked = metadata(Metadata { locked_memory: Some("2".into()), ..Metadata::default() });
        assert_eq!(locked, "locked-memory='2' in the domain metadata is neither yes nor no: write one of the two");
        let width = metadata(Metadata { aw_bits: Some("57".into()), ..Metadata::default() });
        assert!(width.ends_with("write 39 or 48"), "{width}");
    }

    #[test]
    fn memory_encryption_locks_as_nova_says() {
        // Nova: GetMemEncryptionConfigTestCase.test_sev, test_sev_es, test_sev_snp.
        for (model, locked) in [("amd-sev", true), ("amd-sev-es", true), ("amd-sev-snp", false)] {
            let domain = domain(&[("hw:mem_encryption", "True"), ("hw:mem_encryption_model", model)], &[]);
            assert_eq!(request(&domain).unwrap().locked_memory, locked, "{model}");
        }
    }
}
