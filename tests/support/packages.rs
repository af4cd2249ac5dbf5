//! The packages that `packaging/build` makes of the release binary.

#![expect(clippy::disallowed_methods, reason = "tests do I/O")]
#![allow(dead_code, reason = "each test program uses a part")]
#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

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

/// Builds the release for this machine, once per test program. Without the necessary tools the test should pass, as
/// with [`shared`](super::libvirt::shared).
#[track_caller]
pub(crate) fn packages() -> Option<&'static Packages> {
    static PACKAGES: OnceLock<Result<Packages, String>> = OnceLock::new();
    PACKAGES
        .get_or_init(|| build(&[std::env::consts::ARCH]).map(|mut built| built.remove(0)))
        .as_ref()
        .map_or_else(|reason| skip(reason), Some)
}

/// Builds the release for some architectures with one command.
///
/// # Errors
/// A tool is not installed.
pub(crate) fn build(architectures: &[&str]) -> Result<Vec<Packages>, String> {
    for tool in ["dh", "rpmbuild"] {
        let found =
            std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|path| path.join(tool).exists());
        if !found {
            return Err(format!("{tool} is not installed"));
        }
    }
    let output =
        Command::new("packaging/build").args(architectures).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let all = |extension: &str| {
        let lines =
            printed.lines().filter(move |line| Path::new(line).extension().is_some_and(|found| found == extension));
        lines.map(PathBuf::from).collect::<Vec<_>>()
    };
    let (tarballs, debs, rpms) = (all("gz"), all("deb"), all("rpm"));
    assert_eq!([tarballs.len(), debs.len(), rpms.len()], [architectures.len(); 3], "{printed}");
    let rest = debs.into_iter().zip(rpms);
    Ok(tarballs.into_iter().zip(rest).map(|(tarball, (deb, rpm))| Packages { tarball, deb, rpm }).collect())
}
