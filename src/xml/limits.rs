//! Limits of size and complexity, checked in one linear pass over the bytes before the parser runs.
//!
//! The parser is not linear in everything: the time for a start tag grows with the square of the number of attributes, with
//! more than the square of the namespace declarations in scope, and with the number of attributes in a namespace times the
//! length of its URI (1.2 MB took 9 s). Domains and libvirt's own limits are far below these limits.
//!
//! The pass finds tags exactly where the parser finds them. It skips comments, CDATA, processing instructions and attribute
//! values as a whole, and stops at the first syntax error, which the parser then reports.

use std::ops::Range;

use memchr::memchr;

use super::MAX_BYTES;
use crate::note::{Code, Note};

/// Deepest nesting; the root has depth 1. libxml2 has the same limit (`xmlParserMaxDepth`). libvirt's test domains reach 14.
const MAX_DEPTH: usize = 256;
/// Most attributes of one element, namespace declarations included. libvirt's test domains reach 15.
const MAX_ATTRIBUTES: usize = 64;
/// Most namespace declarations of a document. libvirt's test domains reach 9.
const MAX_NAMESPACES: usize = 64;
/// Longest namespace URI, bytes as written. The ones that libvirt, Nova, oVirt and libosinfo use have about 50.
const MAX_URI_BYTES: usize = 256;

/// Refuses input that is too large, too complex, or has a document type declaration.
pub(super) fn check(bytes: &[u8]) -> Result<(), Note> {
    if bytes.len() > MAX_BYTES {
        let message = format!("domain XML exceeds the {} MiB limit", MAX_BYTES >> 20);
        return Err(Note::error(Code::XmlTooLarge, message));
    }
    Scan { bytes, depth: 0, namespaces: 0 }.run()
}

/// The refusal of a document type declaration at this offset.
pub(super) fn doctype(bytes: &[u8], at: usize) -> Note {
    let line = line(bytes, at);
    let message = format!("domain XML has a document type declaration (line {line}): remove it");
    Note::error(Code::XmlDoctype, message)
}

/// The line of an offset, from 1.
pub(super) fn line(bytes: &[u8], at: usize) -> usize {
    bytes.iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

struct Scan<'a> {
    bytes: &'a [u8],
    depth: usize,
    namespaces: usize,
}

