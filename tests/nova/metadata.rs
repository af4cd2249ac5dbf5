//! `<nova:instance>` in all its forms.

use serde_json::Value;
use viommu::domain::Domain;
use viommu::xml;

use crate::cases::{cases, id};
use crate::instance::{Instance, pairs};
use crate::{Line, NAMESPACES, decide, host};

/// Nova's pairs at the place that a case names.
fn found_in(case: &Value, place: &str) -> Vec<(String, String)> {
    let at = format!("{place}[@name='");
    let named = |(path, value): (String, String)| Some((path.split_once(&at)?.1.strip_suffix("']")?.to_owned(), value));
    pairs(&case["expect"]["xpath"]).into_iter().filter_map(named).collect()
}

/// The pairs that viommu reads from `<nova:instance>` in all its forms.
pub(crate) fn metadata() -> Vec<Line> {
    let mut lines = Vec::new();
    for case in cases("metadata") {
        let what = id(&case);
        let (input, expect) = (&case["input"], &case["expect"]);
        for namespace in NAMESPACES {
            let mut instance = Instance::of(&case, namespace);
            let mut extra_specs = found_in(&case, "nova:extraSpec");
            let mut properties = found_in(&case, "nova:property");
            if expect.get("image_properties").is_some() {
                // These cases name the properties once only, and the flavor of Nova's test has no extra specs.
                properties = pairs(&expect["image_properties"]);
                instance.properties = Some(properties.clone());
            }
            let uuid = expect.get("image_uuid").or(input.get("image_uuid"));
            instance.image = uuid.map(|uuid| uuid.as_str().unwrap_or_default().to_owned());
            let read = |instance: &Instance| {
                let text = instance.xml();
                let nova = Domain::read(&xml::parse(text.as_bytes()).unwrap()).unwrap().nova.unwrap();
                let sorted = |mut pairs: Vec<(String, String)>| {
                    pairs.sort();
                    pairs
                };
                (sorted(nova.extra_specs), sorted(nova.properties))
            };
            extra_specs.sort();
            properties.sort();
            if instance.image.is_none() {
                properties.clear();
            }
            let (found_specs, found_properties) = read(&instance);
            assert_eq!(found_specs, extra_specs, "{what}");
            // A case may name some of the properties only, but each of them must exist.
            assert!(
                properties.iter().all(|property| found_properties.contains(property)),
                "{what}: {found_properties:?}"
            );
            assert_eq!(found_properties.is_empty(), properties.is_empty(), "{what}");

            // viommu finds a request in the same form on either side.
            let pair = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
            "q35".clone_into(&mut instance.machine);
            instance.extra_specs.get_or_insert_default().extend(pair("hw:viommu_model", "intel"));
            let (request, _) = decide(&instance.xml(), &host(&case)).unwrap();
            assert_eq!(request.model.as_str(), "intel", "{what}");
            if instance.image.is_some() {
                instance.extra_specs = None;
                instance.properties.get_or_insert_default().extend(pair("hw_viommu_model", "virtio"));
                let (request, _) = decide(&instance.xml(), &host(&case)).unwrap();
                assert_eq!(request.model.as_str(), "virtio", "{what}");
            }
            // Nova before 32.0.0: neither extra specs nor properties, and so no request.
            let old = Instance { extra_specs: None, properties: None, ..instance };
            assert_eq!(read(&old), (Vec::new(), Vec::new()), "{what}");
            assert!(!decide(&old.xml(), &host(&case)).unwrap().0.asks(), "{what}");
        }
        let line = |words: &str| words.to_owned();
        lines.push(Line { case: line(what), nova: line("writes it"), libvirt: "", ours: line("read") });
    }
    lines
}
