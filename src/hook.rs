//! libvirt's `qemu` hook: what each event may do, and what happens when something fails.
//!
//! `NAME OPERATION SUB-OPERATION EXTRA`, the domain XML on stdin. libvirt ignores what a hook prints except at `migrate
//! begin` and `restore begin`, shows what it says on stderr when it fails, and holds the domain's lock meanwhile (src/util/
//! virhook.c, docs/hooks.rst).
//!
//! Should: answer from files within a millisecond; refuse a guest that asks and cannot have; let everything else pass.
//! Mustn't: call libvirt, start a program, wait for anything, or fail at `reconnect` (libvirt then kills the running guest) or
//! at `restore` (libvirt 11.3 then takes a guest for started and deletes its managed-save image). A restored guest is refused at
//! the `prepare` and `start` that follow, or by the wrapper.

use std::path::{Path, PathBuf};

use crate::config::{self, Config};
use crate::domain::{Domain, Uuid};
use crate::guard;
use crate::host::probe::Places;
use crate::note::{Code, Level, Note};
use crate::plan::{self, Limit, Plan, Route, WRAPPER_PREFIX};
use crate::qemu::Edits;
use crate::record;
use crate::request::{Model, Request, Wishes};
use crate::rewrite::rewrite;
use crate::state::{self, Memlock, State};
use crate::sys::journal::{self, Priority};
use crate::sys::{fs, process};
use crate::xml;

/// What libvirt tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The domain is about to start; nothing has been done for it.
    Prepare,
    /// QEMU's command line is made, and QEMU is about to be executed.
    Start,
    /// QEMU runs.
    Started,
    /// QEMU is gone, or never came.
    Stopped,
    /// All that libvirt held for the domain is given back.
    Release,
    /// The domain is about to come from another host.
    Migrate,
    /// Everything else, known or not: none of our business.
    Other,
}

impl Event {
    /// The event of an operation and a sub-operation.
    #[must_use]
    pub fn of(operation: &str, sub_operation: &str) -> Event {
        match (operation, sub_operation) {
            ("prepare", "begin") => Event::Prepare,
            ("start", "begin") => Event::Start,
            ("started", "begin") => Event::Started,
            ("stopped", "end") => Event::Stopped,
            ("release", "end") => Event::Release,
            ("migrate", "begin") => Event::Migrate,
            _ => Event::Other,
        }
    }
}

/// What a hook call comes to. Nothing has happened yet: [`perform`] makes it so.
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
}

/// Something that changes the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Writes the guest's state file.
    WriteState(Box<State>),
    /// Keeps what the guest runs with, for the day when it is restored.
    Record {
        /// The guest.
        uuid: Uuid,
        /// libvirt's pidfile.
        pidfile: PathBuf,
    },
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

/// What is known about a guest.
struct Sight {
    domain: Domain,
    plan: Plan,
    config: Config,
    /// The guest asks for something; what fails then refuses the start.
    asks: bool,
}

/// Decides about an event. Reads files of the host, changes nothing.
#[must_use]
pub fn decide(event: Event, extra: &str, xml: &[u8], config: Result<Config, Note>, places: &Places) -> Outcome {
    match event {
        Event::Other => Outcome::default(),
        Event::Stopped => ended(xml, false),
        // Every other reason may leave a saved image behind, also of a guest that only failed to come back from it.
        Event::Release => ended(xml, matches!(extra, "shutdown" | "destroyed" | "crashed" | "migrated")),
        Event::Prepare => at_start(xml, config, places, |sight, outcome| prepare(sight, xml, outcome)),
        Event::Start => at_start(xml, config, places, start),
        Event::Started => {
            let mut outcome = at_start(xml, config, places, started);
            // The guest runs; a failure now would kill it.
            outcome.log.extend(outcome.refusal.take());
            outcome.effects.extend(recording(xml));
            outcome
        }
        Event::Migrate => at_start(xml, config, places, migrate),
    }
}

fn at_start(
    xml: &[u8],
    config: Result<Config, Note>,
    places: &Places,
    then: impl FnOnce(&Sight, &mut Outcome),
) -> Outcome {
    let mut outcome = Outcome::default();
    match look(xml, config, places, &mut outcome.log) {
        Ok(sight) => {
            let notes = sight.plan.notes.iter().filter(|note| note.level == Level::Warning);
            outcome.log.extend(notes.cloned());
            match sight.plan.refusal() {
                Some(refusal) => outcome.refusal = Some(refusal.clone()),
                None => then(&sight, &mut outcome),
            }
        }
        Err(note) if speaks_of_us(xml) => outcome.refusal = Some(note),
        Err(note) => outcome.log.push(note),
    }
    outcome
}

/// Whether a document that cannot be read speaks of a vIOMMU or of the wrapper. Tenants choose names and metadata: a guest
/// must not lose its vIOMMU because somebody made its XML unreadable, nor be refused when it never asked.
fn speaks_of_us(xml: &[u8]) -> bool {
    xml.windows(6).any(|bytes| bytes == b"viommu")
}

