//! Checks whether everything is in place on a host, and says what to do about what is not: `viommu doctor`.
//!
//! One file per topic. Each topic reads its facts and judges them; `SharedFacts` holds what several topics need. [`examine`]
//! returns the checks, the gravest first, and a cause before its consequences.
//!
//! `broken` means that a guest does not get what it asks for. A problem that concerns no guest is a warning or no problem,
//! and a fact that cannot be read is `unknown`.

mod confinement;
mod container;
mod daemon;
mod guests;
mod host;
mod install;
mod route;

use std::path::Path;

use serde::Serialize;

use crate::config::{self, Config};
use crate::domain::Domain;
use crate::host::Host;
use crate::host::probe::Places;
use crate::note::{Code, Note};
use crate::sys::fs;
use crate::text::words;

use daemon::DaemonFacts;
use guests::FoundGuest;
use install::{HookFile, Wrapper};

words! {
    /// The verdict of a check.
    pub enum CheckState {
        /// In place.
        Ok = "ok",
        /// The facts cannot be read.
        Unknown = "unknown",
        /// It works, but may surprise a user, or concerns no guest yet.
        Warning = "warning",
        /// A guest does not get what it asks for.
        Broken = "broken",
    }
}

/// A result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The subject; a stable name.
    pub name: &'static str,
    /// The verdict.
    pub state: CheckState,
    /// What is wrong, by its stable name.
    pub code: Option<Code>,
    /// The finding. May contain strings from tenants: escape before printing.
    pub message: String,
    /// What to do.
    pub remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, message: impl Into<String>) -> Check {
        Check { name, state: CheckState::Ok, code: None, message: message.into(), remedy: None }
    }

    fn unknown(name: &'static str, message: impl Into<String>, remedy: &str) -> Check {
        Check { name, state: CheckState::Unknown, code: None, message: message.into(), remedy: Some(remedy.to_owned()) }
    }

    fn warning(name: &'static str, code: Code, message: impl Into<String>, remedy: impl Into<String>) -> Check {
        let (message, remedy) = (message.into(), Some(remedy.into()));
        Check { name, state: CheckState::Warning, code: Some(code), message, remedy }
    }

    fn broken(name: &'static str, code: Code, message: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { state: CheckState::Broken, ..Check::warning(name, code, message, remedy) }
    }

    /// The same check as a warning where no guest is concerned.
    fn concerning(self, guest: bool) -> Check {
        let state = if self.state == CheckState::Broken && !guest { CheckState::Warning } else { self.state };
        Check { state, ..self }
    }
}

/// Facts that several topics need.
#[derive(Debug)]
struct SharedFacts {
    /// Files that only root may read were read.
    root: bool,
    host: Host,
    config: Result<Config, Note>,
    /// Hooks in the order in which libvirt runs them.
    hooks: Vec<HookFile>,
    wrappers: Vec<Wrapper>,
    /// The daemon that runs QEMU, if one runs.
    daemon: Option<DaemonFacts>,
    /// Running and defined guests.
    guests: Vec<FoundGuest>,
}

impl SharedFacts {
    fn read(image: bool) -> SharedFacts {
        let mut host = Places::default().whole_host();
        // libvirt's cache also has emulators that were removed.
        host.emulators.retain(|emulator| fs::is_executable(Path::new(&emulator.path)));
        let config = crate::host::config::load();
        let default = Config::default();
        let usable = config.as_ref().unwrap_or(&default);
        SharedFacts {
            root: rustix::process::geteuid().is_root(),
            hooks: install::hooks(),
            wrappers: install::wrappers(usable),
            daemon: DaemonFacts::read(image),
            guests: guests::read(usable, &host),
            host,
            config,
        }
    }

    /// Whether a guest uses the wrapper.
    fn wrapped(&self) -> bool {
        self.guests.iter().any(|guest| guest.wrapper().is_some())
    }

    /// The guests whose files can be understood.
    fn domains(&self) -> impl Iterator<Item = &Domain> {
        self.guests.iter().filter_map(FoundGuest::domain)
    }

    /// Whether a guest is known to ask for a vIOMMU.
    fn asked(&self) -> bool {
        self.guests.iter().any(FoundGuest::asks)
    }
}

/// Examines this host, or the image of a host that is the root directory of this process.
#[must_use]
pub fn examine(image: bool) -> Vec<Check> {
    let known = SharedFacts::read(image);
    let mut checks = vec![configuration(&known)];
    checks.extend(install::hook(&known));
    checks.extend(container::checks(&known, image));
    checks.extend(daemon::loaded(&known));
    checks.extend(host::versions(&known));
    checks.push(install::wrapper(&known));
    checks.extend(route::probed(&known));
    checks.push(route::route(&known));
    checks.extend(confinement::apparmor(&known));
    checks.extend(confinement::selinux(&known));
    checks.extend(host::checks(&known));
    checks.extend([daemon::privileges(&known), daemon::limit(&known), install::state(&known)]);
    checks.extend(guests::checks(&known));
    if !known.root {
        checks.push(Check::unknown("user", "files that only root may read were not read", "run it as root"));
    }
    // The sort is stable: among equals a cause stays before its consequences.
    checks.sort_by_key(|check| std::cmp::Reverse(check.state));
    checks
}

fn configuration(known: &SharedFacts) -> Check {
    match &known.config {
        Ok(config) if !fs::is_public(Path::new(config::PATH)) => {
            let message = format!(
                "{} cannot be read by QEMU's user, as which libvirt probes the wrapper: a probe examines another QEMU than guests get",
                config::PATH
            );
            let check =
                Check::broken("configuration", Code::ConfigInvalid, message, format!("chmod 644 {}", config::PATH));
            check.concerning(!config.emulators.is_empty() && known.wrapped())
        }
        Ok(_) => Check::ok("configuration", format!("{} is valid or does not exist", config::PATH)),
        Err(note) => Check::broken("configuration", note.code, note.message.clone(), "correct the file"),
    }
}

/// The text of a configuration file, or of a file in /proc; empty where it cannot be read.
fn text(path: impl AsRef<Path>) -> String {
    fs::head_of_configuration(path.as_ref(), 1 << 20).unwrap_or_default()
}
