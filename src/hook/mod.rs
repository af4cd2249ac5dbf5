//! libvirt's `qemu` hook: what each event may do, and what happens when something fails.
//!
//! `NAME OPERATION SUB-OPERATION EXTRA`, the domain XML on stdin. libvirt ignores what a hook prints except at `migrate
//! begin` and `restore begin`, shows what it says on stderr when it fails, and holds the domain's lock meanwhile (src/util/
//! virhook.c, docs/hooks.rst).
//!
//! Should: answer from files within a millisecond; refuse a guest that asks and cannot have; let everything else pass.
//! Mustn't: call libvirt, start a program, wait for anything, fail at `reconnect` (libvirt then kills the running guest) or at
//! `restore` (libvirt 11.3 then says that the guest was started, and deletes its managed-save image).

use std::path::{Path, PathBuf};

use crate::config::{self, Config};
use crate::domain::{Domain, Uuid};
use crate::guard;
use crate::host::Host;
use crate::host::probe::Places;
use crate::note::{Code, Level, Note};
use crate::plan::{self, Limit, Plan, Route, wrapped_emulator};
use crate::qemu::{self, Edits, Invocation};
use crate::request::{Model, Request, Source, Wishes};
use crate::rewrite::rewrite;
use crate::state::{self, Memlock, Record, State};
use crate::sys::{fs, process};
use crate::xml::{self, Document};

mod effect;
mod glance;

pub use effect::{Effect, perform};

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
    /// Everything else, known or not: none of our business. `restore` too: a guest from a saved image comes by `prepare` and
    /// `start` as well, and its QEMU by the wrapper, which can refuse it without harm to the image.
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
    /// The guest asks for something, so an effect that fails refuses its start.
    pub asks: bool,
}

/// What is known about a guest.
pub(crate) struct Sight<'a> {
    pub(crate) document: Document<'a>,
    domain: Domain,
    pub(crate) plan: Plan,
    config: Config,
}

/// Decides about an event. Reads files of the host, changes nothing.
#[must_use]
pub fn decide(event: Event, extra: &str, xml: &[u8], config: Result<Config, Note>, places: &Places) -> Outcome {
    if let Some(outcome) = silent(event, xml, &config) {
        return outcome;
    }
    match event {
        Event::Other => Outcome::default(),
        Event::Stopped => ended(xml, false),
        // A guest that moved away runs on with what its new host gives it. Any other end, even a failed start, can be
        // followed by a restore of an image that was saved before.
        Event::Release => ended(xml, extra == "migrated"),
        Event::Prepare => at_start(xml, config, places, prepare),
        Event::Start => at_start(xml, config, places, start),
        Event::Started => {
            let mut outcome = at_start(xml, config, places, started);
            // The guest runs; a failure now would kill it.
            outcome.log.extend(outcome.refusal.take());
            outcome
        }
        Event::Migrate => at_start(xml, config, places, migrate),
    }
}

/// What is done for a guest that asks for nothing, neither by itself nor by a rule of the host's: most guests of most hosts,
/// so their XML is not even parsed. None where that takes a closer look.
fn silent(event: Event, xml: &[u8], config: &Result<Config, Note>) -> Option<Outcome> {
    let ends = matches!(event, Event::Stopped | Event::Release | Event::Other);
    if ends || config.as_ref().map_or(true, Config::wishes_anything) || glance::may_ask(xml) {
        return None;
    }
    let mut outcome = Outcome::default();
    if event == Event::Start {
        // A leftover of an earlier life would keep its guard waiting.
        outcome.effects.push(Effect::RemoveState(glance::uuid(xml)?));
    }
    Some(outcome)
}

