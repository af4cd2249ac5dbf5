//! Parses bytes into a [`Document`]. Checks size, complexity, encoding and syntax, in this order.
//!
//! The messages name a position and quote at most [`QUOTE_BYTES`] of the document: they appear in logs and in libvirt's error,
//! and a tenant may have written the document.

use memchr::memmem;
use roxmltree::{Error, ParsingOptions, TextPos};

use super::{BLANKS, Document, limits};
use crate::note::{Code, Note};
use crate::text::{cut, printable};

/// Encodings whose bytes are valid UTF-8, in the spellings that libxml2 accepts.
const ENCODINGS: [&str; 4] = ["UTF-8", "UTF8", "US-ASCII", "ASCII"];

/// Longest piece of the document that a message quotes, bytes.
const QUOTE_BYTES: usize = 40;

/// Nodes that a document of any size may have.
const FEW_NODES: usize = 1000;

/// Bytes of a larger document for each of its nodes, on average. The parser takes 72 for a node, so this bounds memory to about
/// 20 times the input. libvirt's test domains have between 10 and 30.
const BYTES_PER_NODE: usize = 6;

/// Parses a document, in time linear in its length.
///
/// # Errors
///
/// A note of level error: [`Code::XmlTooLarge`], [`Code::XmlTooComplex`] and [`Code::XmlDoctype`] for input whose shape
/// no domain has, [`Code::XmlMalformed`] for everything that is not well-formed UTF-8 XML.
pub fn parse(bytes: &[u8]) -> Result<Document<'_>, Note> {
    limits::check(bytes)?;
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = limits::line(bytes, error.valid_up_to());
        malformed(format!("domain XML is not UTF-8 (line {line})"))
    })?;
    let unknown = |encoding: &&str| !ENCODINGS.iter().any(|known| known.eq_ignore_ascii_case(encoding));
    if let Some(encoding) = declared_encoding(text).filter(unknown) {
        let encoding = excerpt(encoding);
        return Err(malformed(format!("domain XML declares the encoding '{encoding}': convert it to UTF-8")));
    }
    let nodes_limit = u32::try_from(FEW_NODES + text.len() / BYTES_PER_NODE).unwrap_or(u32::MAX);
    let options = ParsingOptions { allow_dtd: false, nodes_limit, ..ParsingOptions::default() };
    match roxmltree::Document::parse_with_options(text, options) {
        Ok(tree) => Ok(Document { tree }),
        Err(error) => Err(refusal(error, text, nodes_limit)),
    }
}

/// The document with its undeclared namespace prefixes declared at the root, if it has such and is well-formed then. libxml2, hence
/// libvirt, takes such a prefix for a part of the name.
#[must_use]
pub fn with_declared_prefixes(bytes: &[u8]) -> Option<String> {
    const MOST: usize = 16;
    let mut text = std::str::from_utf8(bytes).ok()?.to_owned();
    let name_end = memmem::find(bytes, b"<domain")? + "<domain".len();
    for _ in 0..MOST {
        limits::check(text.as_bytes()).ok()?;
        match roxmltree::Document::parse(&text) {
            Err(Error::UnknownNamespace(prefix, _)) => {
                text.insert_str(name_end, &format!(" xmlns:{prefix}='urn:undeclared'"));
            }
            other => return (other.is_ok() && text.len() > bytes.len()).then_some(text),
        }
    }
    None
}

fn malformed(message: String) -> Note {
    Note::error(Code::XmlMalformed, message)
}

/// The encoding in the XML declaration. The parser ignores it, and would read Latin-1 as UTF-8.
fn declared_encoding(text: &str) -> Option<&str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut rest = text.strip_prefix("<?xml")?.split_once("?>")?.0;
    if !rest.starts_with(BLANKS) {
        return None; // <?xml-stylesheet …?>
    }
    loop {
        let (name, value) = rest.split_once('=')?;
        let value = value.trim_start_matches(BLANKS);
        let quote = value.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let (value, after) = value.get(1..)?.split_once(quote)?;
        if name.trim_matches(BLANKS) == "encoding" {
            return Some(value);
        }
        rest = after;
    }
}

