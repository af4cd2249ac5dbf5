//! A check that an edit keeps the original bytes.

/// Whether `of` contains all bytes in their order, except for blanks in an `<a />` that an edit opened.
pub(crate) fn is_kept(bytes: &str, of: &str) -> bool {
    let mut rest = of.bytes();
    let pieces = bytes.split_inclusive("/>").map(|piece| match piece.strip_suffix("/>") {
        Some(piece) => (piece.trim_end_matches([' ', '\t', '\r', '\n']), "/>"),
        None => (piece, ""),
    });
    pieces.flat_map(|(piece, end)| piece.bytes().chain(end.bytes())).all(|byte| rest.any(|other| other == byte))
}
