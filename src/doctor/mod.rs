//! Whether everything is in place on a host, and what to do about what is not: `viommu doctor`.
//!
//! Pure, but for [`gather()`], which collects the [`Facts`] from files. Everything else judges them: [`examine`] makes a list
//! of [`Check`]s, the gravest first, and among equals the one first that causes the others.
//!
//! A fault is what keeps some guest from what it asks for, or from starting at all. A fact that is not known is no fault, and
//! a doubt is a warning: nothing here cries wolf.

mod confinement;
mod facts;
mod gather;
mod guests;
mod hook;
mod host;

use serde::Serialize;

use crate::note::Code;

pub use facts::{AppArmor, Daemon, Facts, Guest, HookFile, Program, Running, Selinux, StateDirectory, Wrapper};
pub use gather::gather;

/// How it stands with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// In place.
    Ok,
    /// The facts are not there to tell.
    Unknown,
    /// It works, and somebody will be surprised.
    Warning,
    /// Some guest does not get what it asks for.
    Broken,
}

impl State {
    /// The word in JSON and in front of the line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Unknown => "unknown",
            State::Warning => "warning",
            State::Broken => "broken",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at; a stable name.
    pub name: &'static str,
    /// How it stands.
    pub state: State,
    /// What is wrong, by its stable name.
    pub code: Option<Code>,
    /// What was found. May hold tenant-given strings: escape before printing.
    pub message: String,
    /// What to do.
    pub remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, message: impl Into<String>) -> Check {
        Check { name, state: State::Ok, code: None, message: message.into(), remedy: None }
    }

    fn unknown(name: &'static str, message: impl Into<String>, remedy: &str) -> Check {
        Check { name, state: State::Unknown, code: None, message: message.into(), remedy: Some(remedy.to_owned()) }
    }

    fn warning(name: &'static str, code: Code, message: impl Into<String>, remedy: impl Into<String>) -> Check {
        let (message, remedy) = (message.into(), Some(remedy.into()));
        Check { name, state: State::Warning, code: Some(code), message, remedy }
    }

    fn broken(name: &'static str, code: Code, message: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { state: State::Broken, ..Check::warning(name, code, message, remedy) }
    }
}

/// Judges a host.
#[must_use]
pub fn examine(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![configuration(facts), hook::hook(facts)];
    checks.extend(hook::loaded(facts));
    checks.extend(host::versions(facts));
    checks.push(hook::wrapper(facts));
    checks.extend(confinement::apparmor(facts));
    checks.extend(confinement::selinux(facts));
    checks.extend([host::iommu(facts), host::vfio(facts), host::interrupts(facts), host::kvm(facts)]);
    checks.extend([confinement::privileges(facts), confinement::limit(facts), hook::state(facts)]);
    checks.extend(guests::guests(facts));
    if !facts.root {
        checks.push(Check::unknown("user", "what only root may read is not known", "run as root"));
    }
    // Stable: among equals the order above, from cause to consequence, stays.
    checks.sort_by_key(|check| std::cmp::Reverse(check.state));
    checks
}

fn configuration(facts: &Facts) -> Check {
    match &facts.config {
        Ok(_) => Check::ok("configuration", format!("{} has no error, or is not there", crate::config::PATH)),
        Err(note) => Check::broken("configuration", note.code, note.message.clone(), "mend it"),
    }
}
