//! The configuration: it is valid, or its error is one line; a tenant cannot select a rule by a guest's name alone.

use viommu::config::Config;
use viommu::domain::Domain;
use viommu::note::Code;
use viommu::request::{Keys, Request};

pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let config = match Config::parse(text) {
        Ok(config) => config,
        Err(note) => {
            assert_eq!(note.code, Code::ConfigInvalid);
            assert!(!note.message.contains('\n'), "{}", note.message);
            return;
        }
    };
    // A tenant may choose any text of the file as the name of a domain.
    let name: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    let rules = config.domain.iter().filter_map(|rule| rule.uuid());
    for uuid in rules.map(|uuid| uuid.parse().ok()).chain([None]).take(4) {
        let domain = Domain { name: name.clone(), uuid, virt_type: "kvm".to_owned(), ..Domain::default() };
        let keys = config.keys_for(&domain);
        // Only the first matching rule and [default] set values.
        let known = |model: &String| {
            config.domain.iter().chain([&config.default]).any(|rule| rule.keys.model.as_ref() == Some(model))
        };
        assert!(keys.model.as_ref().is_none_or(known));
        match Request::of(&domain, &Keys::default(), &config) {
            Ok(request) => assert!(!request.asks() || config.has_request(), "{request:?}"),
            Err(note) => assert!(Code::from_name(note.code.as_str()).is_some() && !note.message.is_empty()),
        }
    }
    for name in ["qemu-system-x86_64", "qemu-system-aarch64", "qemu-kvm"] {
        assert!(config.emulator_behind(name).starts_with('/'));
    }
}
