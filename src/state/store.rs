//! The files of states and records. No other file of the program has their paths.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use super::{GuestState, Record};
use crate::domain::Uuid;
use crate::note::{Code, Note};
use crate::sys::{fs, process};

/// The directory of the state files.
pub const STATES: &str = "/run/viommu";

/// The directory of the records. It outlives a reboot.
pub const RECORDS: &str = "/var/lib/viommu";

/// The most records whose UUIDs begin with the same two digits, each two digits in a directory of their own: 16,384 in all.
const MOST_RECORDS: usize = 64;

/// The extension of the record of a guest's process, beside its state.
pub const PROCESS: &str = "process";

/// A larger file is not one of ours, bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// The state file of a guest.
#[must_use]
pub fn state_file(uuid: Uuid) -> PathBuf {
    file(STATES, uuid)
}

/// The directory of the records that are counted together with this guest's.
fn records_with(uuid: Uuid) -> String {
    format!("{RECORDS}/{:.2}", uuid.to_string())
}

fn record_file(uuid: Uuid) -> PathBuf {
    file(&records_with(uuid), uuid)
}

fn file(directory: &str, uuid: impl Display) -> PathBuf {
    Path::new(directory).join(format!("{uuid}.json"))
}

/// Reads the state of a guest.
///
/// # Errors
/// `state-missing` where there is no file; `state-invalid` where the file cannot be read or trusted, or is not this guest's.
pub fn state(uuid: Uuid) -> Result<GuestState, Note> {
    match read(STATES, uuid) {
        Ok(text) => GuestState::parse(&text, uuid, process::boot_clock().as_secs()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Note::error(
            Code::StateMissing,
            "the viommu hook did not run for this guest: run 'viommu doctor', or set <emulator> back to QEMU",
        )),
        Err(error) => {
            let path = state_file(uuid);
            let message = format!(
                "{} cannot be read: {error}; an AppArmor or SELinux rule of viommu may be missing",
                path.display()
            );
            Err(Note::error(Code::StateInvalid, message))
        }
    }
}

/// Writes the state of a guest.
///
/// # Errors
/// `state-unwritable`.
pub fn write_state(state: &GuestState) -> Result<(), Note> {
    write(STATES, &state.uuid, &state.to_json(), 0o644).map_err(|error| {
        Note::error(Code::StateUnwritable, format!("the guest's state cannot be written to {STATES}: {error}"))
    })
}

/// Removes the state of a guest and the record of its process, if there are any.
///
/// # Errors
/// `state-unwritable`, as a warning.
pub fn remove_state(uuid: Uuid) -> Result<(), Note> {
    remove(&process_file(uuid)).and(remove(&state_file(uuid)))
}

fn process_file(uuid: Uuid) -> PathBuf {
    Path::new(STATES).join(format!("{uuid}.{PROCESS}"))
}

/// The process that a guard has proven to be a guest's: its number, and when it was started, clock ticks since the machine
/// booted.
#[must_use]
pub fn process(uuid: Uuid) -> Option<(Pid, u64)> {
    fs::check_trusted_directory(Path::new(STATES)).ok()?;
    let text = fs::read_trusted(&process_file(uuid), MAX_BYTES).ok()?;
    let (pid, started) = text.trim().split_once(' ')?;
    Some((Pid::from_raw(pid.parse().ok()?)?, started.parse().ok()?))
}

/// Records the process of a guest.
///
/// # Errors
/// What the kernel says.
pub fn write_process(uuid: Uuid, pid: Pid, started: u64) -> io::Result<()> {
    fs::replace(&process_file(uuid), &format!("{pid} {started}\n"), 0o600)
}

/// Reads the record of a guest; `None` where there is none that can be trusted.
#[must_use]
pub fn record(uuid: Uuid) -> Option<Record> {
    fs::check_trusted_directory(Path::new(RECORDS)).ok()?;
    serde_json::from_str(&read(&records_with(uuid), uuid).ok()?).ok()
}

/// Whether a guest has a record, readable or not.
#[must_use]
pub fn has_record(uuid: Uuid) -> bool {
    record_file(uuid).exists()
}

