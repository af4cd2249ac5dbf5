//! What `apply` and `remove` keep of a domain, so that `remove` can give it back byte for byte, and a person can too.
//!
//! Three files a domain at most, in a directory that only the user who runs viommu may look into: they hold passwords.
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

/// What a file of the backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copy {
    /// The domain as it would be had `apply` never been there. Stays when `remove` has given it back: it tells which
    /// vIOMMU is its author's.
    Before,
    /// The domain as `apply` left it, in libvirt's own words. There until `remove`.
    Applied,
    /// The domain as `remove` found it.
    Removed,
}

/// The backup of one domain.
pub(super) struct Backup {
    directory: PathBuf,
    uuid: Uuid,
}

impl Copy {
    fn suffix(self) -> &'static str {
        match self {
            Copy::Before => ".before.xml",
            Copy::Applied => ".applied.xml",
            Copy::Removed => ".removed.xml",
        }
    }
}

/// root's is where the hook's records are; others have a state directory of their own (XDG Base Directory Specification).
fn directory() -> Result<PathBuf, Note> {
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new(store::RECORDS).join("backup"));
    }
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    let homeless = || unwritable("the user's state directory", &"HOME is not set".to_owned());
    Ok(state.ok_or_else(homeless)?.join("viommu/backup"))
}

fn unwritable(what: &str, why: &dyn std::fmt::Display) -> Note {
    Note::error(Code::StateUnwritable, format!("no backup can be kept in {what}, so nothing was changed: {why}"))
}

/// The domains that `apply` has changed and `remove` has not.
pub(super) fn applied() -> Result<Vec<Uuid>, Note> {
    let names = fs::names(&directory()?);
    Ok(names.iter().filter_map(|name| name.strip_suffix(Copy::Applied.suffix())?.parse().ok()).collect())
}

impl Backup {
    pub(super) fn of(uuid: Uuid) -> Result<Backup, Note> {
        Ok(Backup { directory: directory()?, uuid })
    }

    pub(super) fn path(&self, copy: Copy) -> PathBuf {
        self.directory.join(format!("{}{}", self.uuid, copy.suffix()))
    }

    /// The copy, where there is one.
    pub(super) fn read(&self, copy: Copy) -> Option<String> {
        fs::head(&self.path(copy), xml::MAX_BYTES)
    }

    /// Keeps a copy, in the place of the one of its kind that was kept before.
    pub(super) fn keep(&self, copy: Copy, xml: &str) -> Result<(), Note> {
        let path = self.path(copy);
        let write = || {
            if self.directory.starts_with(store::RECORDS) {
                // The hook's records are below it, and are read by it alone.
                fs::trusted_directory(Path::new(store::RECORDS))?;
            }
            fs::private_directory(&self.directory)?;
            fs::replace(&path, xml, 0o600)?;
            // An empty file after a crash would be a backup of nothing.
            fs::sync(&path)
        };
        write().map_err(|error| unwritable(&path.display().to_string(), &error))
    }

    /// Forgets a copy. One that stays for want of rights is compared before it is believed.
    pub(super) fn forget(&self, copy: Copy) {
        let _ = fs::remove(&self.path(copy));
    }
}
