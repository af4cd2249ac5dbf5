//! The release binaries, which are what hosts run: built by `tests/run`, not by `cargo test`, which builds the debug one.

#![allow(dead_code, reason = "no test program uses everything")]
#![expect(clippy::print_stdout, reason = "the word to whoever reads the test's output")]

use std::path::{Path, PathBuf};

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

/// The binary for AArch64, which `tests/lab/aarch64.sh build` makes; none, with a line that begins with `SKIPPED:`, where nobody has.
pub(crate) fn cross() -> Option<PathBuf> {
    let cross = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/debian/aarch64-unknown-linux-gnu/release/viommu");
    if cross.exists() {
        return Some(cross);
    }
    assert!(std::env::var_os("VIOMMU_REQUIRE_LAB").is_none(), "{} is missing", cross.display());
    println!("SKIPPED: no binary for AArch64; tests/lab/aarch64.sh build makes it");
    None
}