/// The parser's error in one sentence.
fn refusal(error: Error, text: &str, nodes_limit: u32) -> Note {
    match error {
        Error::DtdDetected => return limits::doctype(text.as_bytes(), 0),
        Error::NodesLimitReached | Error::AttributesLimitReached | Error::NamespacesLimitReached => {
            let message =
                format!("domain XML has more than {nodes_limit} elements, comments and texts in {} bytes", text.len());
            return Note::error(Code::XmlTooComplex, message);
        }
        _ => {}
    }
    let error = shortened(error);
    // These three have no position: something is missing at the end.
    let ends_early = matches!(error, Error::NoRootNode | Error::UnclosedRootNode | Error::UnexpectedEndOfStream);
    let position = if ends_early { end_of(text) } else { error.pos() };
    let what = error.to_string().replacen(&format!(" at {}", error.pos()), "", 1);
    let TextPos { row, col } = position;
    malformed(format!("domain XML is not well-formed: {} (line {row}, column {col})", printable(&what)))
}

/// The same error with the quoted names cut to [`QUOTE_BYTES`].
fn shortened(error: Error) -> Error {
    match error {
        Error::DuplicatedNamespace(name, pos) => Error::DuplicatedNamespace(excerpt(&name), pos),
        Error::UnknownNamespace(name, pos) => Error::UnknownNamespace(excerpt(&name), pos),
        Error::UnexpectedCloseTag(open, close, pos) => Error::UnexpectedCloseTag(excerpt(&open), excerpt(&close), pos),
        Error::UnknownEntityReference(name, pos) => Error::UnknownEntityReference(excerpt(&name), pos),
        Error::DuplicatedAttribute(name, pos) => Error::DuplicatedAttribute(excerpt(&name), pos),
        other => other,
    }
}

/// At most [`QUOTE_BYTES`] of a piece of the document, printable.
fn excerpt(piece: &str) -> String {
    printable(&cut(piece, QUOTE_BYTES)).into_owned()
}

fn end_of(text: &str) -> TextPos {
    let last = text.rsplit('\n').next().unwrap_or(text);
    let column = last.chars().count() + 1;
    // The input is at most 10 MiB, so both fit.
    let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    TextPos::new(narrow(limits::line(text.as_bytes(), text.len())), narrow(column))
}

#[cfg(test)]
mod tests {
    use super::super::MAX_BYTES;
    use super::*;

    fn refused(input: impl AsRef<[u8]>) -> Note {
        let note = parse(input.as_ref()).unwrap_err();
        assert_eq!(note.level, crate::note::Level::Error);
        assert!(note.message.len() < 250, "{}", note.message);
        assert!(!note.message.contains(char::is_control), "{:?}", note.message);
        let message = note.message.as_str();
        assert!(message.starts_with("domain XML ") && !message.ends_with('.'), "{message}");
        note
    }

    fn malformed(input: impl AsRef<[u8]>) -> String {
        let note = refused(input);
        assert_eq!(note.code, Code::XmlMalformed, "{}", note.message);
        note.message
    }

    #[test]
    fn accepts_a_byte_order_mark_and_keeps_offsets() {
        let text = "\u{feff}<?xml version='1.0' encoding='utf-8'?>\n<a/>";
        let document = parse(text.as_bytes()).unwrap();
        assert_eq!(document.text(), text);
        assert_eq!(document.root().0.range(), text.len() - 4..text.len());
    }

    #[test]
    fn refuses_other_encodings() {
        for accepted in ["UTF-8", "utf-8", "US-ASCII", "ascii"] {
            assert!(parse(format!("<?xml version='1.0' encoding='{accepted}'?><a/>").as_bytes()).is_ok(), "{accepted}");
        }
        assert!(parse(b"<?xml version='1.0' standalone='yes'?><a/>").is_ok());
        assert!(parse(b"<?xml-stylesheet href='x' encoding='latin1'?><a/>").is_ok(), "not a declaration");
        assert!(parse(b"<a><!-- <?xml version='1.0' encoding='latin1'?> --></a>").is_ok());
        for declaration in [
            "<?xml version='1.0' encoding='ISO-8859-1'?>",
            "<?xml version=\"1.0\" encoding = \"UTF-16\" ?>",
            "<?xml\nversion='1.0'\nencoding='latin1'?>",
            "\u{feff}<?xml version='1.0' encoding='UTF-7'?>",
        ] {
            let message = malformed(format!("{declaration}<a/>"));
            assert!(message.contains("encoding"), "{message}");
        }
    }

