//! Guests: whether the defined ones would start, and whether the running ones have what they ask for.

use std::path::Path;

use crate::config::Config;
use crate::domain::{Domain, Uuid};
use crate::host::Host;
use crate::host::guest_process::{Guests, Identity};
use crate::limit::Limit;
use crate::note::{Code, Note};
use crate::plan::{Memlock, Plan, Refusal, Route, kept, plan_for};
use crate::qemu;
use crate::request::{Keys, Request};
use crate::sys::pinned::Pinned;
use crate::sys::{fs, process};
use crate::xml;

use super::{Check, CheckState, SharedFacts};

const NAME: &str = "guest";
const RUNNING: &str = "/run/libvirt/qemu";
const DEFINED: &str = "/etc/libvirt/qemu";

/// A defined or running guest.
#[derive(Debug)]
pub(super) struct FoundGuest {
    /// The file that describes it.
    file: String,
    domain: Result<(Domain, Result<Plan, Refusal>), Note>,
    /// Its process, if it runs.
    running: Option<Running>,
}

/// The process of a guest.
#[derive(Debug)]
struct Running {
    /// libvirt has put it into the guest's cgroup. Any process of QEMU's user can have a guest's command line.
    proven: bool,
    /// When it was started, seconds since the epoch.
    started: Option<u64>,
    /// Its soft locked-memory limit.
    limit: Option<Limit>,
    /// Whether QEMU's command line has a vIOMMU.
    viommu: Option<bool>,
}

/// Running guests by libvirt's status files, and defined ones.
pub(super) fn read(config: &Config, host: &Host) -> Vec<FoundGuest> {
    let decide = |domain: Domain| {
        let plan = plan_for(&domain, Request::of(&domain, &Keys::default(), config), host);
        (domain, plan)
    };
    let mut processes = None;
    let running = xml_files(RUNNING).filter_map(|(file, text)| {
        let domain = match live(&text) {
            Ok(domain) => domain,
            Err(note) => return Some(FoundGuest { file, domain: Err(note), running: None }),
        };
        let guest = Identity::of(&domain)?;
        let proven = guest.process();
        let is_proven = proven.is_some();
        let running =
            Running::read(&proven.or_else(|| processes.get_or_insert_with(Guests::look).unproven(&guest))?, is_proven);
        Some(FoundGuest { file, domain: Ok(decide(domain)), running: Some(running) })
    });
    let defined = xml_files(DEFINED).map(|(file, text)| {
        let domain = xml::parse(text.as_bytes()).and_then(|document| Domain::read(&document));
        FoundGuest { file, domain: domain.map(decide), running: None }
    });
    running.chain(defined).collect()
}

/// The XML files that root has written to a directory: path, text. Others in libvirt's directory of running guests, which
/// belongs to QEMU's user from libvirt 11.3 on, are not libvirt's.
fn xml_files(directory: &'static str) -> impl Iterator<Item = (String, String)> {
    fs::names(Path::new(directory)).into_iter().filter_map(move |name| {
        name.strip_suffix(".xml")?;
        let file = format!("{directory}/{name}");
        let text = fs::head_trusted(Path::new(&file), xml::MAX_BYTES)?;
        Some((file, text))
    })
}

/// The domain in a status file of libvirt.
fn live(status: &str) -> Result<Domain, Note> {
    let document = xml::parse(status.as_bytes())?;
    let domain = document.root().child("domain");
    let domain = domain.ok_or_else(|| Note::error(Code::XmlNotADomain, "the status file has no <domain>"))?;
    Domain::read(&xml::parse(domain.source().as_bytes())?)
}

impl Running {
    fn read(process: &Pinned, proven: bool) -> Running {
        let arguments = process.arguments();
        Running {
            proven,
            started: process::started(process.pid()),
            limit: process.lock_limit().ok().map(|limit| limit.soft),
            viommu: (!arguments.is_empty()).then(|| qemu::find_iommu(&arguments).is_some()),
        }
    }
}

impl FoundGuest {
    fn decided(&self) -> Option<&Result<Plan, Refusal>> {
        self.domain.as_ref().ok().map(|(_, decided)| decided)
    }

    fn plan(&self) -> Option<&Plan> {
        self.decided().map(kept)
    }

    pub(super) fn domain(&self) -> Option<&Domain> {
        self.domain.as_ref().ok().map(|(domain, _)| domain)
    }

    /// Its name, or its file where that cannot be understood.
    pub(super) fn name(&self) -> &str {
        self.domain().map_or(self.file.as_str(), |domain| domain.name.as_str())
    }

    /// Whether it asks for a vIOMMU, has one, or cannot be understood.
    pub(super) fn asks(&self) -> bool {
        self.decided()
            .and_then(|decided| decided.as_ref().ok())
            .is_none_or(|plan| plan.request.asks() || plan.iommu.is_some())
    }

    pub(super) fn needs_raise(&self) -> bool {
        self.plan().is_some_and(|plan| plan.memlock.raise)
    }

    /// Its emulator, if that is the wrapper.
    pub(super) fn wrapper(&self) -> Option<&str> {
        let wrapped = self.plan().is_some_and(|plan| plan.route == Route::Wrapper);
        self.domain()?.emulator.as_deref().filter(|_| wrapped)
    }

