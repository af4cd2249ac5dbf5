//! Positions in the text of a document, and its line ends and indentation.
//!
//! The parser's ranges are right for elements and attributes, and for the *start* of any node. The end of a text node must
//! not be used: adjacent text and CDATA become one node with the range of the first piece.

use std::ops::Range;

use super::write::STEP;
use super::{BLANKS, Document, Element};

const SPACES: [char; 2] = [' ', '\t'];
const LINE_ENDS: [char; 2] = ['\r', '\n'];

/// The text of a document and its line ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout<'a> {
    text: &'a str,
    /// The first line end; `None` for a document that is one line.
    newline: Option<&'a str>,
}

impl<'a> Layout<'a> {
    pub(super) fn of(document: &Document<'a>) -> Layout<'a> {
        let text = document.text();
        let newline = text.find(LINE_ENDS).map(|at| {
            let end = if slice(text, at..at + 2) == "\r\n" { at + 2 } else { at + 1 };
            slice(text, at..end)
        });
        Layout { text, newline }
    }

    /// The line end to write.
    pub(super) fn newline(&self) -> &'a str {
        self.newline.unwrap_or("\n")
    }

    /// What lies between the start tag and the end tag; `None` for `<a/>`.
    pub(super) fn content(&self, element: Element<'_, 'a>) -> Option<Range<usize>> {
        let range = element.0.range();
        let source = slice(self.text, range.clone());
        let first_child = element.0.first_child();
        if first_child.is_none() && source.ends_with("/>") {
            return None;
        }
        // The end tag is the last construct of an element, so no comment or CDATA can be taken for it.
        let end = range.start + source.rfind("</")?;
        Some(first_child.map_or(end, |child| child.range().start)..end)
    }

    /// The end of the start tag's last attribute, or of its name: where another attribute can follow.
    pub(super) fn attributes_end(&self, element: Element<'_, 'a>) -> usize {
        let bracket = match self.content(element) {
            Some(content) => content.start.saturating_sub(">".len()),
            None => element.0.range().end.saturating_sub("/>".len()),
        };
        slice(self.text, 0..bracket).trim_end_matches(BLANKS).len()
    }

    /// The name of the element with its prefix, as written.
    pub(super) fn tag(&self, element: Element<'_, 'a>) -> &'a str {
        let name = slice(self.text, element.0.range()).strip_prefix('<').unwrap_or_default();
        name.split(|c| BLANKS.contains(&c) || c == '/' || c == '>').next().unwrap_or_default()
    }

    /// The value of an attribute without its quotes. (The parser's `range_value` is wrong with much white space around `=`.)
    pub(super) fn value(&self, attribute: roxmltree::Attribute<'_, 'a>) -> Option<Range<usize>> {
        let range = attribute.range();
        let quote = slice(self.text, range.clone()).find(['\'', '"'])?;
        Some(range.start + quote + 1..range.end.checked_sub(1)?)
    }

    /// An attribute with the white space before it.
    pub(super) fn attribute(&self, attribute: roxmltree::Attribute<'_, 'a>) -> Range<usize> {
        let range = attribute.range();
        slice(self.text, 0..range.start).trim_end_matches(BLANKS).len()..range.end
    }

    /// The indentation of the line of this offset, if only white space precedes the offset on it.
    ///
    /// `None` in a document of one line: it has no layout to follow.
    pub(super) fn indent(&self, at: usize) -> Option<&'a str> {
        self.newline?;
        // Stops at the first character that is not blank, so that a long line is not read again for each of its elements.
        let before = slice(self.text, 0..at).trim_end_matches(SPACES);
        let starts_line = before.is_empty() || before == "\u{feff}" || before.ends_with(LINE_ENDS);
        starts_line.then(|| slice(self.text, before.len()..at))
    }

    /// The offset of the next line if nothing follows on this one.
    pub(super) fn next_line(&self, at: usize) -> Option<usize> {
        let end = self.line_end(at)?;
        let rest = slice(self.text, end..self.text.len());
        let length = if rest.starts_with("\r\n") { 2 } else { rest.len().min(1) };
        Some(end + length)
    }

    /// The end of this line, before its line end, if nothing but spaces follows on it.
    pub(super) fn line_end(&self, at: usize) -> Option<usize> {
        let rest = slice(self.text, at..self.text.len());
        let trimmed = rest.trim_start_matches(SPACES);
        (trimmed.is_empty() || trimmed.starts_with(LINE_ENDS)).then(|| at + rest.len() - trimmed.len())
    }

    /// As [`Self::line_end`], where a comment may follow on the line: it belongs to the element in front of it.
    pub(super) fn line_end_after_comment(&self, at: usize) -> Option<usize> {
        let rest = slice(self.text, at..self.text.len());
        let comment = rest.trim_start_matches(SPACES).strip_prefix("<!--").and_then(|rest| rest.split_once("-->"));
        match comment {
            Some((comment, rest)) if !comment.contains(LINE_ENDS) => self.line_end(self.text.len() - rest.len()),
            _ => self.line_end(at),
        }
    }

    /// The indentation of the children of `parent`, whose own is `indent`.
    pub(super) fn child_indent(&self, parent: Element<'_, 'a>, indent: &str) -> String {
        match parent.elements().find_map(|child| self.indent(child.0.range().start)) {
            Some(existing) => existing.to_owned(),
            None => indent.to_owned() + &" ".repeat(STEP.into()),
        }
    }
}

