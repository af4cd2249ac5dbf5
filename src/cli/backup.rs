//! Copies of domains that `apply` and `remove` keep, so that `remove`, or a user, can restore a domain byte for byte.
//!
//! At most three files per domain, in a directory that only the user of viommu can read: they contain passwords.
#![expect(
    clippy::disallowed_methods,
    reason = "the command line knows its user's directories; the hook does not come here"
)]

use std::env;
use std::path::{Path, PathBuf};

use crate::domain::Uuid;
use crate::note::{Code, Note};
use crate::state::store;
use crate::sys::fs;
use crate::xml;

/// A copy of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Snapshot {
    /// The domain without the changes of `apply`. Kept also after `remove`: it tells which vIOMMU the user wrote.
    Before,
    /// The domain as `apply` left it, in libvirt's form. Kept until `remove`.
    Applied,
    /// The domain before `remove`.
    Removed,
}

/// The backup of one domain.
pub(super) struct Backup {
    directory: PathBuf,
    uuid: Uuid,
}

impl Snapshot {
    fn suffix(self) -> &'static str {
        match self {
            Snapshot::Before => ".before.xml",
            Snapshot::Applied => ".applied.xml",
            Snapshot::Removed => ".removed.xml",
        }
    }
}

/// The directory: for root below that of the hook's records, else in the user's state directory (XDG Base Directory
/// Specification).
fn directory() -> Result<PathBuf, Note> {
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new(store::RECORDS).join("backup"));
    }
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    let homeless = || unwritable("the user's state directory", &"HOME is not set");
    Ok(state.ok_or_else(homeless)?.join("viommu/backup"))
}

fn unwritable(what: &str, why: &dyn std::fmt::Display) -> Note {
    Note::error(Code::StateUnwritable, format!("cannot write a backup to {what}, so nothing was changed: {why}"))
}

/// The domains that `apply` has changed and `remove` has not restored.
pub(super) fn applied() -> Result<Vec<Uuid>, Note> {
    let names = fs::names(&directory()?);
    Ok(names.iter().filter_map(|name| name.strip_suffix(Snapshot::Applied.suffix())?.parse().ok()).collect())
}

impl Backup {
    pub(super) fn of(uuid: Uuid) -> Result<Backup, Note> {
        Ok(Backup { directory: directory()?, uuid })
    }

    pub(super) fn path(&self, copy: Snapshot) -> PathBuf {
        self.directory.join(format!("{}{}", self.uuid, copy.suffix()))
    }

    /// The copy, if there is one.
    pub(super) fn read(&self, copy: Snapshot) -> Option<String> {
        fs::head(&self.path(copy), xml::MAX_BYTES)
    }

    /// Writes a copy, in place of an earlier one.
    pub(super) fn keep(&self, copy: Snapshot, xml: &str) -> Result<(), Note> {
        let path = self.path(copy);
        let write = || {
            if self.directory.starts_with(store::RECORDS) {
                // The directory also has the hook's records, which only root may write.
                fs::trusted_directory(Path::new(store::RECORDS))?;
            }
            fs::private_directory(&self.directory)?;
            fs::replace(&path, xml, 0o600)?;
            // Without a sync the file could be empty after a crash.
            fs::sync(&path)
        };
        write().map_err(|error| unwritable(&path.display().to_string(), &error))
    }

    /// Removes a copy. Failure is ignored: a copy is compared with the domain before it is used.
    pub(super) fn forget(&self, copy: Snapshot) {
        let _ = fs::remove(&self.path(copy));
    }
}
