//! `viommu hook`: libvirt's hook, run by hand or by libvirt.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};

use clap::Args;
use clap::builder::{PossibleValue, TypedValueParser};

use crate::domain::Domain;
use crate::hook::{self, Effect, Event, Outcome};
use crate::host::probe::Places;
use crate::host::{self, Host};
use crate::sys::fs;
use crate::sys::stderr::{complain, say};
use crate::text::{alternatives, printable};
use crate::xml;

use super::input::FactOptions;

/// Run libvirt's hook by hand, or from another hook
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Show what would happen only
    #[arg(long)]
    dry_run: bool,
    /// Name of the domain
    #[arg(allow_hyphen_values = true)]
    name: String,
    /// Operation of libvirt
    #[arg(value_parser = SuggestedWords(&OPERATIONS))]
    operation: String,
    /// begin or end
    #[arg(value_parser = SuggestedWords(&SUB_OPERATIONS))]
    sub_operation: String,
    /// libvirt's fourth argument
    #[arg(allow_hyphen_values = true, default_value = "-")]
    extra: String,
    #[command(flatten)]
    host: FactOptions,
}

/// The operations of libvirt's documentation (docs/hooks.rst).
const OPERATIONS: [&str; 9] =
    ["prepare", "start", "started", "stopped", "release", "migrate", "restore", "reconnect", "attach"];

const SUB_OPERATIONS: [&str; 2] = ["begin", "end"];

/// Words for help and completions. Another word is accepted, too: a later libvirt may have more operations, and a failure for
/// one of those would harm a guest.
#[derive(Clone, Copy)]
struct SuggestedWords(&'static [&'static str]);

impl TypedValueParser for SuggestedWords {
    type Value = String;

    fn parse_ref(&self, _: &clap::Command, _: Option<&clap::Arg>, word: &OsStr) -> Result<String, clap::Error> {
        Ok(word.to_string_lossy().into_owned())
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().map(PossibleValue::new)))
    }
}

pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> u8 {
    let Arguments { name, extra, .. } = arguments;
    let event = Event::of(&arguments.operation, &arguments.sub_operation);
    if let Some(wrong) = wrong(arguments) {
        complain(&wrong);
        return 2;
    }
    if !arguments.dry_run {
        return answer(name, event, extra, out);
    }
    let outcome = match arguments.host.facts() {
        Ok(host) => decide(name, event, extra, &host),
        Err(failure) => return failure.report(),
    };
    let _ = describe(&outcome, out);
    let _ = out.flush();
    end(&outcome)
}

/// What is wrong with the arguments of a user. libvirt and other hooks pass anything, without --dry-run.
fn wrong(arguments: &Arguments) -> Option<String> {
    let word = |word: &str, known: &[&str]| {
        let message = || format!("'{word}' is not an operation of libvirt's hook: use {}", alternatives(known));
        (!known.contains(&word)).then(message)
    };
    if !arguments.dry_run {
        let host = "facts about the host are for --dry-run";
        return (arguments.host != FactOptions::default()).then(|| host.to_owned());
    }
    word(&arguments.operation, &OPERATIONS).or_else(|| word(&arguments.sub_operation, &SUB_OPERATIONS))
}

/// libvirt's words in the arguments of a program that is not in a directory of hooks: `hook NAME OPERATION SUB-OPERATION
/// [EXTRA]`, and without `hook` where the program is not called `viommu`. A script passes libvirt's words on as they are, and a
/// guest's name can be an option of this program.
#[must_use]
pub fn words_of_libvirt<'a>(program: &str, arguments: &'a [OsString]) -> Option<&'a [OsString]> {
    let is = |word: &OsString, known: &[&str]| known.iter().any(|known| word == known);
    let is_call = |words: &&[OsString]| match words {
        [_, operation, sub_operation] | [_, operation, sub_operation, _] => {
            is(operation, &OPERATIONS) && is(sub_operation, &SUB_OPERATIONS)
        }
        _ => false,
    };
    let all = Some(arguments).filter(|_| program != "viommu");
    let of_verb = arguments.split_first().and_then(|(verb, words)| (verb == "hook").then_some(words));
    all.into_iter().chain(of_verb).find(is_call)
}

/// Runs as libvirt's hook: `NAME OPERATION SUB-OPERATION EXTRA`, where a script may leave the last word out. Other calls are
/// ignored, because a failure would prevent every guest of the host from starting.
#[must_use]
pub fn from_libvirt(words: &[OsString]) -> u8 {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let [name, operation, sub_operation, extra @ ..] = words.as_slice() else { return 0 };
    let extra = extra.first().map_or("-", AsRef::as_ref);
    answer(name, Event::of(operation, sub_operation), extra, &mut io::stdout().lock())
}

/// Decides about an event of a domain, and does what it calls for.
fn answer(name: &str, event: Event, extra: &str, out: &mut impl Write) -> u8 {
    let host = |domain: &Domain| Places::default().host_for(domain);
    let mut outcome = decide(name, event, extra, &host);
    hook::perform(&mut outcome);
    if let Some(text) = &outcome.print {
        // libvirt ignores it or has closed the pipe; that does not refuse a start.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
    end(&outcome)
}

fn decide(name: &str, event: Event, extra: &str, host: &dyn Fn(&Domain) -> Host) -> Outcome {
    if event == Event::Other {
        // Nothing is read, not even stdin: a failure at `reconnect` would kill the guest.
        return Outcome::default();
    }
    // Most domains fit, so their XML is read at once.
    let mut bytes = Vec::with_capacity(64 * 1024);
    let read = fs::read_past(io::stdin().lock(), xml::MAX_BYTES, &mut bytes);
    let missing = match read {
        Err(error) => Some(error.to_string()),
        Ok(()) => missing(event, name, &bytes).map(str::to_owned),
    };
    let config = host::config::load();
    match missing {
        Some(why) => hook::decide_without_document(event, name, &why, config),
        None => hook::decide(event, extra, &bytes, config, host),
    }
}

/// Why these bytes are not the document that libvirt sent for this domain.
fn missing(event: Event, name: &str, bytes: &[u8]) -> Option<&'static str> {
    let text = bytes.trim_ascii();
    let starts = ["<domain", "<?", "<!", "\u{feff}"].iter().any(|start| text.starts_with(start.as_bytes()));
    let whole = starts && text.ends_with(b"</domain>");
    let domain = || xml::parse(bytes).and_then(|document| Domain::read(&document));
    if text.is_empty() {
        Some("it is empty")
    } else if name.starts_with('-') && domain().map_or(true, |domain| domain.name != name) {
        // Perhaps it is an option of a user who left the name out.
        Some("it is the XML of another domain")
    } else {
        // The parser reports a document that is too long, and one in another encoding.
        let cut = || bytes.len() <= xml::MAX_BYTES && std::str::from_utf8(bytes).is_ok() && xml::parse(bytes).is_err();
        (event.can_refuse() && !whole && cut()).then_some("a part of it is missing")
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
        writeln!(out, "would log: {}[{}]: {}", note.level, note.code, printable(&note.message))?;
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