fn at_start(
    xml: &[u8],
    config: Result<Config, Note>,
    places: &Places,
    then: impl FnOnce(&Sight<'_>, &mut Outcome),
) -> Outcome {
    let mut outcome = Outcome::default();
    let nobody = Wishes::default();
    let host = |domain: &Domain| Ok(places.host_for(domain));
    match look(xml, (Source::Cli, &nobody), config, host, &mut outcome.log) {
        Ok(sight) => {
            outcome.asks = sight.asks();
            let notes = sight.plan.notes.iter().filter(|note| note.level == Level::Warning);
            outcome.log.extend(notes.cloned());
            match sight.plan.refusal() {
                Some(refusal) => outcome.refusal = Some(refusal.clone()),
                None => then(&sight, &mut outcome),
            }
        }
        Err(Blind { note, asks: true }) => outcome.refusal = Some(note),
        Err(Blind { note, asks: false }) => outcome.log.push(note),
    }
    outcome
}

/// Why nothing is known about a guest.
pub(crate) struct Blind {
    pub(crate) note: Note,
    /// The guest asks for something all the same.
    pub(crate) asks: bool,
}

/// Decides about the guest of a document, of whom somebody may have said more than stands in it.
pub(crate) fn look<'a>(
    xml: &'a [u8],
    asked: (Source, &Wishes),
    config: Result<Config, Note>,
    host: impl FnOnce(&Domain) -> Result<Host, Note>,
    log: &mut Vec<Note>,
) -> Result<Sight<'a>, Blind> {
    // A document that nobody can read can still be one that the host has a rule for.
    let ruled = asked.1.asks() || config.as_ref().is_ok_and(Config::wishes_anything);
    let unreadable = |note| Blind { note, asks: ruled || glance::speaks_of_us(xml) };
    let asks = |note| Blind { note, asks: true };
    let document = xml::parse(xml).map_err(unreadable)?;
    let domain = Domain::read(&document).map_err(unreadable)?;
    let config = match config {
        Ok(config) => config,
        Err(broken) => {
            // What the configuration wishes is unknown, so only a guest that asks by itself, or that has chosen the wrapper,
            // can be refused for it.
            let request = Request::asked(&domain, asked, &Config::default());
            if plan::route(&domain) == Route::Wrapper || request.map_or(true, |request| request.asks()) {
                return Err(asks(broken));
            }
            log.push(broken);
            Config::default()
        }
    };
    // Whoever wishes what cannot be meant does wish.
    let request = Request::asked(&domain, asked, &config).map_err(asks)?;
    let concerned = request.asks() || plan::route(&domain) == Route::Wrapper || plan::has_viommu(&domain);
    let host = match concerned.then(|| host(&domain)) {
        Some(Err(note)) if request.asks() => return Err(Blind { note, asks: true }),
        Some(Err(note)) => {
            log.push(note);
            Host::default()
        }
        Some(Ok(host)) => host,
        None => Host::default(),
    };
    let plan = plan::plan(&domain, &request, &host);
    Ok(Sight { document, domain, plan, config })
}

impl Sight<'_> {
    /// Whether the guest asks for something: what fails then refuses the start. The wrapper, too, is a request.
    fn asks(&self) -> bool {
        self.plan.request.asks() || self.plan.route == Route::Wrapper
    }
}

fn prepare(sight: &Sight<'_>, outcome: &mut Outcome) {
    match rewrite(&sight.document, &sight.plan) {
        Ok(text) => outcome.print = text,
        Err(refusal) => outcome.refusal = Some(refusal),
    }
    needs_rewriting(sight, outcome);
}

