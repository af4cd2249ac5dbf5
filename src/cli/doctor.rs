//! `viommu doctor`: what is in place on this host and what is not, one line per check.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::doctor::{self, Check, CheckState};
use crate::note::Level;
use crate::state::store;
use crate::text::{count, printable};

use super::Failure;
use super::terminal::{Format, Output};
use super::virsh::Connection;

/// Check whether everything is in place on this host, and say what to do about what is not
///
/// Changes nothing without --clean. Exits with status 1 if something is broken: a guest does not get what it asks for. Run it as root.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Output format
    #[arg(long, value_parser = Format::parser(&[Format::Text, Format::Json]), default_value = "text")]
    format: Format,
    /// Examine the host whose file system is mounted at DIR: an image, a chroot
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// First remove what viommu keeps in /run/viommu and /var/lib/viommu of guests that libvirt no longer knows
    #[arg(long, conflicts_with = "root")]
    clean: bool,
}

pub(super) fn run(arguments: &Arguments, out: &mut Output) -> Result<u8, Failure> {
    if let Some(root) = &arguments.root {
        enter(root).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                Failure::Usage("only root can examine another root directory".to_owned())
            }
            _ => Failure::Usage(format!("cannot enter {}: {error}", root.display())),
        })?;
    }
    if arguments.clean {
        clean()?;
    }
    let checks = doctor::examine(arguments.root.is_some());
    let count = |state| checks.iter().filter(|check| check.state == state).count();
    let (broken, warnings) = (count(CheckState::Broken), count(CheckState::Warning));
    match arguments.format {
        Format::Json => out.json(&json!({ "broken": broken, "warnings": warnings, "checks": checks }))?,
        _ => text(&checks, broken, warnings, out)?,
    }
    Ok(u8::from(broken > 0))
}

/// Removes states and records of guests that libvirt does not know. The files are listed first: those of a guest that comes
/// meanwhile are not among them.
fn clean() -> Result<(), Failure> {
    let kept = store::files();
    let known = Connection::system().virsh()?.list(&["--all"])?;
    for (uuid, _) in kept.into_iter().filter(|(uuid, _)| !known.contains(uuid)) {
        store::remove_state(uuid)?;
        store::remove_record(uuid)?;
    }
    Ok(())
}

/// Makes a directory the root, so that paths and links lead where they lead on that host.
fn enter(root: &PathBuf) -> io::Result<()> {
    rustix::process::chroot(root)?;
    std::env::set_current_dir("/")
}

fn text(checks: &[Check], broken: usize, warnings: usize, out: &mut Output) -> io::Result<()> {
    for check in checks {
        let state = format!("{:<7}", check.state);
        let state = match check.state {
            CheckState::Broken => out.level(Level::Error, &state),
            CheckState::Warning => out.level(Level::Warning, &state),
            CheckState::Unknown => out.level(Level::Info, &state),
            CheckState::Ok => state,
        };
        let remedy = check.remedy.as_ref().map(|remedy| format!(": {remedy}")).unwrap_or_default();
        let code = check.code.map(|code| format!(" [{code}]")).unwrap_or_default();
        let message = format!("{}{remedy}", check.message);
        out.line(&format!("{state}  {:<13}  {}{code}", check.name, printable(&message)), 24)?;
    }
    let verdict = match (broken, warnings) {
        (0, 0) if checks.iter().all(|check| check.state == CheckState::Ok) => "everything is in place".to_owned(),
        (0, 0) => "nothing is wrong, but not everything is known".to_owned(),
        _ => {
            format!("{broken} broken, {}", count(warnings, "warning"))
        }
    };
    writeln!(out, "\n{verdict}")
}
