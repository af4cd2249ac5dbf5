//! Pages of `docs/` whose tables are made by tests, so that they cannot say what is not so.

#![expect(clippy::disallowed_methods, clippy::panic, reason = "reads and writes a page of the documentation")]

use std::path::Path;
use std::{env, fs};

const END: &str = "<!-- end of the generated part -->\n";

/// Compares the generated part of `docs/NAME` with what it must be. `VIOMMU_REGENERATE` in the environment rewrites it.
pub(crate) fn check(name: &str, test: &str, generated: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    let begin = format!("<!-- generated: VIOMMU_REGENERATE=1 cargo test --test {test} -->\n");
    let page = fs::read_to_string(&path).unwrap();
    let (head, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("docs/{name} lacks the line {begin}"));
    let (found, tail) = rest.split_once(END).unwrap_or_else(|| panic!("docs/{name} lacks the line {END}"));
    if env::var_os("VIOMMU_REGENERATE").is_some() {
        fs::write(&path, format!("{head}{begin}{generated}{END}{tail}")).unwrap();
        return;
    }
    assert_eq!(found, generated, "docs/{name} is out of date: {begin}");
}