/// At a start nothing can be rewritten any more, so what is missing and essential refuses it; the rest is only logged.
fn needs_rewriting(sight: &Sight<'_>, outcome: &mut Outcome) {
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

fn start(sight: &Sight<'_>, outcome: &mut Outcome) {
    needs_rewriting(sight, outcome);
    if outcome.refusal.is_some() {
        return;
    }
    let wrapper = sight.plan.route == Route::Wrapper;
    let limit = raise(sight);
    let Some(uuid) = sight.domain.uuid else {
        if wrapper || limit.is_some() {
            let note = Note::error(Code::StateUnwritable, "the domain has no UUID, so nothing can be prepared for it");
            refuse_or_log(sight, note, outcome);
        }
        return;
    };
    if !wrapper && limit.is_none() {
        // A leftover of an earlier life would keep its guard waiting.
        return outcome.effects.push(Effect::RemoveState(uuid));
    }
    if limit.is_some_and(|limit| !process::may_raise_limits(limit.rlimit())) {
        let message = "the guest needs a higher locked-memory limit, and the daemon may not raise it: give libvirtd \
                       CAP_SYS_RESOURCE and CAP_SYS_PTRACE, or set <memtune><hard_limit>";
        return refuse_or_log(sight, Note::error(Code::MemlockNoPrivilege, message), outcome);
    }
    let boot = if wrapper { sight.plan.qemu.clone() } else { Edits::default() };
    let incoming = recorded(&sight.domain, uuid).or_else(|| reproducible(sight).then(|| boot.clone()));
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

/// The limit that has to be set; none where libvirt's own is high enough or where the guest is none of ours.
fn raise(sight: &Sight<'_>) -> Option<Memlock> {
    let ours = sight.plan.request.asks() || sight.plan.iommu.is_some();
    match sight.plan.memlock.required_bytes.filter(|_| ours && sight.plan.memlock.raise)? {
        Limit::Bytes(bytes) => Some(Memlock::Bytes(bytes)),
        Limit::Unlimited => Some(Memlock::Unlimited),
    }
}

fn refuse_or_log(sight: &Sight<'_>, note: Note, outcome: &mut Outcome) {
    if sight.asks() {
        outcome.refusal = Some(note);
    } else {
        outcome.log.push(note);
    }
}

/// The real QEMU behind the wrapper's name.
fn emulator(sight: &Sight<'_>) -> String {
    let path = sight.domain.emulator.as_deref().unwrap_or_default();
    let name = wrapped_emulator(path).or_else(|| path.rsplit('/').next());
    sight.config.emulator_behind(name.unwrap_or_default())
}

fn started(sight: &Sight<'_>, outcome: &mut Outcome) {
    let pidfile = guard::pidfile(&sight.domain.name);
    if let Some(limit) = raise(sight) {
        outcome.effects.push(Effect::Verify { pidfile: pidfile.clone(), limit: limit.rlimit() });
    }
    let Some(uuid) = sight.domain.uuid.filter(|_| sight.plan.route == Route::Wrapper) else { return };
    if let Some(edits) = in_use(uuid, &pidfile) {
        outcome.effects.push(Effect::Record(uuid, Record::new(&sight.domain, edits)));
    }
}

/// What the wrapper has done to a running guest's command line, by what it was told and by whether the guest came in or
/// booted. A QEMU that forges its command line can only choose between the two, for itself.
fn in_use(uuid: Uuid, pidfile: &Path) -> Option<Edits> {
    let text = fs::read_trusted(&state_file(uuid), state::MAX_BYTES).ok()?;
    let state = State::parse(&text, uuid, process::boot_clock()).ok()?;
    let (pid, _pinned) = guard::pinned(pidfile)?;
    match qemu::classify(&process::arguments(pid)) {
        Invocation::Guest { incoming: true, .. } => state.incoming,
        Invocation::Guest { incoming: false, .. } => Some(state.boot),
        Invocation::Other => None,
    }
}

/// A guest that comes from elsewhere has run with a vIOMMU that libvirt does not know of. QEMU loads a stream into a vIOMMU
/// with other attributes without a word, so it must be certain that they are the same.
fn migrate(sight: &Sight<'_>, outcome: &mut Outcome) {
    let Some(uuid) = sight.domain.uuid.filter(|_| sight.plan.route == Route::Wrapper) else { return };
    if !reproducible(sight) {
        let message = "the guest's vIOMMU was made by the wrapper of another host, and its attributes cannot be known here: name the \
                       model in the guest's metadata instead of auto, and aw-bits if it has VFIO devices, or cold-start it";
        outcome.refusal = Some(Note::error(Code::MigrationMismatch, message));
        return;
    }
    // What the guest ran with here before it left says nothing about what it runs with now. One that runs here cannot come
    // in, which libvirt will find out.
    if !state_file(uuid).exists() {
        outcome.effects.push(Effect::Forget(uuid));
    }
}

/// Whether every host decides alike about this guest: there is nothing to add, or the model is named, and so is what depends
/// on the host's IOMMU and QEMU.
fn reproducible(sight: &Sight<'_>) -> bool {
    let request = &sight.plan.request;
    let width_is_certain = request.aw_bits.is_some() || (!request.hotplug && sight.domain.vfio.is_empty());
    match request.model {
        _ if sight.plan.qemu.is_empty() => true,
        Model::Auto => false,
        // Without KVM extended interrupt mode comes with QEMU 9.0.
        Model::Intel => width_is_certain && sight.domain.virt_type == "kvm",
        Model::None | Model::Smmuv3 | Model::Virtio => true,
    }
}

fn ended(xml: &[u8], forget: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let read = || xml::parse(xml).and_then(|document| Domain::read(&document)).map(|domain| domain.uuid);
    match glance::uuid(xml).map_or_else(read, |uuid| Ok(Some(uuid))) {
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

fn record_file(uuid: Uuid) -> PathBuf {
    Path::new(state::RECORDS).join(format!("{uuid}.json"))
}

fn recorded(domain: &Domain, uuid: Uuid) -> Option<Edits> {
    fs::check_trusted_directory(Path::new(state::RECORDS)).ok()?;
    let text = fs::read_trusted(&record_file(uuid), state::MAX_BYTES).ok()?;
    serde_json::from_str::<Record>(&text).ok()?.edits_for(domain)
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
