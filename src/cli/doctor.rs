//! `viommu doctor`: what is in place on this host and what is not, a line each.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::doctor::{self, Check, State};
use crate::note::Level;
use crate::text::printable;

use super::Failure;
use super::report::{self, Paint};

/// Check whether everything is in place on this host, and say what to do about what is not.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// How to say it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Examine the host whose file system is mounted here: an image, a chroot
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Serialize)]
struct Report<'a> {
    broken: usize,
    warnings: usize,
    checks: &'a [Check],
}

pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> Result<u8, Failure> {
    if let Some(root) = &arguments.root {
        enter(root).map_err(|error| Failure::Usage(format!("cannot enter {}: {error}", root.display())))?;
    }
    let checks = doctor::examine(arguments.root.is_some());
    let count = |state| checks.iter().filter(|check| check.state == state).count();
    let report = Report { broken: count(State::Broken), warnings: count(State::Warning), checks: &checks };
    match arguments.format {
        Format::Json => report::json(&report, out)?,
        Format::Text => text(&report, Paint::when(io::stdout().is_terminal()), out)?,
    }
    Ok(u8::from(report.broken > 0))
}

/// Makes a directory the root, so that every path and every link means what it means to that host.
fn enter(root: &PathBuf) -> io::Result<()> {
    rustix::process::chroot(root)?;
    std::env::set_current_dir("/")
}

fn text(report: &Report<'_>, paint: Paint, out: &mut impl Write) -> io::Result<()> {
    for check in report.checks {
        let state = format!("{:<7}", check.state.as_str());
        let state = match check.state {
            State::Broken => paint.level(Level::Error, &state),
            State::Warning => paint.level(Level::Warning, &state),
            State::Unknown => paint.level(Level::Info, &state),
            State::Ok => state,
        };
        let remedy = check.remedy.as_ref().map(|remedy| format!(": {remedy}")).unwrap_or_default();
        let code = check.code.map(|code| format!(" [{code}]")).unwrap_or_default();
        writeln!(out, "{state}  {:<13}  {}{code}", check.name, printable(&format!("{}{remedy}", check.message)))?;
    }
    let verdict = match (report.broken, report.warnings) {
        (0, 0) if report.checks.iter().all(|check| check.state == State::Ok) => "everything is in place".to_owned(),
        (0, 0) => "nothing is wrong, as far as it can be seen".to_owned(),
        (broken, warnings) => format!("{broken} broken, {warnings} to look at"),
    };
    writeln!(out, "\n{verdict}")
}
