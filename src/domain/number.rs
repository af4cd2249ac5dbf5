//! Numbers as libvirt reads them.
//!
//! A number that libvirt cannot read is absent here: libvirt refuses such a domain long before a start, with a message of its own.

/// A decimal number (`virXPathULongLong`, `virStrToLong_ullp` with base 10).
pub(super) fn decimal(text: &str) -> Option<u64> {
    digits(text).parse().ok()
}

/// [`decimal`], for 32 bits.
pub(super) fn decimal32(text: &str) -> Option<u32> {
    digits(text).parse().ok()
}

/// A number in C notation (`virXMLPropUInt` and `virStrToLong_uip` with base 0): `0x1f` is hexadecimal, `031` octal.
pub(super) fn c_notation(text: &str) -> Option<u32> {
    let text = digits(text);
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => hexadecimal(digits),
        None if text.starts_with('0') => u32::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    }
}

/// Without a second sign, which `from_str_radix` would take.
fn hexadecimal(digits: &str) -> Option<u32> {
    if digits.starts_with('+') { None } else { u32::from_str_radix(digits, 16).ok() }
}

/// How many things there are; saturates.
pub(super) fn number_of(things: impl Iterator) -> u32 {
    u32::try_from(things.count()).unwrap_or(u32::MAX)
}

/// A number without what `g_ascii_strtoull` skips: white space in front of it, not behind it, where it ends the number.
fn digits(text: &str) -> &str {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    match text.strip_prefix('+') {
        Some(number) if !number.starts_with('+') => number,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_strtoul_reads() {
        assert_eq!(decimal(" \n18446744073709551615"), Some(u64::MAX));
        assert_eq!(decimal("+7"), Some(7));
        for wrong in ["", "-1", "18446744073709551616", "0x10", "1 2", "7 ", "7\n", "++7", "+ 7", "١"] {
            assert_eq!(decimal(wrong), None, "{wrong:?}");
        }
        assert_eq!(decimal32("4294967295"), Some(u32::MAX));
        assert_eq!(decimal32("4294967296"), None);
    }

    #[test]
    fn c_notation_has_three_bases() {
        // hostdev-vfio-multidomain.xml writes bus='222' for what its .args call de.
        assert_eq!(c_notation("222"), Some(0xde));
        assert_eq!(c_notation("0xde"), Some(0xde));
        assert_eq!(c_notation("0XDE"), Some(0xde));
        assert_eq!(c_notation("010"), Some(8));
        assert_eq!(c_notation("0"), Some(0));
        for wrong in ["", "0x", "0x+1", "08", "0x100000000", "-1", "de"] {
            assert_eq!(c_notation(wrong), None, "{wrong:?}");
        }
    }
}
