//! XML: a checked, read-only view of a document, and edits that leave every other byte as it was.
//!
//! This layer handles XML and has nothing of libvirt: no element name, no namespace and no policy of a domain. It does no
//! I/O. A document is never serialised again. What changes is spliced into the text as it was read, so comments, CDATA,
//! quotes, the order of attributes, line ends and a byte order mark survive by construction.
//!
//! - [`parse()`] bounds the shape of hostile input before the parser sees it, and is the only way to a [`Document`];
//! - [`Element`] is the only way to look something up, because the parser's own look-ups ignore namespaces;
//! - [`edit`] turns [`Edit`]s into a new text, in the document's own style; [`mod@write`] renders new elements.

use std::borrow::Cow;

use roxmltree::Node;

pub mod edit;
mod layout;
mod limits;
mod parse;
mod patch;
mod plain;
pub mod write;

pub use edit::{Edit, PatchError, apply};
pub use parse::{parse, with_declared_prefixes};
pub use plain::is_plain;
pub use write::NewElement;

/// Largest input accepted, bytes: libvirt's own cap for an XML file (`virxml.c`).
pub const MAX_BYTES: usize = 10 * 1024 * 1024;

/// What XML calls white space, and no more: a no-break space is text.
const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

/// A parsed document and the text that it was parsed from.
#[derive(Debug)]
pub struct Document<'a> {
    tree: roxmltree::Document<'a>,
}

impl<'a> Document<'a> {
    /// The text as it was read.
    #[must_use]
    pub fn text(&self) -> &'a str {
        self.tree.input_text()
    }

    /// The root element.
    #[must_use]
    pub fn root(&self) -> Element<'_, 'a> {
        Element(self.tree.root_element())
    }
}

/// A namespace-aware view of one element.
///
/// Where a method takes a name and no namespace it means an element or attribute *without* a namespace: what a tenant
/// puts into a namespace of their own is never taken for libvirt's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element<'d, 'a>(Node<'d, 'a>);

impl<'d, 'a> Element<'d, 'a> {
    /// Whether this is the element `name` without a namespace.
    #[must_use]
    pub fn is(self, name: &str) -> bool {
        self.namespace().is_none() && self.name() == name
    }

    /// Whether this is the element `name` of the namespace `ns`.
    #[must_use]
    pub fn is_ns(self, ns: &str, name: &str) -> bool {
        self.namespace() == Some(ns) && self.name() == name
    }

