//! Edits of a document.
//!
//! An edit changes no other byte. New elements have libvirt's own style (single quotes, two spaces per level), the document's
//! line ends and the indentation of their siblings. Edits that overlap are refused, and then none is applied.

use thiserror::Error;

use super::layout::Layout;
use super::patch::Patch;
use super::write::{Lines, NewElement, escape, render};
use super::{Document, Element};

/// One change of a document.
#[derive(Debug, Clone)]
pub enum Edit<'d, 'a> {
    /// Adds a last child. Several for one parent come out in their order.
    Append {
        /// The element that gets the child; one without content (`<a/>`) is opened.
        parent: Element<'d, 'a>,
        /// The child.
        new: NewElement,
    },
    /// Sets an attribute without a namespace: behind the existing ones, or in place of its old value and in its quotes.
    SetAttribute {
        /// The element that gets the attribute.
        element: Element<'d, 'a>,
        /// The name.
        name: &'static str,
        /// The value, not escaped. An equal value changes nothing.
        value: String,
    },
    /// Removes an attribute without a namespace, and the white space before it. Without one nothing changes.
    RemoveAttribute {
        /// The element that has the attribute.
        element: Element<'d, 'a>,
        /// The name.
        name: &'static str,
    },
    /// Adds a sibling behind an element. Several for one sibling come out in their order.
    InsertAfter {
        /// The element in front; not the root.
        sibling: Element<'d, 'a>,
        /// The element behind it.
        new: NewElement,
    },
    /// Removes an element, and its line if nothing else is on it.
    Remove {
        /// The element; not the root.
        element: Element<'d, 'a>,
    },
    /// Replaces the whole text of an element that has text only, or nothing.
    SetText {
        /// The element that gets the text.
        element: Element<'d, 'a>,
        /// The text, not escaped. An equal text changes nothing.
        value: String,
    },
}

/// Why edits cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatchError {
    /// Two edits concern the same place, or one lies in what another removes.
    #[error("two edits of the XML contradict each other")]
    Overlap,
    /// The new element would be in a default namespace.
    #[error("a default namespace (xmlns=…) is in force at <{0}>: elements without a namespace cannot be added there")]
    DefaultNamespace(String),
    /// A value has a character that XML cannot represent.
    #[error("the character {0:?} cannot be written in XML")]
    Unwritable(char),
    /// The element has more than text.
    #[error("<{0}> has more than text in it")]
    NotText(String),
    /// The root cannot be removed or get a sibling.
    #[error("the root element <{0}> cannot be removed or get a sibling")]
    Root(String),
    /// An element belongs to another document.
    #[error("<{0}> is an element of another document")]
    OtherDocument(String),
}

/// The text of the document with all edits applied. Without edits, or with ones that change nothing, the text as it was.
///
/// # Errors
///
/// [`PatchError`], if an edit is impossible by itself or together with another.
pub fn apply<'d, 'a>(document: &'d Document<'a>, edits: &[Edit<'d, 'a>]) -> Result<String, PatchError> {
    let mut work = Work { layout: Layout::of(document), patch: Patch::default() };
    // The start tag and the content of a parent can each be opened once only, so what goes there is gathered first.
    let mut set: Vec<(Element<'_, '_>, &str)> = vec![];
    let mut appended: Vec<(Element<'_, '_>, Vec<&NewElement>)> = vec![];
    for edit in edits {
        own(document, edit)?;
        match edit {
            Edit::Append { parent, new } => match appended.iter_mut().find(|(known, _)| known == parent) {
                Some((_, news)) => news.push(new),
                None => appended.push((*parent, vec![new])),
            },
            Edit::SetAttribute { element, name, value } => {
                if set.contains(&(*element, name)) {
                    return Err(PatchError::Overlap);
                }
                set.push((*element, name));
                work.set_attribute(*element, name, value)?;
            }
            Edit::RemoveAttribute { element, name } => work.remove_attribute(*element, name),
            Edit::InsertAfter { sibling, new } => work.insert_after(*sibling, new)?,
            Edit::Remove { element } => work.remove(*element)?,
            Edit::SetText { element, value } => work.set_text(*element, value)?,
        }
    }
    // Last, so that what follows the last child in a one-line document still comes before what is appended.
    for (parent, news) in appended {
        work.append(parent, &news)?;
    }
    work.patch.apply(document.text())
}

/// The offsets of another document's element would hit anything.
fn own(document: &Document<'_>, edit: &Edit<'_, '_>) -> Result<(), PatchError> {
    let (Edit::Append { parent: element, .. }
    | Edit::SetAttribute { element, .. }
    | Edit::RemoveAttribute { element, .. }
    | Edit::InsertAfter { sibling: element, .. }
    | Edit::Remove { element }
    | Edit::SetText { element, .. }) = edit;
    if std::ptr::eq(element.0.document(), &raw const document.tree) {
        Ok(())
    } else {
        Err(PatchError::OtherDocument(element.name().to_owned()))
    }
}

/// The splices of the edits that are handled so far.
struct Work<'a> {
    layout: Layout<'a>,
    patch: Patch,
}

