//! The release binaries, which hosts run: `tests/run` builds them; `cargo test` builds the debug binary.

#![allow(dead_code, reason = "each test program uses a part")]
#![expect(clippy::print_stdout, reason = "prints SKIPPED into the test's output")]

use std::path::{Path, PathBuf};

/// The release binary; without it, `None` and a line that begins with `SKIPPED:`.
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

/// The binary for AArch64, which `tests/lab/aarch64.sh build` makes; without it, `None` and a line that begins with
/// `SKIPPED:`.
pub(crate) fn cross() -> Option<PathBuf> {
    let cross = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/debian/aarch64-unknown-linux-gnu/release/viommu");
    if cross.exists() {
        return Some(cross);
    }
    assert!(std::env::var_os("VIOMMU_REQUIRE_LAB").is_none(), "{} is missing", cross.display());
    println!("SKIPPED: no binary for AArch64; tests/lab/aarch64.sh build makes it");
    None
}
