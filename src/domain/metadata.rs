//! `<metadata>`: the request in our own namespace, and Nova's.
//!
//! Values are kept as written, and `request` checks them. Tenants write most of them.

use super::{METADATA_NAMESPACE, NovaMetadata};
use crate::xml::Element;

/// Nova counts a version up at the end of this (1.0, 1.1), which says nothing about what is inside.
const NOVA_NAMESPACE: &str = "http://openstack.org/xmlns/libvirt/nova/";

/// The attributes of our own element in `<metadata>`, or another element's name in our namespace.
pub(super) fn own(metadata: Element<'_, '_>) -> Option<Vec<(String, String)>> {
    let request = metadata.elements().find(|element| element.namespace() == Some(METADATA_NAMESPACE))?;
    if request.name() != "viommu" {
        return Some(vec![(format!("<{}>", request.name()), String::new())]);
    }
    let attributes = request.attributes().map(|attribute| {
        // An attribute with a prefix is no key of ours.
        let name =
            attribute.namespace.map_or_else(|| attribute.name.to_owned(), |uri| format!("{{{uri}}}{}", attribute.name));
        (name, attribute.value.to_owned())
    });
    Some(attributes.collect())
}

/// Elements that look like a request or a vIOMMU, but are in another namespace or place. libvirt drops an `<iommu>` outside
/// `<devices>`, and ignores elements of unknown namespaces.
pub(super) fn ignored(domain: Element<'_, '_>) -> Vec<String> {
    let metadata = || domain.children("metadata").flat_map(Element::elements);
    let near = metadata().filter(|element| {
        let namespace = element.namespace().unwrap_or_default();
        namespace != METADATA_NAMESPACE && (element.name() == "viommu" || namespace.contains("viommu"))
    });
    let near = near.map(|element| match element.namespace() {
        Some(namespace) => {
            format!("<{}> in the namespace '{namespace}' instead of '{METADATA_NAMESPACE}'", element.name())
        }
        None => format!("<{}> without the namespace '{METADATA_NAMESPACE}'", element.name()),
    });
    let is_own = |element: Element<'_, '_>| element.is_ns(METADATA_NAMESPACE, "viommu");
    let nested = metadata().filter(|element| !is_own(*element) && element.descendants().any(is_own));
    let nested = nested.map(|element| format!("<viommu> in <{}> instead of <metadata>", element.name()));
    let places = ["features", "os", "cpu"].into_iter().flat_map(|name| domain.children(name));
    let misplaced = [domain].into_iter().chain(places).filter(|place| place.child("iommu").is_some());
    let misplaced = misplaced.map(|place| format!("<iommu> in <{}> instead of <devices>", place.name()));
    near.chain(nested).chain(misplaced).collect()
}

impl NovaMetadata {
    /// Reads `<nova:instance>` from `<metadata>`. Before Nova 32.0.0 there are neither specs nor properties.
    pub(super) fn read(metadata: Element<'_, '_>) -> Option<NovaMetadata> {
        let instance = nova(metadata, "instance").next()?;
        let part = |outer, inner| nova(instance, outer).next().and_then(|outer| nova(outer, inner).next());
        let attr =
            |element: Option<Element<'_, '_>>, name| element.and_then(|element| element.attr(name)).map(str::to_owned);
        let project = part("owner", "project");
        Some(NovaMetadata {
            flavor: attr(nova(instance, "flavor").next(), "name"),
            project: project.and_then(Element::text).map(Into::into).into_iter().chain(attr(project, "uuid")).collect(),
            image: attr(nova(instance, "root").find(|root| root.attr("type") == Some("image")), "uuid"),
            extra_specs: pairs(instance, ["flavor", "extraSpecs", "extraSpec"]),
            properties: pairs(instance, ["image", "properties", "property"]),
        })
    }
}

/// Nova's child elements of this name, of whatever version.
fn nova<'d, 'a>(parent: Element<'d, 'a>, name: &str) -> impl Iterator<Item = Element<'d, 'a>> {
    parent.elements().filter(move |element| {
        element.name() == name && element.namespace().is_some_and(|uri| uri.starts_with(NOVA_NAMESPACE))
    })
}

