//! Messages on stderr, in the one form that every personality uses: libvirt shows them to the user who started the guest.

use std::io::{self, Write};

use crate::note::Note;
use crate::text::printable;

/// A note with its level and its code, as a line.
#[must_use]
pub fn line_of(note: &Note) -> String {
    format!("viommu: {}[{}]: {}", note.level, note.code, printable(&note.message))
}

/// An error that has no code, as a line: wrong usage, unreadable input, unwritable output.
#[must_use]
pub fn complaint(message: &str) -> String {
    format!("viommu: {}", printable(message))
}

/// Prints a note.
pub fn say(note: &Note) {
    // One write, so that no other process prints in between.
    let _ = io::stderr().write_all((line_of(note) + "\n").as_bytes());
}

/// Prints an error that has no code.
pub fn complain(message: &str) {
    let _ = io::stderr().write_all((complaint(message) + "\n").as_bytes());
}

/// Prints what clap says about arguments, which can have any characters: help and version to stdout, errors to stderr.
pub fn report(said: &clap::Error) {
    let text: String = said.to_string().lines().map(|line| printable(line).into_owned() + "\n").collect();
    let _ = if said.use_stderr() {
        io::stderr().write_all(text.as_bytes())
    } else {
        io::stdout().write_all(text.as_bytes())
    };
}
