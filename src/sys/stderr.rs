//! Messages on stderr, in the one form that every personality uses: libvirt shows them to the user who started the guest.

use std::io::{self, Write};

use crate::note::Note;
use crate::text::printable;

/// Prints a note with its level and its code.
pub fn say(note: &Note) {
    // One write, so that no other process prints in between.
    let line = format!("viommu: {}[{}]: {}\n", note.level.as_str(), note.code, printable(&note.message));
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Prints an error that has no code: wrong usage, unreadable input, unwritable output.
pub fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "viommu: {}", printable(message));
}
