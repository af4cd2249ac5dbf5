//! How libvirt finds a value in a domain XML: the first element of a path through *all* elements of each name, its text as it
//! is written, white space included. An empty text or attribute is as good as none (`virXPathString`).

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
