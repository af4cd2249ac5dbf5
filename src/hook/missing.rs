//! Decides about a guest whose domain XML did not arrive on stdin. libvirt always sends it; a hook script that runs viommu may
//! have read it before.

use crate::config::Config;
use crate::decide;
use crate::domain::Domain;
use crate::host::{Host, libvirt};
use crate::note::{Code, Note};
use crate::request::{Keys, Request};
use crate::state::store;

use super::decide::mark;
use super::effect::{Effect, Outcome};
use super::event::Event;

/// Decides about an event of the domain `name`, whose document is missing for the reason `why`.
///
/// A start is refused: the guest may ask for a vIOMMU. It passes, with an error in the log, if libvirt's own file defines the
/// domain without a request: hosts have been run that way.
#[must_use]
pub fn decide_without_document(event: Event, name: &str, why: &str, config: Result<Config, Note>) -> Outcome {
    let mut outcome = Outcome::default();
    let message = format!(
        "no domain XML on stdin ({why}): run viommu before any hook script that reads stdin, or give it the script's input"
    );
    let note = Note::error(Code::XmlMalformed, message);
    if !event.can_refuse() {
        outcome.log.push(note);
        return outcome;
    }
    let Ok(xml) = libvirt::definition(name) else {
        outcome.refusal = Some(note);
        return outcome;
    };
    // libvirt writes a comment before the document.
    let domain = xml.find("<domain").and_then(|at| xml.get(at..)).unwrap_or_default();
    let mark = mark(event, domain.as_bytes(), &config);
    let host = |_: &Domain, _: Option<&Request>| Ok(Host::default());
    let decided = decide::decide(xml.as_bytes(), &Keys::default(), config, host);
    outcome.log.extend(decided.iter().flat_map(|decided| decided.log.clone()));
    // A guest of the host route may continue the run of its record.
    let recorded = |domain: &Domain| mark.is_some() && domain.uuid.is_some_and(store::has_record);
    match decided {
        Ok(decided)
            if decided.domain.name == name && decided.plan.is_ok() && !decided.asks() && !recorded(&decided.domain) =>
        {
            let message = format!("{}; viommu decided by libvirt's definition of the domain", note.message);
            outcome.log.push(Note::error(note.code, message));
            let leftover = decided.domain.uuid.filter(|_| event == Event::Start).map(Effect::RemoveState);
            outcome.asks = mark.is_some();
            outcome.effects.extend(mark.or(leftover));
        }
        _ => outcome.refusal = Some(note),
    }
    outcome
}