fn look(xml: &[u8], config: Result<Config, Note>, places: &Places, log: &mut Vec<Note>) -> Result<Sight, Note> {
    let document = xml::parse(xml)?;
    let domain = Domain::read(&document)?;
    let config = match config {
        Ok(config) => config,
        Err(broken) => {
            // What the configuration wishes is unknown, so only a guest that asks by itself can be refused for it. The
            // wrapper is there for nothing else.
            let asks =
                Request::of(&domain, &Wishes::default(), &Config::default()).map_or(true, |request| request.asks());
            if asks || plan::route(&domain) == Route::Wrapper {
                return Err(broken);
            }
            log.push(broken);
            Config::default()
        }
    };
    let request = Request::of(&domain, &Wishes::default(), &config)?;
    let concerned = request.asks() || plan::route(&domain) == Route::Wrapper || plan::has_viommu(&domain);
    let host = if concerned { places.host_for(&domain) } else { crate::host::Host::default() };
    let asks = request.asks();
    let plan = plan::plan(&domain, &request, &host);
    Ok(Sight { domain, plan, config, asks })
}

fn prepare(sight: &Sight, xml: &[u8], outcome: &mut Outcome) {
    let rewritten = xml::parse(xml).and_then(|document| rewrite(&document, &sight.plan));
    match rewritten {
        Ok(text) => outcome.print = text,
        Err(refusal) => outcome.refusal = Some(refusal),
    }
    needs_rewriting(sight, outcome);
}

/// At a start nothing can be rewritten any more, so what is missing and essential refuses it; the rest is only logged.
fn needs_rewriting(sight: &Sight, outcome: &mut Outcome) {
    if outcome.refusal.is_some() || sight.plan.route == Route::Wrapper {
        return;
    }
    outcome.refusal = sight.plan.refusal_unless_rewritten();
    if outcome.refusal.is_none() {
        let missing =
            sight.plan.changes.iter().map(|change| Note::warning(Code::IommuIncomplete, change.reason.clone()));
        outcome.log.extend(missing);
    }
}

fn start(sight: &Sight, outcome: &mut Outcome) {
    needs_rewriting(sight, outcome);
    if outcome.refusal.is_some() {
        return;
    }
    let wrapper = sight.plan.route == Route::Wrapper;
    let limit = raise(sight);
    if !wrapper && limit.is_none() {
        return;
    }
    let Some(uuid) = sight.domain.uuid else {
        let note = Note::error(Code::StateUnwritable, "the domain has no UUID, so nothing can be prepared for it");
        return refuse_or_log(sight, note, outcome);
    };
    if limit.is_some() && !process::may_raise_limits() {
        let message = "the guest needs a higher locked-memory limit, and the daemon may not raise it: give libvirtd \
                       CAP_SYS_RESOURCE, or set <memtune><hard_limit>";
        return refuse_or_log(sight, Note::error(Code::MemlockNoPrivilege, message), outcome);
    }
    let boot = if wrapper { sight.plan.qemu.clone() } else { Edits::default() };
    let incoming = if wrapper { incoming(sight, uuid, &boot, &mut outcome.log) } else { None };
    let mut state = State::new(uuid, process::boot_clock(), emulator(sight), boot, incoming);
    state.memlock = limit;
    outcome.effects.push(Effect::WriteState(Box::new(state)));
    if let Some(limit) = limit {
        outcome.effects.push(Effect::Guard(guard::Order {
            state: state_file(uuid),
            pidfile: guard::pidfile(&sight.domain.name),
            limit: limit.rlimit(),
            urgent: !wrapper,
            uuid: uuid.to_string(),
        }));
    }
}

/// What a guest has to get that turns out to come from a saved image: what it ran with, else what is decided now if that
/// cannot have been anything else then.
fn incoming(sight: &Sight, uuid: Uuid, boot: &Edits, log: &mut Vec<Note>) -> Option<Edits> {
    match record::of(uuid) {
        Ok(Some(ran_with)) => Some(ran_with),
        Ok(None) => reproducible(sight, boot).then(|| boot.clone()),
        Err(note) => {
            log.push(note);
            None
        }
    }
}

/// The limit that has to be set; none where libvirt's own is high enough or where the guest is none of ours.
fn raise(sight: &Sight) -> Option<Memlock> {
    let ours = sight.asks || sight.plan.iommu.is_some();
    match sight.plan.memlock.required_bytes.filter(|_| ours && sight.plan.memlock.raise)? {
        Limit::Bytes(bytes) => Some(Memlock::Bytes(bytes)),
        Limit::Unlimited => Some(Memlock::Unlimited),
    }
}

fn refuse_or_log(sight: &Sight, note: Note, outcome: &mut Outcome) {
    if sight.asks || sight.plan.route == Route::Wrapper {
        outcome.refusal = Some(note);
    } else {
        outcome.log.push(note);
    }
}

