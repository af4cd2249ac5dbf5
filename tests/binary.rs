//! The release binary is what packages ship and hosts run: static, small, and telling nothing about who built it.
#![expect(clippy::disallowed_methods, reason = "tests have effects")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "what fails here fails the test")]

#[path = "support/release.rs"]
mod release;

use std::process::Command;

use release::release;

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn is_static_and_position_independent() {
    let Some(binary) = release() else { return };
    let binary = binary.to_str().unwrap();
    assert!(output("file", &["-L", binary]).contains("static-pie linked"));
    assert!(!output("readelf", &["-d", binary]).contains("NEEDED"));
    assert!(!output("readelf", &["-l", binary]).contains("INTERP"));
}

#[test]
fn is_small() {
    let Some(binary) = release() else { return };
    let bytes = std::fs::metadata(&binary).unwrap().len();
    println!("{bytes} bytes");
    // Some 50 kB of it are the pages of `viommu explain`.
    assert!(bytes <= 3_000_000, "{bytes} bytes");
}

/// A static glibc that loads NSS modules of the host crashes where the versions differ.
#[test]
fn loads_no_name_service() {
    let Some(binary) = release() else { return };
    let bytes = std::fs::read(binary).unwrap();
    assert!(!bytes.windows(7).any(|window| window == b"libnss_"));
}
