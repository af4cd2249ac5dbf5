//! The host's configuration, `/etc/viommu.toml`.
//!
//! Pure: turns text into values and rejects unknown keys and invalid values. `sys::fs` checks who can write to the file.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::domain::{Domain, Uuid};
use crate::note::{Code, Note};
use crate::request::{Keys, RequestedModel, Source};
use crate::text::alternatives;

/// The configuration file.
pub const PATH: &str = "/etc/viommu.toml";

/// The host's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Whether Nova's image properties, which tenants set, count as a request. A vIOMMU and locked memory cost the host.
    pub allow_image_request: bool,
    /// The request of every domain, for keys that its rule leaves out.
    pub default: Rule,
    /// Requests for domains by name pattern or UUID; the first match counts.
    pub domain: Vec<Rule>,
    /// The real QEMU behind the wrapper, by architecture (`x86_64 = "/usr/libexec/qemu-kvm"`).
    pub emulators: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Config {
        Config { allow_image_request: true, default: Rule::default(), domain: Vec::new(), emulators: BTreeMap::new() }
    }
}

/// A request for the domains that match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// A pattern of the domain's name: `*` matches any characters, `?` one character. Not in `[default]`.
    pub name: Option<String>,
    /// The domain's UUID. Not in `[default]`.
    pub uuid: Option<String>,
    /// The request, with the keys of the domain metadata.
    pub keys: Keys,
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
        for (key, value) in BTreeMap::<String, Value>::deserialize(deserializer)? {
            rule.set(&key, value).map_err(D::Error::custom)?;
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
        if config.default.name.is_some() || config.default.uuid.is_some() {
            return Err(invalid("[default] is for every domain and takes neither a name nor a uuid"));
        }
        for rule in &config.domain {
            if rule.name.is_none() == rule.uuid.is_none() {
                return Err(invalid("a [[domain]] rule needs either a name or a uuid"));
            }
            if rule.uuid.as_deref().is_some_and(|uuid| uuid.parse::<Uuid>().is_err()) {
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
        match key {
            "name" => self.name = Some(text),
            "uuid" => self.uuid = Some(text),
            "model" if RequestedModel::parse(&text).is_none() => {
                return Err(format!("unknown model '{text}'; accepted values are {}", RequestedModel::names()));
            }
            key => self.keys.set(key, &text).map_err(|wanted| match wanted {
                Some(wanted) => format!("invalid value {key} = '{text}': use {wanted}"),
                None => format!("unknown key '{key}': use name, uuid, {}", alternatives(Keys::NAMES)),
            })?,
        }
        Ok(())
    }

    fn matches(&self, domain: &Domain) -> bool {
        match (&self.name, &self.uuid) {
            (Some(pattern), _) => matches_pattern(pattern, &domain.name),
            (None, Some(uuid)) => domain.uuid.is_some() && uuid.parse().ok() == domain.uuid,
            (None, None) => false,
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

/// Shell-like matching of whole names. Backtracks to the last `*` only, so the cost is at most the product of both lengths;
/// tenants choose names.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at_pattern, mut at_name) = (0, 0);
    let mut star = None;
    while at_name < name.len() {
        match pattern.get(at_pattern) {
            Some('*') => {
                star = Some((at_pattern, at_name));
                at_pattern += 1;
            }
            Some(c) if *c == '?' || name.get(at_name) == Some(c) => {
                at_pattern += 1;
                at_name += 1;
            }
            _ => {
                let Some((star_pattern, star_name)) = star else { return false };
                star = Some((star_pattern, star_name + 1));
                at_pattern = star_pattern + 1;
                at_name = star_name + 1;
            }
        }
    }
    pattern.get(at_pattern..).is_some_and(|rest| rest.iter().all(|c| *c == '*'))
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
    fn refuses_what_it_does_not_know_in_one_line() {
        for (text, needle) in [
            ("model = 'intel'", "unknown field `model`"),
            ("[default]\nmodel = 'Intel'", "unknown model 'Intel'"),
            ("[default]\nmodell = 'intel'", "unknown key 'modell'"),
            ("[default]\nhotplug = 'maybe'", "use yes or no"),
            ("[default]\naw-bits = 300", "line 2"),
            ("[default]\naw-bits = 40", "39 or 48"),
            ("[default]\nname = 'x'", "neither a name nor a uuid"),
            ("[[domain]]\nmodel = 'intel'", "needs either a name or a uuid"),
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