impl Scan<'_> {
    fn run(&mut self) -> Result<(), Note> {
        let mut at = 0;
        while let Some(tag) = self.find(at, b"<") {
            let next = match self.bytes.get(tag + 1) {
                Some(b'?') => self.find(tag + 2, b"?>").map(|end| end + 2),
                Some(b'!') => self.declaration(tag)?,
                Some(b'/') => {
                    self.depth = self.depth.saturating_sub(1);
                    self.find(tag, b">")
                }
                Some(_) => self.start_tag(tag)?,
                None => None,
            };
            match next {
                Some(next) => at = next,
                None => return Ok(()), // a syntax error, which the parser reports
            }
        }
        Ok(())
    }

    /// Skips what starts with `<!`.
    fn declaration(&self, tag: usize) -> Result<Option<usize>, Note> {
        let rest = self.bytes.get(tag..).unwrap_or_default();
        if rest.starts_with(b"<!--") {
            Ok(self.find(tag + 4, b"-->").map(|end| end + 3))
        } else if rest.starts_with(b"<![CDATA[") {
            Ok(self.find(tag + 9, b"]]>").map(|end| end + 3))
        } else if rest.starts_with(b"<!DOCTYPE") {
            Err(doctype(self.bytes, tag))
        } else {
            Ok(None)
        }
    }

    /// Counts what a start tag has. Returns the offset behind it, or `None` at a syntax error.
    fn start_tag(&mut self, tag: usize) -> Result<Option<usize>, Note> {
        let mut attributes = 0;
        let mut name = tag + 1; // where the name of the next attribute may begin
        let mut at = tag + 1;
        while let Some((markup, byte)) = self.markup(at) {
            at = markup + 1;
            match byte {
                // An empty element is as deep as any other.
                b'>' | b'/' if self.depth >= MAX_DEPTH => {
                    return Err(self.complex(tag, &format!("is nested more than {MAX_DEPTH} levels deep")));
                }
                b'>' => {
                    self.depth += 1;
                    return Ok(Some(at));
                }
                b'/' => return Ok(self.bytes.get(at).filter(|next| **next == b'>').map(|_| at + 1)),
                b'<' => return Ok(None),
                quote => {
                    let Some(end) = self.find(at, &[quote]) else { return Ok(None) };
                    attributes += 1;
                    if attributes > MAX_ATTRIBUTES {
                        return Err(
                            self.complex(tag, &format!("has an element with more than {MAX_ATTRIBUTES} attributes"))
                        );
                    }
                    self.namespace(name..markup, at..end)?;
                    at = end + 1;
                    name = at;
                }
            }
        }
        Ok(None)
    }

    /// Counts an attribute that declares a namespace; `before` is what precedes its value, up to the opening quote.
    fn namespace(&mut self, before: Range<usize>, value: Range<usize>) -> Result<(), Note> {
        let (at, length) = (value.start, value.len());
        let before = self.bytes.get(before).unwrap_or_default();
        // A cheap check first, because hardly any attribute is a declaration.
        if !before.windows(5).any(|word| word == b"xmlns") {
            return Ok(());
        }
        let name = before.trim_ascii_end();
        let name = name.strip_suffix(b"=").unwrap_or(name).trim_ascii();
        // The last blank-separated word: the first attribute has the tag's name in front of it.
        let name = name.rsplit(u8::is_ascii_whitespace).next().unwrap_or(name);
        // The parser takes `any:xmlns` for a declaration, too.
        if !(name == b"xmlns" || name.starts_with(b"xmlns:") || name.ends_with(b":xmlns")) {
            return Ok(());
        }
        self.namespaces += 1;
        if self.namespaces > MAX_NAMESPACES {
            return Err(self.complex(at, &format!("declares more than {MAX_NAMESPACES} namespaces")));
        }
        if length > MAX_URI_BYTES {
            return Err(self.complex(at, &format!("has a namespace URI longer than {MAX_URI_BYTES} bytes")));
        }
        Ok(())
    }

    /// The next byte with a meaning in a tag.
    fn markup(&self, from: usize) -> Option<(usize, u8)> {
        let means = |(_, byte): &(usize, &u8)| matches!(**byte, b'>' | b'/' | b'<' | b'\'' | b'"');
        let (offset, byte) = self.bytes.get(from..)?.iter().enumerate().find(means)?;
        Some((from + offset, *byte))
    }

    fn find(&self, from: usize, needle: &[u8]) -> Option<usize> {
        let rest = self.bytes.get(from..)?;
        let found = match needle {
            [byte] => memchr(*byte, rest),
            _ => rest.windows(needle.len()).position(|window| window == needle),
        };
        found.map(|offset| from + offset)
    }

    fn complex(&self, at: usize, what: &str) -> Note {
        let line = line(self.bytes, at);
        Note::error(Code::XmlTooComplex, format!("domain XML {what} (line {line})"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::parse;
    use super::*;

    fn code(text: &str) -> Option<Code> {
        let refused = check(text.as_bytes()).err().map(|note| note.code);
        // The parser must accept or refuse quickly every document within the limits.
        #[expect(clippy::disallowed_methods, reason = "the test is about time")]
        let start = Instant::now();
        let parsed = parse(text.as_bytes()).err().map(|note| note.code);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?} for {} bytes", start.elapsed(), text.len());
        assert!(refused.is_none() || refused == parsed);
        refused
    }

    fn nested(depth: usize, tag: &str) -> String {
        format!("{}{}", format!("<{tag}>").repeat(depth), format!("</{tag}>").repeat(depth))
    }

    /// Repeats the text `count` times, with the repetition's number in place of `#`.
    fn numbered(count: usize, piece: &str) -> String {
        (0..count).map(|n| piece.replace('#', &n.to_string())).collect()
    }

    fn attributes(count: usize) -> String {
        numbered(count, " a#='>'")
    }

    #[test]
    fn bounds_depth() {
        assert_eq!(code(&nested(256, "a")), None);
        assert_eq!(code(&nested(257, "a")), Some(Code::XmlTooComplex));
        assert_eq!(code(&nested(500_000, "a")), Some(Code::XmlTooComplex));
        assert_eq!(code(&"<a>".repeat(257)), Some(Code::XmlTooComplex), "never closed");
        let empty_at = |depth: usize| nested(depth - 1, "a").replacen("<a></a>", "<a><b/></a>", 1);
        assert_eq!(code(&empty_at(256)), None);
        assert_eq!(code(&empty_at(257)), Some(Code::XmlTooComplex));
        // Siblings do not add depth, in any spelling.
        assert_eq!(code(&format!("<a>{}</a>", "<b/><c></c><d e='/'></d><f />".repeat(1_000))), None);
    }

    #[test]
    fn bounds_attributes() {
        assert_eq!(code(&format!("<a{}/>", attributes(64))), None);
        assert_eq!(code(&format!("<a{}/>", attributes(65))), Some(Code::XmlTooComplex));
        assert_eq!(code(&format!("<a{}/>", attributes(50_000))), Some(Code::XmlTooComplex));
        assert_eq!(code(&format!("<a><b{0}/><c{0}></c></a>", attributes(40))), None, "counted per element");
    }

    #[test]
    fn bounds_namespaces() {
        let declare = |count, spelling| code(&format!("<a>{}</a>", numbered(count, &format!("<b {spelling}/>"))));
        for spelling in ["xmlns:p#='urn:#'", "xmlns='urn:#'", "x='' xmlns:p#='urn:#'", "\n\txmlns:p# \n=\n \"urn:#\""] {
            assert_eq!(declare(64, spelling), None, "{spelling}");
            assert_eq!(declare(65, spelling), Some(Code::XmlTooComplex), "{spelling}");
        }
        for spelling in ["xxmlns='urn:#'", "xmlnsx='#'", "a='xmlns:p#=u'", "a=\"xmlns:p='#'\""] {
            assert_eq!(declare(200, spelling), None, "{spelling}");
        }
        // The parser reads this as a default namespace.
        let foreign = "<b p:xmlns='u'/>".repeat(65);
        assert_eq!(code(&format!("<a xmlns:p='u'>{foreign}</a>")), Some(Code::XmlTooComplex));
        // For 200 levels of ten declarations each, 34 KB, the parser took 309 ms, and for 5000 nested ones 31 s.
        let level = numbered(10, " xmlns:p#='u#'");
        assert_eq!(code(&format!("<a{level}>").repeat(200)), Some(Code::XmlTooComplex));
    }

    #[test]
    fn bounds_namespace_uris() {
        assert_eq!(code(&format!("<a xmlns:p='{}'/>", "u".repeat(256))), None);
        assert_eq!(code(&format!("<a xmlns:p='{}'/>", "u".repeat(257))), Some(Code::XmlTooComplex));
        assert_eq!(code(&format!("<a b='{}'/>", "u".repeat(100_000))), None, "any other value may be long");
        let element = format!("<b{}/>", numbered(60, " p:a#=''"));
        let hostile = format!("<a xmlns:p='{}'>{}</a>", "u".repeat(1_000_000), element.repeat(400));
        assert_eq!(code(&hostile), Some(Code::XmlTooComplex), "the parser needed 9 s");
        let bounded = format!("<a xmlns:p='{}'>{}</a>", "u".repeat(256), element.repeat(400));
        assert_eq!(code(&bounded), None);
    }

    #[test]
    fn refuses_a_document_type() {
        assert_eq!(code("<!DOCTYPE a><a/>"), Some(Code::XmlDoctype));
        assert_eq!(
            code("\u{feff}<?xml version='1.0'?>\n<!-- x -->\n<!DOCTYPE a SYSTEM 'f'><a/>"),
            Some(Code::XmlDoctype)
        );
        let note = check(b"<?xml version='1.0'?>\n<!DOCTYPE a><a/>").unwrap_err();
        assert!(note.message.contains("line 2"), "{}", note.message);
    }

    #[test]
    fn content_is_not_markup() {
        let hostile = format!("<!DOCTYPE x>{}<x{}", "<a>".repeat(300), attributes(70));
        for text in [
            format!("<a><!-- {hostile} --></a>"),
            format!("<a><![CDATA[{hostile}]]]]></a>"),
            format!("<a><?p {hostile}?></a>"),
            format!("<!-- {hostile} --><a/><!-- {hostile} -->"),
            format!("<a b=\"{}\"/>", hostile.replace('<', "&lt;")),
            format!("<a>{}</a>", hostile.replace('<', "&lt;")),
            "<a b='>' c=\"'/>\" d='\"'>' \" > ]] --></a>".to_owned(),
        ] {
            assert_eq!(code(&text), None);
            assert!(parse(text.as_bytes()).is_ok(), "{}", parse(text.as_bytes()).unwrap_err().message);
        }
        // The shortest ones end at the same place as in the parser.
        assert_eq!(code("<a><!----><![CDATA[]]><?p?><b/></a>"), None);
        assert_eq!(code("<a><!--><!DOCTYPE x>--></a>"), None);
    }

    #[test]
    fn malformed_input_is_left_to_the_parser() {
        for text in [
            "",
            "<",
            "<a",
            "<a b='",
            "<a b=\"x'/>",
            "<!",
            "<!x",
            "<!--",
            "<![CDATA[",
            "<?",
            "</",
            "<a/",
            "</a></a>",
            "<a <",
        ] {
            assert_eq!(code(text), None, "{text}");
        }
    }
}
