//! The release binary, which packages ship: it is static and small and contains no data about its builder.
#![expect(clippy::disallowed_methods, reason = "tests do I/O")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a panic fails the test")]

#[path = "support/release.rs"]
mod release;

use std::path::PathBuf;
use std::process::Command;

use release::{cross, release};

/// The binaries for x86_64 and for AArch64.
fn binaries() -> Vec<PathBuf> {
    release().into_iter().chain(cross()).collect()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn is_static_and_position_independent() {
    for binary in binaries() {
        let binary = binary.to_str().unwrap();
        assert!(output("file", &["-L", binary]).contains("static-pie linked"), "{binary}");
        assert!(!output("readelf", &["-d", binary]).contains("NEEDED"), "{binary}");
        assert!(!output("readelf", &["-l", binary]).contains("INTERP"), "{binary}");
    }
}

#[test]
fn is_small() {
    for binary in binaries() {
        let bytes = std::fs::metadata(&binary).unwrap().len();
        println!("{}: {bytes} bytes", binary.display());
        // The size includes the pages of `viommu explain`.
        assert!(bytes <= 4_000_000, "{}: {bytes} bytes", binary.display());
    }
}

/// A static glibc that loads NSS modules of the host crashes if the versions differ.
#[test]
fn loads_no_name_service() {
    for binary in binaries() {
        let bytes = std::fs::read(&binary).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"libnss_"), "{}", binary.display());
    }
}

/// A release contains no directory of its builder, so that equal sources give equal bytes on every machine.
#[test]
fn names_no_directory_of_its_builder() {
    let home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME")).unwrap();
    let directories = [env!("CARGO_MANIFEST_DIR"), "/registry/src/", home.as_str()];
    for binary in binaries() {
        let bytes = std::fs::read(&binary).unwrap();
        for directory in directories.iter().filter(|directory| directory.len() > 2) {
            let found = bytes.windows(directory.len()).any(|window| window == directory.as_bytes());
            assert!(!found, "{} names {directory}: packaging/compile builds a release", binary.display());
        }
    }
}
