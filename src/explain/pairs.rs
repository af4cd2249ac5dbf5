//! Which pairs of bytes stand in a text: a line that lacks one of a pattern's pairs cannot have the pattern in it, and to know
//! that takes less than to search for it. Nearly no line of a log has all pairs of any pattern.

/// A set of pairs, one bit for each that there can be.
pub(super) struct Pairs(Vec<u64>);

impl Pairs {
    /// The pairs of a line.
    pub(super) fn of(line: &str) -> Pairs {
        let mut bits = vec![0; (usize::from(u16::MAX) + 1) / 64];
        for pair in in_text(line) {
            if let Some(word) = bits.get_mut(usize::from(pair / 64)) {
                *word |= 1 << (pair % 64);
            }
        }
        Pairs(bits)
    }

    /// Whether all of these are in the set.
    pub(super) fn have(&self, pairs: &[u16]) -> bool {
        pairs.iter().all(|pair| self.0.get(usize::from(pair / 64)).is_some_and(|word| word & (1 << (pair % 64)) != 0))
    }
}

/// The pairs of a text, from its first to its last.
pub(super) fn in_text(text: &str) -> impl Iterator<Item = u16> {
    text.bytes().zip(text.bytes().skip(1)).map(|(first, second)| u16::from_be_bytes([first, second]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pairs_must_be_there_in_whichever_order() {
        let pairs = |text: &str| in_text(text).collect::<Vec<_>>();
        let line = Pairs::of("abc \u{ff}");
        assert!(line.have(&pairs("abc")) && line.have(&pairs("c \u{ff}")) && line.have(&[]));
        assert!(line.have(&[u16::from_be_bytes(*b"bc"), u16::from_be_bytes(*b"ab")]));
        assert!(!line.have(&pairs("ba")) && !line.have(&pairs("abcd")) && !Pairs::of("").have(&[0]));
        assert_eq!(pairs("\0\u{7f}"), [0x7f]);
    }
}
