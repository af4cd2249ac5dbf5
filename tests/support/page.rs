//! Files of the repository that tests generate, as a whole or in part, so that they are never out of date.
//! `VIOMMU_REGENERATE` in the environment rewrites them.

#![allow(dead_code, reason = "each test program uses a part")]
#![expect(clippy::disallowed_methods, clippy::panic, reason = "reads and writes files of the repository")]

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Compares the generated part of the page `docs/NAME` with the expected text.
pub(crate) fn check(name: &str, test: &str, generated: &str) {
    part(&format!("docs/{name}"), test, ("<!-- ", " -->\n"), generated);
}

/// The same for any file, with this comment around the generated part.
pub(crate) fn part(path: &str, test: &str, comment: (&str, &str), generated: &str) {
    let mark = |text: &str| format!("{}{text}{}", comment.0, comment.1);
    let (begin, end) = (mark(&command(test)), mark("end of the generated part"));
    let file = fs::read_to_string(in_repository(path)).unwrap();
    let (head, rest) = file.split_once(&begin).unwrap_or_else(|| panic!("{path} lacks the line {begin}"));
    let (_, tail) = rest.split_once(&end).unwrap_or_else(|| panic!("{path} lacks the line {end}"));
    whole(path, test, &format!("{head}{begin}{generated}{end}{tail}"));
}

/// Compares a file with the expected text.
pub(crate) fn whole(path: &str, test: &str, content: &str) {
    if env::var_os("VIOMMU_REGENERATE").is_some() {
        return fs::write(in_repository(path), content).unwrap();
    }
    let found = fs::read_to_string(in_repository(path)).unwrap_or_default();
    let differs = found.lines().zip(content.lines()).find(|(old, new)| old != new);
    assert!(found == content, "{path} is out of date, first here: {differs:?}: {}", command(test));
}

fn command(test: &str) -> String {
    format!("generated: VIOMMU_REGENERATE=1 cargo test --test {test}")
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
