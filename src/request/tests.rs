use super::*;
use crate::domain::NovaMetadata;
use crate::model::Model;

fn domain(extra_specs: &[(&str, &str)], properties: &[(&str, &str)]) -> Domain {
    let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Domain {
        nova: Some(NovaMetadata {
            extra_specs: own(extra_specs),
            properties: own(properties),
            ..NovaMetadata::default()
        }),
        ..Domain::default()
    }
}

fn metadata(keys: &[(&str, &str)]) -> Vec<(String, String)> {
    keys.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn request(domain: &Domain) -> Result<Request, Note> {
    Request::of(domain, &Keys::default(), &Config::default())
}

#[test]
fn a_domain_without_a_request_requests_nothing() {
    let request = request(&Domain::default()).unwrap();
    assert!(!request.asks());
    assert_eq!(request.source, Source::None);
}

#[test]
fn the_strongest_source_decides_each_key() {
    let config =
        Config::parse("[default]\nmodel = 'smmuv3'\naw-bits = 39\nhotplug = true\nlocked-memory = false").unwrap();
    let mut domain = domain(&[("hw:viommu_model", "intel")], &[("hw_viommu_model", "virtio")]);
    let decided = |domain: &Domain, cli: Option<&str>| {
        let cli = Keys { model: cli.map(str::to_owned), ..Keys::of(Source::Cli) };
        let request = Request::of(domain, &cli, &config).unwrap();
        (request.model, request.source, request.aw_bits, request.hotplug)
    };
    assert_eq!(decided(&domain, None), (RequestedModel::Model(Model::Intel), Source::NovaFlavor, Some(39), true));
    domain.metadata = Some(metadata(&[("model", "none"), ("aw-bits", "48")]));
    assert_eq!(decided(&domain, None), (RequestedModel::None, Source::Metadata, Some(48), true));
    assert_eq!(decided(&domain, Some("virtio")).0, RequestedModel::Model(Model::Virtio));
    domain.metadata = None;
    domain.nova.as_mut().unwrap().extra_specs.clear();
    assert_eq!(decided(&domain, None).1, Source::NovaImage);
    domain.nova = None;
    assert_eq!(decided(&domain, None).1, Source::Config);
}

#[test]
fn a_differing_image_is_a_warning_and_an_empty_flavor_falls_through() {
    let differing = request(&domain(&[("hw:viommu_model", "intel")], &[("hw_viommu_model", "virtio")])).unwrap();
    assert_eq!(differing.notes.iter().map(|note| note.code).collect::<Vec<_>>(), [Code::ImageOverridden]);
    let equal = request(&domain(&[("hw:viommu_model", "auto")], &[("hw_viommu_model", "auto")])).unwrap();
    assert!(equal.notes.is_empty());
    let empty = request(&domain(&[("hw:viommu_model", "")], &[("hw_viommu_model", "virtio")])).unwrap();
    assert_eq!((empty.model, empty.source), (RequestedModel::Model(Model::Virtio), Source::NovaImage));
}

#[test]
fn an_unknown_model_names_its_source_and_the_accepted_values() {
    for value in ["INTEL", "autt", " intel", "AMD"] {
        let note = request(&domain(&[("hw:viommu_model", value)], &[])).unwrap_err();
        assert_eq!(note.code, Code::ModelUnknown);
        assert!(
            note.message.contains("the Nova flavor") && note.message.contains(&RequestedModel::names()),
            "{}",
            note.message
        );
    }
}

#[test]
fn the_operator_can_forbid_image_requests() {
    let config = Config { allow_image_request: false, ..Config::default() };
    let asked = domain(&[], &[("hw_viommu_model", "intel"), ("hw_locked_memory", "True")]);
    let request = Request::of(&asked, &Keys::default(), &config).unwrap();
    assert!(!request.asks());
    assert_eq!(request.notes.first().map(|note| note.code), Some(Code::ImageIgnored));
}

#[test]
fn own_metadata_is_strict() {
    let with = |metadata| Domain { metadata: Some(metadata), ..Domain::default() };
    let wrong = [
        metadata(&[("hotplug", "maybe")]),
        metadata(&[("aw-bits", "57")]),
        metadata(&[("modell", "intel")]),
        metadata(&[("<viommmu>", "")]),
        // This user expects a request.
        metadata(&[]),
    ];
    for metadata in wrong {
        assert_eq!(request(&with(metadata)).unwrap_err().code, Code::RequestConflict);
    }
}

#[test]
fn an_empty_model_is_no_request() {
    let cli = Keys { model: Some(String::new()), ..Keys::of(Source::Cli) };
    let request = Request::of(&domain(&[("hw:viommu_model", "intel")], &[]), &cli, &Config::default()).unwrap();
    assert_eq!((request.model, request.source), (RequestedModel::Model(Model::Intel), Source::NovaFlavor));
}

#[test]
fn own_keys_of_a_flavor() {
    let specs = [("viommu:model", "virtio"), ("hw:viommu_model", "intel"), ("viommu:aw_bits", "39")];
    let own = request(&domain(&[&specs[..], &[("viommu:hotplug", "yes")]].concat(), &[])).unwrap();
    assert_eq!((own.model, own.aw_bits, own.hotplug), (RequestedModel::Model(Model::Virtio), Some(39), true));
    for wrong in [("viommu:aw_bits", "40"), ("viommu:hotplug", "perhaps")] {
        assert_eq!(request(&domain(&[wrong], &[])).unwrap_err().code, Code::RequestConflict);
    }
}

#[test]
fn locked_memory_needs_a_page_size() {
    // From Nova: VirtLockMemoryTestCase.
    let locked = ("hw:locked_memory", "True");
    let note = request(&domain(&[locked], &[])).unwrap_err();
    assert_eq!(note.code, Code::LockedMemoryWithoutPageSize);
    assert_eq!(request(&domain(&[], &[("hw_locked_memory", "True")])).unwrap_err().code, note.code);
    assert_eq!(request(&domain(&[locked, ("hw:mem_page_size", "")], &[])).unwrap_err().code, note.code);
    assert!(request(&domain(&[locked, ("hw:mem_page_size", "small")], &[])).unwrap().asks_to_lock());
    assert!(request(&domain(&[locked], &[("hw_mem_page_size", "large")])).unwrap().asks_to_lock());
    assert!(!request(&domain(&[("hw:locked_memory", "False")], &[])).unwrap().asks());
    // A domain without Nova: its XML limits the locked memory.
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
fn novas_flavor_and_image_must_agree_about_locked_memory() {
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
    assert_eq!(of("False", "nonsense"), Ok(false));
    assert_eq!(of("", "True"), Ok(true));
}

#[test]
fn a_stronger_source_settles_novas_contradiction_about_locked_memory() {
    let specs = [("hw:locked_memory", "False"), ("hw:mem_page_size", "small")];
    let mut domain = domain(&specs, &[("hw_locked_memory", "True")]);
    domain.metadata = Some(metadata(&[("locked-memory", "yes")]));
    assert!(request(&domain).unwrap().asks_to_lock());
    let cli = Keys { locked_memory: Some(false), ..Keys::of(Source::Cli) };
    assert!(!Request::of(&domain, &cli, &Config::default()).unwrap().locked_memory);
}

#[test]
fn memory_that_nova_locks_implicitly_is_no_request() {
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
fn every_refusal_has_a_remedy_in_one_line() {
    let domain = domain(&[("hw:viommu_model", "Intel")], &[]);
    let message = request(&domain).unwrap_err().message;
    assert_eq!(
        message,
        "unknown vIOMMU model 'Intel' in the Nova flavor; accepted values are none, intel, smmuv3, virtio, amd, auto"
    );
    let refused = |metadata| request(&Domain { metadata: Some(metadata), ..Domain::default() }).unwrap_err().message;
    let locked = refused(metadata(&[("locked-memory", "2")]));
    assert_eq!(locked, "invalid value locked-memory='2' in the domain metadata: use yes or no");
    let width = refused(metadata(&[("aw-bits", "57")]));
    assert!(width.ends_with("use 39 or 48"), "{width}");
}

#[test]
fn memory_encryption_locks_memory_as_in_nova() {
    // From Nova: GetMemEncryptionConfigTestCase.test_sev, test_sev_es, test_sev_snp.
    for (model, locked) in [("amd-sev", true), ("amd-sev-es", true), ("amd-sev-snp", false)] {
        let domain = domain(&[("hw:mem_encryption", "True"), ("hw:mem_encryption_model", model)], &[]);
        assert_eq!(request(&domain).unwrap().locked_memory, locked, "{model}");
    }
}

// Records of `auto` contain it for comparison; those of older versions have neither key.
#[test]
fn only_what_differs_from_the_default_is_serialised() {
    let keys = |request: &Request| {
        let json = serde_json::to_value(request).unwrap();
        (json.get("virtio").is_some(), json.get("purpose").is_some())
    };
    let default = Request::default();
    assert_eq!(keys(&default), (false, false));
    assert_eq!(keys(&Request { virtio: VirtioScope::On, ..default.clone() }), (true, false));
    assert_eq!(keys(&Request { purpose: Purpose::Interrupts, ..default }), (false, true));
}

// Nova detaches the functions of a flavor before it suspends a guest.
#[test]
fn missing_functions_of_the_flavor_are_expected_later() {
    let of =
        |specs: &[(&str, &str)]| request(&domain(specs, &[])).map(|request| (request.hotplug, request.coming_vfio));
    assert_eq!(of(&[]), Ok((false, 0)));
    assert_eq!(of(&[("pci_passthrough:alias", "a:1,b:2")]), Ok((true, 3)));
    assert_eq!(of(&[("pci_passthrough:alias", "a:1"), ("viommu:hotplug", "no")]), Ok((false, 1)));
}

#[test]
fn the_order_of_auto_is_the_configurations() {
    let order = |config: &str| {
        let config = Config::parse(config).unwrap();
        Request::of(&domain(&[], &[]), &Keys::default(), &config).map(|request| request.specification_order)
    };
    assert_eq!((order(""), order("auto-order = 'specification'")), (Ok(false), Ok(true)));
}

#[test]
fn an_element_inside_the_request_is_named() {
    let error = own_metadata(&metadata(&[("<child>", "")])).unwrap_err();
    assert!(error.message.starts_with("unknown element <child>"), "{}", error.message);
}

/// The values in docs/configuration.md.
#[test]
fn virtio_and_purpose_take_these_values() {
    let virtio = |text| Keys::read(Source::Metadata, [("virtio", text)]).map(|keys| keys.virtio);
    for (text, scope) in [("on", VirtioScope::On), ("yes", VirtioScope::On), ("all", VirtioScope::All)] {
        assert_eq!(virtio(text).unwrap(), Some(scope));
    }
    assert_eq!(virtio("off").unwrap(), Some(VirtioScope::Off));
    assert!(virtio("some").unwrap_err().message.contains("use on, off or all"));
    let purpose = |text| Keys::read(Source::Metadata, [("purpose", text)]).map(|keys| keys.purpose);
    assert_eq!(purpose("dma").unwrap(), Some(Purpose::Dma));
    assert_eq!(purpose("interrupts").unwrap(), Some(Purpose::Interrupts));
    assert!(purpose("both").unwrap_err().message.contains("use dma or interrupts"));
}

#[test]
fn an_empty_value_counts_as_absent_and_of_two_the_first_counts() {
    let keys = Keys::read(Source::Metadata, [("aw-bits", ""), ("aw-bits", "39"), ("aw-bits", "48")]).unwrap();
    assert_eq!(keys.aw_bits, Some(39));
}

#[test]
fn a_source_requests_a_model_or_locked_memory() {
    let asks = |name, value| Keys::read(Source::Metadata, [(name, value)]).unwrap().asks();
    assert!(asks("model", "auto") && asks("model", "no-such") && asks("locked-memory", "on"));
    assert!(!asks("model", "none") && !asks("locked-memory", "off") && !asks("aw-bits", "39"));
    assert!(!Keys::default().asks());
}

/// The table in docs/configuration.md.
#[test]
fn each_source_has_its_own_names_for_the_keys() {
    for (source, key, name) in [
        (Source::Metadata, "aw-bits", "aw-bits"),
        (Source::Config, "virtio-iommu-driver", "virtio-iommu-driver"),
        (Source::Kubevirt, "locked-memory", "viommu.libvirt/locked-memory"),
        (Source::Ovirt, "model", "viommu"),
        (Source::Ovirt, "virtio-iommu-driver", "viommu_virtio_iommu_driver"),
        (Source::NovaFlavor, "aw-bits", "viommu:aw_bits"),
        (Source::NovaFlavor, "model", "viommu:model"),
    ] {
        assert_eq!(source.spelling(key), name);
    }
}
