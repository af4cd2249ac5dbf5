//! New elements as text.
//!
//! Names are literals of this program. Values may come from anywhere, so `escape` is the one place that they all pass.
//! `xmlwriter` gets only what has passed it: by itself it escapes a quote in a value, `<` in a text, and nothing else.

use xmlwriter::{Indent, Options, XmlWriter};

/// A new element, without a namespace and without text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct New {
    /// The name.
    pub name: &'static str,
    /// The attributes in order, values as they are meant (not escaped). No name twice.
    pub attributes: Vec<(&'static str, String)>,
    /// The child elements in order.
    pub children: Vec<New>,
}

/// How the lines of a new element begin and end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lines<'s> {
    /// The line end.
    pub(super) newline: &'s str,
    /// What stands in front of the element itself. Written by the caller on the element's first line.
    pub(super) indent: &'s str,
    /// What each level adds.
    pub(super) step: &'s str,
}

/// A character that no XML document of ours may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unwritable(pub(super) char);

/// A value as it stands in an attribute in either quote, or in a text.
///
/// Line ends and tabs become references: raw, a parser turns them into blanks. Other control characters are refused; XML
/// has no way to write most of them.
pub(super) fn escape(value: &str) -> Result<String, Unwritable> {
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
            '\u{fffe}' | '\u{ffff}' => return Err(Unwritable(c)),
            c if c.is_control() => return Err(Unwritable(c)),
            c => out.push(c),
        }
    }
    Ok(out)
}

/// The element as text: over several lines, or in one without any white space between elements.
pub(super) fn render(new: &New, single_quote: bool, lines: Option<Lines<'_>>) -> Result<String, Unwritable> {
    let mut writer = XmlWriter::new(Options {
        use_single_quote: single_quote,
        indent: if lines.is_some() { Indent::Tabs } else { Indent::None },
        attributes_indent: Indent::None,
    });
    write(&mut writer, new)?;
    let text = writer.end_document();
    let text = text.trim_end_matches('\n');
    let Some(Lines { newline, indent, step }) = lines else { return Ok(text.to_owned()) };
    // `xmlwriter` knows spaces and tabs only, and one line end. An escaped value holds neither tabs nor line ends.
    let mut out = String::with_capacity(text.len());
    for (number, line) in text.split('\n').enumerate() {
        let content = line.trim_start_matches('\t');
        if number > 0 {
            out += newline;
            out += indent;
            out += &step.repeat(line.len() - content.len());
        }
        out += content;
    }
    Ok(out)
}

fn write(writer: &mut XmlWriter, new: &New) -> Result<(), Unwritable> {
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

    fn leaf(name: &'static str, attributes: Vec<(&'static str, String)>) -> New {
        New { name, attributes, children: vec![] }
    }

    #[test]
    fn every_value_survives_the_parser() {
        for value in ["", "plain", "<&>'\"", "]]>", "&amp;", " a\tb\nc\rd\r\ne ", "é\u{2028}\u{fffd}\u{10ffff}"] {
            for single_quote in [true, false] {
                let new = leaf("a", vec![("b", value.to_owned())]);
                let text = render(&new, single_quote, None).unwrap();
                let document = roxmltree::Document::parse(&text).unwrap();
                assert_eq!(document.root_element().attributes().next().unwrap().value(), value, "{text}");
                assert_eq!(text.starts_with("<a b='"), single_quote, "{text}");
            }
            let text = format!("<a>{}</a>", escape(value).unwrap());
            assert_eq!(roxmltree::Document::parse(&text).unwrap().root_element().text().unwrap_or(""), value, "{text}");
        }
    }

    #[test]
    fn what_xml_cannot_hold_is_refused() {
        for c in ['\0', '\u{1}', '\u{b}', '\u{1b}', '\u{7f}', '\u{85}', '\u{fffe}', '\u{ffff}'] {
            assert_eq!(escape(&format!("a{c}b")), Err(Unwritable(c)));
            let inner = leaf("b", vec![("c", c.to_string())]);
            let outer = New { name: "a", attributes: vec![], children: vec![inner] };
            assert_eq!(render(&outer, true, None), Err(Unwritable(c)));
        }
    }

    #[test]
    fn lines_follow_the_document() {
        let driver = leaf("driver", vec![("intremap", "on".into()), ("eim", "a\tb".into())]);
        let address = leaf("address", vec![]);
        let new = New { name: "iommu", attributes: vec![("model", "intel".into())], children: vec![driver, address] };
        assert_eq!(
            render(&new, true, None).unwrap(),
            "<iommu model='intel'><driver intremap='on' eim='a&#9;b'/><address/></iommu>"
        );
        let lines = Lines { newline: "\r\n", indent: "\t ", step: "   " };
        assert_eq!(
            render(&new, false, Some(lines)).unwrap(),
            "<iommu model=\"intel\">\r\n\t    <driver intremap=\"on\" eim=\"a&#9;b\"/>\r\n\t    <address/>\r\n\t </iommu>"
        );
    }
}
