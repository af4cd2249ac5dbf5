//! New elements as text.
//!
//! Names are literals of this program. Values may have any origin, so all of them go through `escape` before `xmlwriter`,
//! which itself escapes only a quote in a value and `<` in a text.

use xmlwriter::{Indent, Options, XmlWriter};

use super::PatchError;

/// Spaces per level, as libvirt writes them.
pub(super) const STEP: u8 = 2;

/// A new element, without a namespace and without text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewElement {
    /// The name.
    pub name: &'static str,
    /// The attributes in order, values not escaped. No name twice.
    pub attributes: Vec<(&'static str, String)>,
    /// The child elements in order.
    pub children: Vec<NewElement>,
}

/// Line end and indentation of a new element.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lines<'s> {
    /// The line end.
    pub(super) newline: &'s str,
    /// The indentation of the element itself. The caller writes it on the first line.
    pub(super) indent: &'s str,
}

/// A value escaped for an attribute in either quote, or for text.
///
/// Line ends and tabs become references, because a parser turns them into blanks. Other control characters are refused: XML
/// cannot represent most of them.
pub(super) fn escape(value: &str) -> Result<String, PatchError> {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '\'' => out += "&apos;",
            '"' => out += "&quot;",
            '\t' => out += "&#9;",
            '\n' => out += "&#10;",
            '\r' => out += "&#13;",
            '\u{fffe}' | '\u{ffff}' => return Err(PatchError::Unwritable(c)),
            c if c.is_control() => return Err(PatchError::Unwritable(c)),
            c => out.push(c),
        }
    }
    Ok(out)
}

/// The element as text: over several lines, or in one without any white space between elements.
pub(super) fn render(new: &NewElement, lines: Option<Lines<'_>>) -> Result<String, PatchError> {
    let mut writer = XmlWriter::new(Options {
        use_single_quote: true,
        indent: if lines.is_some() { Indent::Spaces(STEP) } else { Indent::None },
        attributes_indent: Indent::None,
    });
    write(&mut writer, new)?;
    let text = writer.end_document();
    let text = text.trim_end_matches('\n');
    // `xmlwriter` writes one kind of line end. An escaped value has none.
    Ok(match lines {
        Some(Lines { newline, indent }) => text.replace('\n', &format!("{newline}{indent}")),
        None => text.to_owned(),
    })
}

fn write(writer: &mut XmlWriter, new: &NewElement) -> Result<(), PatchError> {
    writer.start_element(new.name);
    for (name, value) in &new.attributes {
        writer.write_attribute(name, &escape(value)?);
    }
    for child in &new.children {
        write(writer, child)?;
    }
    writer.end_element();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(name: &'static str, attributes: Vec<(&'static str, String)>) -> NewElement {
        NewElement { name, attributes, children: vec![] }
    }

    #[test]
    fn every_value_survives_the_parser() {
        for value in ["", "plain", "<&>'\"", "]]>", "&amp;", " a\tb\nc\rd\r\ne ", "é\u{2028}\u{fffd}\u{10ffff}"] {
            let new = leaf("a", vec![("b", value.to_owned())]);
            let text = render(&new, None).unwrap();
            let document = roxmltree::Document::parse(&text).unwrap();
            assert_eq!(document.root_element().attributes().next().unwrap().value(), value, "{text}");
            let text = format!("<a>{}</a>", escape(value).unwrap());
            assert_eq!(roxmltree::Document::parse(&text).unwrap().root_element().text().unwrap_or(""), value, "{text}");
        }
    }

    #[test]
    fn characters_that_xml_forbids_are_refused() {
        for c in ['\0', '\u{1}', '\u{b}', '\u{1b}', '\u{7f}', '\u{85}', '\u{fffe}', '\u{ffff}'] {
            assert_eq!(escape(&format!("a{c}b")), Err(PatchError::Unwritable(c)));
            let inner = leaf("b", vec![("c", c.to_string())]);
            let outer = NewElement { name: "a", attributes: vec![], children: vec![inner] };
            assert_eq!(render(&outer, None), Err(PatchError::Unwritable(c)));
        }
    }

    #[test]
    fn lines_follow_the_document() {
        let driver = leaf("driver", vec![("intremap", "on".into()), ("eim", "a\tb".into())]);
        let address = leaf("address", vec![]);
        let new =
            NewElement { name: "iommu", attributes: vec![("model", "intel".into())], children: vec![driver, address] };
        assert_eq!(
            render(&new, None).unwrap(),
            "<iommu model='intel'><driver intremap='on' eim='a&#9;b'/><address/></iommu>"
        );
        let lines = Lines { newline: "\r\n", indent: "\t " };
        assert_eq!(
            render(&new, Some(lines)).unwrap(),
            "<iommu model='intel'>\r\n\t   <driver intremap='on' eim='a&#9;b'/>\r\n\t   <address/>\r\n\t </iommu>"
        );
    }
}
