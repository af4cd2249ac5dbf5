//! Numbers as libvirt reads them.
//!
//! Lenient on purpose: libvirt refuses a domain whose numbers it cannot read, long before it could start, and says so
//! better than we could. Here such a number is simply absent.

/// A decimal number (`virXPathULongLong`, `virStrToLong_ullp` with base 10).
pub(super) fn decimal(text: &str) -> Option<u64> {
    text.trim_ascii().parse().ok()
}

/// [`decimal`], for 32 bits.
pub(super) fn decimal32(text: &str) -> Option<u32> {
    text.trim_ascii().parse().ok()
}

/// A number in C notation (`virXMLPropUInt` and `virStrToLong_uip` with base 0): `0x1f` is hexadecimal, `031` octal.
pub(super) fn c_notation(text: &str) -> Option<u32> {
    let text = text.trim_ascii();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if text.starts_with('0') => u32::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_strtoul_reads() {
        assert_eq!(decimal(" 18446744073709551615\n"), Some(u64::MAX));
        assert_eq!(decimal("+7"), Some(7));
        for wrong in ["", "-1", "18446744073709551616", "0x10", "1 2", "١"] {
            assert_eq!(decimal(wrong), None, "{wrong:?}");
        }
        assert_eq!(decimal32("4294967295"), Some(u32::MAX));
        assert_eq!(decimal32("4294967296"), None);
    }

    #[test]
    fn c_notation_knows_three_bases() {
        // hostdev-vfio-multidomain.xml writes bus='222' for what its .args call de.
        assert_eq!(c_notation("222"), Some(0xde));
        assert_eq!(c_notation("0xde"), Some(0xde));
        assert_eq!(c_notation("0XDE"), Some(0xde));
        assert_eq!(c_notation("010"), Some(8));
        assert_eq!(c_notation("0"), Some(0));
        for wrong in ["", "0x", "08", "0x100000000", "-1", "de"] {
            assert_eq!(c_notation(wrong), None, "{wrong:?}");
        }
    }
}
