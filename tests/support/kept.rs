//! Whether an edit kept what it must keep.

/// Whether all bytes stand in `of` in their order, but for the blanks in a `<a />` that was opened.
pub(crate) fn is_kept(bytes: &str, of: &str) -> bool {
    let mut rest = of.bytes();
    let pieces = bytes.split_inclusive("/>").map(|piece| match piece.strip_suffix("/>") {
        Some(piece) => (piece.trim_end_matches([' ', '\t', '\r', '\n']), "/>"),
        None => (piece, ""),
    });
    pieces.flat_map(|(piece, end)| piece.bytes().chain(end.bytes())).all(|byte| rest.any(|other| other == byte))
}