/// The real QEMU behind the wrapper's name.
fn emulator(sight: &Sight) -> String {
    let path = sight.domain.emulator.as_deref().unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    sight.config.emulator_behind(name.strip_prefix(WRAPPER_PREFIX).unwrap_or(name))
}

fn started(sight: &Sight, outcome: &mut Outcome) {
    if let Some(limit) = raise(sight) {
        let pidfile = guard::pidfile(&sight.domain.name);
        outcome.effects.push(Effect::Verify { pidfile, limit: limit.rlimit() });
    }
}

/// The record of a wrapped guest that runs now, whatever may be wrong with its request by now.
fn recording(xml: &[u8]) -> Option<Effect> {
    if !speaks_of_us(xml) {
        return None;
    }
    let domain = xml::parse(xml).and_then(|document| Domain::read(&document)).ok()?;
    let uuid = domain.uuid.filter(|_| plan::route(&domain) == Route::Wrapper)?;
    Some(Effect::Record { uuid, pidfile: guard::pidfile(&domain.name) })
}

/// A guest that comes from elsewhere has run with a vIOMMU that libvirt does not know of. QEMU loads a stream into a vIOMMU
/// with other attributes without a word, so it must be certain that they are the same.
fn migrate(sight: &Sight, outcome: &mut Outcome) {
    let Some(uuid) = sight.domain.uuid.filter(|_| sight.plan.route == Route::Wrapper) else { return };
    if !reproducible(sight, &sight.plan.qemu) {
        let message = "the guest's vIOMMU was made by the wrapper of another host, and its attributes cannot be known here: name the \
                       model in the guest's metadata instead of auto, and aw-bits if it has VFIO devices, or cold-start it";
        outcome.refusal = Some(Note::error(Code::MigrationMismatch, message));
        return;
    }
    // What the guest ran with here before it left says nothing about what it runs with now.
    outcome.effects.push(Effect::Forget(uuid));
}

/// Whether every host decides alike about this guest: nothing is to be added, or the model is named, and so is what depends
/// on the host's IOMMU.
fn reproducible(sight: &Sight, decided: &Edits) -> bool {
    if decided.is_empty() {
        return true;
    }
    let request = &sight.plan.request;
    let width_depends_on_host = request.hotplug || !sight.domain.vfio.is_empty();
    match request.model {
        Model::Auto => false,
        Model::Intel => !width_depends_on_host || request.aw_bits.is_some(),
        Model::None | Model::Smmuv3 | Model::Virtio => true,
    }
}

fn ended(xml: &[u8], forget: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let domain = xml::parse(xml).and_then(|document| Domain::read(&document));
    match domain.map(|domain| domain.uuid) {
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

fn state_file(uuid: Uuid) -> PathBuf {
    Path::new(state::DIRECTORY).join(format!("{uuid}.json"))
}

/// The configuration of the host; a missing file is an empty one.
///
/// # Errors
/// `config-invalid`.
pub fn configuration(path: &Path) -> Result<Config, Note> {
    match fs::read_trusted(path, 1 << 20) {
        Ok(text) => Config::parse(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
        Err(error) => Err(Note::error(Code::ConfigInvalid, format!("{} cannot be used: {error}", config::PATH))),
    }
}

/// Makes it so. Everything that fails becomes a refusal where the guest needs it, else a line in the log.
pub fn perform(outcome: &mut Outcome) {
    for effect in std::mem::take(&mut outcome.effects) {
        if let Err(note) = effect.perform() {
            if note.level == Level::Error {
                outcome.refusal = Some(note);
                break;
            }
            outcome.log.push(note);
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
            Effect::Record { uuid, pidfile } => record::keep(uuid, &pidfile),
            Effect::Guard(order) => guard::start(order),
            Effect::Verify { pidfile, limit } => verify(&pidfile, limit),
            Effect::RemoveState(uuid) => removed(&state_file(uuid), fs::remove(&state_file(uuid))),
            Effect::Forget(uuid) => removed(Path::new(state::RECORDS), record::forget(uuid)),
        }
    }
}

fn removed(place: &Path, result: std::io::Result<()>) -> Result<(), Note> {
    let message = |error| format!("nothing can be removed from {}: {error}", place.display());
    result.map_err(|error| Note::warning(Code::StateUnwritable, message(error)))
}

/// The guard has normally been faster. Where it was not, QEMU has survived so far, and the next mapping must not fail.
fn verify(pidfile: &Path, limit: u64) -> Result<(), Note> {
    let Some(pid) = guard::pid_of(pidfile) else { return Ok(()) };
    let late = process::lock_limit(pid).is_ok_and(|found| found.soft < limit);
    if !late {
        return Ok(());
    }
    let raised = process::raise_lock_limit(pid, limit);
    let message = match raised {
        Ok(_) => "the locked-memory limit was raised only after the guest had started".to_owned(),
        Err(error) => format!("the guest runs with too low a locked-memory limit, which could not be raised: {error}"),
    };
    Err(Note::warning(Code::MemlockTimeout, message))
}