/// The `name` and the text of every element at the end of a path.
fn pairs(instance: Element<'_, '_>, [outer, list, item]: [&str; 3]) -> Vec<(String, String)> {
    let Some(list) = nova(instance, outer).next().and_then(|outer| nova(outer, list).next()) else { return Vec::new() };
    nova(list, item)
        .filter_map(|pair| Some((pair.attr("name")?.to_owned(), pair.text().unwrap_or_default().into_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Domain;
    use super::super::read::from_text;
    use super::*;

    fn domain(metadata: &str) -> Domain {
        from_text(&format!("<domain><metadata>{metadata}</metadata></domain>"))
    }

    #[test]
    fn misplaced_requests_are_found() {
        let ignored = |text: &str| from_text(text).ignored;
        for (text, words) in [
            (
                "<metadata><viommu xmlns='urn:libvirt-viommu' model='intel'/></metadata>",
                "'urn:libvirt-viommu' instead of",
            ),
            ("<metadata><v:viommu xmlns:v='urn:libvirt-viommu:2' model='intel'/></metadata>", "'urn:libvirt-viommu:2'"),
            ("<metadata><viommu model='intel'/></metadata>", "without the namespace"),
            (
                "<metadata><x:a xmlns:x='u'><v:viommu xmlns:v='urn:libvirt-viommu:1' model='intel'/></x:a></metadata>",
                "<viommu> in <a> instead of <metadata>",
            ),
            (
                "<metadata><x:a xmlns:x='u'><b xmlns=''><c/><v:viommu xmlns:v='urn:libvirt-viommu:1'/></b></x:a></metadata>",
                "<viommu> in <a> instead of <metadata>",
            ),
            ("<iommu model='intel'/>", "<iommu> in <domain>"),
            ("<features><iommu model='intel'/></features>", "<iommu> in <features>"),
        ] {
            let found = ignored(&format!("<domain>{text}</domain>"));
            assert!(found.len() == 1 && found[0].contains(words), "{text}: {found:?}");
        }
        let right =
            "<domain><metadata><viommu xmlns='urn:libvirt-viommu:1' model='intel'/><x xmlns='urn:x'><viommu/></x></metadata>
                     <devices><iommu model='intel'/></devices></domain>";
        assert!(ignored(right).is_empty());
    }

    #[test]
    fn our_own_request() {
        // The result of virsh metadata --key viommu --set "<viommu …/>".
        let domain = domain(
            "<viommu:viommu xmlns:viommu='urn:libvirt-viommu:1' model='auto' locked-memory='yes' aw-bits='39' hotplug='2'/>",
        );
        let pairs = [("model", "auto"), ("locked-memory", "yes"), ("aw-bits", "39"), ("hotplug", "2")];
        let expected = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        assert_eq!(domain.metadata, Some(expected));
    }

    #[test]
    fn only_our_namespace_counts() {
        assert_eq!(domain("<viommu xmlns='urn:libvirt-viommu:1'/>").metadata, Some(Vec::new()));
        for other in ["<viommu model='intel'/>", "<viommu xmlns='urn:libvirt-viommu:2' model='intel'/>", ""] {
            assert_eq!(domain(other).metadata, None, "{other}");
        }
        let outside = from_text("<domain><viommu xmlns='urn:libvirt-viommu:1' model='intel'/></domain>");
        assert_eq!(outside.metadata, None);
    }

    #[test]
    fn unknown_keys_and_values_are_named() {
        let domain =
            domain("<v:viommu xmlns:v='urn:libvirt-viommu:1' v:model='intel' modle='intel' model='' MODEL='x'/>");
        let names = |domain: Domain| domain.metadata.unwrap().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(domain), ["{urn:libvirt-viommu:1}model", "modle", "model", "MODEL"]);
        let misspelt = "<viommmu xmlns='urn:libvirt-viommu:1' model='intel'/>";
        assert_eq!(names(self::domain(misspelt)), ["<viommmu>"]);
    }

    /// The metadata of Nova 33.0.0, shortened, with its own prefix `n`.
    fn instance(uri: &str) -> String {
        format!(
            r#"<n:instance xmlns:n="{uri}"><n:package version="33.0.0"/>
              <n:flavor name="m1.small" id="1"><n:memory>2048</n:memory>
                <n:extraSpecs>
                  <n:extraSpec name="hw:viommu_model">intel</n:extraSpec>
                  <n:extraSpec name="hw:locked_memory">True</n:extraSpec>
                  <n:extraSpec name="hw:viommu_model">virtio</n:extraSpec>
                  <n:extraSpec>nameless</n:extraSpec>
                  <n:extraSpec name="hw:mem_page_size"/>
                </n:extraSpecs></n:flavor>
              <n:image uuid=""><n:minDisk>10</n:minDisk>
                <n:properties>
                  <n:property name="hw_viommu_model">virtio</n:property>
                  <n:property name="os_type">Windows</n:property>
                </n:properties></n:image></n:instance>"#
        )
    }

    #[test]
    fn novas_request() {
        for version in ["1.0", "1.1", "2.0"] {
            let domain = domain(&instance(&format!("http://openstack.org/xmlns/libvirt/nova/{version}")));
            let nova = domain.nova.unwrap();
            assert_eq!(nova.extra_specs.len(), 4, "{version}");
            assert_eq!(nova.extra_spec("hw:viommu_model"), Some("intel"), "the first counts");
            assert_eq!(nova.extra_spec("hw:locked_memory"), Some("True"));
            assert_eq!(nova.extra_spec("hw:mem_page_size"), Some(""));
            assert_eq!(nova.property("hw_viommu_model"), Some("virtio"));
            assert_eq!(nova.property("hw_locked_memory"), None);
            assert!(domain.system.is_some_and(|system| system.windows));
        }
        assert_eq!(domain(&instance("http://openstack.org/xmlns/libvirt/")).nova, None);
        let old = domain(
            "<nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'><nova:flavor name='m1'/></nova:instance>",
        );
        let flavor = Some("m1".to_owned());
        assert_eq!(old.nova, Some(NovaMetadata { flavor, ..NovaMetadata::default() }));
    }
}
