//! The release binary, which is what hosts run: built by `tests/run`, not by `cargo test`, which builds the debug one.

#![allow(dead_code, reason = "no test program uses everything")]
#![expect(clippy::print_stdout, reason = "the word to whoever reads the test's output")]

use std::path::PathBuf;

/// The release binary; none, with a line that begins with `SKIPPED:`, where nobody has built it.
pub(crate) fn release() -> Option<PathBuf> {
    let debug = PathBuf::from(env!("CARGO_BIN_EXE_viommu"));
    let release = debug.parent().unwrap().with_file_name("release").join("viommu");
    if release.exists() {
        return Some(release);
    }
    assert!(std::env::var_os("VIOMMU_REQUIRE_LAB").is_none(), "{} is missing", release.display());
    println!("SKIPPED: no release binary; run cargo build --release first");
    None
}