impl<'a> Work<'a> {
    fn set_attribute(&mut self, element: Element<'_, 'a>, name: &str, value: &str) -> Result<(), PatchError> {
        match element.attribute(name) {
            Some(attribute) if attribute.value() == value => {}
            Some(attribute) => {
                let range = self.layout.value(attribute).ok_or(PatchError::Overlap)?;
                self.patch.replace(range, escape(value)?);
            }
            None => {
                let text = format!(" {name}='{}'", escape(value)?);
                self.patch.insert(self.layout.attributes_end(element), text);
            }
        }
        Ok(())
    }

    fn remove_attribute(&mut self, element: Element<'_, 'a>, name: &str) {
        if let Some(attribute) = element.attribute(name) {
            self.patch.replace(self.layout.attribute(attribute), String::new());
        }
    }

    fn set_text(&mut self, element: Element<'_, 'a>, value: &str) -> Result<(), PatchError> {
        if element.0.children().any(|node| !node.is_text()) {
            return Err(PatchError::NotText(element.name().to_owned()));
        }
        // Without other nodes in between the parser has made all text one node.
        if element.0.text().unwrap_or_default() == value {
            return Ok(());
        }
        let text = escape(value)?;
        match self.layout.content(element) {
            Some(content) => self.patch.replace(content, text),
            None => self.open(element, &text),
        }
        Ok(())
    }

    /// Gives `<a/>` a content.
    fn open(&mut self, element: Element<'_, 'a>, content: &str) {
        let range = self.layout.attributes_end(element)..element.0.range().end;
        self.patch.replace(range, format!(">{content}</{}>", self.layout.tag(element)));
    }

    fn remove(&mut self, element: Element<'_, 'a>) -> Result<(), PatchError> {
        parent_of(element)?;
        let range = element.0.range();
        let line = self.layout.indent(range.start).zip(self.layout.next_line(range.end));
        let range = line.map_or(range.clone(), |(indent, next)| range.start - indent.len()..next);
        self.patch.replace(range, String::new());
        Ok(())
    }

    fn insert_after(&mut self, sibling: Element<'_, 'a>, new: &NewElement) -> Result<(), PatchError> {
        let parent = parent_of(sibling)?;
        no_default_namespace(parent)?;
        let range = sibling.0.range();
        let (at, text) = match self.layout.indent(range.start) {
            Some(indent) => {
                let text = self.on_lines(&[new], indent)?;
                (self.layout.line_end_after_comment(range.end).unwrap_or(range.end), text)
            }
            None => (range.end, in_line(&[new])?),
        };
        self.patch.insert(at, text);
        Ok(())
    }

    fn append(&mut self, parent: Element<'_, 'a>, news: &[&NewElement]) -> Result<(), PatchError> {
        no_default_namespace(parent)?;
        let range = parent.0.range();
        // The content of an element gets lines of its own only if nothing else is on the element's lines.
        let own_line = self.layout.indent(range.start).filter(|_| self.layout.next_line(range.end).is_some());
        let Some(content) = self.layout.content(parent) else {
            let inner = self.between_tags(parent, own_line, news)?;
            self.open(parent, &inner);
            return Ok(());
        };
        let end = content.end;
        let (at, text) = if content.is_empty() {
            (end, self.between_tags(parent, own_line, news)?)
        } else if let Some(indent) = self.layout.indent(end) {
            // The end tag begins a line: the new lines come in front of that line, each with its end.
            let child = self.layout.child_indent(parent, indent);
            let lines = self.on_lines(news, &child)?;
            let newline = self.layout.newline();
            let lines = lines.strip_prefix(newline).unwrap_or(&lines);
            (end - indent.len(), format!("{lines}{newline}"))
        } else {
            // `…</last></parent>`: with white space around it, removing it would leave some behind.
            (end, in_line(news)?)
        };
        self.patch.insert(at, text);
        Ok(())
    }

    /// The content for an element that was empty; on lines of its own if `indent` is given.
    fn between_tags(
        &self,
        parent: Element<'_, 'a>,
        indent: Option<&str>,
        news: &[&NewElement],
    ) -> Result<String, PatchError> {
        let Some(indent) = indent else { return in_line(news) };
        let child = self.layout.child_indent(parent, indent);
        Ok(self.on_lines(news, &child)? + self.layout.newline() + indent)
    }

    /// The elements on lines of their own, with a line end in front of each.
    fn on_lines(&self, news: &[&NewElement], indent: &str) -> Result<String, PatchError> {
        let lines = Lines { newline: self.layout.newline(), indent };
        let mut out = String::new();
        for new in news {
            out += lines.newline;
            out += indent;
            out += &render(new, Some(lines))?;
        }
        Ok(out)
    }
}

/// The elements without any white space: where there are no lines, or where white space may be part of a text.
fn in_line(news: &[&NewElement]) -> Result<String, PatchError> {
    news.iter().map(|new| render(new, None)).collect()
}

fn parent_of<'d, 'a>(element: Element<'d, 'a>) -> Result<Element<'d, 'a>, PatchError> {
    element.0.parent_element().map(Element).ok_or_else(|| PatchError::Root(element.name().to_owned()))
}

fn no_default_namespace(parent: Element<'_, '_>) -> Result<(), PatchError> {
    match parent.0.default_namespace() {
        None | Some("") => Ok(()),
        Some(_) => Err(PatchError::DefaultNamespace(parent.name().to_owned())),
    }
}

#[cfg(test)]
mod tests;
