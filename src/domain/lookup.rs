//! How libvirt finds a value in a domain XML: the first element of a path through *all* elements of each name, its text as it
//! is written, white space included. An empty text or attribute counts as missing (`virXPathString`).

use std::collections::BTreeMap;

use super::QEMU_NAMESPACE;
use crate::xml::Element;

/// The XPath `string(./a/b[1])`.
pub(super) fn string(domain: Element<'_, '_>, path: &[&str]) -> Option<String> {
    domain.path(path).map(Element::string).filter(|text| !text.is_empty())
}

/// The XPath `string(./a/b/@c)`: of the first element that has the attribute.
pub(super) fn attribute<'d>(domain: Element<'d, '_>, path: &[&str], name: &str) -> Option<&'d str> {
    domain.all(path).into_iter().find_map(|element| element.attr(name)).filter(|value| !value.is_empty())
}

/// [`attribute`], where only the first child `last` of each parent counts: the XPath `string(./a/b[1]/@c)`.
pub(super) fn first_attribute<'d>(
    domain: Element<'d, '_>,
    parents: &[&str],
    last: &str,
    name: &str,
) -> Option<&'d str> {
    let mut firsts = domain.all(parents).into_iter().filter_map(|parent| parent.child(last));
    firsts.find_map(|element| element.attr(name)).filter(|value| !value.is_empty())
}

/// The devices of this element name and `type`.
pub(super) fn of_type<'d, 'a>(
    domain: Element<'d, 'a>,
    name: &str,
    kind: &str,
) -> impl Iterator<Item = Element<'d, 'a>> {
    domain.all(&["devices", name]).into_iter().filter(move |device| device.prop("type") == Some(kind))
}

/// A tenant's text as a message quotes it: its first 40 characters.
pub(super) fn quoted(text: &str) -> String {
    text.chars().take(40).collect()
}

/// The children of every `<devices>`, in document order.
pub(crate) fn devices<'d, 'a>(domain: Element<'d, 'a>) -> impl Iterator<Item = Element<'d, 'a>> {
    domain.children("devices").flat_map(Element::elements)
}

/// The properties in `<qemu:override><qemu:device alias=…><qemu:frontend>`, by the alias: the name, and the value, which
/// type='remove' lacks.
pub(super) fn overrides<'d>(domain: Element<'d, '_>) -> BTreeMap<&'d str, Vec<(&'d str, Option<&'d str>)>> {
    let mut properties: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let overrides = domain.children_ns(QEMU_NAMESPACE, "override");
    for device in overrides.flat_map(|all| all.children_ns(QEMU_NAMESPACE, "device")) {
        let alias = device.prop("alias").unwrap_or_default();
        let Some(frontend) = device.child_ns(QEMU_NAMESPACE, "frontend") else { continue };
        let named = |property: Element<'d, '_>| Some((property.prop("name")?, property.prop("value")));
        properties.entry(alias).or_default().extend(frontend.children_ns(QEMU_NAMESPACE, "property").filter_map(named));
    }
    properties
}
