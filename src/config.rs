//! The host's configuration, `/etc/viommu.toml`.
//!
//! Pure: turns text into values and rejects unknown keys and invalid values. `sys::fs` checks who can write to the file.

use std::collections::BTreeMap;
use std::iter::zip;

use serde::{Deserialize, Deserializer};
use toml::Spanned;

use crate::domain::{Domain, Uuid};
use crate::note::{Code, Note};
use crate::request::{Keys, RequestedModel, Source};
use crate::text::{alternatives, words};

/// The configuration file.
pub const PATH: &str = "/etc/viommu.toml";

/// The host's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Whether Nova's image properties, which tenants set, count as a request. A vIOMMU and locked memory cost the host.
    pub allow_image_request: bool,
    /// What decides between the models of an `auto`.
    pub auto_order: AutoOrder,
    /// The request of every domain, for keys that its rule leaves out.
    pub default: Rule,
    /// Requests for domains by name pattern or UUID; the first match counts.
    pub domain: Vec<Rule>,
    /// The real QEMU behind the wrapper, by architecture (`x86_64 = "/usr/libexec/qemu-kvm"`).
    pub emulators: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            allow_image_request: true,
            auto_order: AutoOrder::default(),
            default: Rule::default(),
            domain: Vec::new(),
            emulators: BTreeMap::new(),
        }
    }
}

/// What decides between the models of an `auto`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AutoOrder {
    /// The Nova specification, for a guest that is known to boot with what it says.
    #[default]
    Guest,
    /// The Nova specification: virtio wherever libvirt and QEMU have it.
    Specification,
}

/// A request for the domains that match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// The criteria that a domain must meet, each with its pattern: `*` matches any characters, `?` one character. None in
    /// `[default]`.
    pub criteria: Vec<(Criterion, String)>,
    /// The request, with the keys of the domain metadata.
    pub keys: Keys,
    /// The first invalid key or value: where it is in the file, in bytes, and what is wrong. No error of toml's, because that
    /// would have the place of the first rule.
    invalid: Option<(usize, String)>,
}

words! {
    /// What a rule looks at in a domain.
    pub enum Criterion {
        /// The name.
        Name = "name",
        /// The UUID, which is no pattern.
        Uuid = "uuid",
        /// The name of Nova's flavor. Nova of every version writes it.
        NovaFlavor = "nova-flavor",
        /// The name or the UUID of Nova's project.
        NovaProject = "nova-project",
        /// The UUID of Nova's image.
        NovaImage = "nova-image",
        /// The guest's system as the plan names it: by libosinfo's id, or by `os_distro` of Nova's image.
        Os = "os",
    }
}

/// A value of a rule.
#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Bool(bool),
    Number(u8),
    Text(String),
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rule, D::Error> {
        let mut rule = Rule { keys: Keys::of(Source::Config), ..Rule::default() };
        for (key, value) in BTreeMap::<String, Spanned<Value>>::deserialize(deserializer)? {
            let place = value.span().start;
            if let Err(what) = rule.set(&key, value.into_inner()) {
                let earlier = rule.invalid.take().filter(|(other, _)| *other < place);
                rule.invalid = earlier.or(Some((place, what)));
            }
        }
        Ok(rule)
    }
}

impl Config {
    /// Reads the configuration.
    ///
    /// # Errors
    /// `config-invalid`, with the line, when the text is not TOML, has an unknown key or an invalid value.
    pub fn parse(text: &str) -> Result<Config, Note> {
        let config: Config = toml::from_str(text).map_err(|error| invalid(&one_line(&error.to_string())))?;
        let flaws = config.domain.iter().chain([&config.default]).filter_map(|rule| rule.invalid.as_ref());
        if let Some((place, what)) = flaws.min() {
            let line = text.bytes().take(*place).filter(|byte| *byte == b'\n').count() + 1;
            return Err(invalid(&format!("line {line}: {what}")));
        }
        if !config.default.criteria.is_empty() {
            return Err(invalid("[default] is for every domain and takes no name, uuid or other criterion"));
        }
        for rule in &config.domain {
            if rule.criteria.is_empty() {
                return Err(invalid(&format!("a [[domain]] rule needs a criterion: {}", Criterion::names())));
            }
            if rule.uuid().is_some_and(|uuid| uuid.parse::<Uuid>().is_err()) {
                return Err(invalid("the uuid of a [[domain]] rule is not a UUID"));
            }
        }
        for path in config.emulators.values() {
            if !path.starts_with('/') {
                return Err(invalid(&format!("the emulator '{path}' is not an absolute path")));
            }
        }
        Ok(config)
    }

