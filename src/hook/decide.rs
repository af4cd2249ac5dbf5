//! Decides what an event calls for. Reads files of the host, changes nothing.

use std::ffi::OsString;

use crate::config::Config;
use crate::decide::{self, Decided, Undecided};
use crate::domain::Domain;
use crate::guard;
use crate::host::Host;
use crate::host::guest_process::Identity;
use crate::note::{Code, Note};
use crate::plan::{self, Plan, Route, wrapped_emulator};
use crate::qemu::{self, Edits, Invocation};
use crate::request::{Keys, Request, RequestedModel};
use crate::rewrite::rewrite;
use crate::state::{GuestState, Record, store};
use crate::sys::process;
use crate::xml;

use super::effect::{Effect, Outcome};
use super::event::Event;
use super::prefilter;

/// Decides about an event, and changes nothing. `host` reads the facts about the host that matter for a domain.
#[must_use]
pub fn decide(
    event: Event,
    extra: &str,
    xml: &[u8],
    config: Result<Config, Note>,
    host: &dyn Fn(&Domain) -> Host,
) -> Outcome {
    if let Some(outcome) = without_request(event, xml, &config) {
        return outcome;
    }
    let mark = mark(event, xml, &config);
    match event {
        Event::Other => Outcome::default(),
        Event::Stopped => ended(xml, false),
        // A guest that migrated away needs no record here. After any other end, even a failed start, an image that was saved
        // before may be restored, and needs it.
        Event::Release => ended(xml, extra == "migrated"),
        Event::Prepare => at_start(xml, config, host, prepare),
        Event::Start => {
            let mut outcome = at_start(xml, config, host, start);
            if outcome.effects.is_empty() && outcome.refusal.is_none() {
                outcome.asks |= mark.is_some();
                outcome.effects.extend(mark);
            }
            outcome
        }
        Event::Started => {
            let mut outcome = at_start(xml, config, host, started);
            // The guest runs; a failure now would kill it.
            outcome.log.extend(outcome.refusal.take());
            outcome
        }
        Event::Migrate => at_start(xml, config, host, migrate),
    }
}

/// The outcome for a guest that certainly has no request, by itself or by a rule of the host; `None` where the XML has to be
/// parsed to find out.
fn without_request(event: Event, xml: &[u8], config: &Result<Config, Note>) -> Option<Outcome> {
    let ends = matches!(event, Event::Stopped | Event::Release | Event::Other);
    if ends || config.as_ref().map_or(true, Config::has_request) || prefilter::may_ask(xml) || recorded(event, xml) {
        return None;
    }
    let mut outcome = Outcome::default();
    if event == Event::Start {
        let mark = mark(event, xml, config);
        // Without this state the wrapper would refuse the guest later, and without the reason.
        outcome.asks = mark.is_some();
        // The guard of an earlier start ends when its state file is removed.
        outcome.effects.push(mark.unwrap_or(Effect::RemoveState(prefilter::uuid(xml)?)));
    }
    Some(outcome)
}

/// Whether a guest of the host route has a record of an earlier run. It may continue that run, and a boot makes the record
/// obsolete.
fn recorded(event: Event, xml: &[u8]) -> bool {
    let on_route = event != Event::Prepare && prefilter::host_route(xml).is_some();
    on_route && prefilter::uuid(xml).is_none_or(store::has_record)
}

/// The state file of a guest on the host route without a request. It changes nothing, and tells the wrapper that the hook has run.
pub(super) fn mark(event: Event, xml: &[u8], config: &Result<Config, Note>) -> Option<Effect> {
    let name = (event == Event::Start).then(|| prefilter::host_route(xml))??;
    let emulator = config.as_ref().unwrap_or(&Config::default()).emulator_behind(name);
    let nothing = Edits::default;
    let state =
        GuestState::new(prefilter::uuid(xml)?, process::boot_clock().as_secs(), emulator, nothing(), Some(nothing()));
    Some(Effect::WriteState(Box::new(state)))
}

