//! Splices: replacements of pieces of a text, applied all at once.
//!
//! This file handles offsets and has nothing of XML. Splices that overlap are an error and never a silently mangled text.

use std::ops::Range;

use super::PatchError;

/// Splices of one text, in any order.
#[derive(Debug, Default)]
pub(super) struct Patch {
    splices: Vec<(Range<usize>, String)>,
}

impl Patch {
    /// Puts `text` in the place of these bytes.
    pub(super) fn replace(&mut self, range: Range<usize>, text: String) {
        self.splices.push((range, text));
    }

    /// Puts `text` in front of the byte at this offset. What is inserted at one offset keeps the order of the calls.
    pub(super) fn insert(&mut self, at: usize, text: String) {
        self.replace(at..at, text);
    }

    /// The text with all splices applied; `Overlap` where two want the same bytes, or one lies outside the text.
    pub(super) fn apply(mut self, source: &str) -> Result<String, PatchError> {
        // The sort is stable, and an insertion comes before a replacement that starts at its offset.
        self.splices.sort_by_key(|(range, _)| (range.start, range.end));
        let added: usize = self.splices.iter().map(|(_, text)| text.len()).sum();
        let mut out = String::with_capacity(source.len() + added);
        let mut done = 0;
        for (range, text) in &self.splices {
            // An inverted range is an overlap, too: `get` refuses both.
            out += source.get(done..range.start).ok_or(PatchError::Overlap)?;
            out += text;
            done = source.get(range.clone()).map(|_| range.end).ok_or(PatchError::Overlap)?;
        }
        out += source.get(done..).ok_or(PatchError::Overlap)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(splices: &[(Range<usize>, &str)]) -> Result<String, PatchError> {
        let mut patch = Patch::default();
        for (range, text) in splices {
            patch.replace(range.clone(), (*text).to_owned());
        }
        patch.apply("0123é")
    }

    #[test]
    fn splices_in_any_order() {
        assert_eq!(apply(&[]).unwrap(), "0123é");
        assert_eq!(apply(&[(4..6, "e"), (0..0, "<"), (1..3, ""), (6..6, ">")]).unwrap(), "<03e>");
    }

    #[test]
    fn insertions_keep_their_order_and_precede_replacements() {
        assert_eq!(apply(&[(2..3, "X"), (2..2, "a"), (2..2, "b"), (3..3, "c")]).unwrap(), "01abXc3é");
    }

    #[test]
    fn overlaps_are_errors() {
        assert_eq!(apply(&[(0..2, ""), (1..3, "")]), Err(PatchError::Overlap));
        assert_eq!(apply(&[(1..3, ""), (1..3, "")]), Err(PatchError::Overlap));
        assert_eq!(apply(&[(0..3, ""), (1..1, "x")]), Err(PatchError::Overlap), "an insertion into a removed range");
        assert_eq!(apply(&[(5..6, "")]), Err(PatchError::Overlap), "inside a character");
        assert_eq!(apply(&[(6..7, "")]), Err(PatchError::Overlap), "behind the end");
    }
}
