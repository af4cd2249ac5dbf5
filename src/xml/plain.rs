//! Whether a byte search finds every text of a document.

use memchr::{memchr, memchr_iter, memmem};

use super::MAX_BYTES;

/// Whether the bytes of the document spell every ASCII word as it is: a document of the allowed size, in UTF-8, without
/// document type declaration, and without references but those to the five characters that XML itself names, to white space,
/// and to characters beyond ASCII, which libvirt writes in the attributes of metadata. In any other document an attribute or
/// a text can hold a word that no byte search finds.
#[must_use]
pub fn is_plain(bytes: &[u8]) -> bool {
    let reference = |at: usize| {
        let name = bytes.get(at + 1..).unwrap_or_default();
        let named = [&b"lt;"[..], b"gt;", b"amp;", b"quot;", b"apos;"].iter().any(|known| name.starts_with(known));
        // No other character of these is one of XML.
        let harmless = |code| matches!(code, '\t' | '\n' | '\r' | ' ' | '\u{80}'..='\u{fffd}' | '\u{10000}'..);
        named || character(name).is_some_and(harmless)
    };
    let start = bytes.trim_ascii_start();
    bytes.len() <= MAX_BYTES
        // Another encoding has another first byte, a zero byte, or an XML declaration, which libvirt never writes.
        && start.starts_with(b"<") && !start.starts_with(b"<?")
        && memchr(0, bytes).is_none()
        && memmem::find(bytes, b"<!DOCTYPE").is_none()
        && memchr_iter(b'&', bytes).all(reference)
}

/// The character of a numeric reference, of which `reference` is what follows the ampersand.
fn character(reference: &[u8]) -> Option<char> {
    let number = reference.strip_prefix(b"#")?;
    let (number, radix) = number.strip_prefix(b"x").map_or((number, 10), |digits| (digits, 16));
    let (digits, rest) = number.split_at_checked(number.iter().position(|byte| !byte.is_ascii_hexdigit())?)?;
    let code = u32::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()?;
    char::from_u32(code).filter(|_| rest.starts_with(b";"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_document_can_be_searched() {
        let text = "<domain>\n  <name>a &amp; b &lt;&gt;&quot;&apos;</name>\n  <title>\u{e4}</title>\n</domain>\n";
        assert!(is_plain(text.as_bytes()) && is_plain(format!("<!-- c -->{text}").as_bytes()));
        // What libvirt writes, and the same with leading zeros and decimal digits.
        let plain = [
            "&#xE4;",
            "&#228;",
            "&#x0000000000e4;",
            "&#00228;",
            "&#9;",
            "&#xA;",
            "&#13;",
            "&#32;",
            "&#x80;",
            "&#x10FFFF;",
        ];
        for reference in plain {
            assert!(is_plain(text.replacen("&amp;", reference, 1).as_bytes()), "{reference}");
        }
        for reference in [
            // ASCII, and what is no character of XML.
            "&#x76;",
            "&#118;",
            "&#0118;",
            "&#x7F;",
            "&#33;",
            "&#12;",
            "&#0;",
            "&#xD800;",
            "&#xFFFE;",
            "&#xFFFF;",
            "&#x110000;",
            "&#4294967328;",
            "&#x1000000E4;",
            // Not a reference.
            "&#;",
            "&#x;",
            "&#xE4",
            "&#228",
            "&#XE4;",
            "&#E4;",
            "&# 228;",
            "&#+228;",
            "&#x-E4;",
            "&#228 ;",
            "&#",
            "&#x",
        ] {
            assert!(!is_plain(text.replacen("&amp;", reference, 1).as_bytes()), "{reference}");
        }
        let utf_16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(!is_plain(&utf_16));
        let from = |from: &str, to: &str| text.replacen(from, to, 1).into_bytes();
        for hides in [
            from("a &amp;", "&#118;"),
            from("a &amp;", "&x;"),
            from("a &amp;", "&"),
            from("<domain>", "<!DOCTYPE domain [<!ENTITY x 'iommu'>]><domain>"),
            from("<domain>", "<?xml version='1.0' encoding='UTF-7'?><domain>"),
            // "<domain>" in EBCDIC.
            b"\x4c\x84\x96\x94\x81\x89\x95\x6e".to_vec(),
            Vec::new(),
        ] {
            assert!(!is_plain(&hides), "{}", String::from_utf8_lossy(&hides));
        }
        let largest = from("a &amp;", &"a".repeat(MAX_BYTES - text.len() + 7));
        assert_eq!((largest.len(), is_plain(&largest)), (MAX_BYTES, true));
        assert!(!is_plain(&[&largest[..], b"\n"].concat()));
    }
}