    /// The request for a domain: that of the first matching rule, and for keys that it leaves out the default.
    #[must_use]
    pub fn keys_for(&self, domain: &Domain) -> Keys {
        let rule = self.domain.iter().find(|rule| rule.matches(domain));
        rule.map_or_else(|| self.default.keys.clone(), |rule| rule.keys.or(&self.default.keys))
    }

    /// Whether any rule has a request, so that it may be for a guest whose XML cannot be read.
    #[must_use]
    pub fn has_request(&self) -> bool {
        self.domain.iter().chain([&self.default]).any(|rule| rule.keys.asks())
    }

    /// The real QEMU of this name (`qemu-system-ARCH`), by absolute path.
    #[must_use]
    pub fn emulator_behind(&self, name: &str) -> String {
        let configured = name.strip_prefix("qemu-system-").and_then(|arch| self.emulators.get(arch));
        configured.cloned().unwrap_or_else(|| format!("/usr/bin/{name}"))
    }
}

impl Rule {
    fn set(&mut self, key: &str, value: Value) -> Result<(), String> {
        let text = match value {
            Value::Text(text) => text,
            Value::Bool(value) => value.to_string(),
            Value::Number(value) => value.to_string(),
        };
        if let Some(criterion) = Criterion::from_name(key) {
            self.criteria.push((criterion, text));
            return Ok(());
        }
        if key == "model" && RequestedModel::parse(&text).is_none() {
            return Err(format!("unknown model '{text}'; accepted values are {}", RequestedModel::names()));
        }
        self.keys.set(key, &text).map_err(|wanted| match wanted {
            Some(wanted) => format!("invalid value {key} = '{text}': use {wanted}"),
            None => format!("unknown key '{key}': use {}, {}", Criterion::names(), alternatives(Keys::NAMES)),
        })
    }

    /// The UUID that it is for.
    #[must_use]
    pub fn uuid(&self) -> Option<&str> {
        self.criteria.iter().find_map(|(criterion, text)| (*criterion == Criterion::Uuid).then_some(text.as_str()))
    }

    fn matches(&self, domain: &Domain) -> bool {
        self.criteria.iter().all(|(criterion, pattern)| criterion.is_met(pattern, domain))
    }
}