    pub(super) fn runs_as(&self, uuid: Uuid) -> bool {
        self.running.is_some() && self.domain().is_some_and(|domain| domain.uuid == Some(uuid))
    }

    /// Whether it was started after this time, seconds since the epoch, without the vIOMMU that it asks for.
    pub(super) fn started_without(&self, time: u64) -> bool {
        self.running.as_ref().and_then(|running| running.started).is_some_and(|started| started > time)
            && self.unmet().is_some()
    }

    /// Why a running guest does not have the vIOMMU that it asks for.
    fn unmet(&self) -> Option<String> {
        let running = self.running.as_ref()?;
        let plan = match self.decided()? {
            Ok(plan) => plan,
            Err(refusal) => return Some(refusal.note.message.clone()),
        };
        let lacks = plan.iommu.is_some() && running.viommu == Some(false);
        lacks.then(|| "QEMU's command line has none".to_owned())
    }

    /// What is wrong with it: with the one that runs, or with the next start of the one that is defined.
    fn check(&self) -> Option<Check> {
        match (&self.domain, &self.running) {
            (Ok((domain, decided)), Some(running)) => self.check_running(domain, &kept(decided).memlock, running),
            (Ok((domain, decided)), None) => check_defined(domain, decided),
            (Err(note), _) => {
                let message = format!("{}: {}", self.file, note.message);
                Some(Check::warning(NAME, note.code, message, "compare it with the output of virsh dumpxml"))
            }
        }
    }

    fn check_running(&self, domain: &Domain, memlock: &Memlock, running: &Running) -> Option<Check> {
        if let Some(why) = self.unmet() {
            let message = format!("{} runs without the vIOMMU that it asks for: {why}", domain.name);
            let remedy = "shut it down and start it again; a reboot keeps the old QEMU";
            return Some(Check::broken(NAME, Code::RequestUnmet, message, remedy));
        }
        let needed = memlock.required_bytes.filter(|_| memlock.managed)?;
        let limit = running.limit.filter(|limit| *limit < needed)?;
        let message = format!("{} may lock {limit} and needs {needed}", domain.name);
        let remedy = format!("viommu memlock {} --raise, before a device is plugged", domain.shell_name());
        Some(Check::broken(NAME, Code::MemlockTooLow, message, remedy))
    }
}

/// Why the hook would refuse a defined guest, or why the guest will not start or not work.
fn check_defined(domain: &Domain, decided: &Result<Plan, Refusal>) -> Option<Check> {
    let remedy = format!("viommu plan {} says more", domain.shell_name());
    let refusal = match decided {
        Ok(plan) => plan.refusal_unless_rewritten(),
        Err(refusal) => Some(refusal.note.clone()),
    };
    if let Some(refusal) = refusal {
        let message = format!("{} will be refused: {}", domain.name, refusal.message);
        return Some(Check::broken(NAME, refusal.code, message, remedy));
    }
    let plan = kept(decided);
    let ignored = || plan.notes.iter().find(|note| note.code == Code::RequestIgnored);
    let flaw = plan.flaw.as_ref().or_else(ignored)?;
    Some(Check::warning(NAME, flaw.code, format!("{}: {}", domain.name, flaw.message), remedy))
}

pub(super) fn checks(known: &SharedFacts) -> Vec<Check> {
    let (running, defined): (Vec<&FoundGuest>, Vec<&FoundGuest>) =
        known.guests.iter().partition(|guest| guest.running.is_some());
    let troubled = running.iter().filter_map(|guest| Some((guest.name(), guest.check()?)));
    let (troubled, mut checks): (Vec<&str>, Vec<Check>) = troubled.unzip();
    // A guest that runs badly and would not start again has one check.
    let others = defined.iter().filter(|guest| !troubled.contains(&guest.name()));
    checks.extend(others.filter_map(|guest| guest.check()));
    if checks.iter().all(|check| check.state != CheckState::Broken) {
        checks.push(if known.root {
            let message =
                format!("{} running and {} defined, each with what it asks for", running.len(), defined.len());
            Check::ok("guests", message)
        } else {
            Check::unknown("guests", "the guests of the system's libvirt were not read", "run it as root")
        });
    }
    let staying =
        running.iter().filter(|guest| guest.wrapper().is_some() && guest.plan().is_some_and(|plan| !plan.reproducible));
    let staying: Vec<&str> = staying.map(|guest| guest.name()).collect();
    if !staying.is_empty() {
        let message = format!(
            "viommu on other hosts will refuse a live migration of {}: see 'viommu explain {}'",
            staying.join(", "),
            Code::MigrationMismatch
        );
        checks.push(Check::ok("migration", message));
    }
    if let Some(guest) = running.iter().find(|guest| guest.running.as_ref().is_some_and(|running| !running.proven)) {
        let message = format!(
            "libvirt has not put the process of {} into a cgroup; it was found by its command line, which any process of \
             QEMU's user can have",
            guest.name()
        );
        checks.push(Check::unknown("guest-process", message, "mount the host's cgroups where libvirtd sees them"));
    }
    checks
}
