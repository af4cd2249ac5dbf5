//! The emulator wrapper: what libvirt executes as `<emulator>` and what becomes QEMU, in the same process.
//!
//! The wrapper passes probes through unchanged, applies the edits that the hook wrote for a guest, waits until the guest's
//! locked-memory limit is high enough, and keeps descriptors, environment, signals, pid and `argv[0]`. It never starts a guest
//! that the hook did not prepare, and reads no file that a guest could have written.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::config::{self, Config};
use crate::host;
use crate::limit::Limit;
use crate::note::{Code, Note};
use crate::plan::wrapped_emulator;
use crate::qemu::{self, Invocation};
use crate::state::store;
use crate::sys::{process, stderr};

/// How long the wrapper waits for its limit. The guard needs a millisecond; a starved host was seen to need three seconds.
const PATIENCE: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_millis(1);

/// How long a refused wrapper stays. libvirt shows the message of its child only if the child ended after libvirt had connected
/// to the monitor's socket; before, it reports "failed to connect to monitor socket" and no more (libvirt 9.0).
const STAY: Duration = Duration::from_secs(1);

/// The name of the QEMU that a program of this name becomes. Under QEMU's own name it is libvirt's default emulator (the host
/// route); the children of its daemon inherit the PATH with that link.
#[must_use]
pub fn real_name(name: &str) -> Option<&str> {
    wrapped_emulator(name).or_else(|| name.starts_with("qemu-system-").then_some(name))
}

/// Becomes QEMU. Returns only where that failed: the exit status, after the reason was printed.
#[must_use]
pub fn run(argv0: &OsStr, arguments: Vec<OsString>) -> u8 {
    let name = Path::new(argv0).file_name().and_then(OsStr::to_str).unwrap_or_default();
    let real = real_name(name).unwrap_or_default();
    let refusal = match prepare(real, arguments) {
        Ok((emulator, arguments)) => execute(&emulator, argv0, &arguments),
        Err(refusal) if refusal.code == Code::StateMissing && real == name => {
            let message = "the viommu hook did not run for this guest, and viommu is libvirt's default emulator on this host: run \
                           'viommu doctor', or switch that off with 'viommu host-route off'";
            Note::error(Code::StateMissing, message)
        }
        Err(refusal) => refusal,
    };
    stderr::say(&refusal);
    std::thread::sleep(STAY);
    1
}

/// The emulator to execute, and its arguments. `real` is the emulator of every invocation that is not a guest's.
fn prepare(real: &str, arguments: Vec<OsString>) -> Result<(String, Vec<OsString>), Note> {
    match qemu::classify(&arguments) {
        Invocation::Other => {
            // A probe runs for every guest of the host: a broken configuration must not make libvirt forget QEMU.
            let config = host::config::load().unwrap_or_else(|note| {
                let message = format!("{}; this probe runs {}", note.message, Config::default().emulator_behind(real));
                stderr::say(&Note::warning(note.code, message));
                Config::default()
            });
            Ok((config.emulator_behind(real), arguments))
        }
        Invocation::Guest { uuid, incoming, .. } => {
            let invalid = |_| Note::error(Code::StateMissing, "the guest's -uuid is not a UUID");
            let state = store::state(uuid.parse().map_err(invalid)?)?;
            let edits = if incoming { state.incoming.as_ref().ok_or_else(unreproducible)? } else { &state.boot };
            let arguments = if edits.is_empty() { arguments } else { qemu::rewrite(&arguments, edits)? };
            if let Some(limit) = state.memlock {
                wait_for_limit(limit)?;
            }
            Ok((state.emulator, arguments))
        }
        Invocation::Ambiguous => {
            let message = "QEMU's command line has -uuid with different values: remove it from <qemu:commandline>";
            Err(Note::error(Code::CommandLineUnsupported, message))
        }
    }
}

fn unreproducible() -> Note {
    let message = "the vIOMMU that this guest ran with is not recorded on this host, and its request does not tell which one it was: \
                   name the model instead of auto (and aw-bits if it has VFIO devices) in the metadata of the saved image (virsh \
                   managedsave-edit, virsh save-image-edit), or give the image up and start the guest afresh";
    Note::error(Code::MigrationMismatch, message)
}

fn wait_for_limit(limit: Limit) -> Result<(), Note> {
    let timeout = |message| Note::error(Code::MemlockTimeout, message);
    let deadline = process::boot_clock() + PATIENCE;
    loop {
        let own = process::own_lock_limit().hard;
        if own >= limit {
            break;
        }
        if process::boot_clock() >= deadline {
            return Err(timeout(format!(
                "the locked-memory limit is {own} and was not raised to the {limit} that this guest needs within {} seconds: see the \
                 log of viommu's guard (journalctl -t viommu)",
                PATIENCE.as_secs()
            )));
        }
        std::thread::sleep(INTERVAL);
    }
    process::use_hard_lock_limit().map_err(|error| timeout(format!("the locked-memory limit cannot be used: {error}")))
}

fn execute(emulator: &str, argv0: &OsStr, arguments: &[OsString]) -> Note {
    let id = |path: &str| process::file_id(Path::new(path)).ok();
    let other = || host::config::in_place_of(emulator).and_then(|other| Some((other, id(other)?)));
    let found = id(emulator).map(|id| (emulator, id)).or_else(other);
    let emulator = found.map_or(emulator, |(emulator, _)| emulator);
    if found.is_some_and(|(_, real)| process::own_file().is_ok_and(|own| real == own)) {
        let message = format!("{emulator} is viommu itself: name the real QEMU under [emulators] in {}", config::PATH);
        return Note::error(Code::EmulatorMissing, message);
    }
    // std's exec sets SIGPIPE, which Rust's start-up ignores, back to its default.
    #[expect(clippy::disallowed_methods, reason = "the wrapper becomes QEMU; nothing is spawned")]
    let error = Command::new(emulator).arg0(argv0).args(arguments).exec();
    Note::error(Code::EmulatorMissing, format!("the real QEMU cannot be executed: {emulator}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_name_tells_the_emulator() {
        assert_eq!(real_name("viommu-qemu-system-x86_64"), Some("qemu-system-x86_64"));
        assert_eq!(real_name("qemu-system-aarch64"), Some("qemu-system-aarch64"), "the host route");
        assert_eq!(real_name("viommu"), None);
    }
}
