//! The locked memory of random domains, compared with a second calculation, in Python (`tests/oracle`).

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a test program")]

use std::env;
use std::io::ErrorKind;
use std::process::Command;

#[test]
fn locked_memory_equals_the_oracles() {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle/compare.py");
    let output = match Command::new("python3").args([program, env!("CARGO_BIN_EXE_viommu"), "--count", "300"]).output()
    {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            assert!(env::var_os("VIOMMU_REQUIRE_LAB").is_none(), "python3 is not installed");
            println!("SKIPPED: python3 is not installed");
            return;
        }
        output => output.unwrap(),
    };
    let (found, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{found}{errors}");
    println!("{found}");
}
