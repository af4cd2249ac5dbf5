//! The command line for administrators, one file per verb.

mod apply;
mod backup;
mod capabilities;
mod doctor;
mod explain;
pub mod hook;
mod host_route;
mod input;
mod memlock;
mod plan;
mod redefine;
mod remove;
mod report;
mod rewrite;
mod schedulers;
mod terminal;
mod virsh;

use std::ffi::OsString;
use std::io::{self, Write};

use clap::{Parser, Subcommand};

use crate::note::Note;
use crate::plan::Refusal;
use crate::sys::stderr::{self, complaint, line_of};

use terminal::Output;

/// A virtual IOMMU for libvirt/QEMU guests, with the locked-memory limit that PCI passthrough behind it needs.
#[derive(Debug, Parser)]
#[command(name = "viommu", version, max_term_width = 100)]
#[command(
    after_help = "Exit status: 0 done; 1 refused (the reason and its code on stderr); 2 wrong usage or unreadable input; \
                        3 only with --exit-code."
)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Plan(plan::Arguments),
    Rewrite(rewrite::Arguments),
    Apply(apply::Arguments),
    Remove(remove::Arguments),
    Memlock(memlock::Arguments),
    Capabilities(capabilities::Arguments),
    Doctor(doctor::Arguments),
    Explain(explain::Arguments),
    Hook(hook::Arguments),
    HostRoute(host_route::Arguments),
}

/// Why a verb failed.
#[derive(Debug)]
enum Failure {
    /// The request cannot be met.
    Refused(Note),
    /// The input cannot be read, or an option is invalid.
    Usage(String),
    /// The output cannot be written.
    Output(io::Error),
}

impl From<Note> for Failure {
    fn from(note: Note) -> Failure {
        Failure::Refused(note)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure::Refused(refusal.note)
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure::Usage(message)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

/// Runs the command line, and gives the exit status.
#[must_use]
pub fn run(arguments: Vec<OsString>) -> u8 {
    let arguments = match Arguments::try_parse_from([OsString::from("viommu")].into_iter().chain(arguments)) {
        Ok(arguments) => arguments,
        // For clap help and version are errors, too; it has the stream and the status of each.
        Err(error) => {
            stderr::report(&error);
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    let mut out = Output::stdout();
    let done = match arguments.verb {
        Verb::Plan(arguments) => plan::run(&arguments, &mut out),
        Verb::Rewrite(arguments) => rewrite::run(&arguments, &mut out),
        Verb::Apply(arguments) => apply::run(&arguments, &mut out),
        Verb::Remove(arguments) => remove::run(&arguments, &mut out),
        Verb::Memlock(arguments) => memlock::run(&arguments, &mut out),
        Verb::Capabilities(arguments) => capabilities::run(&arguments, &mut out),
        Verb::Doctor(arguments) => doctor::run(&arguments, &mut out),
        Verb::Explain(arguments) => explain::run(&arguments, &mut out),
        Verb::Hook(arguments) => return hook::run(&arguments, &mut out),
        Verb::HostRoute(arguments) => host_route::run(&arguments),
    };
    match done.and_then(|status| out.flush().map(|()| status).map_err(Failure::from)) {
        Ok(status) => status,
        Err(failure) => failure.report(),
    }
}

impl Failure {
    /// The same with the name of the file, where the XML itself is invalid.
    fn of_input(self, source: Option<&str>) -> Failure {
        match (&self, source.filter(|name| *name != "-")) {
            (Failure::Refused(note), Some(name)) if note.code.as_str().starts_with("xml-") => self.of(name),
            _ => self,
        }
    }

    /// The same with the name of its file or domain.
    fn of(self, name: &str) -> Failure {
        match self {
            Failure::Refused(note) => Failure::Refused(Note { message: format!("{name}: {}", note.message), ..note }),
            Failure::Usage(message) => Failure::Usage(format!("{name}: {message}")),
            Failure::Output(error) => Failure::Output(error),
        }
    }

    fn report(self) -> u8 {
        let (line, status) = match self {
            Failure::Refused(note) => (line_of(&note), 1),
            Failure::Usage(message) => (complaint(&message), 2),
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return 0,
            Failure::Output(error) => (complaint(&format!("cannot write the output: {error}")), 2),
        };
        let _ = Output::stderr().line(&line, 4);
        status
    }
}
