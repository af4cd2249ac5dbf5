//! What a hook call does to the host, each thing by itself, and what it means when one fails.

use std::path::{Path, PathBuf};

use crate::domain::Uuid;
use crate::guard;
use crate::note::{Code, Level, Note};
use crate::state::{self, Record, State};
use crate::sys::journal::{self, Priority};
use crate::sys::{fs, process};

use super::{Outcome, record_file, state_file};

/// Something that changes the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Writes the guest's state file.
    WriteState(Box<State>),
    /// Keeps what the guest runs with, for the day when it is restored.
    Record(Uuid, Record),
    /// Starts a guard.
    Guard(guard::Order),
    /// Raises the limit of the running guest, should it be too low.
    Verify {
        /// libvirt's pidfile.
        pidfile: PathBuf,
        /// The limit, bytes as the kernel counts them.
        limit: u64,
    },
    /// Removes the guest's state file.
    RemoveState(Uuid),
    /// Forgets what the guest ran with.
    Forget(Uuid),
}

/// Makes it so. What fails and is needed becomes a refusal where the guest asks, else a line in the log.
pub fn perform(outcome: &mut Outcome) {
    for effect in std::mem::take(&mut outcome.effects) {
        let Err(note) = effect.perform() else { continue };
        let needed = note.level == Level::Error;
        if needed && outcome.asks {
            outcome.refusal = Some(note);
        } else {
            outcome.log.push(note);
        }
        if needed {
            break;
        }
    }
    for note in &outcome.log {
        journal::log(Priority::Warning, &note.message, &[("VIOMMU_CODE", note.code.as_str())]);
    }
}

impl Effect {
    fn perform(self) -> Result<(), Note> {
        match self {
            Effect::WriteState(state) => {
                let write = || {
                    fs::trusted_directory(Path::new(state::DIRECTORY))?;
                    let path = Path::new(state::DIRECTORY).join(format!("{}.json", state.uuid));
                    fs::replace(&path, &state.to_json(), 0o644)
                };
                write().map_err(|error| {
                    let message = format!("the guest's state cannot be written to {}: {error}", state::DIRECTORY);
                    Note::error(Code::StateUnwritable, message)
                })
            }
            Effect::Record(uuid, record) => {
                let write = || {
                    fs::trusted_directory(Path::new(state::RECORDS))?;
                    fs::replace(&record_file(uuid), &serde_json::to_string(&record).unwrap_or_default(), 0o600)
                };
                write().map_err(|error| {
                    // A later restore says that it misses the record; an old one would be believed.
                    let _ = fs::remove(&record_file(uuid));
                    let message = format!("the guest's vIOMMU cannot be recorded in {}: {error}", state::RECORDS);
                    Note::warning(Code::StateUnwritable, message)
                })
            }
            Effect::Guard(order) => {
                let state = order.state.clone();
                // The start is refused; should the daemon be gone, no later event takes the state away.
                guard::start(order).inspect_err(|_| {
                    let _ = fs::remove(&state);
                })
            }
            Effect::Verify { pidfile, limit } => verify(&pidfile, limit),
            Effect::RemoveState(uuid) => remove(&state_file(uuid)),
            Effect::Forget(uuid) => remove(&record_file(uuid)),
        }
    }
}

fn remove(path: &Path) -> Result<(), Note> {
    let message = |error| format!("{} cannot be removed: {error}", path.display());
    fs::remove(path).map_err(|error| Note::warning(Code::StateUnwritable, message(error)))
}

/// The guard has normally been faster. Where it was not, QEMU has survived so far, and the next mapping must not fail.
fn verify(pidfile: &Path, limit: u64) -> Result<(), Note> {
    // The descriptor keeps the pid from being given to somebody else.
    let Some((pid, _pinned)) = guard::pinned(pidfile) else { return Ok(()) };
    let late = process::lock_limit(pid).is_ok_and(|found| found.soft < limit);
    if !late {
        return Ok(());
    }
    let raised = process::raise_lock_limit(pid, limit);
    let message = match raised {
        Ok(_) => "the locked-memory limit was raised only after the guest had started".to_owned(),
        Err(error) => format!("the guest runs with too low a locked-memory limit, which could not be raised: {error}"),
    };
    Err(Note::warning(Code::MemlockTooLow, message))
}