fn at_start(
    xml: &[u8],
    config: Result<Config, Note>,
    host: &dyn Fn(&Domain) -> Host,
    then: impl FnOnce(&Decided<'_>, &Plan, &mut Outcome),
) -> Outcome {
    let mut outcome = Outcome::default();
    let facts = |domain: &Domain, request: Option<&Request>| {
        let Some(request) = request else { return Ok(Host::default()) };
        let mut host = Host { cautious: true, ..host(domain) };
        if request.model == RequestedModel::Auto {
            host.recorded = domain.uuid.and_then(store::record).and_then(|record| record.auto_for(domain, request));
        }
        Ok(host)
    };
    match decide::decide(xml, &Keys::default(), config.clone(), facts) {
        Ok(decided) => {
            outcome.log.extend_from_slice(&decided.log);
            outcome.asks = decided.asks();
            outcome.log.extend(plan::kept(&decided.plan).warnings().cloned());
            match &decided.plan {
                Ok(plan) => then(&decided, plan, &mut outcome),
                Err(refusal) => outcome.refusal = Some(refusal.note.clone()),
            }
        }
        Err(Undecided { note, asks }) => {
            let copy = (note.code == Code::XmlMalformed).then(|| xml::with_declared_prefixes(xml)).flatten();
            if let Some(copy) = copy {
                return at_start(copy.as_bytes(), config, host, then);
            }
            outcome.asks = asks;
            outcome.fail(note);
        }
    }
    outcome
}

fn prepare(decided: &Decided<'_>, plan: &Plan, outcome: &mut Outcome) {
    match rewrite(&decided.document, plan) {
        Ok(text) => {
            outcome.print = text;
            needs_rewriting(plan, outcome);
        }
        Err(refusal) => outcome.refusal = Some(refusal),
    }
}

/// At a start libvirt takes no rewritten XML, so a missing change refuses the start if it is essential, and is logged if not.
fn needs_rewriting(plan: &Plan, outcome: &mut Outcome) {
    if plan.route == Route::Wrapper {
        return;
    }
    outcome.refusal = plan.refusal_unless_rewritten();
    if outcome.refusal.is_none() {
        let missing = plan.changes.iter().map(|change| Note::warning(Code::IommuIncomplete, change.reason.clone()));
        outcome.log.extend(missing);
    }
}

fn start(decided: &Decided<'_>, plan: &Plan, outcome: &mut Outcome) {
    needs_rewriting(plan, outcome);
    if outcome.refusal.is_some() {
        return;
    }
    let wrapper = plan.route == Route::Wrapper;
    let limit = plan.memlock.to_set();
    let Some(uuid) = decided.domain.uuid else {
        if wrapper || limit.is_some() {
            let note = Note::error(Code::StateUnwritable, "the domain has no UUID, so nothing can be prepared for it");
            outcome.fail(note);
        }
        return;
    };
    if !wrapper && limit.is_none() {
        // The guard of an earlier start ends when its state file is removed.
        return outcome.effects.push(Effect::RemoveState(uuid));
    }
    if limit.is_some() && !process::may_raise_limits() {
        let message = "the guest needs a higher locked-memory limit, and the daemon may not raise it: give libvirtd \
                       CAP_SYS_RESOURCE and CAP_SYS_PTRACE, or set <memtune><hard_limit>";
        return outcome.fail(Note::error(Code::MemlockNoPrivilege, message));
    }
    let boot = if wrapper { plan.qemu.clone() } else { Edits::default() };
    let recorded = store::record(uuid).and_then(|record| record.edits_for(&decided.domain));
    outcome.log.extend(recorded.as_ref().and_then(|before| model_changed(before, &boot)));
    let incoming = recorded.or_else(|| plan.reproducible.then(|| boot.clone()));
    // Without a state the wrapper would refuse the guest later, and without the reason.
    outcome.asks |= wrapper;
    let mut state = GuestState::new(uuid, process::boot_clock().as_secs(), emulator(decided), boot, incoming);
    state.memlock = limit;
    outcome.effects.push(Effect::WriteState(Box::new(state)));
    if let Some((limit, guest)) = limit.zip(Identity::of(&decided.domain)) {
        let order = guard::Order { guest, limit, urgent: !wrapper };
        outcome.effects.push(Effect::Guard(order));
    }
}

/// An update of viommu or of the host can change what `auto` is, and the attributes of a model.
fn model_changed(before: &Edits, now: &Edits) -> Option<Note> {
    let (Some(old), Some(new)) = (before.added(), now.added()) else { return None };
    let whole = |edits: &Edits| {
        let options = edits.machine.iter().map(|(key, value)| format!("{key}={value}"));
        options.chain(edits.devices.iter().cloned()).collect::<Vec<_>>().join(" ")
    };
    let changed = |old: &str, new: &str, what: &str| {
        let message = format!(
            "the guest ran with {old}, and a start that is not a restore gives it {new} now: name the {what} in its request to keep one"
        );
        (old != new).then(|| Note::warning(Code::ModelChanged, message))
    };
    changed(old, new, "model").or_else(|| changed(&whole(before), &whole(now), "model and its attributes"))
}

/// The real QEMU behind the wrapper's name.
fn emulator(decided: &Decided<'_>) -> String {
    let path = decided.domain.emulator.as_deref().unwrap_or_default();
    let name = wrapped_emulator(path).or_else(|| path.rsplit('/').next());
    decided.config.emulator_behind(name.unwrap_or_default())
}

fn started(decided: &Decided<'_>, plan: &Plan, outcome: &mut Outcome) {
    let Some(guest) = Identity::of(&decided.domain) else { return };
    if let Some(limit) = plan.memlock.to_set() {
        outcome.effects.push(Effect::Verify { guest: guest.clone(), limit });
    }
    if plan.route != Route::Wrapper {
        return;
    }
    let Some(in_use) = in_use(&guest, decided) else { return };
    match in_use.edits {
        Some(edits) if edits.adds_iommu() && in_use.has_iommu == Some(false) => {
            let message = format!(
                "the guest runs without the vIOMMU that it asks for: its emulator {} is not viommu's wrapper",
                decided.domain.emulator.as_deref().unwrap_or_default()
            );
            outcome.log.push(Note::error(Code::RequestUnmet, message));
        }
        Some(edits) => {
            outcome.effects.push(Effect::Record(guest.uuid, Record::new(&decided.domain, plan, edits)));
        }
        // A restore then reports a missing record, and would use the one of an earlier run.
        None => outcome.effects.push(Effect::Forget(guest.uuid)),
    }
}

/// What the wrapper did for a guest that runs.
struct InUse {
    /// The edits of QEMU's command line, by the state file and by whether the guest booted or came in; `None` where that is not
    /// known.
    edits: Option<Edits>,
    /// Whether QEMU's command line has a vIOMMU; `None` where the command line is not known.
    has_iommu: Option<bool>,
}

/// What the wrapper did for this guest; `None` without a state file.
///
/// Without a proven process, the processes that were started for the guest since its state was written must agree: QEMU is
/// one of them, so that no other process can change the answer, and at most prevents it.
fn in_use(guest: &Identity, decided: &Decided<'_>) -> Option<InUse> {
    let state = store::state(guest.uuid).ok()?;
    let came_in =
        |arguments: &[OsString]| matches!(qemu::classify(arguments), Invocation::Guest { incoming: true, .. });
    let look = |arguments: &[OsString]| (came_in(arguments), qemu::find_iommu(arguments).is_some());
    let running = match guest.process() {
        Some(process) => Some(look(&process.arguments())),
        None => guest.agreed_since(state.written, look),
    };
    let edits = match running {
        // The wrapper refuses a guest with two UUIDs, so another program started it.
        _ if qemu::renames(&decided.domain.commandline, &state.uuid) => None,
        // The wrapper refuses a guest that comes in where it has no edits for that.
        _ if state.incoming.as_ref().is_none_or(|incoming| *incoming == state.boot) => Some(state.boot),
        Some((true, _)) => state.incoming,
        Some((false, _)) => Some(state.boot),
        None => None,
    };
    Some(InUse { edits, has_iommu: running.map(|(_, has_iommu)| has_iommu) })
}

/// On the wrapper route libvirt does not know the vIOMMU with which an incoming guest ran. QEMU loads the guest's state into a
/// vIOMMU with other attributes without an error, so the attributes must certainly be the same.
fn migrate(decided: &Decided<'_>, plan: &Plan, outcome: &mut Outcome) {
    let Some(uuid) = decided.domain.uuid.filter(|_| plan.route == Route::Wrapper) else { return };
    if !plan.reproducible {
        let message = "the guest's vIOMMU was made by the wrapper of another host, and its attributes cannot be known here: name the \
                       model in the guest's metadata instead of auto, and aw-bits if it has VFIO devices, or cold-start it";
        outcome.refusal = Some(Note::error(Code::MigrationMismatch, message));
        return;
    }
    // The record of an earlier run on this host says nothing about the vIOMMU that the guest has now. If the guest runs here
    // already, libvirt refuses the migration.
    if !store::state_file(uuid).exists() {
        outcome.effects.push(Effect::Forget(uuid));
    }
}

fn ended(xml: &[u8], forget: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let read = || xml::parse(xml).and_then(|document| Domain::read(&document)).map(|domain| domain.uuid);
    match prefilter::uuid(xml).map_or_else(read, |uuid| Ok(Some(uuid))) {
        Ok(Some(uuid)) => {
            outcome.effects.push(Effect::RemoveState(uuid));
            if forget {
                outcome.effects.push(Effect::Forget(uuid));
            }
        }
        Ok(None) => {}
        Err(note) => outcome.log.push(note),
    }
    outcome
}
