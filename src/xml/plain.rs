//! Whether a byte search finds every text of a document.

use memchr::{memchr, memchr_iter, memmem};

use super::MAX_BYTES;

/// Whether the bytes of the document spell every text as it is: a document of the allowed size, in UTF-8, without document
/// type declaration, and without references but those to the five characters that XML itself names. In any other document
/// an attribute or a text can hold a word that no byte search finds.
#[must_use]
pub fn is_plain(bytes: &[u8]) -> bool {
    let reference = |at: usize| {
        let name = bytes.get(at + 1..).unwrap_or_default();
        [&b"lt;"[..], b"gt;", b"amp;", b"quot;", b"apos;"].iter().any(|known| name.starts_with(known))
    };
    let start = bytes.trim_ascii_start();
    bytes.len() <= MAX_BYTES
        // Another encoding has another first byte, a zero byte, or an XML declaration, which libvirt never writes.
        && start.starts_with(b"<") && !start.starts_with(b"<?")
        && memchr(0, bytes).is_none()
        && memmem::find(bytes, b"<!DOCTYPE").is_none()
        && memchr_iter(b'&', bytes).all(reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_document_can_be_searched() {
        let text = "<domain>\n  <name>a &amp; b &lt;&gt;&quot;&apos;</name>\n  <title>\u{e4}</title>\n</domain>\n";
        assert!(is_plain(text.as_bytes()) && is_plain(format!("<!-- c -->{text}").as_bytes()));
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