    /// The local name, without a prefix.
    #[must_use]
    pub fn name(self) -> &'a str {
        self.0.tag_name().name()
    }

    /// The URI of the namespace. `xmlns=''` means none, though the parser reports an empty one.
    #[must_use]
    pub fn namespace(self) -> Option<&'d str> {
        self.0.tag_name().namespace().filter(|uri| !uri.is_empty())
    }

    /// The element's text in the document.
    #[must_use]
    pub fn source(self) -> &'a str {
        self.0.document().input_text().get(self.0.range()).unwrap_or_default()
    }

    /// The first child element `name` without a namespace.
    #[must_use]
    pub fn child(self, name: &str) -> Option<Element<'d, 'a>> {
        self.children(name).next()
    }

    /// The child elements `name` without a namespace.
    pub fn children(self, name: &str) -> impl Iterator<Item = Element<'d, 'a>> {
        self.elements().filter(move |element| element.is(name))
    }

    /// All child elements, of whatever name and namespace.
    pub fn elements(self) -> impl Iterator<Item = Element<'d, 'a>> {
        self.0.children().filter(Node::is_element).map(Element)
    }

    /// All elements inside, at any depth.
    pub fn descendants(self) -> impl Iterator<Item = Element<'d, 'a>> {
        self.0.descendants().skip(1).filter(Node::is_element).map(Element)
    }

    /// The first child element `name` of the namespace `ns`.
    #[must_use]
    pub fn child_ns(self, ns: &str, name: &str) -> Option<Element<'d, 'a>> {
        self.children_ns(ns, name).next()
    }

    /// The child elements `name` of the namespace `ns`.
    pub fn children_ns(self, ns: &str, name: &str) -> impl Iterator<Item = Element<'d, 'a>> {
        self.elements().filter(move |element| element.is_ns(ns, name))
    }

    /// Every element at the end of a path of names without a namespace, in document order: the children of *every* element
    /// of each step, as the XPath `./a/b` finds them. An empty path is the element itself.
    #[must_use]
    pub fn all(self, names: &[&str]) -> Vec<Element<'d, 'a>> {
        names
            .iter()
            .fold(vec![self], |parents, name| parents.into_iter().flat_map(|parent| parent.children(name)).collect())
    }

    /// The first of [`Element::all`].
    #[must_use]
    pub fn path(self, names: &[&str]) -> Option<Element<'d, 'a>> {
        self.all(names).into_iter().next()
    }

    /// The value of the attribute `name` without a namespace, references resolved.
    #[must_use]
    pub fn attr(self, name: &str) -> Option<&'d str> {
        self.attribute(name).map(|attribute| attribute.value())
    }

    /// The value of the first attribute of this local name, whatever its namespace (libxml2's `xmlGetProp`).
    #[must_use]
    pub fn prop(self, name: &str) -> Option<&'d str> {
        self.0.attributes().find(|attribute| attribute.name() == name).map(|attribute| attribute.value())
    }

    /// [`Element::prop`] of the first child `child` without a namespace.
    #[must_use]
    pub fn child_prop(self, child: &str, name: &str) -> Option<&'d str> {
        self.child(child)?.prop(name)
    }

    /// All attributes, in order. Namespace declarations are none.
    pub fn attributes(self) -> impl Iterator<Item = Attribute<'d>> {
        self.0.attributes().map(|attribute| Attribute {
            namespace: attribute.namespace().filter(|uri| !uri.is_empty()),
            name: attribute.name(),
            value: attribute.value(),
        })
    }

    /// The element's own text, CDATA included and white space around it trimmed; `None` if nothing is left.
    ///
    /// Text of child elements is not part of it; text on both sides of a child or a comment is joined.
    #[must_use]
    pub fn text(self) -> Option<Cow<'d, str>> {
        let mut pieces = self.0.children().filter(Node::is_text).filter_map(|node| node.text());
        let first = pieces.next()?;
        let text = match pieces.next() {
            None => Cow::Borrowed(first.trim_matches(BLANKS)),
            Some(second) => {
                let whole: String = [first, second].into_iter().chain(pieces).collect();
                Cow::Owned(whole.trim_matches(BLANKS).to_owned())
            }
        };
        Some(text).filter(|text| !text.is_empty())
    }

    /// The text of the element and of all elements in it, white space and CDATA included: the XPath `string(.)`.
    #[must_use]
    pub fn string(self) -> String {
        self.0.descendants().filter(Node::is_text).filter_map(|node| node.text()).collect()
    }

    fn attribute(self, name: &str) -> Option<roxmltree::Attribute<'d, 'a>> {
        self.0.attributes().find(|attribute| attribute.namespace().is_none() && attribute.name() == name)
    }
}

/// An attribute of an [`Element`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'d> {
    /// The URI of its namespace.
    pub namespace: Option<&'d str>,
    /// Its local name, without a prefix.
    pub name: &'d str,
    /// Its value, references resolved.
    pub value: &'d str,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document<'_> {
        parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn looks_up_without_a_namespace() {
        let document = document(
            "<d xmlns:e='urn:e' e:type='evil' type='kvm'><e:features id='evil'/><features id='1'/><features id='2'/></d>",
        );
        let root = document.root();
        assert!(root.is("d") && !root.is_ns("urn:e", "d"));
        assert_eq!(root.attr("type"), Some("kvm"));
        assert_eq!(root.attr("e:type"), None);
        assert_eq!(root.child("features").and_then(|e| e.attr("id")), Some("1"));
        assert_eq!(root.children("features").count(), 2);
        assert_eq!(root.elements().count(), 3);
        assert_eq!(root.child_ns("urn:e", "features").and_then(|e| e.attr("id")), Some("evil"));
        assert_eq!(root.children_ns("urn:e", "features").count(), 1);
        assert_eq!(root.child_ns("urn:other", "features"), None);
    }

    #[test]
    fn an_undeclared_default_namespace_is_none() {
        let document = document("<d xmlns='urn:d'><a/><b xmlns=''><c/></b></d>");
        let root = document.root();
        assert!(!root.is("d") && root.is_ns("urn:d", "d"));
        assert_eq!(root.child("a"), None);
        assert_eq!(root.path(&["b", "c"]).map(Element::name), Some("c"));
        assert_eq!(root.path(&["b", "c"]).and_then(Element::namespace), None);
        assert_eq!(root.path(&["b", "x"]), None);
        assert_eq!(root.path(&[]), Some(root));
    }

    #[test]
    fn text_joins_cdata_and_trims() {
        let document = document("<d>\r\n x\r\n<![CDATA[<y>]]>&amp;z <!-- c -->!<e>inner</e> <f/><g> \n </g></d>");
        let root = document.root();
        assert_eq!(root.text().as_deref(), Some("x\n<y>&z !"));
        assert_eq!(root.child("e").and_then(Element::text).as_deref(), Some("inner"));
        assert_eq!(root.child("f").and_then(Element::text), None);
        assert_eq!(root.child("g").and_then(Element::text), None);
    }
}
