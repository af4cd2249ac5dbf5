//! The effects of a hook call, and what a failed one means for the guest.

use crate::domain::Uuid;
use crate::guard;
use crate::host::guest_process::{Identity, MISSING};
use crate::limit::Limit;
use crate::note::{Code, Level, Note};
use crate::state::{GuestState, Record, store};
use crate::sys::fs;
use crate::sys::journal;

/// Something that changes the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Writes the guest's state file.
    WriteState(Box<GuestState>),
    /// Records what the guest runs with, for a later restore.
    Record(Uuid, Record),
    /// Starts a guard.
    Guard(guard::Order),
    /// Raises the limit of the running guest, should it be too low.
    Verify {
        /// What tells the guest's process from all others.
        guest: Identity,
        /// What the guest needs.
        limit: Limit,
    },
    /// Removes the guest's state file.
    RemoveState(Uuid),
    /// Removes the record of what the guest ran with.
    Forget(Uuid),
}

/// The result of a hook call. Nothing has happened before [`perform`].
#[derive(Debug, Default)]
pub struct Outcome {
    /// The rewritten XML.
    pub print: Option<String>,
    /// Why the guest must not start.
    pub refusal: Option<Note>,
    /// For the host's log.
    pub log: Vec<Note>,
    /// What to do, in order.
    pub effects: Vec<Effect>,
    /// The guest asks for something, so an effect that fails refuses its start.
    pub asks: bool,
}

impl Outcome {
    /// Refuses the start of a guest that asks, and otherwise only logs what is wrong.
    pub(super) fn fail(&mut self, note: Note) {
        if self.asks {
            self.refusal = Some(note);
        } else {
            self.log.push(note);
        }
    }
}

/// Performs the effects. A failed effect that the guest needs refuses a guest that asks; other failures are logged.
pub fn perform(outcome: &mut Outcome) {
    for effect in std::mem::take(&mut outcome.effects) {
        let Err(note) = effect.perform() else { continue };
        if note.level == Level::Error {
            outcome.fail(note);
            break;
        }
        outcome.log.push(note);
    }
    for note in &outcome.log {
        journal::log(note.level.max(Level::Warning), &note.message, &[("VIOMMU_CODE", note.code.as_str())]);
    }
}

impl Effect {
    fn perform(self) -> Result<(), Note> {
        match self {
            Effect::WriteState(state) => store::write_state(&state),
            Effect::Record(uuid, record) => store::write_record(uuid, &record),
            Effect::Guard(order) => {
                let state = store::state_file(order.guest.uuid);
                guard::start(order).inspect_err(|_| {
                    // The start is refused. If the daemon has ended, no later event removes the state file.
                    let _ = fs::remove(&state);
                })
            }
            Effect::Verify { guest, limit } => verify(&guest, limit),
            Effect::RemoveState(uuid) => store::remove_state(uuid),
            Effect::Forget(uuid) => store::remove_record(uuid),
        }
    }
}

/// Raises the limit if the guard has not done so. QEMU has mapped its memory within the old limit so far, but its next mapping
/// could fail.
fn verify(guest: &Identity, limit: Limit) -> Result<(), Note> {
    let warning = |message: String| Err(Note::warning(Code::MemlockTooLow, message));
    let Some(process) = guest.process() else {
        return warning(format!("the guest's locked-memory limit is not known: {MISSING}"));
    };
    if process.lock_limit().is_ok_and(|found| found.soft >= limit) {
        return Ok(());
    }
    match process.raise_lock_limit(limit) {
        Ok(_) => warning("the locked-memory limit was raised only after the guest had started".to_owned()),
        Err(error) => {
            warning(format!("the guest runs with too low a locked-memory limit, which could not be raised: {error}"))
        }
    }
}
