//! `viommu hook`: libvirt's hook, run by hand or by libvirt.

use std::ffi::OsString;
use std::io::{self, Write};

use clap::Args;

use crate::hook::{self, Effect, Event, Outcome};
use crate::host;
use crate::host::probe::Places;
use crate::sys::fs;
use crate::sys::stderr::say;
use crate::text::printable;
use crate::xml;

/// Run libvirt's hook by hand, or from another hook
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Show what would happen only
    #[arg(long)]
    dry_run: bool,
    /// Name of the domain
    #[arg(allow_hyphen_values = true)]
    name: String,
    /// prepare, start, started, stopped, release, migrate, restore, reconnect, attach
    operation: String,
    /// begin, end
    sub_operation: String,
    /// libvirt's fourth argument
    #[arg(allow_hyphen_values = true, default_value = "-")]
    extra: String,
}

pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> u8 {
    let event = Event::of(&arguments.operation, &arguments.sub_operation);
    let mut outcome = decide(&arguments.name, event, &arguments.extra);
    if arguments.dry_run {
        let _ = describe(&outcome, out);
        let _ = out.flush();
        return end(&outcome);
    }
    hook::perform(&mut outcome);
    print(&outcome, out);
    end(&outcome)
}

/// Runs as libvirt's hook: `PROGRAM NAME OPERATION SUB-OPERATION EXTRA`. Other calls are ignored, because a failure would
/// prevent every guest of the host from starting.
pub fn from_libvirt(arguments: impl Iterator<Item = OsString>) -> u8 {
    let arguments: Vec<String> = arguments.map(|argument| argument.to_string_lossy().into_owned()).collect();
    let [name, operation, sub_operation, extra, ..] = arguments.as_slice() else { return 0 };
    let mut outcome = decide(name, Event::of(operation, sub_operation), extra);
    hook::perform(&mut outcome);
    print(&outcome, &mut io::stdout().lock());
    end(&outcome)
}

fn decide(name: &str, event: Event, extra: &str) -> Outcome {
    if event == Event::Other {
        // Nothing is read, not even stdin: a failure at `reconnect` would kill the guest.
        return Outcome::default();
    }
    // Most domains fit, so their XML is read at once.
    let mut bytes = Vec::with_capacity(64 * 1024);
    let read = fs::read_past(io::stdin().lock(), xml::MAX_BYTES, &mut bytes);
    let missing = match read {
        Err(error) => Some(error.to_string()),
        Ok(()) => bytes.trim_ascii().is_empty().then(|| "it is empty".to_owned()),
    };
    let config = host::config::load();
    match missing {
        Some(why) => hook::decide_without_document(event, name, &why, config),
        None => hook::decide(event, extra, &bytes, config, &Places::default()),
    }
}

fn print(outcome: &Outcome, out: &mut impl Write) {
    if let Some(text) = &outcome.print {
        // libvirt ignores it or has closed the pipe; that does not refuse a start.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

fn end(outcome: &Outcome) -> u8 {
    match &outcome.refusal {
        Some(refusal) => {
            say(refusal);
            1
        }
        None => 0,
    }
}

fn describe(outcome: &Outcome, out: &mut impl Write) -> io::Result<()> {
    for note in &outcome.log {
        writeln!(out, "would log: {}[{}]: {}", note.level.as_str(), note.code, printable(&note.message))?;
    }
    for effect in &outcome.effects {
        match effect {
            Effect::WriteState(state) => writeln!(out, "would write the state: {}", state.to_json())?,
            Effect::Record(uuid, _) => writeln!(out, "would record the vIOMMU of {uuid} for a later restore")?,
            Effect::Guard(order) => writeln!(out, "would raise the locked-memory limit to {:#}", order.limit)?,
            Effect::Verify { limit, .. } => writeln!(out, "would check that the limit is {limit:#}")?,
            Effect::RemoveState(uuid) => writeln!(out, "would remove the state of {uuid}")?,
            Effect::Forget(uuid) => writeln!(out, "would forget the recorded vIOMMU of {uuid}")?,
        }
    }
    if outcome.print.is_some() && outcome.refusal.is_none() {
        writeln!(out, "would print the rewritten XML")?;
    }
    match &outcome.refusal {
        Some(refusal) => writeln!(out, "would refuse: {}", refusal.code),
        None => writeln!(out, "would let the guest pass"),
    }
}