/// A piece of the text. Empty where the offsets are none of it, which offsets of its own document never are.
fn slice(text: &str, range: Range<usize>) -> &str {
    text.get(range).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn inspect<R>(text: &str, look: impl FnOnce(Layout<'_>, Element<'_, '_>) -> R) -> R {
        let document = parse(text.as_bytes()).unwrap();
        look(Layout::of(&document), document.root())
    }

    #[test]
    fn content_is_found_in_spite_of_cdata_and_comments() {
        for (before, content, after) in [
            ("<a>", "x\r\n<![CDATA[y</a>]]>z", "</a>"),
            ("<a b='>'>", "<!-- </a> --><b></b><!-- </a>/> -->", "</a >"),
            ("<a\n>", "<![CDATA[]]>", "</a\n>"),
            ("<a>", "", "</a>"),
            ("<p:a xmlns:p='/>'>", "\n", "</p:a>"),
            ("<a b='/>'>", "<b/>", "</a>"),
        ] {
            let text = format!("<!-- <a> -->{before}{content}{after}<!-- </a> -->");
            let start = 12 + before.len();
            inspect(&text, |layout, root| {
                assert_eq!(layout.content(root), Some(start..start + content.len()), "{text}");
            });
        }
        for text in ["<a/>", "<a b='>/a>' />", "<a\n/><!-- </a> -->"] {
            inspect(text, |layout, root| assert_eq!(layout.content(root), None, "{text}"));
        }
    }

    #[test]
    fn the_end_of_the_attributes() {
        for (tag, rest) in [
            ("<a", "/>"),
            ("<a", " \n/>"),
            ("<a", "></a>"),
            ("<a b='/>'", " ><c/></a>"),
            ("<a b='1'\n   xmlns:p='urn:p'", "\n>text</a>"),
            ("<p:a-b.c xmlns:p='>'", "  />"),
        ] {
            let text = format!("{tag}{rest}");
            inspect(&text, |layout, root| {
                assert_eq!(layout.attributes_end(root), tag.len(), "{text}");
                assert_eq!(layout.tag(root), if tag.starts_with("<p") { "p:a-b.c" } else { "a" });
            });
        }
    }

    #[test]
    fn values_are_found_where_the_parser_loses_them() {
        let (name, blanks) = ("n".repeat(70_000), " ".repeat(300));
        for (before, value, after) in [
            ("<a b='".to_owned(), "v", "'/>"),
            (format!("<a b{blanks}={blanks}\""), "it's", "\"/>"),
            (format!("<a {name}='"), "\"", "' />"),
            ("<a b=\n'".to_owned(), "", "'></a>"),
        ] {
            let text = format!("{before}{value}{after}");
            inspect(&text, |layout, root| {
                let attribute = root.0.attributes().next().unwrap();
                assert_eq!(layout.value(attribute), Some(before.len()..before.len() + value.len()));
            });
        }
    }

    #[test]
    fn the_line_end_of_a_document() {
        let newline = |text: &str| inspect(text, |layout, _| layout.newline.map(str::to_owned));
        assert_eq!(newline("<a/>"), None);
        assert_eq!(newline("<a>\n<b/>\r\n</a>").as_deref(), Some("\n"));
        assert_eq!(newline("<a>\r\n<b/>\n</a>").as_deref(), Some("\r\n"));
        assert_eq!(newline("<a>\r<b/>\n</a>").as_deref(), Some("\r"));
    }

    #[test]
    fn indentation() {
        inspect("\u{feff}<a>\n\t<b/>  <c/> \r\n  x<d/></a>", |layout, root| {
            let indents: Vec<_> = root.elements().map(|child| layout.indent(child.0.range().start)).collect();
            assert_eq!(indents, [Some("\t"), None, None]);
            assert_eq!(layout.indent(root.0.range().start), Some(""));
            assert_eq!(layout.child_indent(root, ""), "\t");
        });
        inspect("<a> <b/> </a>", |layout, root| {
            assert_eq!(layout.indent(root.0.range().start), None);
            assert_eq!(layout.indent(root.elements().next().unwrap().0.range().start), None);
        });
        inspect("<a>\n   <b>\n   </b>\n</a>", |layout, root| {
            let b = root.child("b").unwrap();
            assert_eq!(layout.child_indent(root, ""), "   ");
            assert_eq!(layout.child_indent(b, "   "), "     ");
        });
    }

    #[test]
    fn ends_of_lines() {
        inspect("<a/> \r\n<!-- c --> ", |layout, _| {
            assert_eq!(layout.line_end(4), Some(5));
            assert_eq!(layout.next_line(4), Some(7));
            assert_eq!(layout.line_end(7), None);
            assert_eq!(layout.line_end_after_comment(7), Some(18));
            assert_eq!(layout.next_line(17), Some(18));
        });
        inspect("<a><b/> <!-- c\n --></a>", |layout, _| assert_eq!(layout.line_end_after_comment(7), None));
    }
}
