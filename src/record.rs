//! What a wrapped guest runs with, kept in `/var/lib/viommu/UUID.json` for the day when it comes back from a saved image.
//!
//! libvirt does not know of this vIOMMU, so it is not in the image, and what would be decided on that day may be something
//! else: QEMU loads a stream into a vIOMMU of another address width without a word.
//!
//! Should: record what runs, also where that is nothing. Mustn't: record what was only decided; read a file that is not
//! root's.

use std::io;
use std::path::{Path, PathBuf};

use crate::domain::Uuid;
use crate::guard;
use crate::note::{Code, Note};
use crate::qemu::{self, Edits, Invocation};
use crate::state::{self, State};
use crate::sys::{fs, process};

/// The edits that the guest last ran with; none where nothing is known of it.
///
/// # Errors
/// `state-invalid` where there is a record that cannot be used, which is not the same as none.
pub fn of(uuid: Uuid) -> Result<Option<Edits>, Note> {
    let path = file(uuid);
    let invalid = |error: &dyn std::fmt::Display| {
        Note::warning(Code::StateInvalid, format!("{} cannot be used: {error}", path.display()))
    };
    match fs::read_trusted(&path, state::MAX_BYTES) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| invalid(&error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(invalid(&error)),
    }
}

/// Records a guest that runs. Whether it was booted or came from an image only QEMU's command line tells: the hook is called
/// alike for both.
///
/// # Errors
/// `state-unwritable` or `state-invalid`, as warnings: only a later restore misses the record, and is refused then.
pub fn keep(uuid: Uuid, pidfile: &Path) -> Result<(), Note> {
    let Some(pid) = guard::pid_of(pidfile) else { return Ok(()) };
    let Some(arguments) = process::arguments(pid) else { return Ok(()) };
    let Invocation::Guest { incoming, .. } = qemu::classify(&arguments) else { return Ok(()) };
    let path = Path::new(state::DIRECTORY).join(format!("{uuid}.json"));
    let text = fs::read_trusted(&path, state::MAX_BYTES)
        .map_err(|error| Note::warning(Code::StateInvalid, format!("{} cannot be read: {error}", path.display())))?;
    // The guest runs: an error would kill it.
    let state = State::understand(&text, uuid).map_err(|note| Note::warning(note.code, note.message))?;
    let runs_with = if incoming { state.incoming.unwrap_or_default() } else { state.boot };
    write(uuid, &runs_with).map_err(|error| {
        let message = format!("the guest's vIOMMU cannot be recorded in {}: {error}", state::RECORDS);
        Note::warning(Code::StateUnwritable, message)
    })
}

/// Forgets a guest. A record that is not there is fine.
///
/// # Errors
/// What the kernel says.
pub fn forget(uuid: Uuid) -> io::Result<()> {
    fs::remove(&file(uuid))
}

fn write(uuid: Uuid, edits: &Edits) -> io::Result<()> {
    fs::trusted_directory(Path::new(state::RECORDS))?;
    fs::replace(&file(uuid), &serde_json::to_string(edits)?, 0o600)
}

fn file(uuid: Uuid) -> PathBuf {
    Path::new(state::RECORDS).join(format!("{uuid}.json"))
}
