//! The integrations of managers: Nova's metadata, KubeVirt's sidecar, vdsm's hook, and the facts about a host for
//! schedulers.

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "tests do I/O")]
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic fails the test")]

#[path = "../support/instance.rs"]
mod instance;
#[path = "../support/kept.rs"]
mod kept;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/sandbox.rs"]
mod sandbox;
#[path = "../support/mod.rs"]
mod support;

mod kubevirt;
mod native;
mod nova;
mod placing;
mod vdsm;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use program::VIOMMU;

/// Recorded facts about a host, for processes without access to libvirt's cache.
const RECORDED_HOST: &str = "/etc/viommu-host.json";

/// A link to the binary with another name. Only in a sandbox, which has its own `/run`.
fn named(path: &str) -> PathBuf {
    let path = Path::new("/run/test").join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    if !path.exists() {
        symlink(VIOMMU, &path).unwrap();
    }
    path
}

/// A manager's domain, changed so that a libvirt without KVM can define it.
fn without_kvm(xml: &str) -> String {
    let text = xml.replacen(r#"type="kvm""#, r#"type="qemu""#, 1);
    text.replace(r#"<cpu mode="host-model">"#, r#"<cpu mode="custom"><model>qemu64</model>"#)
}
