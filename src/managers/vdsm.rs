//! oVirt's vdsm: scripts in `hooks/before_vm_start/` edit the domain XML before the machine starts (lib/vdsm/common/hooks.py).
//!
//! The file that `_hook_domxml` names is edited in place; custom properties of the machine are environment variables. vdsm
//! logs stderr. Exit status 0 is done; 1 is failed, the scripts that follow still run; 2 is failed, and no
//! other script runs. Either failure keeps the machine from starting.

use std::env;
use std::io;
use std::path::{Path, PathBuf};

use super::rewritten;
use crate::domain::Metadata;
use crate::request::Source;
use crate::sys::{fs, stderr};
use crate::xml;

/// A hook point of vdsm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The machine is about to start, fresh or by cold reboot.
    BeforeVmStart,
    /// The machine comes from another host, where it runs.
    BeforeVmMigrateDestination,
}

/// The request's custom properties, with the keys of the domain metadata.
const PROPERTIES: [(&str, &str); 4] = [
    ("viommu", "model"),
    ("viommu_locked_memory", "locked-memory"),
    ("viommu_aw_bits", "aw-bits"),
    ("viommu_hotplug", "hotplug"),
];

const DONE: u8 = 0;
/// Failed, and the others may go on.
const FAILED: u8 = 1;
/// Failed, and the machine must not start.
const STOP: u8 = 2;

/// Answers one call.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "vdsm passes its arguments in environment variables")]
pub fn run(point: Point) -> u8 {
    if point == Point::BeforeVmMigrateDestination {
        // libvirt compares the XML with that of the running machine and refuses a changed vIOMMU.
        return 0;
    }
    let Some(file) = env::var_os("_hook_domxml").map(PathBuf::from) else {
        stderr::complain("_hook_domxml is not set: vdsm did not start this");
        return FAILED;
    };
    let mut asked = Metadata::default();
    for (name, key) in PROPERTIES {
        if let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) {
            asked.set(key, value.to_string_lossy().into_owned());
        }
    }
    edit(&file, &asked)
}

fn edit(file: &Path, asked: &Metadata) -> u8 {
    let complain = |what: &str, error| stderr::complain(&format!("{} cannot be {what}: {error}", file.display()));
    let domain = match read(file) {
        Ok(domain) => domain,
        Err(error) => {
            complain("read", error);
            return FAILED;
        }
    };
    match rewritten(&domain, Source::Ovirt, asked) {
        Ok(None) => DONE,
        Ok(Some(text)) => match fs::replace_kept(file, &text) {
            Ok(()) => DONE,
            Err(error) => {
                complain("replaced", error);
                STOP
            }
        },
        Err(refusal) => {
            stderr::say(&refusal);
            STOP
        }
    }
}

/// Reads past the largest allowed size, so that the XML parser reports the size.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::read_past(fs::open(file)?, xml::MAX_BYTES, &mut bytes)?;
    Ok(bytes)
}
