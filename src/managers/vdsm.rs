//! oVirt's vdsm: scripts in `hooks/before_vm_start/` edit the domain XML before the machine starts (lib/vdsm/common/hooks.py).
//!
//! The file that `_hook_domxml` names is edited in place; custom properties of the machine are environment variables. vdsm
//! logs stderr. Exit status 0 is done; 1 is failed, the scripts that follow still run; 2 is failed, and no
//! other script runs. Either failure keeps the machine from starting.

use std::env;
use std::io;
use std::path::{Path, PathBuf};

use super::rewritten;
use crate::note::Note;
use crate::request::{Keys, Source};
use crate::sys::{fs, stderr};
use crate::xml;

/// A hook point of vdsm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The machine is about to start, fresh or by cold reboot, or it is restored.
    BeforeVmStart,
    /// The machine comes from another host, where it runs.
    BeforeVmMigrateDestination,
}

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
    // vdsm sets an environment variable for each custom property.
    let properties = Keys::NAMES.iter().filter_map(|key| {
        let name = Source::Ovirt.spelling(key);
        let value = env::var_os(&name)?.to_string_lossy().into_owned();
        Some((name, value))
    });
    edit(&file, Keys::read(Source::Ovirt, properties))
}

fn edit(file: &Path, keys: Result<Keys, Note>) -> u8 {
    let complain = |what: &str, error| stderr::complain(&format!("{} cannot be {what}: {error}", file.display()));
    let domain = match read(file) {
        Ok(domain) => domain,
        Err(error) => {
            complain("read", error);
            return FAILED;
        }
    };
    if has_run(&domain) {
        return DONE;
    }
    match keys.and_then(|keys| rewritten(&domain, &keys, |_| None)) {
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

/// Whether this is the XML of a suspended machine, which has an id. vdsm restores that machine as it was, and ignores what this script
/// writes (lib/vdsm/virt/vm.py, `_run`).
fn has_run(domain: &[u8]) -> bool {
    xml::parse(domain).is_ok_and(|document| document.root().attr("id").is_some())
}

/// Reads past the largest allowed size, so that the XML parser reports the size.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::read_past(fs::open(file)?, xml::MAX_BYTES, &mut bytes)?;
    Ok(bytes)
}