    #[test]
    fn refuses_other_bytes() {
        assert!(malformed(b"<a>\n\xe9</a>").contains("not UTF-8 (line 2)"));
        let utf16: Vec<u8> = "\u{feff}<a/>".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(malformed(utf16).contains("not UTF-8"));
        malformed("<a/>".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>());
        assert!(malformed("<a>\n <b>\0</b></a>").contains("line 2, column 5"));
        for control in ["\u{1}", "\u{1b}", "\u{ffff}"] {
            malformed(format!("<a>{control}</a>"));
            malformed(format!("<a b='{control}'/>"));
            malformed(format!("<a {control}='x'/>"));
            malformed(format!("<a><!--{control}--></a>"));
        }
    }

    #[test]
    fn refuses_malformed_xml() {
        for text in [
            "",
            " ",
            "x",
            "<",
            "<a",
            "<a b",
            "<a b=",
            "<a b='",
            "<a b='c",
            "<a/",
            "<a></a",
            "<a></b>",
            "<a><b></a></b>",
            "<a/><b/>",
            "<a/>x",
            "x<a/>",
            "</a>",
            "<a b='1' b='2'/>",
            "<a b=1/>",
            "<a b='<'/>",
            "<a b='1'c='2'/>",
            "<a>&x;</a>",
            "<a>&</a>",
            "<a>&#0;</a>",
            "<p:a/>",
            "<a p:b='c'/>",
            "<a xmlns:p='1' xmlns:p='2'/>",
            "<a>]]></a>",
            "<a><!-- -- --></a>",
            "<a><!--",
            "<a><![CDATA[",
            "<a><?pi",
            "<a><!x></a>",
            " <?xml version='1.0'?><a/>",
            "<a><?xml version='1.0'?></a>",
            "<!-- no element -->",
            "<a xmlns:p='u' xmlns:q='u' p:b='1' q:b='2'/>",
        ] {
            let message = malformed(text);
            assert!(message.contains("(line 1, column "), "{text}: {message}");
        }
    }

    #[test]
    fn errors_have_a_position_and_a_reason() {
        assert_eq!(
            malformed("<a>\n  <b>\n  </c>\n</a>"),
            "domain XML is not well-formed: expected 'b' tag, not 'c' (line 3, column 3)"
        );
        assert_eq!(
            malformed("<a>\n <b>\n"),
            "domain XML is not well-formed: the root node was opened but never closed (line 3, column 1)"
        );
    }

    #[test]
    fn long_and_hostile_values_are_cut_and_escaped() {
        let name = "é".repeat(5_000);
        for text in [
            format!("<{name}></a>"),
            format!("<a></{name}>"),
            format!("<a>&{name};</a>"),
            format!("<a {name}='' {name}=''/>"),
            format!("<{name}:a/>"),
            format!("<a xmlns:{name}='1' xmlns:{name}='2'/>"),
            format!("<?xml version='1.0' encoding='\u{1b}]0;{name}'?><a/>"),
        ] {
            let message = malformed(text);
            assert!(message.matches('é').count() <= QUOTE_BYTES / 2, "{message}");
        }
        malformed("<a \u{1b}[31m/>");
    }

    #[test]
    fn entities_and_document_types_are_refused() {
        let laughs = "<?xml version='1.0'?>\n<!DOCTYPE l [<!ENTITY a 'ha'><!ENTITY b '&a;&a;'>]>\n<l>&b;</l>";
        assert_eq!(refused(laughs).code, Code::XmlDoctype);
        assert!(malformed("<a>&lol;</a>").contains("'lol'"));
        assert_eq!(parse(b"<a b='&lt;&#65;'/>").unwrap().root().attr("b"), Some("<A"));
    }

    #[test]
    fn bounds_size_and_nodes() {
        let mut text = String::from("<a>");
        text.extend(std::iter::repeat_n(' ', MAX_BYTES - 7));
        text += "</a>";
        assert!(parse(text.as_bytes()).is_ok());
        text.push(' ');
        assert_eq!(refused(text).code, Code::XmlTooLarge);
        // A node per four bytes, then per six: in a small document, and in a larger one.
        let document = |count: usize, piece: &str| format!("<a>{}</a>", piece.repeat(count));
        for (count, piece, accepted) in [
            (2_990, "<b/>", true),
            (3_010, "<b/>", false),
            (1_000_000, "<b/>", false),
            (500_000, "<b c=''>d</b>", true),
        ] {
            let text = document(count, piece);
            match parse(text.as_bytes()) {
                Ok(_) => assert!(accepted, "{count} × {piece}"),
                Err(note) => assert!(!accepted && note.code == Code::XmlTooComplex, "{count} × {piece}: {note:?}"),
            }
        }
    }
}