/// Writes the record of a guest, and removes the oldest ones that are too many.
///
/// # Errors
/// `state-unwritable`, as a warning. The old record is then gone: a restore reports a missing record, and would use an old
/// one.
pub fn write_record(uuid: Uuid, record: &Record) -> Result<(), Note> {
    let json = serde_json::to_string(record).unwrap_or_default();
    let directory = records_with(uuid);
    let written = fs::trusted_directory(Path::new(RECORDS)).and_then(|()| write(&directory, uuid, &json, 0o600));
    written.map_err(|error| {
        let _ = fs::remove(&record_file(uuid));
        Note::warning(Code::StateUnwritable, format!("the guest's vIOMMU cannot be recorded in {RECORDS}: {error}"))
    })?;
    remove_oldest(&directory);
    Ok(())
}

/// Keeps the number of records in a directory. A guest that runs has a state, and may yet be saved: its record stays.
fn remove_oldest(directory: &str) {
    let excess = fs::names(Path::new(directory)).len().saturating_sub(MOST_RECORDS);
    if excess == 0 {
        return;
    }
    let ended = files_in(directory).into_iter().filter(|(uuid, _)| !state_file(*uuid).exists());
    let mut ended: Vec<_> = ended.filter_map(|(_, path)| Some((fs::entry(&path)?.changed, path))).collect();
    ended.sort();
    for (_, path) in ended.into_iter().take(excess) {
        let _ = fs::remove(&path);
    }
}

/// Removes the record of a guest, if there is one.
///
/// # Errors
/// `state-unwritable`, as a warning.
pub fn remove_record(uuid: Uuid) -> Result<(), Note> {
    remove(&record_file(uuid))
}

/// The files of all states and records, each with its guest.
#[must_use]
pub fn files() -> Vec<(Uuid, PathBuf)> {
    let records = fs::names(Path::new(RECORDS)).into_iter().map(|directory| format!("{RECORDS}/{directory}"));
    records.chain([STATES.to_owned()]).flat_map(|directory| files_in(&directory)).collect()
}

fn files_in(directory: &str) -> Vec<(Uuid, PathBuf)> {
    let guests = fs::names(Path::new(directory)).into_iter();
    let guests = guests.filter_map(|name| name.strip_suffix(".json")?.parse::<Uuid>().ok());
    guests.map(|uuid| (uuid, file(directory, uuid))).collect()
}

fn read(directory: &str, uuid: Uuid) -> io::Result<String> {
    fs::check_trusted_directory(Path::new(directory))?;
    fs::read_trusted(&file(directory, uuid), MAX_BYTES)
}

fn write(directory: &str, uuid: impl Display, content: &str, mode: u32) -> io::Result<()> {
    fs::trusted_directory(Path::new(directory))?;
    let path = file(directory, uuid);
    let _ = fs::remove(&earlier_temporary(&path));
    fs::replace(&path, content, mode)
}

/// What all files of a guest shared in earlier versions: a killed hook can have left it.
fn earlier_temporary(path: &Path) -> PathBuf {
    path.with_extension("tmp")
}

fn remove(path: &Path) -> Result<(), Note> {
    // What a killed hook has left.
    for left in [fs::temporary(path), earlier_temporary(path)] {
        let _ = fs::remove(&left);
    }
    fs::remove(path)
        .map_err(|error| Note::warning(Code::StateUnwritable, format!("{} cannot be removed: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paths in docs/how-it-works.md.
    #[test]
    fn each_guest_has_its_files() {
        let uuid: Uuid = "3a21c2ee-5ece-4225-baa4-9a11258f601e".parse().unwrap();
        let place = |path: PathBuf| path.to_str().unwrap().replace(&uuid.to_string(), "UUID");
        assert_eq!(place(state_file(uuid)), "/run/viommu/UUID.json");
        assert_eq!(place(process_file(uuid)), "/run/viommu/UUID.process");
        assert_eq!(place(record_file(uuid)), "/var/lib/viommu/3a/UUID.json");
        // The hook and the guard of one guest may write at the same time.
        assert_eq!(place(fs::temporary(&state_file(uuid))), "/run/viommu/UUID.json.tmp");
        assert_eq!(place(fs::temporary(&process_file(uuid))), "/run/viommu/UUID.process.tmp");
    }
}
