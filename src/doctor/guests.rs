//! Guests: whether those that are defined would start, and whether those that run have what they ask for.

use crate::config::Config;
use crate::decide::plan_for;
use crate::domain::Domain;
use crate::note::{Code, Level, Note};
use crate::plan::Plan;
use crate::request::{Request, Wishes};

use super::facts::{Facts, Guest};
use super::{Check, State};

const NAME: &str = "guest";

/// Every domain that can be read.
pub(super) fn domains(facts: &Facts) -> impl Iterator<Item = &Domain> {
    facts.guests.iter().filter_map(|guest| guest.domain.as_ref().ok())
}

/// How to speak of a guest.
pub(super) fn name(guest: &Guest) -> &str {
    guest.domain.as_ref().map_or(guest.file.as_str(), |domain| domain.name.as_str())
}

fn decide(facts: &Facts, domain: &Domain) -> Plan {
    let default = Config::default();
    let request = Request::of(domain, &Wishes::default(), facts.config.as_ref().unwrap_or(&default));
    plan_for(domain, request, &facts.host)
}

/// Whether a guest runs without the vIOMMU that it asks for.
pub(super) fn lacks_viommu(facts: &Facts, guest: &Guest) -> bool {
    let plan = guest.domain.as_ref().ok().map(|domain| decide(facts, domain));
    plan.is_some_and(|plan| unmet(guest, &plan).is_some())
}

/// Why a running guest does not have the vIOMMU that it asks for.
fn unmet(guest: &Guest, plan: &Plan) -> Option<String> {
    let running = guest.running.as_ref()?;
    if let Some(refusal) = plan.refusal() {
        return Some(refusal.message.clone());
    }
    let lacks = plan.iommu.is_some() && running.viommu == Some(false);
    lacks.then(|| "QEMU's command line has none".to_owned())
}

pub(super) fn guests(facts: &Facts) -> Vec<Check> {
    let (running, defined): (Vec<&Guest>, Vec<&Guest>) = facts.guests.iter().partition(|guest| guest.running.is_some());
    let troubled = running.iter().filter_map(|guest| Some((name(guest), alive(facts, guest)?)));
    let (troubled, mut checks): (Vec<&str>, Vec<Check>) = troubled.unzip();
    // What runs badly and would not start again is told once.
    let others = defined.iter().filter(|guest| !troubled.contains(&name(guest)));
    checks.extend(others.filter_map(|guest| would_start(facts, guest)));
    if checks.iter().all(|check| check.state != State::Broken) {
        let message = format!("{} running and {} defined, each with what it asks for", running.len(), defined.len());
        checks.push(Check::ok("guests", message));
    }
    checks
}

/// What is wrong about a running guest.
fn alive(facts: &Facts, guest: &Guest) -> Option<Check> {
    let domain = match &guest.domain {
        Ok(domain) => domain,
        Err(note) => return Some(unreadable(guest, note)),
    };
    let plan = decide(facts, domain);
    if let Some(why) = unmet(guest, &plan) {
        let message = format!("{} runs without the vIOMMU that it asks for: {why}", domain.name);
        let remedy = "shut it down and start it again; a reboot keeps the old QEMU";
        return Some(Check::broken(NAME, Code::RequestUnmet, message, remedy));
    }
    let needed = plan.memlock.required_bytes.filter(|_| plan.memlock.managed)?;
    let limit = guest.running.as_ref()?.limit.filter(|limit| *limit < needed)?;
    let message = format!("{} may lock {limit} and needs {needed}", domain.name);
    let remedy = "viommu memlock DOMAIN --raise, before anything is plugged";
    Some(Check::broken(NAME, Code::MemlockTooLow, message, remedy))
}

/// Why the hook would refuse a guest that is defined.
fn would_start(facts: &Facts, guest: &Guest) -> Option<Check> {
    let domain = match &guest.domain {
        Ok(domain) => domain,
        Err(note) => return Some(unreadable(guest, note)),
    };
    let plan = decide(facts, domain);
    let refusal = plan.refusal().cloned().or_else(|| plan.refusal_unless_rewritten())?;
    debug_assert_eq!(refusal.level, Level::Error);
    let message = format!("{} will be refused: {}", domain.name, refusal.message);
    Some(Check::broken(NAME, refusal.code, message, "viommu plan DOMAIN says more"))
}

fn unreadable(guest: &Guest, note: &Note) -> Check {
    let message = format!("{} cannot be understood: {}", guest.file, note.message);
    Check::warning(NAME, note.code, message, "virsh dumpxml, and viommu plan of that")
}
