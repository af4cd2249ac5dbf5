//! The release binary is what packages ship and hosts run: static, small, and telling nothing about who built it.
#![expect(clippy::disallowed_methods, reason = "tests have effects")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "what fails here fails the test")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Built by `tests/run`, for x86_64 and for AArch64; `cargo test` alone builds the debug binary only.
fn release() -> Vec<PathBuf> {
    let debug = PathBuf::from(env!("CARGO_BIN_EXE_viommu"));
    let native = debug.parent().unwrap().with_file_name("release").join("viommu");
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cross = checkout.join("target/debian/aarch64-unknown-linux-gnu/release/viommu");
    let (there, missing): (Vec<_>, Vec<_>) = [native, cross].into_iter().partition(|binary| binary.exists());
    assert!(missing.is_empty() || std::env::var_os("VIOMMU_REQUIRE_LAB").is_none(), "missing: {missing:?}");
    if !missing.is_empty() {
        println!("SKIPPED: {missing:?}; cargo build --release and tests/lab/aarch64.sh build make them");
    }
    there
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn is_static_and_position_independent() {
    for binary in release() {
        let binary = binary.to_str().unwrap();
        assert!(output("file", &["-L", binary]).contains("static-pie linked"), "{binary}");
        assert!(!output("readelf", &["-d", binary]).contains("NEEDED"), "{binary}");
        assert!(!output("readelf", &["-l", binary]).contains("INTERP"), "{binary}");
    }
}

#[test]
fn is_small() {
    for binary in release() {
        let bytes = std::fs::metadata(&binary).unwrap().len();
        println!("{}: {bytes} bytes", binary.display());
        assert!(bytes <= 2_500_000, "{}: {bytes} bytes", binary.display());
    }
}

/// A static glibc that loads NSS modules of the host crashes where the versions differ.
#[test]
fn loads_no_name_service() {
    for binary in release() {
        let bytes = std::fs::read(&binary).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"libnss_"), "{}", binary.display());
    }
}