impl Criterion {
    fn names() -> String {
        Criterion::ALL.iter().map(|criterion| criterion.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn is_met(self, pattern: &str, domain: &Domain) -> bool {
        let any = |values: &[String]| values.iter().any(|value| matches_pattern(pattern, value));
        let nova = domain.nova.as_ref();
        match self {
            Criterion::Name => matches_pattern(pattern, &domain.name),
            Criterion::Uuid => domain.uuid.is_some() && pattern.parse().ok() == domain.uuid,
            Criterion::NovaFlavor => nova.is_some_and(|nova| any(nova.flavor.as_slice())),
            Criterion::NovaProject => nova.is_some_and(|nova| any(&nova.project)),
            Criterion::NovaImage => nova.is_some_and(|nova| any(nova.image.as_slice())),
            Criterion::Os => domain.system.as_ref().is_some_and(|system| matches_pattern(pattern, &system.name)),
        }
    }
}

fn invalid(what: &str) -> Note {
    Note::error(Code::ConfigInvalid, format!("{PATH} is invalid: {what}"))
}

/// The message without the excerpt that toml prints under it: libvirt and logs want one line.
fn one_line(text: &str) -> String {
    let words = text.lines().filter(|line| !line.trim_start().starts_with(['|', '^']) && !line.contains(" | "));
    words.map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// Shell-like matching of whole names: what precedes the first `*` is at the beginning, what follows the last one at the end, and
/// the pieces between them in their order. The cost is at most the product of both lengths; tenants choose names.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let is =
        |piece: &[char], text: &[char]| piece.len() == text.len() && zip(piece, text).all(|(p, c)| *p == '?' || p == c);
    let mut pieces = pattern.split(|c| *c == '*');
    let first = pieces.next().unwrap_or_default();
    let Some(last) = pieces.next_back() else { return is(first, &name) };
    let Some((start, rest)) = name.split_at_checked(first.len()) else { return false };
    let Some((mut rest, end)) = rest.len().checked_sub(last.len()).and_then(|at| rest.split_at_checked(at)) else {
        return false;
    };
    let follows = |piece: &[char]| {
        let found = (0..=rest.len()).find(|at| rest.get(*at..at + piece.len()).is_some_and(|text| is(piece, text)));
        found.and_then(|at| rest.get(at + piece.len()..)).map(|after| rest = after).is_some()
    };
    is(first, start) && is(last, end) && pieces.all(follows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_key() {
        let config = Config::parse(
            "allow-image-request = false\n[default]\nmodel = 'none'\n[[domain]]\nname = 'dpdk-*'\nmodel = 'intel'\naw-bits = 39\n\
             hotplug = true\nlocked-memory = true\n[[domain]]\nuuid = '3a21c2ee-5ece-4225-baa4-9a11258f601e'\nmodel = 'virtio'\n\
             [emulators]\nx86_64 = '/usr/libexec/qemu-kvm'\n",
        )
        .unwrap();
        assert!(!config.allow_image_request);
        assert_eq!(config.emulator_behind("qemu-system-x86_64"), "/usr/libexec/qemu-kvm");
        assert_eq!(config.emulator_behind("qemu-system-aarch64"), "/usr/bin/qemu-system-aarch64");
        let mut domain = Domain { name: "dpdk-7".into(), ..Domain::default() };
        let keys = config.keys_for(&domain);
        assert_eq!((keys.model.as_deref(), keys.aw_bits, keys.hotplug), (Some("intel"), Some(39), Some(true)));
        domain.name = "web".into();
        assert_eq!(config.keys_for(&domain).model.as_deref(), Some("none"));
        domain.uuid = "3A21C2EE-5ECE-4225-BAA4-9A11258F601E".parse().ok();
        assert_eq!(config.keys_for(&domain).model.as_deref(), Some("virtio"));
    }

    #[test]
    fn refuses_unknown_keys_in_one_line() {
        for (text, needle) in [
            ("model = 'intel'", "unknown field `model`"),
            ("[default]\nmodel = 'Intel'", "unknown model 'Intel'"),
            ("[default]\nmodell = 'intel'", "unknown key 'modell'"),
            ("[default]\nhotplug = 'maybe'", "use yes or no"),
            ("[default]\naw-bits = 300", "line 2"),
            ("# x\n\n[default]\nmodel = 'auto'\n[[domain]]\nname = 'a'\n\nmodel = 'Intel'", "line 8: unknown model"),
            (
                "[[domain]]\nname = 'a'\n[[domain]]\nname = 'b'\nzz = '\u{fc}'\nhot-plug = 'x'",
                "line 5: unknown key 'zz'",
            ),
            ("[default]\naw-bits = 40", "39 or 48"),
            ("[default]\nname = 'x'", "takes no name, uuid"),
            ("[[domain]]\nmodel = 'intel'", "needs a criterion: name, uuid, nova-flavor"),
            ("[[domain]]\nuuid = 'x'", "not a UUID"),
            ("[emulators]\nx86_64 = 'qemu'", "not an absolute path"),
            ("no toml", "line 1"),
        ] {
            let note = Config::parse(text).unwrap_err();
            assert_eq!(note.code, Code::ConfigInvalid);
            assert!(note.message.contains(needle), "{text:?}: {}", note.message);
            assert!(!note.message.contains('\n'), "{}", note.message);
        }
    }

    #[test]
    fn the_first_rule_that_matches_counts_and_the_default_fills_it_up() {
        let config = Config::parse(
            "[default]\nmodel = 'auto'\naw-bits = 48\nhotplug = true\n[[domain]]\nname = 'a*'\naw-bits = 39\nhotplug = false\n\
             [[domain]]\nname = 'ab'\nmodel = 'none'\n",
        )
        .unwrap();
        let keys = config.keys_for(&Domain { name: "ab".into(), ..Domain::default() });
        assert_eq!((keys.model.as_deref(), keys.aw_bits, keys.hotplug), (Some("auto"), Some(39), Some(false)));
        let keys = config.keys_for(&Domain { name: "b".into(), ..Domain::default() });
        assert_eq!((keys.aw_bits, keys.hotplug), (Some(48), Some(true)));
        assert_eq!(Config::parse("").unwrap().keys_for(&Domain::default()), Keys::default());
    }

    /// The metadata of Nova 31, which contains no extra specs.
    #[test]
    fn rules_match_guests_of_every_nova_version() {
        let domain = |metadata: &str| {
            let xml = format!(
                "<domain><name>instance-1</name><metadata>{metadata}\
                 <n:instance xmlns:n='http://openstack.org/xmlns/libvirt/nova/1.1'><n:flavor name='nfv.large'/>\
                 <n:owner><n:user uuid='u'>eve</n:user><n:project uuid='7f'>telco</n:project></n:owner>\
                 <n:root type='image' uuid='8d3f'/></n:instance></metadata></domain>"
            );
            Domain::read(&crate::xml::parse(xml.as_bytes()).unwrap()).unwrap()
        };
        let debian = "<l:libosinfo xmlns:l='http://libosinfo.org/xmlns/libvirt/domain/1.0'>\
                      <l:os id='http://debian.org/debian/13'/></l:libosinfo>";
        for (criteria, expected) in [
            ("nova-flavor = 'nfv.*'", true),
            ("nova-flavor = 'nfv'", false),
            ("nova-project = 'telco'", true),
            ("nova-project = '7f'", true),
            ("nova-project = 'eve'", false),
            ("nova-image = '8d3f'", true),
            ("os = 'Debian *'", true),
            ("os = 'Fedora *'", false),
            ("nova-flavor = 'nfv.*'\nnova-project = 'telco'", true),
            ("nova-flavor = 'nfv.*'\nnova-project = 'other'", false),
            ("nova-flavor = 'nfv.*'\nname = 'web'", false),
        ] {
            let config = Config::parse(&format!("[[domain]]\n{criteria}\nmodel = 'virtio'")).unwrap();
            assert_eq!(config.keys_for(&domain(debian)).model.is_some(), expected, "{criteria}");
            assert_eq!(config.keys_for(&Domain::default()).model, None, "{criteria}: a guest without metadata");
        }
        let config = Config::parse("[[domain]]\nos = '*'\nmodel = 'virtio'").unwrap();
        assert_eq!(config.keys_for(&domain("")).model, None, "a system that is not known");
    }

    #[test]
    fn a_domain_without_a_uuid_matches_no_uuid() {
        let config =
            Config::parse("[[domain]]\nuuid = '3a21c2ee-5ece-4225-baa4-9a11258f601e'\nmodel = 'intel'").unwrap();
        assert_eq!(config.keys_for(&Domain::default()).model, None);
    }

    #[test]
    fn a_hostile_name_costs_no_more_than_both_lengths() {
        let pattern = "a*".repeat(200) + "b";
        assert!(!matches_pattern(&pattern, &"a".repeat(20_000)));
    }

    #[test]
    fn matches_names_like_a_shell() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("dpdk-*", "dpdk-", true),
            ("dpdk-*", "xdpdk-1", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*-gpu-*", "x-gpu-y-gpu-z", true),
            ("*gpu", "gpugpu", true),
            ("", "a", false),
            ("ä*", "äb", true),
        ] {
            assert_eq!(matches_pattern(pattern, name), expected, "{pattern} {name}");
        }
    }
}
