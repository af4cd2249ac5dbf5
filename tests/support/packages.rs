//! What `packaging/build` makes, from the release binary.

#![expect(clippy::disallowed_methods, reason = "tests have effects")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::libvirt::skip;

/// A release.
pub(crate) struct Packages {
    pub(crate) tarball: PathBuf,
    pub(crate) deb: PathBuf,
    pub(crate) rpm: PathBuf,
}

/// Builds the release, once per test program. Without the tools for it the test should pass, as with
/// [`shared`](super::libvirt::shared).
#[track_caller]
pub(crate) fn packages() -> Option<&'static Packages> {
    static PACKAGES: OnceLock<Result<Packages, String>> = OnceLock::new();
    PACKAGES.get_or_init(build).as_ref().map_or_else(|reason| skip(reason), Some)
}

fn build() -> Result<Packages, String> {
    for tool in ["dh", "rpmbuild"] {
        let found =
            std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|path| path.join(tool).exists());
        if !found {
            return Err(format!("{tool} is not installed"));
        }
    }
    let output = Command::new("packaging/build").current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let one = |extension: &str| {
        let line = printed.lines().find(|line| Path::new(line).extension().is_some_and(|found| found == extension));
        PathBuf::from(line.unwrap_or_else(|| panic!("no {extension}: {printed}")))
    };
    Ok(Packages { tarball: one("gz"), deb: one("deb"), rpm: one("rpm") })
}
